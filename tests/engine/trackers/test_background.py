"""A tracker may raise, sleep or hang: whoever gives it rows does not notice."""

import threading
import time

import pytest

from sightline.engine.trackers import background as module
from sightline.engine.trackers.background import BackgroundTracker
from sightline.engine.trackers.tracker import TrackedRow, TrackerGoneError

PATIENCE_S = 60.0
"""For what happens at once on a machine with nothing else to do."""


def row(step: int) -> TrackedRow:
    return TrackedRow("train", step, 0, {"loss": 1 / step}, {"samples_per_second": 9.0}, 1700000000.0 + step)


class Kept:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.outcome = ""
        self.is_abandoned = False

    def open(self) -> None:
        pass

    def write(self, rows) -> None:
        self.steps += [one.step for one in rows]

    def close(self, outcome: str) -> None:
        self.outcome = outcome

    def abandon(self) -> None:
        self.is_abandoned = True


class Hanging(Kept):
    """Hangs for good at one moment."""

    def __init__(self, moment: str) -> None:
        super().__init__()
        self.moment = moment
        self.free = threading.Event()

    def _hang(self, moment: str) -> None:
        if moment == self.moment:
            self.free.wait()

    def open(self) -> None:
        self._hang("open")

    def write(self, rows) -> None:
        self._hang("write")
        super().write(rows)

    def close(self, outcome: str) -> None:
        self._hang("close")


class Raising(Kept):
    """Raises at one moment, so many times."""

    def __init__(self, moment: str, error: Exception, *, times: int = 10**9) -> None:
        super().__init__()
        self.moment, self.error, self.times = moment, error, times

    def _raise(self, moment: str) -> None:
        if moment == self.moment and self.times > 0:
            self.times -= 1
            raise self.error

    def open(self) -> None:
        self._raise("open")

    def write(self, rows) -> None:
        self._raise("write")
        super().write(rows)

    def close(self, outcome: str) -> None:
        self._raise("close")


def fed(tracker, *, rows: int, **options) -> BackgroundTracker:
    background = BackgroundTracker("fake", tracker, **options)
    background.start()
    for step in range(1, rows + 1):
        background.write(row(step))
    background.end("done")
    background.has_ended = background.join(PATIENCE_S)
    return background


def test_rows_arrive_in_their_order_and_the_end_after_them():
    tracker = Kept()
    background = fed(tracker, rows=500)
    assert background.has_ended
    assert tracker.steps == list(range(1, 501))
    assert tracker.outcome == "done"
    assert (background.given, background.missing, background.trouble()) == (500, 0, None)


@pytest.mark.parametrize("moment", ["open", "write", "close"])
def test_one_that_hangs_costs_the_end_its_patience_and_nothing_else(moment):
    tracker = Hanging(moment)
    background = BackgroundTracker("fake", tracker, capacity=100)
    background.start()
    began = time.process_time()
    for step in range(1, 10_001):
        background.write(row(step))
    assert time.process_time() - began < 1.0, "10,000 rows, a tenth of a millisecond each"
    assert moment != "close" or background.drained(PATIENCE_S)
    background.end("done")
    began = time.monotonic()
    assert not background.join(0.2)
    assert time.monotonic() - began < 2.0
    assert tracker.is_abandoned
    assert background.missing == 10_000 - len(tracker.steps)
    if moment != "close":
        assert not tracker.steps
        assert len(background._rows) == 100
        assert background.trouble() == "does not keep up, so rows are left out"
    tracker.free.set()
    background._thread.join(PATIENCE_S)
    assert not background._thread.is_alive(), "it ends as soon as it can"


@pytest.mark.parametrize("moment", ["open", "write"])
def test_one_that_raises_is_told_once_with_the_reason(moment):
    background = fed(Raising(moment, ConnectionError("no route to host\nand more")), rows=120)
    assert background.has_ended
    assert background.trouble() == "ConnectionError: no route to host"
    assert background.trouble() is None
    assert background.missing == 120


def test_after_one_bad_write_the_next_rows_arrive():
    tracker = Raising("write", OSError(28, "No space left on device"), times=1)
    background = BackgroundTracker("fake", tracker)
    background.start()
    background.write(row(1))
    assert background.drained(PATIENCE_S)
    background.write(row(2))
    background.end("done")
    assert background.join(PATIENCE_S)
    assert tracker.steps == [2]
    assert background.missing == 1


def test_one_that_is_gone_is_opened_again_but_not_at_once(monkeypatch):
    class Dying(Kept):
        opened = 0

        def open(self):
            self.opened += 1

        def write(self, rows):
            if self.opened == 1:
                raise TrackerGoneError("its process ended")
            super().write(rows)

    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    tracker = Dying()
    background = BackgroundTracker("fake", tracker, retry_s=30.0)
    background.start()
    for step in (1, 2):
        background.write(row(step))
        assert background.drained(PATIENCE_S)
    assert tracker.opened == 1
    now += 30.0
    background.write(row(3))
    background.end("done")
    assert background.join(PATIENCE_S)
    assert (tracker.opened, tracker.steps, background.missing) == (2, [3], 2)
    assert background.trouble() == "its process ended"


def test_a_message_holds_no_secret(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    error = ConnectionError("key 0123456789abcdef refused by https://me:hunter22@example.org/api")
    trouble = fed(Raising("write", error), rows=1).trouble()
    assert "0123456789abcdef" not in trouble
    assert "hunter22" not in trouble
    assert "refused by" in trouble


def test_waiting_for_a_slow_one_ends_in_time():
    tracker = Hanging("write")
    background = BackgroundTracker("fake", tracker)
    background.start()
    background.write(row(1))
    assert not background.drained(0.1)
    tracker.free.set()
    assert background.drained(PATIENCE_S)
    background.end("done")
    assert background.join(PATIENCE_S)
