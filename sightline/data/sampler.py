"""Which samples make which batch: a pure function of (seed, epoch, batch), cut into shares for the processes.

The order of an epoch does not depend on how many processes or workers there are. The global batch ``k`` is a
slice of it; process ``r`` of ``R`` takes every ``R``-th sample of that slice, from the ``r``-th on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sightline.data.draws import IntArray, epoch_order

Order = Literal["shuffled", "sequential"]


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """What the workers must know to make this process's share of one batch."""

    epoch: int
    index: int
    """Place of the global batch in its epoch, from 0."""
    sample_ids: tuple[int, ...]
    """Indices into the data set, in batch order. Empty where a last batch has fewer samples than processes."""
    input_hw: tuple[int, int] | None = None
    """Height and width that all processes give the images of this batch; None where it is the same always."""
    repeats: tuple[int, ...] | None = None
    """Which view of its image each sample is, from 0, where an epoch has several of each; None: all are the first."""

    def __len__(self) -> int:
        """Number of samples of the share."""
        return len(self.sample_ids)


class Sampler:
    """Batches of ``batch_size`` samples over all processes; the last one of an epoch may be smaller, or be left out.

    Args:
        length: Number of samples of the data set.
        batch_size: Samples of a global batch, over all processes.
        seed: Seed of the run; without meaning for the sequential order.
        order: ``shuffled`` (anew in every epoch) or ``sequential``.
        rank: This process, from 0.
        num_processes: How many share every batch.
        drop_last: Whether a last batch that is not full is left out, unless it is the only one. Its samples wait for
            another epoch.

    Raises:
        ValueError: If there is no sample, or a number makes no sense.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int = 0,
        order: Order = "shuffled",
        rank: int = 0,
        num_processes: int = 1,
        drop_last: bool = False,
    ) -> None:
        if length < 1:
            raise ValueError("there is no sample to make batches of.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        if not 0 <= rank < num_processes:
            raise ValueError(f"rank must be in [0, num_processes), got {rank} of {num_processes}.")
        if order not in ("shuffled", "sequential"):
            raise ValueError(f"order must be 'shuffled' or 'sequential', got {order!r}.")
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.order = order
        self.rank = rank
        self.num_processes = num_processes
        self.drop_last = drop_last
        self._newest: tuple[int, IntArray] = (-1, np.empty(0, np.int64))

    @property
    def batches_per_epoch(self) -> int:
        """Number of global batches of one pass; a last incomplete one is included unless it is dropped."""
        full = self.length // self.batch_size
        return full if self.drop_last and full else math.ceil(self.length / self.batch_size)

    def batch_length(self, index: int) -> int:
        """Samples of the global batch ``index`` of any epoch, over all processes.

        Raises:
            IndexError: If an epoch has no such batch.
        """
        if not 0 <= index < self.batches_per_epoch:
            raise IndexError(f"an epoch has batches 0 to {self.batches_per_epoch - 1}, got {index}.")
        return min(self.batch_size, self.length - index * self.batch_size)

    def epoch_order(self, epoch: int) -> IntArray:
        """(length,) int64: every sample index once, in the order of ``epoch``. Treat it as read-only."""
        newest_epoch, order = self._newest
        if newest_epoch != epoch:
            order = np.arange(self.length) if self.order == "sequential" else epoch_order(self.seed, epoch, self.length)
            self._newest = (epoch, order)
        return order

    def input_hw(self, index: int) -> tuple[int, int] | None:
        """Height and width of the images of batch ``index``; None where the source decides."""
        return None

    def request(self, epoch: int, index: int) -> BatchRequest:
        """This process's share of the global batch ``index`` of ``epoch``.

        Raises:
            IndexError: If an epoch has no such batch.
        """
        start = index * self.batch_size
        batch = self.epoch_order(epoch)[start : start + self.batch_length(index)]
        share = batch[self.rank :: self.num_processes]
        return BatchRequest(epoch, index, tuple(share.tolist()), self.input_hw(index))


class RepeatedSampler(Sampler):
    """Several views of every image in each batch: repeated augmentation.

    An epoch keeps its length: it has ``repeats`` views of the first images of its order, and the others wait for
    another epoch. The views of an image stand one after the other, so processes share them out.

    Args:
        length: Number of samples of the data set.
        batch_size: Samples of a global batch, over all processes.
        repeats: Views of every image, at least 1.
        seed: Seed of the run.
        rank: This process, from 0.
        num_processes: How many share every batch.
        drop_last: As for ``Sampler``.

    Reference:
        Hoffer et al., "Augment Your Batch: Improving Generalization Through Instance Repetition", CVPR 2020.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        repeats: int,
        seed: int = 0,
        rank: int = 0,
        num_processes: int = 1,
        drop_last: bool = False,
    ) -> None:
        super().__init__(length, batch_size, seed=seed, rank=rank, num_processes=num_processes, drop_last=drop_last)
        if repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {repeats}.")
        self.repeats = repeats

    def epoch_order(self, epoch: int) -> IntArray:
        """(length,) int64: every image of this epoch ``repeats`` times in a row; the last one perhaps fewer times."""
        return super().epoch_order(epoch)[np.arange(self.length) // self.repeats]

    def request(self, epoch: int, index: int) -> BatchRequest:
        """This process's share of the global batch ``index`` of ``epoch``.

        Raises:
            IndexError: If an epoch has no such batch.
        """
        start = index * self.batch_size
        places = np.arange(start, start + self.batch_length(index))[self.rank :: self.num_processes]
        ids = super().epoch_order(epoch)[places // self.repeats]
        return BatchRequest(epoch, index, tuple(ids.tolist()), repeats=tuple((places % self.repeats).tolist()))


class LongEpochSampler(Sampler):
    """All passes over the data as one: batches run over the borders of epochs, and all of them are full.

    The samples of all passes are shuffled together, so that an epoch is an equal share of the run's batches, and not
    every sample once. What is left at the end and makes no whole share is not used, as in OpenPCDet.

    Args:
        length: Number of samples of the data set.
        batch_size: Samples of a global batch, over all processes.
        epochs: Passes over the data, all of the run's.
        seed: Seed of the run.
        rank: This process, from 0.
        num_processes: How many share every batch.
    """

    def __init__(
        self, length: int, batch_size: int, *, epochs: int, seed: int = 0, rank: int = 0, num_processes: int = 1
    ) -> None:
        super().__init__(length, batch_size, seed=seed, rank=rank, num_processes=num_processes)
        if epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {epochs}.")
        self.epochs = epochs
        self._whole: IntArray | None = None

    @property
    def batches_per_epoch(self) -> int:
        """An equal share of the run's full batches; 1 where the data set is smaller than a batch."""
        return max(1, self.length * self.epochs // self.batch_size // self.epochs)

    def batch_length(self, index: int) -> int:
        """``batch_size``; or all samples, where the data set is smaller.

        Raises:
            IndexError: If an epoch has no such batch.
        """
        if not 0 <= index < self.batches_per_epoch:
            raise IndexError(f"an epoch has batches 0 to {self.batches_per_epoch - 1}, got {index}.")
        return min(self.batch_size, self.length)

    def request(self, epoch: int, index: int) -> BatchRequest:
        """This process's share of the global batch ``index`` of ``epoch``; ``repeats`` are passes over the data.

        Raises:
            IndexError: If an epoch has no such batch.
        """
        size = self.batch_length(index)
        if self._whole is None:
            self._whole = epoch_order(self.seed, 0, self.length * self.epochs)
        start = (epoch * self.batches_per_epoch + index) * size
        chosen = self._whole[start : start + size][self.rank :: self.num_processes]
        ids, passes = chosen % self.length, chosen // self.length
        return BatchRequest(epoch, index, tuple(ids.tolist()), repeats=tuple(passes.tolist()))


class RectangularSampler(Sampler):
    """Batches of images of similar shape, each with the smallest input that holds them: for evaluation.

    Images are sorted by height over width, so the order is the same in every epoch and a batch of landscapes is
    not padded to squares.

    Args:
        sizes_hw: (N, 2), pixels of the images.
        batch_size: Samples of a global batch, over all processes.
        image_size: Long side of the images after resizing, pixels.
        stride: Inputs are multiples of it.
        pad: Extra border, in strides; an input then is at least this much larger than its images.
        rank: This process, from 0.
        num_processes: How many share every batch.
    """

    def __init__(
        self,
        sizes_hw: Sequence[Sequence[int]] | np.ndarray[Any, Any],
        batch_size: int,
        *,
        image_size: int,
        stride: int,
        pad: float = 0.5,
        rank: int = 0,
        num_processes: int = 1,
    ) -> None:
        sizes = np.asarray(sizes_hw, dtype=np.float64).reshape(-1, 2)
        super().__init__(len(sizes), batch_size, order="sequential", rank=rank, num_processes=num_processes)
        aspects = sizes[:, 0] / sizes[:, 1]
        self._order: IntArray = np.argsort(aspects, kind="stable").astype(np.int64)
        self._input_sizes = [
            _input_hw(aspects[self._order[start : start + batch_size]], image_size, stride, pad)
            for start in range(0, self.length, batch_size)
        ]

    def epoch_order(self, epoch: int) -> IntArray:
        """(length,) int64: the images from the widest to the tallest, the same in every epoch."""
        return self._order

    def input_hw(self, index: int) -> tuple[int, int]:
        """Height and width of the images of batch ``index``, pixels."""
        return self._input_sizes[index]


def _input_hw(aspects: np.ndarray[Any, Any], image_size: int, stride: int, pad: float) -> tuple[int, int]:
    """The smallest input that holds all images with these ratios of height to width, after resizing."""
    flattest, tallest = aspects.min(), aspects.max()
    height, width = 1.0, 1.0
    if tallest < 1:
        height = tallest
    elif flattest > 1:
        width = 1 / flattest
    return (
        math.ceil(height * image_size / stride + pad) * stride,
        math.ceil(width * image_size / stride + pad) * stride,
    )
