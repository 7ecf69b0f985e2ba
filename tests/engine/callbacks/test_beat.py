"""The time left that a run tells while it runs, on a clock of the test's own."""

import json

import pytest

from sightline.engine import log
from sightline.engine.callback import Callback
from sightline.engine.run_folder.status import read_status
from tests.engine.sessions import session
from tests.engine.toy import ToyTask, toy_run

STEP, PREDICTION = 0.5, 4.0


class Clock:
    """Every step takes half a second, the first two of the session twenty; every evaluated batch four."""

    def __init__(self, monkeypatch, slow_steps=2):
        self.now, self.left = 100.0, slow_steps
        forward, predict = ToyTask.forward, ToyTask.predict
        monkeypatch.setattr(log.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(ToyTask, "forward", lambda task, batch: self.spend(self.step(), forward(task, batch)))
        monkeypatch.setattr(ToyTask, "predict", lambda task, batch: self.spend(PREDICTION, predict(task, batch)))

    def step(self):
        self.left -= 1
        return 20.0 if self.left >= 0 else STEP

    def spend(self, seconds, result):
        self.now += seconds
        return result


class Watcher(Callback):
    """What the status said after every step, and when."""

    def __init__(self, run_dir, clock):
        self.run_dir, self.clock = run_dir, clock
        self.said = {}

    def on_step_end(self, training, report):
        status = read_status(self.run_dir)
        if status.state == "running" and status.eta_s is not None:
            self.said[report.step] = (status.eta_s, self.clock.now)


def told(tmp_path, clock, **changes):
    """Seconds left by step: what was said, and what it came to."""
    watcher = Watcher(tmp_path / "run", clock)
    config = toy_run(data_samples=200, batch_size=4, log={"heartbeat_seconds": 1e-9, "trackers": []}, **changes)
    session(config, tmp_path / "run", callbacks=[watcher])
    return {step: (said, clock.now - when) for step, (said, when) in watcher.said.items()}


def test_after_20_steps_of_constant_pace_the_time_left_is_right_and_start_up_does_not_count(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    evaluation = 3 * PREDICTION  # 9 samples in batches of 4; once, after the last step
    found = told(tmp_path, clock, epochs=2, evaluate={"every_epochs": 2})
    assert len(found) > 75
    for step, (said, really) in found.items():
        if step >= 20:
            assert said == pytest.approx(really - evaluation, rel=0.1, abs=STEP), step


@pytest.mark.parametrize("evaluate", [{"every_epochs": 1}, {"every_steps": 20, "every_epochs": 100}])
def test_evaluations_count_as_often_as_they_came(tmp_path, monkeypatch, evaluate):
    clock = Clock(monkeypatch)
    found = told(tmp_path, clock, epochs=4, evaluate=evaluate)
    checked = 0
    for step, (said, really) in found.items():
        if 110 <= step <= 180:
            assert said == pytest.approx(really, rel=0.1, abs=2 * STEP), step
            checked += 1
    assert checked > 60


def test_a_status_that_is_read_later_has_less_time_left(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    told(tmp_path, clock, epochs=1)
    status = read_status(tmp_path / "run").but(state="running", eta_s=60.0, updated=1000.0)
    assert [status.time_left(now) for now in (990.0, 1000.0, 1020.0, 1100.0)] == [60.0, 60.0, 40.0, 0.0]


@pytest.mark.parametrize("stop_at_epoch", [None, 2])
def test_at_the_end_the_losses_are_those_of_the_last_row_however_short_the_run_was(tmp_path, stop_at_epoch):
    # 6 steps an epoch, a row every 4: all of it is over within the first beat's second.
    log = {"every_steps": 4, "heartbeat_seconds": 3600.0, "trackers": []}
    session(toy_run(log=log, stop_at_epoch=stop_at_epoch), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = [row["values"] for row in rows if row["kind"] == "train"][-1]
    losses = {name: value for name, value in last.items() if name.startswith("loss")}
    assert losses and read_status(tmp_path / "run").losses == losses
