"""The global norm of the gradients, and clipping by it, without the host waiting for the device."""

from __future__ import annotations

import torch
from torch import Tensor

from sightline.engine.distributed.processes import ALONE, Processes


def global_norm(gradients: list[Tensor], *, shards: Processes = ALONE) -> Tensor:
    """Euclidean norm of all gradients taken as one vector.

    Args:
        gradients: Tensors of any shapes on one device; at least one.
        shards: Processes of which each has other parts of the gradients.

    Returns:
        () on their device. NaN or infinite where a gradient is, so ``non_finite`` of it tells
        about all of them.
    """
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return shards.norm_of_parts(norm)


def clip_grad_norm(gradients: list[Tensor], max_norm: float | None, *, shards: Processes = ALONE) -> Tensor:
    """Scale all gradients, in place, by ``min(1, max_norm / (norm + 1e-6))``; with None, only measure.

    On a CPU, where looking costs nothing, the multiplication by 1 is left out; the bits are the same.

    Args:
        gradients: Tensors of any shapes on one device; at least one.
        max_norm: Largest norm to leave alone, > 0; None leaves all alone.
        shards: As in ``global_norm``.

    Returns:
        () the norm before clipping.

    Reference:
        Pascanu et al., "On the difficulty of training recurrent neural networks", ICML 2013, algorithm 1; the
        1e-6 is that of ``torch.nn.utils.clip_grad_norm_``, whose results these are.
    """
    norm = global_norm(gradients, shards=shards)
    if max_norm is None or (norm.device.type == "cpu" and norm.item() < max_norm * (1 - 1e-5) - 1e-6):
        return norm
    torch._foreach_mul_(gradients, torch.clamp(max_norm / (norm + 1e-6), max=1.0))
    return norm


def non_finite(norm: Tensor) -> Tensor:
    """1 where the norm is NaN or infinite, else 0: the ``found_inf`` of ``Optimizer.step``.

    Args:
        norm: () from ``global_norm`` or ``clip_grad_norm``.

    Returns:
        () float32 on the same device.
    """
    return torch.isfinite(norm).logical_not_().to(torch.float32)
