"""Evaluation: one pass over a loader without gradients, and the callback that does it during training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt

from sightline.config.base import Config
from sightline.engine.callback import Callback, EvaluationReport
from sightline.engine.loop import Training
from sightline.engine.precision import Precision
from sightline.engine.processes import ALONE, Processes
from sightline.engine.retention import BestBy
from sightline.engine.task import Loader, Metric, Task


class EvaluateConfig(Config):
    """When and how the model is evaluated during training."""

    every_epochs: PositiveInt = 1
    """Evaluate after every so many epochs, and always after the last."""
    first_epoch: int = Field(1, ge=1)
    """No evaluation before this epoch (counted from 1)."""
    best: BestBy = BestBy()
    """Which figure decides the best checkpoint."""
    weights: Literal["ema", "live"] = "ema"
    """Evaluate the averaged weights, where there are any, or the live ones."""


def evaluate(
    task: Task,
    loader: Loader,
    *,
    device: torch.device,
    precision: Precision,
    processes: Processes = ALONE,
    on_batch: Callable[[Any, Sequence[Any]], None] = lambda batch, predictions: None,
) -> Metric:
    """Predict every sample once and give the filled metric. The task is left in the mode it came in.

    In several processes each predicts its share, and the first one's metric is that of all samples.

    Args:
        task: What to evaluate.
        loader: One epoch of it is read.
        device: Where the task lives.
        precision: Its autocast is used for the forward pass.
        processes: Those that share the samples.
        on_batch: Called with each batch (on ``device``) and its predictions.
    """
    metric = task.new_metric()
    was_training = task.training
    task.eval()
    try:
        with torch.inference_mode():
            for fetched in loader.iterate(epochs=1):
                batch = fetched.batch.to(device)
                predictions: Sequence[Any] = ()
                if len(batch):
                    with precision.autocast():
                        predictions = task.predict(batch)
                    metric.update(predictions, batch)
                on_batch(batch, predictions)
    finally:
        task.train(was_training)
    if processes.share.count > 1:
        _merge(metric, task, processes)
    return metric


def _merge(metric: Metric, task: Task, processes: Processes) -> None:
    """Bring the metrics of all processes into that of the first."""
    from safetensors.torch import load, save

    parts = processes.gather(save({name: tensor.contiguous() for name, tensor in metric.state().items()}))
    others = []
    for part in parts[1:]:
        other = task.new_metric()
        other.load_state(load(part))
        others.append(other)
    metric.merge(others)


@contextlib.contextmanager
def weights_for_evaluation(training: Training, which: str) -> Iterator[None]:
    """The task with averaged weights inside, its live ones after; the same bits come back."""
    if which == "ema" and training.ema is not None:
        with training.ema.swapped():
            yield
    else:
        yield


class _CutShortError(Exception):
    """A stop was asked for in the middle of an evaluation."""


class Evaluator(Callback):
    """Evaluates at epoch ends and tells all callbacks. All processes share the work and learn the figures.

    A stop that is asked for during an evaluation does not wait for its end: nothing of it is kept, and the resumed
    run makes it anew before it takes a step.

    Args:
        config: When to evaluate, and which weights.
        loader: The samples.
        callbacks: Are told the figures.
        on_batch: Called with each batch (on the device) and its predictions.
        should_stop: Asked after every batch.
    """

    in_every_process = True

    def __init__(
        self,
        config: EvaluateConfig,
        loader: Loader,
        callbacks: Sequence[Callback],
        *,
        on_batch: Callable[[Any, Sequence[Any]], None] = lambda batch, predictions: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.config = config
        self.loader = loader
        self.callbacks = callbacks
        self.on_batch = on_batch
        self.should_stop = should_stop
        self.cut_short: int | None = None
        """Epoch whose evaluation was due, but made way for a stop."""

    def is_due(self, training: Training, epoch: int) -> bool:
        """Whether the epoch that just ended (counted from 0) is followed by an evaluation."""
        done = epoch + 1
        if training.step >= training.plan.length.steps:
            return True
        return done >= self.config.first_epoch and done % self.config.every_epochs == 0

    def on_run_start(self, training: Training) -> None:
        """Make up for the evaluation that a stop cut short."""
        if self.cut_short is not None:
            self._evaluate(training, self.cut_short)

    def on_epoch_end(self, training: Training, epoch: int) -> None:
        """Evaluate if it is time."""
        if self.is_due(training, epoch):
            self._evaluate(training, epoch)

    def state(self) -> dict[str, Any]:
        """Whether an evaluation is to be made up for."""
        return {"cut_short": self.cut_short}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state`` gave."""
        self.cut_short = state.get("cut_short")

    def _evaluate(self, training: Training, epoch: int) -> None:
        processes = training.processes

        def on_batch(batch: Any, predictions: Sequence[Any]) -> None:
            if processes.any_asks_now(self.should_stop()):
                raise _CutShortError
            if predictions:
                self.on_batch(batch, predictions)

        self.cut_short = epoch
        try:
            with weights_for_evaluation(training, self.config.weights):
                metric = evaluate(
                    training.task,
                    self.loader,
                    device=training.device,
                    precision=training.precision,
                    processes=processes,
                    on_batch=on_batch,
                )
        except _CutShortError:
            return
        self.cut_short = None
        figures = processes.tell(metric.compute() if processes.is_first else None)
        details = metric.details() if processes.is_first else {}
        report = EvaluationReport(training.step, epoch, figures, details)
        for callback in self.callbacks:
            callback.on_evaluation_end(training, report)
