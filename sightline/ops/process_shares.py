"""Means over things that processes, or the parts of a batch, share unevenly.

In a run of several processes each one sees its share of a batch, and gradients are averaged over the processes. A mean
over samples, boxes or positives of one share then counts as much as that of any other share, however many things it is
a mean of. Multiplied by its share weight it counts what it should: the mean over processes is the mean over everything.

A batch that does not fit into memory is run in parts, which share it in the same way, but one after the other: see
``PartWeights``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from torch import distributed as dist


def share_weights(counts: Tensor) -> Tensor | None:
    """What the means of this process must be multiplied by.

    All processes must call it at the same time with as many counts, also those that have nothing.

    Args:
        counts: (k,) how many things each of k means is a mean of, on the device that the processes talk over.

    Returns:
        (k,) float64, ``count * processes / sum of the counts of all processes``, 0 where no process has any; None in
        a single process, where every weight is 1. Of the parts of a batch every one counts as a process.
    """
    all_shares = _over_all_shares(counts)
    if all_shares is None:
        return None
    totals, shares = all_shares
    return counts.detach().to(torch.float64) * shares / totals.clamp(min=1)


def share_divisors(counts: Tensor) -> Tensor:
    """What the sums of this process must be divided by, so that their mean over processes is that of everything.

    For sums over more than what is counted, such as the loss of a whole map over its number of objects: a share without
    any object still has a map. All processes must call it at the same time with as many counts.

    Args:
        counts: (k,) how many things of each kind there are here, on the device that the processes talk over.

    Returns:
        (k,) float64, ``sum of the counts of all processes / processes``, where a sum of 0 is taken for 1.
    """
    totals, shares = _over_all_shares(counts) or (counts.detach().to(torch.float64), 1)
    return totals.clamp(min=1) / shares


def _over_all_shares(counts: Tensor) -> tuple[Tensor, int] | None:
    """(k,) float64 sums over all shares, and how many shares there are; None where nothing is shared."""
    if PartWeights.current is not None:
        return PartWeights.current._over_all_shares(counts)
    if _is_alone():
        return None
    totals = counts.detach().to(torch.float64, copy=True)
    dist.all_reduce(totals)
    return totals, dist.get_world_size()


class PartWeights:
    """Makes ``share_weights`` and ``share_divisors`` take the parts of a batch for shares of it.

    How many things there are in all is known only when every part has been seen. So each part is run twice: at first
    ``counting``, where nothing is weighted; then ``weighing``, where the mean of its losses over the parts (and over
    processes, each of which has as many parts) is the loss of the whole batch.

    Args:
        parts: Their number.
    """

    current: "PartWeights | None" = None
    """That of the forward pass that is running."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self._totals: list[Tensor] = []
        self._is_counting = True
        self._call = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Round a forward pass of each part that only counts."""
        with self._running():
            yield

    @contextmanager
    def weighing(self) -> Iterator[None]:
        """Round the forward pass of each part, in the same order."""
        with self._running():
            yield

    @contextmanager
    def _running(self) -> Iterator[None]:
        PartWeights.current, self._call = self, 0
        try:
            yield
        finally:
            PartWeights.current = None

    def end_counting(self) -> None:
        """All parts were counted; add up what the processes found."""
        self._is_counting = False
        if not _is_alone():
            for total in self._totals:
                dist.all_reduce(total)

    def _over_all_shares(self, counts: Tensor) -> tuple[Tensor, int] | None:
        own = counts.detach().to(torch.float64)
        call, self._call = self._call, self._call + 1
        if self._is_counting:
            if call == len(self._totals):
                self._totals.append(torch.zeros_like(own))
            self._totals[call] += own
            return None
        shares = self.parts if _is_alone() else self.parts * dist.get_world_size()
        return self._totals[call], shares


def mean_over_processes(values: Tensor) -> Tensor:
    """Mean of a tensor over all processes, without gradient; itself in a single process."""
    if _is_alone():
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def sum_over_processes(values: Tensor) -> Tensor:
    """Sum of a tensor over all processes, through which gradients of all of them flow; itself in a single process."""
    return values if _is_alone() else cast(Tensor, _Sum.apply(values))


class _Sum(torch.autograd.Function):
    """Every process has the same sum, so what one adds to it changes the losses of all."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone()
        dist.all_reduce(total)
        return total


def _is_alone() -> bool:
    return not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1
