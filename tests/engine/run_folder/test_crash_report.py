"""A run that fails tells why in its folder: step, samples, stacks, configuration, and no secrets."""

import faulthandler
import json
import os
import signal

import pytest

from sightline.config.errors import UserError
from sightline.engine.callback import Callback
from sightline.engine.callbacks.crew import CallbackError
from sightline.engine.distributed.processes import WHOLE, LostProcessError, Share
from sightline.engine.finite import NonFiniteError
from sightline.engine.run_folder.crash_report import collect, crash_reported, stacks_on_request
from sightline.engine.run_folder.run_record import start_session
from tests.engine import sessions
from tests.engine.toy import ToyTask, toy_run
from tests.together import together


def session(config, folder, **options):
    """A session of the toy in a folder in which a run was begun, as the command line does it."""

    def note(training):
        start_session(folder, command=["sightline", "train", "toy", "--token", "abc"])

    return sessions.session(config, folder, on_start=note, **options)


class Broken(ToyTask):
    """Fails in its training step or evaluation batch number ``at``."""

    def __init__(self, at, *, in_evaluation=False, error=None):
        super().__init__()
        self.left, self.in_evaluation = at, in_evaluation
        self.error = error or RuntimeError("it broke")

    def logits(self, batch):
        if self.training != self.in_evaluation:
            self.left -= 1
            if self.left == 0:
                raise self.error
        return super().logits(batch)


def broken(config, **options):
    problem = config.open()
    object.__setattr__(problem, "task", Broken(**options))
    problem.train_loader.describe = "sample-{}.toy".format
    problem.eval_loader.describe = "held-out-{}.toy".format
    return problem


def report_of(folder):
    return json.loads((folder / "crash.json").read_text())


def test_a_failed_step_is_told_with_its_samples_their_names_and_the_rows_before(tmp_path):
    config, run = toy_run(log={"every_steps": 1, "trackers": []}), tmp_path / "run"
    with pytest.raises(RuntimeError, match="it broke") as raised:
        session(config, run, problem=broken(config, at=7))
    assert raised.value.__notes__[-1] == f"crash report: {run / 'crash.txt'}"
    report = report_of(run)
    wanted = config.open().train_loader.batch(1, 0).sample_ids  # the seventh step is the first of the second epoch
    assert (report["error"], report["message"]) == ("RuntimeError", "it broke")
    assert (report["step"], report["epoch"], report["sample_ids"]) == (6, 1, list(wanted))
    assert report["samples"] == [f"sample-{i}.toy" for i in wanted]
    assert json.loads(report["last_rows"][-1])["kind"] == "eval"
    assert report["config"]["lr"] == 0.05
    (part,) = report["ranks"]
    assert any("MainThread" in name for name in part["threads"])
    assert part["memory"]["host_memory_mib"] > 0
    text = (run / "crash.txt").read_text()
    assert text.startswith("RuntimeError: it broke")
    assert "test_crash_report.py" in text
    assert f"sample-{wanted[0]}.toy" in text


def test_a_failed_evaluation_is_told_with_the_samples_of_its_own_data(tmp_path):
    config, run = toy_run(), tmp_path / "run"
    with pytest.raises(RuntimeError):
        session(config, run, problem=broken(config, at=2, in_evaluation=True))
    assert report_of(run)["sample_ids"] == [4, 5, 6, 7]
    assert report_of(run)["samples"][0] == "held-out-4.toy"


class Raising(Callback):
    def __init__(self, error):
        self.error = error

    def on_step_end(self, training, report):
        if report.step == 3:
            raise self.error


def test_failing_callbacks_losses_that_are_no_numbers_and_full_memory_are_told(tmp_path):
    config = toy_run()
    with pytest.raises(CallbackError):
        session(config, tmp_path / "callback", callbacks=[Raising(ValueError("mine"))])
    assert "ValueError: mine" in "".join(report_of(tmp_path / "callback")["ranks"][0]["traceback"])
    assert len(report_of(tmp_path / "callback")["sample_ids"]) == 4

    with pytest.raises(NonFiniteError):
        session(toy_run(lr=1e30, max_grad_norm=None), tmp_path / "nan")
    assert report_of(tmp_path / "nan")["error"] == "NonFiniteError"

    with pytest.raises(MemoryError):
        problem = broken(config, at=2, in_evaluation=True, error=MemoryError("no room"))
        session(config, tmp_path / "memory", problem=problem)
    assert report_of(tmp_path / "memory")["step"] == 6


@pytest.mark.parametrize("error", [UserError("change it"), KeyboardInterrupt()], ids=["mistake", "abort"])
def test_mistakes_and_stops_leave_no_report(tmp_path, error):
    config, run = toy_run(), tmp_path / "run"
    with pytest.raises(type(error)):
        session(config, run, problem=broken(config, at=5, error=error))
    assert (run / "run.json").exists()
    assert not list(run.glob("crash*"))


