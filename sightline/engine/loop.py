"""The training loop. It reads top to bottom; whatever changes the mathematics is a visible line of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from sightline.engine.accumulation import AccumulationPlan
from sightline.engine.callback import Callback, StepReport
from sightline.engine.clip import clip_grad_norm
from sightline.engine.culprit import first_culprit
from sightline.engine.distributed.processes import ALONE, Processes
from sightline.engine.distributed.sharding import Sharding
from sightline.engine.ema import Ema
from sightline.engine.finite import FiniteGuard
from sightline.engine.memory import is_out_of_memory
from sightline.engine.optimizer import Optimizer
from sightline.engine.parts import SamplesAtOnce, free_memory
from sightline.engine.precision import Precision
from sightline.engine.schedule import Progress, Schedule
from sightline.engine.seed import reseed
from sightline.engine.stopwatch import OFF, Stopwatch
from sightline.engine.task import Loader, Task
from sightline.engine.windows import micro_batches


@dataclass
class Training:
    """Everything that a step reads or changes. ``iteration`` and ``step`` are the whole position of a run."""

    task: Task
    module: nn.Module
    """What a step calls: the task, or what makes its gradients those of all processes."""
    optimizer: Optimizer
    schedule: Schedule
    plan: AccumulationPlan
    precision: Precision
    guard: FiniteGuard
    device: torch.device
    processes: Processes = ALONE
    sharding: Sharding | None = None
    """How the processes share what others hold each; None where each of them holds everything."""
    seed: int = 0
    ema: Ema | None = None
    max_grad_norm: float | None = None
    """Gradients are scaled down to this global norm."""
    measure_grad_norm: bool = False
    """Measure the norm even where it is not clipped."""
    at_once: SamplesAtOnce = field(default_factory=SamplesAtOnce)
    """Batches with more samples are run in parts."""
    iteration: int = 0
    """Micro-batches done since the run's start."""
    step: int = 0
    """Optimizer steps done since the run's start."""
    run_dir: Path | None = None
    """The run's folder, for callbacks that write; None where there is none."""

    @property
    def epoch(self) -> int:
        """Complete passes over the data."""
        return self.iteration // self.plan.length.iterations_per_epoch

    @property
    def ends_epoch(self) -> bool:
        """Whether the last step completed a pass."""
        return self.iteration > 0 and self.iteration % self.plan.length.iterations_per_epoch == 0


def train(
    training: Training,
    loader: Loader,
    *,
    callbacks: Sequence[Callback] = (),
    should_stop: Callable[[], bool] = lambda: False,
    stopwatch: Stopwatch = OFF,
) -> str:
    """Take steps from where ``training`` stands to the end of the run, or until ``should_stop``.

    A step that runs out of memory is begun anew in smaller parts.

    Returns:
        ``"done"`` or ``"stopped"``; a stop is always at the end of an optimizer step.
    """
    while True:
        outcome = _take_steps(training, loader, callbacks, should_stop, stopwatch)
        if outcome is not None:
            return outcome
        free_memory(training.device)


def _take_steps(
    training: Training,
    loader: Loader,
    callbacks: Sequence[Callback],
    should_stop: Callable[[], bool],
    stopwatch: Stopwatch,
) -> str | None:
    """As ``train``; None where memory ran out, and the step is to be begun anew."""
    t, length, processes = training, training.plan.length, training.processes
    precision, ema, per_epoch = t.precision, t.ema, length.iterations_per_epoch
    shards = ALONE if t.sharding is None else processes
    measures_norm = t.max_grad_norm is not None or t.measure_grad_norm
    t.task.train()
    window: list[tuple[Mapping[str, Tensor], float]] = []
    sample_ids: tuple[int, ...] = ()
    num_samples = 0
    batches = loader.iterate(epoch=t.iteration // per_epoch, index=t.iteration % per_epoch, epochs=length.epochs)
    for fetched, place, parts in micro_batches(t, stopwatch.waiting_for(batches)):
        stopwatch.lap("forward")
        reseed(t.device, t.seed, t.iteration, processes.share.rank)
        try:
            for part in parts:
                stopwatch.lap("forward")
                with processes.gradients_meet(t.module, now=place.ends_window and part.is_last):
                    with precision.autocast(), part.weighing():
                        losses = t.module(part.batch)
                    shown = len(part.batch) * part.of
                    losses = processes.whole_batch(losses, shown, of=place.samples, is_whole=t.task.losses_are_whole)
                    stopwatch.lap("backward")
                    precision.backward(losses, place.weight / part.of)
                window.append((processes.mean(losses), place.weight / part.of))
                t.guard.meet(window[-1][0], partial(first_culprit, t, part.batch, t.iteration))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            t.at_once.ran_out(t, place.samples, error)
            return None
        sample_ids += tuple(fetched.batch.sample_ids)
        num_samples += place.samples
        t.iteration += 1
        if not place.ends_window:
            continue

        stopwatch.lap("optimizer")
        gradients = t.optimizer.gradients()
        overflow = precision.unscale(gradients)
        overflow = None if overflow is None else shards.largest(overflow)
        norm = clip_grad_norm(gradients, t.max_grad_norm, shards=shards) if measures_norm else None
        bad = t.guard.look(None if precision.scaler else norm, step=t.step, sample_ids=sample_ids)
        found_inf = bad if overflow is None else overflow if bad is None else torch.maximum(bad, overflow)
        values = t.schedule.at(Progress(t.iteration - 1, t.step, fetched.epoch))
        t.optimizer.step(values, found_inf=found_inf)
        t.optimizer.zero_grad()
        del gradients  # or their memory would be held through the next forward pass
        precision.update(found_inf)
        if ema is not None:
            ema.update()
        t.step += 1
        t.guard.keep_or_return(t.step, sample_ids)

        report = StepReport(t.step, fetched.epoch, _mean_losses(window), norm, values, sample_ids, num_samples)
        window, sample_ids, num_samples = [], (), 0
        stopwatch.lap("callbacks")
        for callback in callbacks:
            callback.on_step_end(t, report)
        if t.ends_epoch or t.step >= length.steps:
            for callback in callbacks:
                callback.on_epoch_end(t, fetched.epoch)
        if should_stop() and t.step < length.steps:
            return "stopped"
    return "done"


def _mean_losses(window: Sequence[tuple[Mapping[str, Tensor], float]]) -> dict[str, Tensor]:
    """Mean of each loss over the micro-batches of a step, weighted as their gradients were; detached."""
    if len(window) == 1:
        return {name: value.detach() for name, value in window[0][0].items()}
    total = sum(weight for _, weight in window)
    means: dict[str, Tensor] = {}
    for losses, weight in window:
        for name, value in losses.items():
            share = value.detach() * (weight / total)
            means[name] = means[name] + share if name in means else share
    return means
