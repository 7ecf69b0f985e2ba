"""How long epochs take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from sightline.engine.callback import Callback
from sightline.engine.console import duration
from sightline.engine.loop import Training
from sightline.engine.run_folder.metrics_log import MetricsLog


class EpochClock(Callback):
    """Writes the seconds of every whole epoch, and sums them up at the end of the run.

    It must be the last callback: an epoch goes from the end of the one before to its own, evaluation and checkpoint
    included. One that a resume began in the middle is no whole epoch. The first of a session fills caches and starts
    workers, so a mean is told without it.

    Args:
        log: Gets a row of kind ``epoch``.
        say: Shows the summary.
    """

    def __init__(self, log: MetricsLog, *, say: Callable[[str], None]) -> None:
        self.log = log
        self.say = say
        self.seconds: list[float] = []
        self._since: float | None = None

    def on_run_start(self, training: Training) -> None:
        """Start the clock, unless the session begins in the middle of an epoch."""
        is_at_start = training.iteration % training.plan.length.iterations_per_epoch == 0
        self._since = time.perf_counter() if is_at_start else None

    def on_epoch_end(self, training: Training, epoch: int) -> None:
        """Note the time of an epoch."""
        now = time.perf_counter()
        if self._since is not None and training.ends_epoch:
            self.seconds.append(now - self._since)
            self.log.append(step=training.step, epoch=epoch, kind="epoch", values={"epoch_seconds": now - self._since})
        self._since = now

    def on_run_end(self, training: Training, outcome: str) -> None:
        """Say how long epochs took."""
        if outcome != "failed" and self.seconds:
            first, *others = self.seconds
            text = f"epoch time, evaluation included: {_shown(first)}"
            if others:
                text += f" the first, {_shown(statistics.fmean(others))} the mean of the {len(others)} after it"
            self.say(text)


def _shown(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 60 else duration(seconds)
