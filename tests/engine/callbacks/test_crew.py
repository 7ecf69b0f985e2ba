"""Callbacks are called in order; one that fails is named, and costs only the steps since the last checkpoint."""

import json
import re

import pytest

from sightline.config.errors import RunError
from sightline.engine.callback import Callback
from sightline.engine.callbacks.crew import CallbackError, Crew, message_of
from sightline.engine.checkpoint.reader import newest_whole
from tests.engine.sessions import session
from tests.engine.toy import toy_run

MOMENTS = {
    "on_run_start": "at the start of the run",
    "on_step_end": "at the end of step 9",
    "on_epoch_end": "at the end of an epoch, at step 12",
    "on_evaluation_end": "at the end of an evaluation, at step 12",
    "on_run_end": "at the end of the run, at step 24",
}


def run(folder, callbacks, *, resume=False, **changes):
    return session(toy_run(**changes), folder, resume=resume, callbacks=callbacks)


def failing(moment):
    """A callback that fails at a moment, in the second epoch where it comes more than once."""

    class Failing(Callback):
        pass

    def fail(self, training, *arguments):
        if training.step >= 9 or moment == "on_run_start":
            raise ZeroDivisionError("no way")

    setattr(Failing, moment, fail)
    return Failing()


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_failure_is_named_and_the_run_goes_on_from_its_newest_checkpoint(tmp_path, moment):
    folder, unbroken = tmp_path / "failed", tmp_path / "unbroken"
    run(unbroken, [])
    with pytest.raises(CallbackError) as caught:
        run(folder, [failing(moment)])
    text = str(caught.value)
    assert text.startswith(f"the callback Failing failed {MOMENTS[moment]}: test_crew.py:")
    assert text.endswith("ZeroDivisionError: no way")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    status = json.loads((folder / "status.json").read_text())
    assert status["state"] == "failed"
    assert status["message"] == text
    if moment != "on_run_start":
        said = []
        newest = newest_whole(folder, said.append)
        assert not said
        assert newest.step == {"on_step_end": 6, "on_epoch_end": 9, "on_evaluation_end": 9, "on_run_end": 24}[moment]
    if moment != "on_run_end":  # whose steps are all taken
        assert run(folder, [], resume=True).outcome == "done"
        assert (folder / "metrics.jsonl").read_bytes() == (unbroken / "metrics.jsonl").read_bytes()


def test_an_error_of_ours_keeps_its_kind_and_gets_the_name_as_a_note():
    class Ours(Callback):
        def on_epoch_end(self, training, epoch):
            raise RunError("the disk is full")

    Ours.__module__ = "sightline.engine.ours"
    with pytest.raises(RunError, match="disk is full") as caught:
        Crew([Ours()]).on_epoch_end(type("At", (), {"step": 3})(), 0)
    assert message_of(caught.value) == "the disk is full; in the callback Ours, at the end of an epoch, at step 3"


def test_a_callback_that_exits_fails():
    class Exits(Callback):
        def on_step_end(self, training, report):
            raise SystemExit(0)

    with pytest.raises(CallbackError, match=r"the callback Exits failed at the end of step 3: .*SystemExit: 0"):
        Crew([Exits()]).on_step_end(type("At", (), {"step": 3})(), None)


def test_the_end_of_the_run_is_told_to_all_and_once():
    told = []

    class Told(Callback):
        def __init__(self, name, fails):
            self.name, self.fails = name, fails

        def on_run_end(self, training, outcome):
            told.append(self.name)
            if self.fails:
                raise ValueError(self.name)

    crew = Crew([Told("a", True), Told("b", False), Told("c", True)])
    at = type("At", (), {"step": 3})()
    with pytest.raises(CallbackError, match=r"callback Told failed at the end of the run, at step 3: .*ValueError: a"):
        crew.on_run_end(at, "done")
    crew.on_run_end(at, "failed")
    assert told == ["a", "b", "c"]


def test_callbacks_are_called_in_the_order_of_their_list(tmp_path):
    order = []

    class First(Callback):
        def on_step_end(self, training, report):
            order.append((report.step, type(self).__name__))

    class Second(First):
        pass

    run(tmp_path / "a", [Second(), First()], epochs=1)
    assert order == [(step, name) for step in range(1, 7) for name in ("Second", "First")]


class Counter(Callback):
    def __init__(self):
        self.count = 0

    def on_step_end(self, training, report):
        self.count += 1

    def state(self):
        return {"count": self.count}

    def load_state(self, state):
        self.count = state["count"]


def test_two_callbacks_of_one_class_keep_states_of_their_own(tmp_path):
    counters = [Counter(), Counter()]
    counters[1].count = 100
    run(tmp_path / "a", counters, epochs=1)
    assert newest_whole(tmp_path / "a", print).state["callbacks"]["Counter 2"] == {"count": 106}
    later = [Counter(), Counter()]
    run(tmp_path / "a", later, resume=True, epochs=2)
    assert [one.count for one in later] == [12, 112]


def test_a_callback_that_is_new_in_a_resumed_run_begins_without_a_state(tmp_path):
    run(tmp_path / "a", [], epochs=1)
    counter = Counter()
    run(tmp_path / "a", [counter], resume=True, epochs=2)
    assert counter.count == 6


def test_a_state_that_is_no_json_names_its_callback(tmp_path):
    class Odd(Callback):
        def state(self):
            return {"set": {1, 2}}

    with pytest.raises(CallbackError, match=re.escape("the callback Odd failed when its state was saved: TypeError")):
        run(tmp_path / "a", [Odd()])
