"""Stops by a clock, an epoch, a file and every signal: the exact step is saved; the resumed run has the same bits."""

import io
import json
import os
import signal
import time

import pytest

from sightline.engine.callback import Callback
from sightline.engine.callbacks.crew import CallbackError
from sightline.engine.checkpoint.reader import load_tensors, newest_whole
from sightline.engine.stop import StopRequest
from tests.engine.sessions import session
from tests.engine.test_stop import Clock
from tests.engine.toy import toy_run
from tests.faults.test_stop import SignalAt, assert_equal_ends
from tests.together import together


class At(Callback):
    """Does something at the end of a step."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_step_end(self, training, report):
        if report.step == self.step:
            self.act()


class Slow(Callback):
    """Makes every step take so long, by a clock."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, seconds

    def on_step_end(self, training, report):
        self.clock.now += self.seconds


@pytest.fixture(autouse=True)
def looks_after_every_step(monkeypatch):
    """Files are looked for after every step: twice a second would be once in a hundred steps here."""
    monkeypatch.setattr("sightline.engine.stop.LOOK_SECONDS", 0.0)
    monkeypatch.setattr("sightline.engine.checkpoint.save_schedule.REQUEST_SECONDS", 0.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nobody stops."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    session(toy_run(), folder)
    return folder


def test_a_run_stops_once_an_epoch_is_evaluated_and_goes_on_beyond_it_with_the_key_in_place(tmp_path, whole):
    config, said = toy_run(stop_at_epoch=2), io.StringIO()  # epochs of 6 steps
    result = session(config, tmp_path / "run", said=said)
    assert (result.outcome, result.step) == ("stopped", 12)
    assert said.getvalue().count("evaluated") == 2
    assert "stop_at_epoch=2: saving and stopping" in said.getvalue()
    assert newest_whole(tmp_path / "run", print).step == 12
    assert session(config, tmp_path / "run", resume=True).outcome == "done"
    assert_equal_ends(tmp_path / "run", whole)


def test_a_run_that_was_stopped_before_that_epoch_stops_there_after_it_was_resumed(tmp_path):
    config = toy_run(stop_at_epoch=2)
    assert session(config, tmp_path / "run", callbacks=[SignalAt(4)]).step == 4
    assert session(config, tmp_path / "run", resume=True).step == 12


def test_an_epoch_at_which_the_run_ends_anyway_has_no_effect():
    assert "stop_at_epoch" in toy_run(stop_at_epoch=4).without_effect()
    assert "stop_at_epoch" not in toy_run(stop_at_epoch=3).without_effect()


@pytest.mark.parametrize("text", ["10", "1w", "h", "0s", "-3m", "1h 30m", ""])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="90s, 10m, 2h"):
        toy_run().but(max_time=text)


def test_time_that_runs_out_stops_the_run_so_early_that_the_next_step_would_have_fitted(tmp_path, whole):
    config = toy_run(max_time="200s")
    for is_resumed in (False, True):  # each session has its own time
        clock = Clock()
        slow, stop = Slow(clock, 20.0), StopRequest(clock=clock)
        result = session(config, tmp_path / "run", resume=is_resumed, callbacks=[slow], stop=stop)
        assert result.outcome == "stopped"
        assert clock.now == stop.began + 180  # after another step, nothing of the 5 s for the end would be left
    assert result.step == 18
    assert session(toy_run(), tmp_path / "run", resume=True).outcome == "done"
    assert_equal_ends(tmp_path / "run", whole)


def test_time_that_runs_out_during_an_evaluation_cuts_it_short(tmp_path, whole):
    clock, config = Clock(), toy_run(max_time="10s")
    problem = config.open()
    predict = problem.task.predict

    def slow(batch):
        clock.now += 10.0
        return predict(batch)

    problem.task.predict = slow
    result = session(config, tmp_path / "run", problem=problem, stop=StopRequest(clock=clock))
    assert (result.outcome, result.step) == ("stopped", 6)
    assert "evaluated" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    session(toy_run(), tmp_path / "run", resume=True)
    assert_equal_ends(tmp_path / "run", whole)


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2", "SIGHUP"])
def test_the_signals_of_schedulers_and_of_a_closed_terminal_save_that_very_step(tmp_path, whole, name):
    said = io.StringIO()
    result = session(toy_run(), tmp_path / "run", callbacks=[SignalAt(8, getattr(signal, name))], said=said)
    assert (result.outcome, result.step) == ("stopped", 8)
    assert f"{name}: saving and stopping" in said.getvalue()
    session(toy_run(), tmp_path / "run", resume=True)
    assert_equal_ends(tmp_path / "run", whole)


def test_a_file_stops_the_run_and_is_taken_away(tmp_path, whole):
    run = tmp_path / "run"
    result = session(toy_run(), run, callbacks=[At(8, (run / "stop").touch)])
    assert (result.outcome, result.step) == ("stopped", 8)
    assert not (run / "stop").exists()
    assert json.loads((run / "status.json").read_text())["message"] == f"{run}/stop"
    assert session(toy_run(), run, resume=True).outcome == "done"
    assert_equal_ends(run, whole)


