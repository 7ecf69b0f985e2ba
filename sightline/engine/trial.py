"""A few real steps and one real prediction, timed and weighed. Weights change; nothing is written anywhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from sightline.engine.accumulation import AccumulationConfig, plan_run
from sightline.engine.callback import Callback, StepReport
from sightline.engine.loop import Training, train
from sightline.engine.memory import Peak, SavedForBackward, watching_memory
from sightline.engine.parts import SamplesAtOnce
from sightline.engine.schedule import ScheduleConfig
from sightline.engine.task import Fetched, Loader


@dataclass(frozen=True)
class Trial:
    """What some batches of one size cost."""

    samples: int
    """Of a batch."""
    batches: int
    """So many were tried."""
    seconds: float
    """Of one batch, once everything is warm."""
    waiting: float
    """Share of them that was spent waiting for the loader."""
    peak: Peak
    saved_bytes: int
    """Kept from the forward for the backward pass of one batch; 0 where it was not counted."""
    shapes: tuple[str, ...]
    """The tensors of a batch."""
    values: Mapping[str, float]
    """Losses of the last step, or the figures of the evaluation."""


class _Watched(Callback):
    """A loader that knows how long it was waited for, and a watcher that knows how long the steps took."""

    def __init__(self, loader: Loader, *, seconds: float, most: int, saved: SavedForBackward) -> None:
        self.loader, self.saved = loader, saved
        self.batches_per_epoch = loader.batches_per_epoch
        self.seconds, self.most = seconds, most
        self.shapes: tuple[str, ...] = ()
        self.samples = 0
        self.losses: Mapping[str, Tensor] = {}
        self.began = self.last = time.perf_counter()
        self.times: list[tuple[float, float]] = []
        """(whole, waited for data) seconds of every step."""
        self._waited = 0.0

    def batch_length(self, index: int) -> int:
        return self.loader.batch_length(index)

    def close(self) -> None:
        self.loader.close()

    def iterate(self, *, epoch: int = 0, index: int = 0, epochs: int) -> Iterator[Fetched]:
        batches = self.loader.iterate(epoch=epoch, index=index, epochs=epochs)
        while True:
            before = time.perf_counter()
            fetched = next(batches, None)
            self._waited = time.perf_counter() - before
            if fetched is None:
                return
            if not self.shapes:
                self.shapes, self.samples = shapes_of(fetched.batch), len(fetched.batch)
            yield fetched

    def on_step_end(self, training: Training, report: StepReport) -> None:
        if training.device.type == "cuda":
            torch.cuda.synchronize(training.device)
        self.saved.next_step()
        now = time.perf_counter()
        self.times.append((now - self.last, self._waited))
        self.last, self.losses = now, report.losses

    def __call__(self) -> bool:
        """Whether this is enough."""
        return len(self.times) >= self.most or self.last - self.began > self.seconds


def try_steps(
    training: Training, loader: Loader, *, seconds: float, most: int = 12, count_saved: bool = False
) -> Trial:
    """Take the first steps of a run, without accumulation.

    Args:
        training: Its weights change.
        loader: Its workers are stopped at the end.
        seconds: After so many no further step begins; there is always one.
        most: So many steps are enough.
        count_saved: Count what is kept for the backward pass, which takes a little time.

    Raises:
        UserError: If a file of the data is at fault.
        NonFiniteError: If a loss or gradient is NaN or infinite.
    """
    lengths = [loader.batch_length(index) for index in range(loader.batches_per_epoch)]
    epochs = -(-(most + 1) // len(lengths))
    plan = plan_run(AccumulationConfig(), ScheduleConfig(), batch_lengths=lengths, epochs=epochs)
    at_once = SamplesAtOnce(training.at_once.wanted, may_shrink=False)
    tried = replace(training, plan=plan, iteration=0, step=0, at_once=at_once)
    saved = SavedForBackward()
    try:
        with watching_memory(training.device) as peak, saved.counting() if count_saved else nullcontext():
            watched = _Watched(loader, seconds=seconds, most=most, saved=saved)
            train(tried, watched, callbacks=[watched], should_stop=watched)
            training.guard.check()
    finally:
        loader.close()
    warm = watched.times[len(watched.times) // 2 :]  # the first ones find batches ready and nothing warm
    if len(watched.times) < 3:
        warm = [min(watched.times)]
    whole = sum(time for time, _ in warm)
    return Trial(
        samples=watched.samples,
        batches=len(watched.times),
        seconds=whole / len(warm),
        waiting=sum(waited for _, waited in warm) / whole,
        peak=peak,
        saved_bytes=saved.most,
        shapes=watched.shapes,
        values={name: float(value) for name, value in watched.losses.items()},
    )


def try_prediction(training: Training, loader: Loader, *, batches: int = 2) -> Trial:
    """Predict the first batches of the evaluation and compute its figures.

    Args:
        training: Its task predicts, with live weights.
        loader: Its workers are stopped at the end.
        batches: At most so many; the time is that of the last.

    Raises:
        UserError: If a file of the data is at fault.
    """
    task, device = training.task, training.device
    metric = task.new_metric()
    shapes: tuple[str, ...] = ()
    count, samples, took, waited = 0, 0, 0.0, 0.0
    was_training = task.training
    task.eval()
    try:
        with watching_memory(device) as peak, torch.inference_mode():
            before = time.perf_counter()
            for fetched in islice(loader.iterate(epochs=1), batches):
                waited = time.perf_counter() - before
                batch = fetched.batch.to(device)
                with training.precision.autocast():
                    predictions = task.predict(batch)
                metric.update(predictions, batch)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                count, samples = count + 1, max(samples, len(fetched.batch))
                took, before = time.perf_counter() - before, time.perf_counter()
                shapes = shapes or shapes_of(fetched.batch)
            values = metric.compute()
    finally:
        task.train(was_training)
        loader.close()
    return Trial(samples, count, took, waited / took, peak, 0, shapes, values)


def shapes_of(batch: Any) -> tuple[str, ...]:
    """``images (8, 3, 320, 320) uint8`` for every tensor of a batch that is a dataclass, and in mappings of it."""
    if not is_dataclass(batch):
        return (f"{type(batch).__name__} of {len(batch)}",)
    named: list[tuple[str, Any]] = []
    for one in fields(batch):
        value = getattr(batch, one.name)
        named += value.items() if isinstance(value, Mapping) else [(one.name, value)]
    return tuple(
        f"{name} ({', '.join(map(str, value.shape))}) {str(value.dtype).removeprefix('torch.')}"
        for name, value in named
        if isinstance(value, Tensor)
    )
