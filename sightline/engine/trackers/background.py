"""A tracker in a thread of its own, behind a bounded queue: it may raise, sleep or hang, the run goes on.

Rows that find the queue full are left out and counted. The queue holds what a slow tracker needs to catch up; one
that hangs costs a run nothing but that memory and, at its end, the patience of ``join``.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from sightline.engine.run_folder.secrets import without_secrets
from sightline.engine.trackers.tracker import TrackedRow, Tracker, TrackerGoneError

CAPACITY = 1000
"""Rows that may wait."""
BATCH = 50
"""Rows that a tracker is given at once, at most."""
RETRY_SECONDS = 60.0
"""Time between two tries to open a tracker."""


class BackgroundTracker:
    """Feeds a tracker.

    Args:
        name: What users call the tracker.
        tracker: Used by the thread only, ``abandon`` aside.
        capacity: Rows that may wait.
        retry_s: Seconds between two tries to open it.
    """

    def __init__(
        self, name: str, tracker: Tracker, *, capacity: int = CAPACITY, retry_s: float = RETRY_SECONDS
    ) -> None:
        self.name = name
        self.tracker = tracker
        self.capacity, self.retry_s = capacity, retry_s
        self.given = 0
        """Rows that came."""
        self.taken = 0
        """Rows that the tracker has."""
        self._rows: deque[TrackedRow] = deque()
        self._busy = False
        self._changed = threading.Condition()
        self._outcome: str | None = None
        self._trouble: str | None = None
        self._is_told = False
        self._is_abandoned = False
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)

    @property
    def missing(self) -> int:
        """Rows that the tracker does not have."""
        return self.given - self.taken

    def start(self) -> None:
        """Start the thread, which opens the tracker."""
        self._thread.start()

    def write(self, row: TrackedRow) -> None:
        """Let a row wait for the tracker, or leave it out if too many wait. Returns at once."""
        self.given += 1
        with self._changed:
            if len(self._rows) < self.capacity:
                self._rows.append(row)
                self._changed.notify_all()
            elif self._trouble is None:
                self._trouble = "does not keep up, so rows are left out"

    def drained(self, seconds: float) -> bool:
        """Wait until nothing waits, at most so long. Returns whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._rows and not self._busy, timeout=seconds)

    def end(self, outcome: str) -> None:
        """No more rows come."""
        with self._changed:
            self._outcome = outcome
            self._changed.notify_all()

    def join(self, seconds: float) -> bool:
        """Wait for the rows that wait and for the tracker's own end, at most so long; then leave it to itself.

        Returns:
            Whether it ended.
        """
        if self._thread.ident is None:
            return True
        self._thread.join(max(0.0, seconds))
        if not self._thread.is_alive():
            return True
        self._is_abandoned = True
        try:
            self.tracker.abandon()
        except Exception as error:
            self._note(error)
        return False

    def trouble(self) -> str | None:
        """What went wrong first, the first time that it is asked for afterwards."""
        if self._trouble is None or self._is_told:
            return None
        self._is_told = True
        return self._trouble

    def _work(self) -> None:
        is_open, next_try = self._opened(), time.monotonic() + self.retry_s
        while True:
            rows, outcome = self._next_rows()
            if rows and not is_open and time.monotonic() >= next_try:
                is_open, next_try = self._opened(), time.monotonic() + self.retry_s
            if rows and is_open:
                is_open = self._written(rows)
            with self._changed:
                self._busy = False
                self._changed.notify_all()
            if outcome is not None or self._is_abandoned:
                break
        if is_open and outcome is not None and not self._is_abandoned:
            try:
                self.tracker.close(outcome)
            except Exception as error:
                self._note(error)

    def _next_rows(self) -> tuple[list[TrackedRow], str | None]:
        """Rows that wait, and the outcome once none is left; waits for either."""
        with self._changed:
            self._changed.wait_for(lambda: self._rows or self._outcome is not None or self._is_abandoned)
            rows = [self._rows.popleft() for _ in range(min(BATCH, len(self._rows)))]
            self._busy = bool(rows)
            return rows, None if self._rows else self._outcome

    def _opened(self) -> bool:
        try:
            self.tracker.open()
        except Exception as error:
            self._note(error)
            return False
        return True

    def _written(self, rows: list[TrackedRow]) -> bool:
        """Whether the tracker is still open afterwards."""
        try:
            self.tracker.write(rows)
        except TrackerGoneError as error:
            self._note(error)
            return False
        except Exception as error:
            self._note(error)
        else:
            self.taken += len(rows)
        return True

    def _note(self, error: Exception) -> None:
        if self._trouble is None and not self._is_abandoned:
            text = str(error) if isinstance(error, TrackerGoneError) else f"{type(error).__name__}: {error}"
            self._trouble = without_secrets(text.strip().splitlines()[0][:300])
