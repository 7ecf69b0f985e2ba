"""How much a network computes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn


def count_operations(
    network: nn.Module,
    call: Callable[[Tensor], object],
    shape: tuple[int, int, int, int],
    *,
    is_compiled: bool = False,
) -> int:
    """Operations of all convolutions and dense layers in one call; a multiplication and an addition are two.

    A network that is to be compiled is not compiled for this: the call would cost as much time as the run's own.

    Args:
        network: Is in evaluation mode during the call, and left as it came.
        call: What is called, with black images: the network, or a method of it.
        shape: (B, C, H, W) of the images.
        is_compiled: Whether it is compiled.
    """
    operations = 0

    def count(module: nn.Module, _inputs: object, out: Tensor) -> None:
        nonlocal operations
        assert isinstance(module, nn.Conv2d | nn.Linear)
        operations += 2 * out.numel() * module.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    training = [module for module in network.modules() if module.training]
    as_written = torch.compiler.set_stance("force_eager") if is_compiled else contextlib.nullcontext()
    weight = next(network.parameters())
    try:
        with torch.no_grad(), as_written:
            network.eval()
            call(torch.zeros(shape, device=weight.device, dtype=weight.dtype))
    finally:
        for hook in hooks:
            hook.remove()
        for module in training:
            module.training = True
    return operations
