"""What a person sees while a run trains: a progress bar on a terminal, plain lines where output is piped."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from sightline.config.printable import counted
from sightline.engine.callback import Callback, EvaluationReport, StepReport
from sightline.engine.log import LogRow

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from sightline.engine.loop import Training

BAR_SECONDS = 0.5
"""Least time between two updates of the bar."""
BAR_COLUMNS = 14
_log = logging.getLogger("sightline.console")


class Console(Callback):
    """Progress of epochs with losses, lr, throughput and time left; a line per evaluation.

    It is a sink of the logger too, and shows the losses of the last row.

    Args:
        stream: Where to write.
        is_terminal: Bars need a terminal; elsewhere every row of the logger becomes one line.
    """

    def __init__(self, stream: TextIO | None = None, *, is_terminal: bool | None = None) -> None:
        self.stream = stream if stream is not None else sys.stdout
        self.is_terminal = self.stream.isatty() if is_terminal is None else is_terminal
        self.level = logging.INFO
        """What weighs less is not shown, the bar included; see ``log.level``. The run's log has it all the same."""
        self._unit = "samples"
        self._headline: Sequence[str] = ()
        self._bar: Bar | None = None
        self._next = 0.0
        self._row: LogRow | None = None
        self._total_steps = 0
        self._epochs = 0
        self._started = 0.0

    def speak_of(self, *, unit: str, headline: Sequence[str]) -> None:
        """What samples are called, and which figures of an evaluation to show (all when empty): see ``Problem``."""
        self._unit, self._headline = unit, headline

    def say(self, text: str, *, level: int = logging.INFO) -> None:
        """Print lines above the bar, and write them into the run's log."""
        _log.log(level, "%s", text)
        if level >= self.level:
            self.show(text)

    def show(self, text: str) -> None:
        """Print lines above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            print(text, file=self.stream, flush=True)

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Say what takes so long, while it does; on a terminal only, since it is gone afterwards."""
        if not self.is_terminal or self.level > logging.INFO:
            yield
            return
        from rich.console import Console as RichConsole

        with RichConsole(file=self.stream).status(f"{text} ..."):
            yield

    def on_run_start(self, training: Training) -> None:
        """Show the bar."""
        self._total_steps, self._epochs = training.plan.length.steps, training.plan.length.epochs
        self._started = time.monotonic()
        if not self.is_terminal or self.level > logging.INFO:
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.table import Column

        self._bar = Progress(
            TextColumn("[bold]{task.fields[epoch]}"),
            BarColumn(bar_width=BAR_COLUMNS),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=RichConsole(file=self.stream),
            transient=True,
            refresh_per_second=1 / BAR_SECONDS,
        )
        self._bar.add_task("steps", total=self._total_steps, completed=training.step, epoch="", text="first step ...")
        self._bar.start()

    def on_step_end(self, training: Training, report: StepReport) -> None:
        """Move the bar, at most twice a second: to draw it takes up to two milliseconds."""
        if self._bar is None:
            return
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + BAR_SECONDS
        self._show(report.step, report.epoch, self._text(digits=3))

    def on_epoch_end(self, training: Training, epoch: int) -> None:
        """An evaluation or a checkpoint may follow."""
        self._show(training.step, epoch, "evaluating or saving ...")

    def write(self, row: LogRow) -> None:
        """Take the logger's rows; piped output and the run's log get a line for each training row."""
        if row.kind != "train":
            return
        self._row = row
        line = f"epoch {row.epoch + 1}/{self._epochs} step {row.step}/{self._total_steps}  {self._text(digits=4)}"
        if self._bar is None:
            self.say(line)
        else:
            _log.info("%s", line)

    def on_evaluation_start(self, training: Training) -> None:
        """One in the middle of an epoch takes its time too."""
        if not training.ends_epoch:
            self._show(training.step, training.epoch, "evaluating ...")

    def on_evaluation_end(self, training: Training, report: EvaluationReport) -> None:
        """A line with the figures."""
        names = [name for name in self._headline if name in report.metrics] or list(report.metrics)
        if "loss" in report.metrics and "loss" not in names:
            names.append("loss")
        shown = [f"{name} {report.metrics[name]:.3f}" for name in names]
        self.say(f"epoch {report.epoch + 1}/{self._epochs} step {report.step}  evaluated: {'  '.join(shown)}")

    def on_run_end(self, training: Training, outcome: str) -> None:
        """Take the bar away; of a run that is done, say how long it took."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if outcome == "done":
            took = duration(time.monotonic() - self._started)
            self.say(f"done: {counted(training.step, 'step')}; this session took {took}")

    def _show(self, step: int, epoch: int, text: str) -> None:
        if self._bar is not None:
            where = f"epoch {epoch + 1}/{self._epochs}"
            self._bar.update(self._bar.task_ids[0], completed=step, epoch=where, text=text)

    def _text(self, *, digits: int) -> str:
        """Losses, lr, speed and time left, of the last row."""
        return "" if self._row is None else "  ".join(_train_parts(self._row, digits, self._unit))


def _train_parts(row: LogRow, digits: int, unit: str) -> list[str]:
    values = row.values
    losses = [
        f"{name.removeprefix('loss/')} {value:.{digits}f}" for name, value in values.items() if name.startswith("loss/")
    ]
    rates = [value for name, value in values.items() if name.startswith("lr/")]
    parts = [
        *losses,
        *([f"lr {max(rates):.2e}"] if rates else []),
        f"{row.timing.get('samples_per_second', 0):.0f} {unit}/s",
    ]
    return parts if row.eta_seconds is None else [*parts, f"ETA {duration(row.eta_seconds)}"]


def duration(seconds: float) -> str:
    """``"1:02:03"`` or ``"2:03"``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