def test_a_file_that_was_left_before_the_session_stops_nothing(tmp_path):
    run, said = tmp_path / "run", io.StringIO()
    run.mkdir()
    (run / "stop").touch()
    os.utime(run / "stop", (time.time() - 60,) * 2)
    assert session(toy_run(epochs=1), run, said=said).outcome == "done"
    assert not (run / "stop").exists()
    assert "left from an earlier session" in said.getvalue()


def evaluated_with(act, config, run, *, call=2, callbacks=()):
    """A session that does something in the evaluation after the first epoch."""
    problem, calls = config.open(), []
    predict = problem.task.predict

    def acting(batch):
        calls.append(batch)
        if len(calls) == call:
            act()
        return predict(batch)

    problem.task.predict = acting
    return session(config, run, problem=problem, callbacks=callbacks)


def test_a_file_stops_the_run_during_an_evaluation_too(tmp_path, whole):
    run = tmp_path / "run"
    result = evaluated_with((run / "stop").touch, toy_run(), run)
    assert (result.outcome, result.step) == ("stopped", 6)
    session(toy_run(), run, resume=True)
    assert_equal_ends(run, whole)


class Fail(Callback):
    """Ends a run between its evaluation and the checkpoint that would follow."""

    def on_evaluation_end(self, training, report):
        raise RuntimeError


@pytest.mark.parametrize("ema", [{"decay": 0.9, "ramp": 5}, None])
def test_a_checkpoint_on_request_amid_an_evaluation_is_that_of_the_step_with_its_live_weights(tmp_path, ema):
    run, config = tmp_path / "run", toy_run(ema=ema, checkpoint={"every_epochs": 0})
    session(config, tmp_path / "whole")
    with pytest.raises(CallbackError):
        evaluated_with((run / "save").touch, config, run, callbacks=[Fail()])
    assert not (run / "save").exists()
    assert newest_whole(run, print).step == 6
    session(config, run, resume=True)
    assert_equal_ends(run, tmp_path / "whole")


def test_a_stop_before_the_first_step_leaves_a_checkpoint_to_go_on_from(tmp_path, whole):
    class Early(Callback):
        def on_run_start(self, training):
            signal.raise_signal(signal.SIGTERM)

    result = session(toy_run(), tmp_path / "run", callbacks=[Early()])
    assert (result.outcome, result.step) == ("stopped", 0)
    assert newest_whole(tmp_path / "run", print).step == 0
    session(toy_run(), tmp_path / "run", resume=True)
    assert_equal_ends(tmp_path / "run", whole)


def toy_stopped(processes, folder, changes, signals=(), resume=False):
    """A session of several processes; ``signals`` says which rank gets one, and after which step."""
    config = toy_run(dropout=0.0, **changes)
    callbacks = [InEveryProcess(step, rank, processes.share.rank) for rank, step in signals]
    result = session(config, folder, resume=resume, callbacks=callbacks, processes=processes)
    return result.outcome, result.step


class InEveryProcess(Callback):
    in_every_process = True

    def __init__(self, step, rank, own_rank):
        self.step, self.is_meant = step, rank == own_rank

    def on_step_end(self, training, report):
        if self.is_meant and report.step == self.step:
            signal.raise_signal(signal.SIGUSR1)


def test_two_processes_stop_at_the_same_step_whoever_is_asked_and_go_on_with_the_same_bits(tmp_path):
    together(2, toy_stopped, tmp_path / "whole", {})
    for rank in (0, 1):
        run = tmp_path / str(rank)
        ends = together(2, toy_stopped, run, {}, [(rank, 8)])
        assert ends[0] == ends[1]
        assert ends[0] == ("stopped", 9)  # the others learn of it one step later
        assert together(2, toy_stopped, run, {}, [], True)[0] == ("done", 24)
        assert_equal_ends(run, tmp_path / "whole")


def test_two_processes_take_no_step_after_an_evaluation_that_made_way_for_a_stop(tmp_path):
    together(2, toy_stopped, tmp_path / "whole", {})
    run = tmp_path / "run"
    assert together(2, toy_stopped, run, {}, [(0, 6)]) == [("stopped", 6)] * 2  # the end of an epoch
    together(2, toy_stopped, run, {}, [], True)
    assert_equal_ends(run, tmp_path / "whole")


def test_two_processes_stop_at_an_epoch_and_when_the_first_ones_clock_says_so(tmp_path):
    assert together(2, toy_stopped, tmp_path / "epoch", {"stop_at_epoch": 1}) == [("stopped", 6)] * 2
    ends = together(2, toy_stopped, tmp_path / "clock", {"max_time": "0.01s"})
    assert ends == [("stopped", 0)] * 2
    assert load_tensors(newest_whole(tmp_path / "clock", print))
