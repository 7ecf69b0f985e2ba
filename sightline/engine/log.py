"""What a run says while it trains: one row per interval, given to every sink alike.

Losses are added up on the device; the host waits for it once per interval, not once per step.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator
from torch import Tensor

from sightline.config.base import Config
from sightline.engine.callback import Callback, EvaluationReport, StepReport
from sightline.engine.loop import Training
from sightline.engine.memory import memory_now
from sightline.engine.trackers.config import MlflowConfig, TrackerName, WandbConfig


class LogConfig(Config):
    """What is written down, and how often."""

    level: Literal["DEBUG", "INFO", "WARNING"] = "INFO"
    """What the console shows: WARNING neither progress nor figures, DEBUG more. The run's log.txt holds INFO in any
    case."""
    every_steps: PositiveInt = 10
    """Optimizer steps per row of metrics.jsonl and the trackers, and per line when the output is piped."""
    trackers: tuple[TrackerName, ...] = ("tensorboard",)
    """Where rows go besides metrics.jsonl: any of tensorboard, csv, mlflow, wandb. None can stop or slow a run."""
    train_pictures: NonNegativeInt = 3
    """Draw so many of the first training batches."""
    eval_pictures: NonNegativeInt = 8
    """Draw the predictions of so many validation samples beside their truth, after every evaluation."""
    grad_norm: bool = False
    """Measure and log the gradient norm even where it is not clipped."""
    heartbeat_seconds: float = Field(1.0, gt=0)
    """Least time between two writes of status.json."""
    mlflow: MlflowConfig = MlflowConfig()
    wandb: WandbConfig = WandbConfig()

    @field_validator("trackers")
    @classmethod
    def _each_once(cls, trackers: tuple[TrackerName, ...]) -> tuple[TrackerName, ...]:
        if len(set(trackers)) < len(trackers):
            raise ValueError(f"names a tracker twice: {', '.join(trackers)}")
        return trackers

    def without_effect(self) -> dict[str, str]:
        """Settings of trackers that the run does not have."""
        return {name: f"log.trackers does not name {name}" for name in ("mlflow", "wandb") if name not in self.trackers}


@dataclass(frozen=True)
class LogRow:
    """One row. ``values`` are a function of the run alone; ``timing`` depends on the machine."""

    kind: Literal["train", "eval", "watch"]
    step: int
    epoch: int
    values: Mapping[str, float]
    timing: Mapping[str, float] = field(default_factory=dict)
    eta_seconds: float | None = None
    """Seconds until the run's end: news for people, written to no history."""


class Sink(Protocol):
    """Takes rows: a file, the trackers, the console."""

    def write(self, row: LogRow) -> None:
        """Take one row."""


class TimeLeft:
    """Judges the seconds until a run's end from what its micro-batches and the pauses between its epochs took.

    The first micro-batches of a session fill caches and start workers; they do not count. A pause is an evaluation
    between two steps, or what stands between the last step of an epoch and the first of the next: pictures, checkpoint.
    Pauses are taken to come as regularly as they came so far, at first one an epoch.

    Args:
        iterations: Micro-batches of the whole run.
        epochs: Its passes over the data.
    """

    SLOW = 3

    def __init__(self, *, iterations: int, epochs: int) -> None:
        self._iterations, self._epochs = iterations, epochs
        self._seen = self._counted = self._ended = 0
        self._seconds = self._pauses = 0.0
        self._last: tuple[int, float] | None = None
        self._paused_at: float | None = None
        self._first_pause = self._last_pause = 0

    def step(self, iteration: int, now: float) -> None:
        """``iteration`` micro-batches were done at time ``now``, seconds of a clock that never jumps."""
        done, since = self._last if self._last is not None else (iteration, now)
        pace = self._seconds / self._counted if self._counted else 0.0
        usual = pace * (iteration - done)
        if self._paused_at is not None and now - self._paused_at > 2 * usual:  # else the pause was none
            self._pauses += now - self._paused_at - usual
            self._first_pause, self._last_pause = self._first_pause if self._ended else done, done
            self._ended += 1
        else:
            self._seen += iteration - done
            if self._seen > self.SLOW:
                self._counted += iteration - done
                self._seconds += now - since
        self._last, self._paused_at = (iteration, now), None

    def pause(self, now: float) -> None:
        """An epoch ended."""
        self._paused_at = now

    def seconds(self) -> float | None:
        """Seconds left; None before anything can be said."""
        if self._last is None or not self._counted:
            return None
        left = self._seconds / self._counted * (self._iterations - self._last[0])
        if not self._ended:
            return left
        interval = self._iterations / self._epochs
        if self._last_pause > self._first_pause:
            interval = (self._last_pause - self._first_pause) / (self._ended - 1)
        return left + self._pauses / self._ended * (self._iterations - self._last_pause) / interval


