"""How large a network is in memory, and how large when its quantised weights are packed."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from sightline.models.blocks.binary_layers import QuantisedLayer
from sightline.models.blocks.quantisation import FULL_PRECISION

FLOAT_BITS = 32


class BinarySize(NamedTuple):
    """What a network consists of."""

    values: int
    """Weights, fixed scales and running statistics."""
    trained: int
    """Those that training changes by gradients."""
    quantised_weights: int
    """Weights of fewer than 32 bits."""
    quantised_layers: int
    """Layers that have them."""
    float_bytes: int
    """With 32 bits for every value."""
    packed_bytes: int
    """With k bits for every weight of k bits."""


def binary_size(module: nn.Module) -> BinarySize:
    """Count the values of a network and the bytes that they take."""
    parameters = list(module.parameters())
    statistics = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    layers = [m for m in module.modules() if isinstance(m, QuantisedLayer) and m.bits < FULL_PRECISION]
    values = sum(tensor.numel() for tensor in (*parameters, *statistics))
    quantised = sum(layer.weight.numel() for layer in layers)
    packed_bits = sum(layer.weight.numel() * layer.bits for layer in layers) + (values - quantised) * FLOAT_BITS
    return BinarySize(
        values=values,
        trained=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        quantised_weights=quantised,
        quantised_layers=len(layers),
        float_bytes=values * FLOAT_BITS // 8,
        packed_bytes=-(-packed_bits // 8),
    )
