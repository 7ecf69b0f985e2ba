"""A loader and a metric for small problems of your own: samples that fit into memory, figures that are made of sums."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from sightline.config.errors import RunError
from sightline.engine.distributed.processes import WHOLE, Share


@dataclass(frozen=True)
class TensorBatch:
    """Rows of named tensors: ``batch["x"]`` is (B, ...)."""

    tensors: Mapping[str, Tensor]
    sample_ids: tuple[int, ...]

    def __getitem__(self, name: str) -> Tensor:
        """One of the tensors."""
        return self.tensors[name]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.sample_ids)

    def to(self, device: torch.device) -> Self:
        """The same batch on a device."""
        return type(self)({name: tensor.to(device) for name, tensor in self.tensors.items()}, self.sample_ids)

    def part(self, first: int, end: int) -> Self:
        """The samples ``first .. end - 1`` of it."""
        tensors = {name: tensor[first:end] for name, tensor in self.tensors.items()}
        return type(self)(tensors, self.sample_ids[first:end])


@dataclass(frozen=True, slots=True)
class _Fetched:
    epoch: int
    index: int
    batch: TensorBatch


class TensorLoader:
    """Batches of samples that lie in memory, in another order each epoch.

    The order of an epoch is ``numpy.random.default_rng((seed, epoch)).permutation(samples)``, so it can start anywhere.
    Process r of n takes every n-th sample of a batch, from its r-th on.

    Args:
        tensors: Tensors of (N, ...) by name, one row a sample.
        batch_size: Samples of a batch, over all processes; the last batch of an epoch may be smaller.
        seed: Decides the orders.
        shuffle: Without, every epoch has the samples as they lie there.
        share: Which samples of each batch to make.

    Raises:
        ValueError: If there are no tensors, or their lengths differ.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        share: Share = WHOLE,
    ) -> None:
        lengths = {name: len(tensor) for name, tensor in tensors.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"tensors: expected one number of samples, got {lengths}.")
        self.tensors = dict(tensors)
        self.samples = next(iter(lengths.values()))
        self.batch_size, self.seed, self.shuffle, self.share = batch_size, seed, shuffle, share

    @property
    def batches_per_epoch(self) -> int:
        """The last incomplete one included."""
        return -(-self.samples // self.batch_size)

    def batch_length(self, index: int) -> int:
        """Samples of the global batch ``index``."""
        return min(self.batch_size, self.samples - index * self.batch_size)

    def iterate(self, *, epoch: int = 0, index: int = 0, epochs: int) -> Iterator[_Fetched]:
        """Batches from batch ``index`` of ``epoch`` to the end of epoch ``epochs - 1``."""
        while epoch < epochs:
            order = np.arange(self.samples)
            if self.shuffle:
                order = np.random.default_rng((self.seed, epoch)).permutation(self.samples)
            for number in range(index, self.batches_per_epoch):
                whole = order[number * self.batch_size : (number + 1) * self.batch_size]
                rows = torch.from_numpy(whole[self.share.rank :: self.share.count].copy())
                tensors = {name: tensor[rows] for name, tensor in self.tensors.items()}
                yield _Fetched(epoch, number, TensorBatch(tensors, tuple(rows.tolist())))
            epoch, index = epoch + 1, 0

    def close(self) -> None:
        """Nothing is open."""


class SumMetric:
    """A metric whose figures are made of sums: ``add`` them in ``update``, read ``self["name"]`` in ``compute``.

    Example:
        >>> class Accuracy(SumMetric):
        ...     def update(self, predictions, batch):
        ...         self.add(right=(predictions == batch["y"]).sum(), seen=len(batch))
        ...
        ...     def compute(self):
        ...         return {"accuracy": self["right"] / self["seen"]}
    """

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}

    def add(self, **sums: float | Tensor) -> None:
        """Add to the sums of these names."""
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)

    def __getitem__(self, name: str) -> float:
        """A sum; 0 before anything was added to it."""
        return self.sums.get(name, 0.0)

    def reset(self) -> None:
        """Forget everything."""
        self.sums = {}

    def update(self, predictions: Sequence[Any], batch: Any) -> None:
        """Add the predictions of one batch."""
        raise NotImplementedError

    def compute(self) -> dict[str, float]:
        """Figures by name."""
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        """The sums, exactly."""
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in self.sums.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take them over."""
        self.sums = {name: float(value) for name, value in state.items()}

    def merge(self, others: Sequence[SumMetric]) -> None:
        """Add the sums of other processes."""
        for other in others:
            self.add(**other.sums)

    def details(self) -> dict[str, Any]:
        """No tables."""
        return {}

    def save(self, path: Path) -> None:
        """There is nothing to write.

        Raises:
            RunError: Always.
        """
        raise RunError(f"{path}: a metric made of sums keeps no predictions. Leave the file out.")
