"""When the next checkpoint is due."""

import time
from collections.abc import Callable
from pathlib import Path

from sightline.engine.checkpoint.retention import CheckpointConfig

REQUEST_FILE = "save"
"""``touch RUN/save`` asks a running training for a checkpoint after one of its next steps."""
REQUEST_SECONDS = 0.5
"""Least time between two looks for a request: every look asks the file system, which may be far away."""


class SaveSchedule:
    """Says after every step whether to take a checkpoint, and why.

    Args:
        config: Epochs, steps and minutes.
        run_dir: The run's folder, where a request may be left.
        clock: Seconds that never jump; tests pass their own.
    """

    def __init__(self, config: CheckpointConfig, run_dir: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self._request = run_dir / REQUEST_FILE
        self._clock = clock
        self._last = clock()
        self._next_look = self._last

    def reason(self, *, step: int, epoch: int, ends_epoch: bool) -> str | None:
        """Why a checkpoint is due now: ``request``, ``epoch``, ``steps`` or ``minutes``; None if it is not.

        Takes the request away and starts the minutes anew when one is due.

        Args:
            step: Optimizer steps taken.
            epoch: Complete passes over the data.
            ends_epoch: Whether the last step completed one.
        """
        config = self.config
        now = self._clock()
        reason = None
        if config.every_minutes is not None and now - self._last >= 60 * config.every_minutes:
            reason = "minutes"
        if config.every_steps and step % config.every_steps == 0:
            reason = "steps"
        if ends_epoch and config.every_epochs and epoch % config.every_epochs == 0:
            reason = "epoch"
        if self.is_requested():
            reason = reason or "request"
        if reason:
            self._last = now
        return reason

    def is_requested(self) -> bool:
        """Whether somebody asked for a checkpoint; takes the request away. It is seen within half a second."""
        now = self._clock()
        if now < self._next_look:
            return False
        self._next_look = now + REQUEST_SECONDS
        if not self._request.exists():
            return False
        self._request.unlink(missing_ok=True)
        return True