def test_a_clean_stop_leaves_no_report_and_no_stacks(tmp_path):
    class Stop(Callback):
        def on_step_end(self, training, report):
            if report.step == 3:
                signal.raise_signal(signal.SIGTERM)

    assert session(toy_run(), tmp_path / "run", callbacks=[Stop()]).outcome == "stopped"
    assert not [*(tmp_path / "run").glob("crash*"), *(tmp_path / "run").glob(".stacks*")]


def test_the_next_session_takes_the_report_away(tmp_path):
    config, run = toy_run(), tmp_path / "run"
    with pytest.raises(RuntimeError):
        session(config, run, problem=broken(config, at=5))
    assert (run / "crash.txt").exists()
    session(config, run)
    assert not list(run.glob("crash*"))


def test_no_secret_reaches_the_report(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_API_TOKEN", "open-sesame-77")
    monkeypatch.setattr("sys.argv", ["sightline", "train", "toy", "--token", "hush-hush-5"])
    config = toy_run()
    error = RuntimeError("cannot reach https://me:swordfish@example.org with open-sesame-77")
    with pytest.raises(RuntimeError):
        session(config, tmp_path / "run", problem=broken(config, at=5, error=error))
    for name in ("crash.json", "crash.txt"):
        text = (tmp_path / "run" / name).read_text()
        assert "cannot reach" in text
        assert not [secret for secret in ("open-sesame-77", "swordfish", "hush-hush-5") if secret in text]


def test_a_report_that_cannot_be_written_hides_nothing(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sightline.engine.run_folder.crash_report.replace_file", refuse)
    start_session(tmp_path, command=["x"])
    with pytest.raises(ZeroDivisionError) as raised, crash_reported(toy_run(), tmp_path, WHOLE):
        1 / 0  # noqa: B018 - an error like any other
    assert not hasattr(raised.value, "__notes__")


class RaisingIn(Callback):
    in_every_process = True

    def __init__(self, is_meant):
        self.is_meant = is_meant

    def on_step_end(self, training, report):
        if self.is_meant and report.step == 3:
            raise ValueError("no such scale")


def end_of(processes, folder, rank):
    """How a process ends when the one of ``rank`` fails; it leaves the others, as it does at its end."""
    callbacks = [RaisingIn(processes.share.rank == rank)]
    try:
        session(toy_run(dropout=0.0), folder, processes=processes, callbacks=callbacks)
    except (CallbackError, LostProcessError) as error:
        processes.close()
        processes.wait = lambda: None  # there is nobody to wait for
        return type(error).__name__, str(error)
    return "none", ""


@pytest.mark.parametrize("rank", [0, 1])
def test_the_process_that_did_not_fail_says_in_one_line_which_one_did_and_why(tmp_path, rank):
    run = tmp_path / "run"
    ends = together(2, end_of, run, rank)
    assert ends[rank][0] == "CallbackError"
    kind, message = ends[1 - rank]
    assert kind == "LostProcessError"
    assert message.startswith(f"lost process {rank}: it failed with CallbackError: the callback RaisingIn failed")
    assert "\n" not in message
    report = report_of(run)
    assert report["rank"] == rank, "the report begins with what came first"
    assert [part["rank"] for part in report["ranks"]] == [0, 1]
    assert all(part["step"] == 3 for part in report["ranks"])


def test_what_several_processes_wrote_is_put_together_whatever_else_lies_there(tmp_path):
    assert collect(tmp_path) is None
    (tmp_path / "crash_1.json").write_text("half of")
    (tmp_path / "crash_x.json").write_text("{}")
    assert collect(tmp_path) is None
    start_session(tmp_path, command=["x"])
    for rank in (2, 0):
        with pytest.raises(ZeroDivisionError), crash_reported(toy_run(), tmp_path, Share(rank, 3)):
            1 / 0  # noqa: B018 - an error like any other
    assert [part["rank"] for part in report_of(tmp_path)["ranks"]] == [0, 2]
    assert collect(tmp_path) == tmp_path / "crash.txt"


@pytest.mark.skipif(not hasattr(faulthandler, "register"), reason="nothing notes stacks on Windows")
def test_sigterm_notes_where_the_main_thread_is_even_of_a_process_that_never_comes_to_act_on_it(tmp_path):
    heard = []

    def waiting_for_others():
        os.kill(os.getpid(), signal.SIGTERM)
        return (tmp_path / ".stacks_0").read_text()

    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("asked"))
    try:
        with stacks_on_request(tmp_path, 0):
            stacks = waiting_for_others()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "waiting_for_others" in stacks
    assert heard == ["asked"], "the stop itself is not lost"
    assert not (tmp_path / ".stacks_0").exists()
