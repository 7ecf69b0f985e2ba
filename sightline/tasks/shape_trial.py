"""Whether a network takes inputs of a shape: told by a pass without numbers, which takes milliseconds."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

REFUSALS = (RuntimeError, ValueError, AssertionError, IndexError)
"""What networks say of a shape that they do not take."""


def refusal_of_shape(network: nn.Module, shape: tuple[int, int, int, int]) -> str | None:
    """What a network in evaluation says of images of a shape that it does not take; None where it takes them.

    Args:
        network: Images to anything; left as it came.
        shape: (B, C, H, W).
    """
    if _without_numbers(network, shape, training=False) is None:
        return None
    weight = next(network.parameters())
    inputs = torch.zeros(shape, device=weight.device, dtype=weight.dtype)
    return _said(network, inputs, {}, training=False)  # some networks cannot do without numbers: those decide


def needs_two_images(network: nn.Module, shape: tuple[int, int, int]) -> bool:
    """Whether a network trains on two images of a shape (C, H, W) but not on one.

    Such is batch norm where a map has one cell: the variance of one number is none.
    """
    of_one, of_two = (_without_numbers(network, (count, *shape), training=True) for count in (1, 2))
    return of_one is not None and of_two is None


def _without_numbers(network: nn.Module, shape: tuple[int, int, int, int], *, training: bool) -> str | None:
    """As ``_said``, on PyTorch's device ``meta``, where tensors have a shape and no numbers."""
    tensors = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in (*network.named_parameters(), *network.named_buffers())
    }
    dtype = next(network.parameters()).dtype
    return _said(network, torch.empty(shape, device="meta", dtype=dtype), tensors, training=training)


def _said(network: nn.Module, inputs: Tensor, tensors: dict[str, Tensor], *, training: bool) -> str | None:
    """The error of a pass with ``tensors`` in place of the network's own, or None."""
    modes = {module: module.training for module in network.modules()}
    try:
        network.train(training)
        with torch.no_grad():
            functional_call(network, tensors, (inputs,))
    except REFUSALS as error:
        return str(error) or type(error).__name__
    finally:
        for module, mode in modes.items():
            module.training = mode
    return None
