"""Evaluation: one pass over a loader without gradients, and the callback that decides when it is time for one."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from sightline.config.base import Config
from sightline.config.figures import is_loss
from sightline.engine.callback import Callback, EvaluationReport, StepReport
from sightline.engine.checkpoint.retention import BestBy
from sightline.engine.distributed.processes import ALONE, Processes
from sightline.engine.loop import Training
from sightline.engine.precision import Precision
from sightline.engine.seed import reseed
from sightline.engine.task import Loader, Metric, Task

_log = logging.getLogger(__name__)

Cycle = tuple[tuple[Literal["train", "val"], PositiveInt], ...]


class EvaluateConfig(Config):
    """When and how the model is evaluated during training. An evaluation always follows the last step."""

    every_epochs: NonNegativeInt = 1
    """Evaluate after every so many epochs; 0 for none."""
    every_steps: NonNegativeInt = 0
    """Evaluate after every so many optimizer steps, in the middle of an epoch too; 0 for none."""
    every_minutes: PositiveFloat | None = None
    """Evaluate when the last evaluation was so many minutes ago."""
    first_epoch: int = Field(1, ge=1)
    """No evaluation in epochs before this one (counted from 1)."""
    cycle: Cycle | None = None
    """Passes over training and validation data in turn, e.g. ``[[train, 2], [val, 1]]``, counted from the run's start.
    A val pass only measures the losses; figures come when the other keys say so."""
    loss: bool = False
    """Measure the losses of the validation data beside the figures of every evaluation."""
    best: BestBy = BestBy()
    """Which figure decides the best checkpoint."""
    weights: Literal["ema", "live"] = "ema"
    """Evaluate the averaged weights, where there are any, or the live ones."""

    @model_validator(mode="after")
    def _cycle_turns(self) -> Self:
        if self.cycle is None:
            return self
        for kind in ("train", "val"):
            if kind not in [entry for entry, _ in self.cycle]:
                raise ValueError(f"cycle: has no {kind} entry; give both, e.g. [[train, 2], [val, 1]], or null")
        if any(kind == "val" and count > 1 for kind, count in self.cycle):
            raise ValueError("cycle: a second val pass in a row would measure the same losses again; give [val, 1]")
        return self

    @model_validator(mode="after")
    def _best_is_measured(self) -> Self:
        refuse_unmeasured_loss("best.metric", self.best, measured=self.loss)
        return self


def refuse_unmeasured_loss(key: str, by: BestBy, *, measured: bool) -> None:
    """Check that a loss which decides something is among the figures of every evaluation.

    Raises:
        ValueError: If it is not.
    """
    if is_loss(by.metric or "") and not measured:
        raise ValueError(f"{key}={by.metric}: the losses of the validation data need evaluate.loss=true")


def val_follows(cycle: Cycle, *, epochs: int, total_epochs: int) -> bool:
    """Whether a cycle has a val pass once so many epochs are complete; one that would begin a new turn needs an epoch.

    Args:
        cycle: Entries in their order.
        epochs: Complete passes over the training data, from the run's start.
        total_epochs: Passes at which the run ends.
    """
    turn = sum(count for kind, count in cycle if kind == "train")
    before, places = 0, set()
    for kind, count in cycle:
        if kind == "train":
            before += count
        else:
            places.add(before)
    return any(
        epochs % turn == place % turn and (epochs >= place if place else epochs < total_epochs) for place in places
    )


class ValidationLosses:
    """Means of a task's losses over the samples of an evaluation; a batch counts by its samples.

    Several processes come to the same means: every batch's losses are those of the whole batch.
    """

    def __init__(self) -> None:
        self._batches: list[tuple[tuple[str, ...], Tensor, int]] = []

    def measure(
        self, task: Task, batch: Any, precision: Precision, *, processes: Processes = ALONE, of: int | None = None
    ) -> None:
        """Add a batch, or this process's share of it. The task is in evaluation mode and stays as it is.

        Args:
            task: Gives the losses.
            batch: On its device.
            precision: Its autocast is used.
            processes: Those that share the batch.
            of: Samples of the whole batch; those of ``batch`` by default.
        """
        length = len(batch) if of is None else of
        with contextlib.ExitStack() as stack:
            if task.losses_need_training_mode:
                stack.enter_context(training_mode_without_traces(task))
                reseed(precision.device, 0, int(batch.sample_ids[0]) if len(batch) else 0)
            stack.enter_context(precision.autocast())
            mine = {name: value for name, value in task(batch).items() if name not in task.only_shown}
        losses = processes.mean(processes.whole_batch(mine, len(batch), of=length, is_whole=task.losses_are_whole))
        values = torch.stack([value.detach().float() for value in losses.values()])
        self._batches.append((tuple(losses), values, length))  # still on the device: nothing waits for it

    def compute(self) -> dict[str, float]:
        """``loss``, the sum, and ``loss/NAME`` for each of them."""
        samples = sum(length for _, _, length in self._batches)
        parts: dict[str, list[float]] = {}
        for names, values, length in self._batches:
            for name, value in zip(names, values.tolist(), strict=True):
                parts.setdefault(name, []).append(value * length)
        means = {f"loss/{name}": _sum(values) / samples for name, values in parts.items()}
        return {"loss": _sum(list(means.values())), **means}


def _sum(values: Sequence[float]) -> float:
    """Rounded once, so that the order does not matter."""
    return math.fsum(values) if all(map(math.isfinite, values)) else sum(values)


def evaluate(
    task: Task,
    loader: Loader,
    *,
    device: torch.device,
    precision: Precision,
    processes: Processes = ALONE,
    losses: ValidationLosses | None = None,
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
        losses: Takes the losses of every batch too, where given.
        on_batch: Called with each batch (on ``device``) and its predictions.
    """
    metric = task.new_metric()

    def visit(batch: Any, length: int) -> None:
        predictions: Sequence[Any] = ()
        if len(batch):
            with precision.autocast():
                predictions = task.predict(batch)
            metric.update(predictions, batch)
        if losses is not None:
            losses.measure(task, batch, precision, processes=processes, of=length)
        on_batch(batch, predictions)

    _visit_batches(task, loader, device, visit)
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


