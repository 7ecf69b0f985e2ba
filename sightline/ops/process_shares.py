"""Means over things that processes share unevenly.

In a run of several processes each one sees its share of a batch, and gradients are averaged over the processes. A mean
over samples, boxes or positives of one share then counts as much as that of any other share, however many things it is
a mean of. Multiplied by its share weight it counts what it should: the mean over processes is the mean over everything.
"""

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
        a single process, where every weight is 1.
    """
    if _is_alone():
        return None
    own = counts.detach().to(torch.float64)
    total = own.clone()
    dist.all_reduce(total)
    return own * dist.get_world_size() / total.clamp(min=1)


def mean_over_processes(values: Tensor) -> Tensor:
    """Mean of a tensor over all processes, without gradient; itself in a single process."""
    if _is_alone():
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def _is_alone() -> bool:
    return not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1
