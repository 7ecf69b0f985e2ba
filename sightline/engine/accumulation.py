"""Which micro-batches make one update, and how much each counts. A pure plan, fixed before the run starts.

A window is the run of consecutive micro-batches whose gradients make one update. Windows never cross an epoch:
the last window of an epoch is stepped even when it is not full. So no gradient is lost, and since
every micro-batch is weighted by the samples that its window really has, none is mis-scaled.

Letters: E epochs, B micro-batches of one epoch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt, model_validator

from sightline.config.base import Config
from sightline.engine.schedule import Progress, RunLength, ScheduleConfig


class AccumulationConfig(Config):
    """How many micro-batches make one update."""

    every: PositiveInt = 1
    """Micro-batches per update."""
    nominal_batch_size: PositiveInt | None = None
    """In place of ``every``: as many micro-batches as come nearest to this number of samples."""
    ramp: bool = False
    """Grow from 1 to the nominal number during warm-up; an update then comes whenever the index of the micro-batch
    in the run is a multiple of the number in force (YOLOv7's rule)."""
    gradient: Literal["mean", "sum"] = "mean"
    """mean: the gradient of the mean loss over the samples of the window. sum: that times the samples of a full
    window, which is what adding up per-batch losses multiplied by their batch size gives."""

    exact: bool = False
    """Let losses that are means over boxes or points count by those of the whole window, not by samples: two windows
    of one size then have equal losses however they are cut. Costs a second forward pass without gradients."""

    @model_validator(mode="after")
    def _one_way_to_count(self) -> Self:
        if self.nominal_batch_size is not None and self.every != 1:
            raise ValueError("give either every or nominal_batch_size, not both.")
        if self.ramp and self.nominal_batch_size is None:
            raise ValueError("ramp needs nominal_batch_size.")
        return self

    def full_window(self, batch_size: int) -> int:
        """Micro-batches of a full window after warm-up."""
        if self.nominal_batch_size is None:
            return self.every
        return max(1, round(self.nominal_batch_size / batch_size))

    def decay_scale(self, batch_size: int) -> float:
        """Samples of a full window over the nominal number: YOLOv7 multiplies the weight decay by it."""
        if self.nominal_batch_size is None:
            return 1.0
        return batch_size * self.full_window(batch_size) / self.nominal_batch_size


class MicroBatch(NamedTuple):
    """The part of one micro-batch in its window."""

    weight: float
    """Factor of its mean loss before the backward pass."""
    ends_window: bool
    """Whether the update comes after it."""
    samples: int
    """Samples of it, over all processes."""


class AccumulationPlan:
    """The windows of a whole run, as a function of the micro-batch's index.

    Args:
        config: What makes a window.
        batch_lengths: (B,) samples of every (global) micro-batch of one epoch.
        epochs: Passes over the data; or
        steps: updates; or
        samples: samples: the run ends with the update that reaches them. Exactly one of the three is given.
        warmup_iterations: Micro-batches over which ``ramp`` grows.

    Raises:
        ValueError: If an epoch has no batch, or not exactly one of ``epochs``, ``steps`` and ``samples`` is given.
    """

    def __init__(
        self,
        config: AccumulationConfig,
        *,
        batch_lengths: Sequence[int] | NDArray[np.int64],
        epochs: int | None = None,
        steps: int | None = None,
        samples: int | None = None,
        warmup_iterations: int = 0,
    ) -> None:
        self.config = config
        self._lengths = np.asarray(batch_lengths, dtype=np.int64)  # (B,)
        if self._lengths.ndim != 1 or len(self._lengths) == 0 or self._lengths.min() < 1:
            raise ValueError("batch_lengths: an epoch needs at least one batch, and every batch at least one sample.")
        given = [length for length in (epochs, steps, samples) if length is not None]
        if len(given) != 1 or given[0] < 1:
            raise ValueError(
                "give one of epochs, steps and samples, at least 1; got "
                f"epochs={epochs}, steps={steps}, samples={samples}."
            )
        self._batch_size = int(self._lengths.max())
        self._batches = len(self._lengths)
        self._full = config.full_window(self._batch_size)
        self._warmup = warmup_iterations if config.ramp else 0
        if samples is not None:
            epochs = -(-samples // int(self._lengths.sum()))
        elif epochs is None:
            fewest = -(-self._batches // (2 * self._full))  # no window is longer than two full ones
            epochs = -(-(steps or 0) // fewest)
        self._steps_before_epoch = np.concatenate([[0], np.cumsum(self._count(epochs))])  # (E + 1,)
        if samples is not None:
            steps = 1 + self.steps_before(iterations_of(samples, self._lengths) - 1)
        elif steps is None:
            steps = int(self._steps_before_epoch[-1])
        iterations = self.first_iteration(steps)
        self.length = RunLength(
            iterations_per_epoch=self._batches,
            epochs=-(-iterations // self._batches),
            iterations=iterations,
            steps=steps,
            warmup_iterations=warmup_iterations,
        )
        self._cached_epoch = -1
        self._weights = np.zeros(0)  # (B,) of the cached epoch
        self._last_ones = np.zeros(0, dtype=np.bool_)  # (B,) of the cached epoch

    def _sizes(self, first: int, last: int) -> NDArray[np.int64]:
        """Micro-batches per window in force at each of the iterations ``first .. last - 1``."""
        if first > self._warmup or not self.config.ramp:
            return np.full(last - first, self._full, dtype=np.int64)
        assert self.config.nominal_batch_size is not None
        nominal = self.config.nominal_batch_size / self._batch_size
        sizes = np.interp(np.arange(first, last), [0, max(self._warmup, 1)], [1, nominal]).round()
        return np.maximum(sizes, 1).astype(np.int64)

    def _ends(self, epoch: int) -> NDArray[np.bool_]:
        """(B,) whether each micro-batch of an epoch ends a window."""
        first = epoch * self._batches
        sizes = self._sizes(first, first + self._batches)
        if self.config.ramp:
            ends = np.arange(first, first + self._batches) % sizes == 0
        else:
            ends = np.arange(1, self._batches + 1) % sizes == 0
        ends[-1] = True
        return np.asarray(ends, dtype=np.bool_)

    def _count(self, epochs: int) -> NDArray[np.int64]:
        """(E,) updates of every epoch."""
        if not self.config.ramp:
            return np.full(epochs, -(-self._batches // self._full), dtype=np.int64)
        warming = min(epochs, self._warmup // self._batches + 1)
        slow = [int(self._ends(epoch).sum()) for epoch in range(warming)]
        first = np.arange(warming, epochs, dtype=np.int64) * self._batches
        last = first + self._batches - 1
        fast = last // self._full - (first - 1) // self._full + (last % self._full != 0)
        return np.concatenate([np.array(slow, dtype=np.int64), fast])

    def _weigh(self, epoch: int, ends: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(B,) weight of every micro-batch of an epoch."""
        last = np.flatnonzero(ends)  # (W,)
        first = np.concatenate([[0], last[:-1] + 1])  # (W,)
        gradient_samples: NDArray[np.float64] = np.ones(len(last))  # (W,)
        if self.config.gradient == "sum":
            start = epoch * self._batches
            gradient_samples = self._sizes(start, start + self._batches)[last] * np.float64(self._batch_size)
        samples = np.add.reduceat(self._lengths, first)  # (W,)
        scale = np.repeat(gradient_samples / samples, last - first + 1)  # (B,)
        return self._lengths * scale

    def at(self, iteration: int) -> MicroBatch:
        """The part of the micro-batch ``iteration``, counted from the start of the run."""
        epoch, index = divmod(iteration, self._batches)
        if epoch != self._cached_epoch:
            self._last_ones = self._ends(epoch)
            self._weights = self._weigh(epoch, self._last_ones)
            self._cached_epoch = epoch
        return MicroBatch(self._weights.item(index), self._last_ones.item(index), self._lengths.item(index))

    def window_size(self, iteration: int) -> int:
        """Micro-batches of a full window, as the rule has it at ``iteration``."""
        return int(self._sizes(iteration, iteration + 1)[0])

    def steps_before(self, iteration: int) -> int:
        """Updates made before the micro-batch ``iteration`` (0 up to the run's iterations)."""
        epoch, index = divmod(iteration, self._batches)
        before = int(self._steps_before_epoch[epoch])
        return before if index == 0 else before + int(self._ends(epoch)[:index].sum())

    def first_iteration(self, step: int) -> int:
        """First micro-batch of the window of update ``step``: where a run goes on after ``step`` updates."""
        epoch = bisect_right(self._steps_before_epoch, step) - 1
        within = step - int(self._steps_before_epoch[epoch])
        if within == 0:
            return epoch * self._batches
        return epoch * self._batches + int(np.flatnonzero(self._ends(epoch))[within - 1]) + 1

    def progress(self, iteration: int) -> Progress:
        """Where the micro-batch ``iteration`` stands, as the schedule counts."""
        return Progress(iteration, self.steps_before(iteration), iteration // self._batches)


def iterations_of(samples: int, batch_lengths: Sequence[int] | NDArray[np.int64]) -> int:
    """Micro-batches of a run until so many samples are reached; at least 1 of them."""
    up_to = np.cumsum(np.asarray(batch_lengths, dtype=np.int64))  # (B,)
    epochs, rest = divmod(samples - 1, int(up_to[-1]))
    return epochs * len(up_to) + int(np.searchsorted(up_to, rest, side="right")) + 1


def plan_run(
    accumulation: AccumulationConfig,
    schedule: ScheduleConfig,
    *,
    batch_lengths: Sequence[int] | NDArray[np.int64],
    epochs: int | None = None,
    steps: int | None = None,
    samples: int | None = None,
) -> AccumulationPlan:
    """The plan of a run whose windows may grow during the schedule's warm-up.

    In a run given in ``steps`` a warm-up limited by ``max_fraction`` counts full windows.
    """
    batches = len(batch_lengths)
    if epochs is not None:
        iterations = epochs * batches
    elif samples is not None:
        iterations = iterations_of(samples, batch_lengths)
    else:
        iterations = (steps or 0) * accumulation.full_window(max(batch_lengths, default=1))
    warmup = schedule.warmup.length(iterations_per_epoch=batches, iterations=iterations)
    return AccumulationPlan(
        accumulation,
        batch_lengths=batch_lengths,
        epochs=epochs,
        steps=steps,
        samples=samples,
        warmup_iterations=warmup,
    )