def measure_losses(
    task: Task,
    loader: Loader,
    *,
    device: torch.device,
    precision: Precision,
    processes: Processes = ALONE,
    on_batch: Callable[[Any], None] = lambda batch: None,
) -> ValidationLosses:
    """The losses of every sample, and nothing else: arguments as for ``evaluate``."""
    losses = ValidationLosses()

    def visit(batch: Any, length: int) -> None:
        losses.measure(task, batch, precision, processes=processes, of=length)
        on_batch(batch)

    _visit_batches(task, loader, device, visit)
    return losses


def _visit_batches(task: Task, loader: Loader, device: torch.device, visit: Callable[[Any, int], None]) -> None:
    """``visit`` every batch, or this process's share of it, with the samples of the whole."""
    with _own_modes_after(task), torch.inference_mode():
        task.eval()
        for fetched in loader.iterate(epochs=1):
            visit(fetched.batch.to(device), loader.batch_length(fetched.index))


@contextlib.contextmanager
def _own_modes_after(module: nn.Module) -> Iterator[None]:
    """Every part gets its own mode back: a frozen one may be in evaluation mode while the others train."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, was_training in modes:
            part.training = was_training


DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@contextlib.contextmanager
def training_mode_without_traces(module: nn.Module) -> Iterator[None]:
    """Training mode for the sake of its losses: running statistics are used and not changed, nothing is dropped out.

    Whatever other buffers a part changes are put back, bit for bit.
    """
    kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
    with _own_modes_after(module):
        module.train()
        for part in module.modules():
            if isinstance(part, DROPOUTS) or getattr(part, "running_mean", None) is not None:
                part.training = False
        try:
            yield
        finally:
            for buffer, value in kept:
                buffer.copy_(value)


@contextlib.contextmanager
def weights_for_evaluation(training: Training, which: str) -> Iterator[Task]:
    """The task with averaged weights inside, its live ones after; the same bits come back.

    Where weights are in shards, it is another task with whole ones.
    """
    ema = training.ema if which == "ema" else None
    if training.sharding is not None:
        tensors = training.task.state_dict() if ema is None else ema.state_tensors()
        with training.sharding.gathered(training.task, tensors) as task:
            yield task
    elif ema is not None:
        with ema.swapped():
            yield training.task
    else:
        yield training.task


@contextlib.contextmanager
def _live_weights_amid_evaluation(training: Training, which: str) -> Iterator[None]:
    """Inside of ``weights_for_evaluation``: what was exchanged there changes hands once more."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        if training.sharding is None:
            stack.enter_context(weights_for_evaluation(training, which))
        yield


class _CutShortError(Exception):
    """A stop was asked for in the middle of an evaluation."""


class Due(NamedTuple):
    """What is to be evaluated, and the epoch (from 0) that it counts for."""

    epoch: int
    figures: bool
    """Predict every sample, and judge the predictions."""
    losses: bool
    """Measure the losses."""


