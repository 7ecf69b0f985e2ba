"""Batches that are ready in memory, so that nothing but the training itself takes time."""

from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class ReadyBatch:
    """Inputs and labels."""

    x: Tensor
    y: Tensor
    sample_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.sample_ids)

    def to(self, device: torch.device) -> "ReadyBatch":
        """The same on ``device``."""
        return ReadyBatch(self.x.to(device), self.y.to(device), self.sample_ids)


class Fetched(NamedTuple):
    """A batch and its place."""

    epoch: int
    index: int
    batch: Any


class ReadyLoader:
    """The same few batches in turn, so many of them an epoch."""

    def __init__(self, batches: Sequence[Sized], batches_per_epoch: int) -> None:
        self.batches, self.batches_per_epoch = batches, batches_per_epoch
        self._lengths, self._count = [len(batch) for batch in batches], len(batches)

    def batch_length(self, index: int) -> int:
        """Samples of a batch."""
        return self._lengths[index % self._count]

    def iterate(self, *, epoch: int = 0, index: int = 0, epochs: int) -> Iterator[Fetched]:
        """From any place on."""
        for number in range(epoch, epochs):
            for k in range(index, self.batches_per_epoch):
                yield Fetched(number, k, self.batches[k % self._count])
            index = 0

    def close(self) -> None:
        """Nothing to stop."""