class Logger(Callback):
    """Adds up what steps report and gives a row to every sink at the interval."""

    def __init__(self, config: LogConfig, sinks: Sequence[Sink]) -> None:
        self.config = config
        self.sinks = list(sinks)
        self._names: list[str] = []
        self._sums: list[Tensor] = []
        self._sums_are_loaded = False
        self._norm: Tensor | None = None
        self._steps = 0
        self._samples = 0
        self._since = time.perf_counter()
        self._busy_seconds = 0.0
        self._time_left: TimeLeft | None = None

    def on_run_start(self, training: Training) -> None:
        """Start the clock."""
        length = training.plan.length
        self._time_left = TimeLeft(iterations=length.iterations, epochs=length.epochs)
        self._since = time.perf_counter()

    def on_step_end(self, training: Training, report: StepReport) -> None:
        """Add up; at the interval, write a row."""
        if self._sums_are_loaded:
            self._sums, self._sums_are_loaded = [total.to(training.device) for total in self._sums], False
        self._norm = None
        if not training.guard.left_out:  # a step that was left out would spoil the means
            self._add(report)
        self._samples += report.num_samples
        if self._time_left is not None:
            self._time_left.step(training.iteration, time.perf_counter())
        if report.step % self.config.every_steps == 0:
            self._emit(training, report)

    def _add(self, report: StepReport) -> None:
        if list(report.losses) == self._names:
            torch._foreach_add_(self._sums, list(report.losses.values()))
        else:  # the first step of an interval, or a step whose task left a loss out
            sums = dict(zip(self._names, self._sums, strict=True))
            for name, value in report.losses.items():
                sums[name] = sums[name] + value if name in sums else value.to(torch.float32, copy=True)
            self._names, self._sums = list(sums), list(sums.values())
        self._norm = report.grad_norm
        self._steps += 1

    def on_epoch_end(self, training: Training, epoch: int) -> None:
        """What follows until the next step is no training time."""
        self._pause()

    def on_evaluation_start(self, training: Training) -> None:
        """Nor is an evaluation in the middle of an epoch."""
        self._pause()

    def _pause(self) -> None:
        now = time.perf_counter()
        self._busy_seconds += now - self._since
        self._since = now
        if self._time_left is not None:
            self._time_left.pause(now)

    def on_evaluation_end(self, training: Training, report: EvaluationReport) -> None:
        """Write the figures."""
        row = LogRow("eval", report.step, report.epoch, dict(report.metrics))
        for sink in self.sinks:
            sink.write(row)
        self._since = time.perf_counter()

    def _emit(self, training: Training, report: StepReport) -> None:
        means = [float(value) / self._steps for value in self._sums]
        shown = training.task.only_shown
        values = {
            name if name in shown else f"loss/{name}": mean for name, mean in zip(self._names, means, strict=True)
        }
        if means:
            values["loss"] = sum(mean for name, mean in zip(self._names, means, strict=True) if name not in shown)
        for group, now in zip(training.optimizer.groups, report.values, strict=True):
            values[f"lr/{group.rule.name}"] = now.lr
        if self._norm is not None:
            values["grad_norm"] = float(self._norm)
        if training.guard.skipped:
            values["skipped_steps"] = float(training.guard.skipped)
        seconds = self._busy_seconds + time.perf_counter() - self._since
        timing = {"samples_per_second": self._samples / seconds if seconds > 0 else 0.0, **memory_now(training.device)}
        row = LogRow("train", report.step, report.epoch, values, timing, self.time_left())
        for sink in self.sinks:
            sink.write(row)
        self._forget()

    def time_left(self) -> float | None:
        """Seconds until the run's end; None before anything can be said."""
        return None if self._time_left is None else self._time_left.seconds()

    def _forget(self) -> None:
        self._sums, self._names, self._steps, self._samples = [], [], 0, 0
        self._since, self._busy_seconds = time.perf_counter(), 0.0

    def state(self) -> dict[str, Any]:
        """The means of an interval that is not over yet."""
        return {
            "names": self._names,
            "sums": [float(value) for value in self._sums],
            "steps": self._steps,
            "samples": self._samples,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with an interval that a checkpoint cut."""
        self._names = list(state["names"])
        self._sums, self._sums_are_loaded = [torch.tensor(value) for value in state["sums"]], True
        self._steps, self._samples = state["steps"], state["samples"]