class Evaluator(Callback):
    """Evaluates when it is time and tells all callbacks. All processes share the work and learn the figures.

    A stop that is asked for during an evaluation does not wait for its end: nothing of it is kept, and the resumed
    run makes it anew before it takes a step.

    Args:
        config: When to evaluate, and which weights.
        loader: The samples.
        callbacks: Are told that an evaluation begins, and its figures.
        on_batch: Called with each batch (on the device) and its predictions.
        should_stop: Asked after every batch.
        meanwhile: Called after every batch; given a context in which the live weights are in their place.
        agree: Makes the first process's answer that of all processes; what a clock says is asked through it.
        clock: Seconds that never jump; tests pass their own.
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
        meanwhile: Callable[[Training, contextlib.AbstractContextManager[None]], None] | None = None,
        agree: Callable[[bool], bool] = lambda answer: answer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.loader = loader
        self.callbacks = callbacks
        self.on_batch = on_batch
        self.should_stop = should_stop
        self.meanwhile = meanwhile
        self.agree = agree
        self.clock = clock
        self.cut_short: Due | None = None
        """An evaluation that was due, but made way for a stop."""
        self._evaluated_at, self._evaluated_step = clock(), -1

    def due(self, training: Training, epoch: int) -> Due | None:
        """What is to be evaluated after the step that was just taken, of ``epoch`` (counted from 0)."""
        config, length = self.config, training.plan.length
        figures = training.step >= length.steps or (epoch + 1 >= config.first_epoch and self._is_time(training, epoch))
        losses = figures and config.loss
        if config.cycle is not None and training.ends_epoch:
            losses = losses or val_follows(config.cycle, epochs=epoch + 1, total_epochs=length.epochs)
        return Due(epoch, figures, losses) if figures or losses else None

    def _is_time(self, training: Training, epoch: int) -> bool:
        config = self.config
        if config.every_epochs and training.ends_epoch and (epoch + 1) % config.every_epochs == 0:
            return True
        if config.every_steps and training.step % config.every_steps == 0:
            return True
        minutes = config.every_minutes
        return minutes is not None and self.agree(self.clock() - self._evaluated_at >= 60 * minutes)

    def on_run_start(self, training: Training) -> None:
        """Make up for the evaluation that a stop cut short; measure the losses of fresh weights if a cycle asks."""
        cycle, total_epochs = self.config.cycle, training.plan.length.epochs
        is_fresh = training.step == 0 and self._evaluated_step < 0
        if self.cut_short is not None:
            self._evaluate(training, self.cut_short)
        elif is_fresh and cycle is not None and val_follows(cycle, epochs=0, total_epochs=total_epochs):
            self._evaluate(training, Due(0, figures=False, losses=True))

    def on_step_end(self, training: Training, report: StepReport) -> None:
        """Evaluate if it is time. What the end of an epoch brings waits for it."""
        if training.ends_epoch or training.step >= training.plan.length.steps:
            return
        due = self.due(training, report.epoch)
        if due is not None:
            self._evaluate(training, due)

    def on_epoch_end(self, training: Training, epoch: int) -> None:
        """Evaluate if it is time."""
        due = self.due(training, epoch)
        if due is not None:
            self._evaluate(training, due)

    def state(self) -> dict[str, Any]:
        """Which was the last one, which is to be made up for, and, where the clock decides, how old the last one is."""
        cut_short = None if self.cut_short is None else self.cut_short._asdict()
        state: dict[str, Any] = {"cut_short": cut_short, "evaluated_step": self._evaluated_step}
        if self.config.every_minutes is not None:
            state["seconds_since"] = self.clock() - self._evaluated_at
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state`` gave."""
        cut_short = state.get("cut_short")
        self.cut_short = None if cut_short is None else Due(**cut_short)
        self._evaluated_step = state.get("evaluated_step", -1)
        self._evaluated_at = self.clock() - state.get("seconds_since", 0.0)

    def _evaluate(self, training: Training, due: Due) -> None:
        processes = training.processes

        def stop_or(batch: Any, predictions: Sequence[Any] | None = None) -> None:
            if processes.any_asks_now(self.should_stop()):
                raise _CutShortError
            if self.meanwhile is not None:
                self.meanwhile(training, _live_weights_amid_evaluation(training, self.config.weights))
            if predictions is not None and len(predictions):
                self.on_batch(batch, predictions)

        self.cut_short = due
        for callback in self.callbacks:
            callback.on_evaluation_start(training)
        device, precision = training.device, training.precision
        began = time.perf_counter()
        metric, losses = None, ValidationLosses() if due.losses else None
        try:
            with weights_for_evaluation(training, self.config.weights) as task:
                if due.figures:
                    metric = evaluate(
                        task,
                        self.loader,
                        device=device,
                        precision=precision,
                        processes=processes,
                        losses=losses,
                        on_batch=stop_or,
                    )
                else:
                    losses = measure_losses(
                        task, self.loader, device=device, precision=precision, processes=processes, on_batch=stop_or
                    )
        except _CutShortError:
            return
        self.cut_short, self._evaluated_at, self._evaluated_step = None, self.clock(), training.step
        figures = processes.tell(metric.compute() if metric is not None and processes.is_first else {})
        report = EvaluationReport(
            training.step,
            due.epoch,
            {**figures, **(losses.compute() if losses is not None else {})},
            metric.details() if metric is not None and processes.is_first else {},
            losses_only=metric is None,
        )
        _log.debug("evaluation after step %d took %.2f s", training.step, time.perf_counter() - began)
        for callback in self.callbacks:
            callback.on_evaluation_end(training, report)
