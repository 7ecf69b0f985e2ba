"""SIGTERM and Ctrl-C: the exact step is saved, the exit code is 3, and the resumed run ends with the same bits."""

import io
import json
import os
import random
import signal
import threading
import time
from functools import partial

import pytest

from sightline import api
from sightline.config.errors import RunError
from sightline.engine.callback import Callback
from sightline.engine.checkpoint.reader import newest_whole
from tests.engine.sessions import session
from tests.engine.toy import toy_run
from tests.faults.moments import is_evaluating, is_locked, is_writing
from tests.faults.tiny import is_past, live, logged_step, shown_steps, train


class SignalAt(Callback):
    """Sends this process a signal at the end of a step."""

    def __init__(self, step, number=signal.SIGTERM):
        self.step, self.number = step, number

    def on_step_end(self, training, report):
        if report.step == self.step:
            signal.raise_signal(self.number)


def bytes_of_last_checkpoint(folder):
    path = newest_whole(folder, print).path
    return {file.name: file.read_bytes() for file in path.iterdir() if file.suffix == ".safetensors"}


def assert_equal_ends(folder, whole):
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert bytes_of_last_checkpoint(folder) == bytes_of_last_checkpoint(whole)
    assert newest_whole(folder, print).state == newest_whole(whole, print).state
    assert newest_whole(folder, print).manifest.metrics == newest_whole(whole, print).manifest.metrics


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [1, 5, 6, 24], ids=["first step", "mid epoch", "end of an epoch", "last step"])
def test_a_signal_in_a_step_saves_that_very_step(tmp_path, step, number):
    config = toy_run()  # 4 epochs of 6 steps, each followed by an evaluation
    session(config, tmp_path / "whole")
    said = io.StringIO()
    result = session(config, tmp_path / "stopped", callbacks=[SignalAt(step, number)], said=said)
    assert (result.outcome, result.step) == ("stopped", step)
    assert number.name in said.getvalue()
    assert newest_whole(tmp_path / "stopped", print).step == step
    assert said.getvalue().count("evaluated") == (step - 1) // 6  # one that was due now waits for the resumed run
    assert session(config, tmp_path / "stopped", resume=True).outcome == "done"
    assert_equal_ends(tmp_path / "stopped", tmp_path / "whole")


class Interrupting:
    """A task's ``predict`` that sends a signal at its call number ``call``, over all evaluations."""

    def __init__(self, predict, call):
        self.predict, self.left = predict, call

    def __call__(self, batch):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGTERM)
        return self.predict(batch)


def interrupted_session(config, folder, call, *, resume=False):
    problem = config.open()
    problem.task.predict = Interrupting(problem.task.predict, call)
    return session(config, folder, problem=problem, resume=resume)


@pytest.mark.parametrize("changes", [{}, {"checkpoint": {"every_steps": 5, "every_epochs": 0}}, {"ema": None}])
def test_a_signal_in_any_batch_of_an_evaluation_cuts_it_short_and_the_resumed_run_repeats_it(tmp_path, changes):
    config = toy_run(epochs=2, **changes)  # each evaluation has 3 batches
    session(config, tmp_path / "whole")
    for call in range(1, 7):
        folder = tmp_path / str(call)
        result = interrupted_session(config, folder, call)
        assert (result.outcome, result.step) == ("stopped", 6 if call <= 3 else 12)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert sum(row["kind"] == "eval" for row in rows) == (0 if call <= 3 else 1)
        # Once more in the repeated evaluation: no step may be taken before it is whole.
        again = interrupted_session(config, folder, 2, resume=True)
        assert (again.outcome, again.step) == (result.outcome, result.step)
        result = session(config, folder, resume=True)
        assert (result.outcome, result.step) == ("done", 12)
        assert set(result.metrics) == {"accuracy"}
        assert_equal_ends(folder, tmp_path / "whole")


def test_the_figures_of_a_repeated_evaluation_decide_the_best_checkpoint(tmp_path):
    config = toy_run(epochs=2)
    session(config, tmp_path / "whole")
    interrupted_session(config, tmp_path / "run", 4)
    session(config, tmp_path / "run", resume=True)
    best = [(tmp_path / name / "checkpoints" / "best").read_text() for name in ("run", "whole")]
    assert best[0] == best[1]


def test_a_run_that_died_after_its_last_checkpoint_needs_no_more_steps_but_is_brought_to_its_end(tmp_path):
    run = tmp_path / "run"
    train(run, "epochs=1")
    record = json.loads((run / "run.json").read_text())
    for key in ("ended", "outcome", "exit_code"):  # as if it was killed while the report was being written
        record["sessions"][-1][key] = None
    (run / "run.json").write_text(json.dumps(record))
    result = api.resume(run)
    assert (result.exit_code, result.step) == (0, 3)
    assert "AP50" in result.metrics
    assert result.report.exists()
    with pytest.raises(RunError, match="finished"):
        api.resume(run)


def test_a_thread_may_train_without_signals(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(session(toy_run(epochs=1), tmp_path / "run")))
    thread.start()
    thread.join()
    assert [result.outcome for result in results] == ["done"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork to begin lives cheaply")
@pytest.mark.timeout(900)
def test_a_real_run_that_is_stopped_again_and_again_at_any_time_ends_with_the_same_bits(tmp_path, begin_life):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    generator = random.Random(seed)
    unbroken, run = tmp_path / "unbroken", tmp_path / "run"
    assert train(unbroken, "epochs=10") == 0
    for after_step, moment in ((0, is_locked), (4, is_evaluating), (8, is_writing), (11, is_evaluating)):
        life = begin_life(lambda: live(run, "epochs=10", "workers=2"))
        assert life.wait_for(partial(is_past, run, after_step)) and life.wait_for(partial(moment, run, life.pid))
        time.sleep(generator.uniform(0, 0.1))
        life.send(generator.choice((signal.SIGTERM, signal.SIGINT)))
        assert life.exit_code() == 3, f"seed {seed}\n{life.said()}"
        assert newest_whole(run, print).step == logged_step(run)
        assert json.loads((run / "status.json").read_text())["state"] == "interrupted"
    assert begin_life(lambda: live(run)).exit_code() == 0
    assert (run / "metrics.jsonl").read_bytes() == (unbroken / "metrics.jsonl").read_bytes()
    assert bytes_of_last_checkpoint(run) == bytes_of_last_checkpoint(unbroken)
    assert shown_steps(run) == shown_steps(unbroken) == list(range(1, 31))
