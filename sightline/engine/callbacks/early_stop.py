"""Ends a run whose evaluations no longer get better."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import NonNegativeFloat, PositiveInt

from sightline.config.base import Config
from sightline.engine.callback import Callback, EvaluationReport
from sightline.engine.checkpoint.retention import BestBy, figure_of
from sightline.engine.loop import Training


class EarlyStoppingConfig(Config):
    """When a run ends before its planned length."""

    patience: PositiveInt = 10
    """End after so many evaluations in a row without improvement."""
    min_delta: NonNegativeFloat = 0.0
    """A figure has improved if it is better than the best one so far by more than this."""
    by: BestBy | None = None
    """Which figure is looked at; the one that decides the best checkpoint when left out."""

    def without_effect(self) -> dict[str, str]:
        """Between equals nothing is to be decided."""
        return {} if self.by is None else {"by.ties": "an equal figure is no improvement"}


class EarlyStop(Callback):
    """Counts evaluations without improvement. It is over as soon as there are ``patience`` of them in a row.

    What it knows is a function of the figures, so all processes and every resume come to the same answer.

    Args:
        config: How patient.
        best: Which figure, where ``config`` does not say.
        say: Tells the user.
    """

    in_every_process = True

    def __init__(self, config: EarlyStoppingConfig, best: BestBy, say: Callable[[str], None] = lambda text: None):
        self.config = config
        self.by = config.by if config.by is not None else best
        self.say = say
        self.best: float | None = None
        self.best_step = 0
        self.waited = 0
        """Evaluations in a row without improvement."""
        self._figure = self.by.metric or ""

    @property
    def is_over(self) -> bool:
        """Whether the run is to end."""
        return self.waited >= self.config.patience

    @property
    def reason(self) -> str:
        """Why it is to end, for people."""
        best = "" if self.best is None else f"; the best one is {self.best:.4g} at step {self.best_step}"
        margin = f" by more than {self.config.min_delta:g}" if self.config.min_delta else ""
        times = "the last evaluation" if self.waited == 1 else f"{self.waited} evaluations"
        return f"early stopping: {self._figure} has not improved{margin} for {times}{best}"

    def on_evaluation_end(self, training: Training, report: EvaluationReport) -> None:
        """Compare. Losses that were measured alone count where a loss is what is looked at."""
        if report.losses_only and self.by.metric not in report.metrics:
            return
        self._figure, value = figure_of(self.by, report.metrics, what="early stopping")
        sign = 1 if self.by.direction_of(self._figure) == "max" else -1
        gain = math.inf if self.best is None else sign * (value - self.best)
        if not math.isnan(value) and gain > self.config.min_delta:
            self.best, self.best_step, self.waited = value, report.step, 0
        else:
            self.waited += 1
        if self.is_over and training.step < training.plan.length.steps:
            self.say(self.reason)

    def state(self) -> dict[str, Any]:
        """What was the best, when, and how long ago."""
        return {"figure": self._figure, "best": self.best, "best_step": self.best_step, "waited": self.waited}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state`` gave; of another figure it says nothing."""
        if state and self.by.metric in (None, state["figure"]):
            self._figure, self.best = state["figure"], state["best"]
            self.best_step, self.waited = state["best_step"], state["waited"]
