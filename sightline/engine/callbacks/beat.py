"""Says in ``status.json`` what a run does just now."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sightline.engine.callback import Callback, StepReport
from sightline.engine.log import LogRow
from sightline.engine.run_folder.status import Heartbeat

if TYPE_CHECKING:
    from sightline.engine.loop import Training


class Beat(Callback):
    """Keeps ``status.json`` fresh.

    Args:
        heartbeat: Writes it.
        time_left: Seconds until the run's end, as far as they are known.
    """

    def __init__(self, heartbeat: Heartbeat, time_left: Callable[[], float | None] = lambda: None) -> None:
        self.heartbeat = heartbeat
        self.time_left = time_left

    def write(self, row: LogRow) -> None:
        """Take losses and speed of the logger's rows."""
        if row.kind == "train":
            losses = {name: value for name, value in row.values.items() if name.startswith("loss")}
            self.heartbeat.know(losses=losses, samples_per_s=row.timing.get("samples_per_second"))

    def on_step_end(self, training: Training, report: StepReport) -> None:
        """Say where the run is, when it is time."""
        if self.heartbeat.is_due():
            self.heartbeat.beat("running", step=report.step, epoch=training.epoch, eta_s=self.time_left())

    def on_epoch_end(self, training: Training, epoch: int) -> None:
        """An evaluation may follow."""
        self.heartbeat.beat("evaluating", step=training.step, epoch=training.epoch)

    def on_evaluation_start(self, training: Training) -> None:
        """It may also stand in the middle of an epoch."""
        self.heartbeat.beat("evaluating", step=training.step, epoch=training.epoch)
