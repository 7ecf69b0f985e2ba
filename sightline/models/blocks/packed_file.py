"""How the tensors of a network stand in a file, with one bit for every binary weight.

- ``signs/NAME``: uint8, the signs of a binary weight in row-major order, 1 for +1, eight to a byte, the least
  significant bit first; the bits that fill up the last byte are 0. Any number of channels, any groups.
- ``scale/NAME``: (O,) float32, for layers that multiply by the mean absolute value of each output's weights.
- ``NAME``: every other tensor, as it is.

A ``LayerNote`` beside them says shape and scaling of each binary weight; notes are plain values for a file's header.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypedDict, cast

import numpy as np
import torch
from torch import Tensor

from sightline.config.errors import RunError
from sightline.config.printable import printable
from sightline.ops.bit_packing import sign_bits

SIGNS, SCALE = "signs/", "scale/"
"""Before the names of binary weights."""

Scaling = Literal["", "binet", "xnor"]


class LayerNote(TypedDict):
    """What the signs of a weight do not say themselves."""

    shape: tuple[int, ...]
    scaling: Scaling


class PackedWeight(NamedTuple):
    """The signs of a weight, and what a layer's outputs are multiplied by."""

    signs: Tensor
    """(ceil(n / 8),) uint8, of a weight of n values, in row-major order."""
    shape: tuple[int, ...]
    """(O, C / G, *kernel), or (O, C)."""
    scaling: Scaling = ""
    scale: Tensor | None = None
    """(O,) float32; mean absolute value of every output's weights before they were reduced to signs."""

    @property
    def num_weights(self) -> int:
        """How many signs there are."""
        return math.prod(self.shape)

    def unpacked(self) -> Tensor:
        """The signs as +1 and -1, float32, in the weight's shape."""
        bits = np.unpackbits(self.signs.numpy(), count=self.num_weights, bitorder="little")
        return torch.from_numpy(np.where(bits, np.float32(1), np.float32(-1)).reshape(self.shape))


@dataclass(frozen=True)
class PackedNetwork:
    """All tensors of a network."""

    weights: Mapping[str, PackedWeight]
    """Binary weights by the name of their parameter."""
    values: Mapping[str, Tensor] = field(default_factory=dict)
    """All other tensors of the state dict by name."""


class LayerSize(NamedTuple):
    """What a tensor takes in a file. The file's header is not counted."""

    name: str
    kind: Literal["binary", "scale", "float"]
    num_values: int
    """How many there are."""
    bits: int
    """Of each of them."""

    @property
    def bytes(self) -> int:
        """On the disk."""
        return -(-self.num_values * self.bits // 8)

    @property
    def float_bytes(self) -> int:
        """Of the network before it was packed, 32 bits for a number; 0 for a scale, which follows from the weights."""
        return 0 if self.kind == "scale" else 4 * self.num_values


def pack_weight(weight: Tensor, scaling: Scaling = "", scale: Tensor | None = None) -> PackedWeight:
    """One bit for each value of a weight, 1 where it is not negative.

    Raises:
        ValueError: A value is not finite, or there is a scale without scaling or the other way round.
    """
    if not bool(weight.isfinite().all()):
        raise ValueError("holds a value that is not finite, which has no sign to keep.")
    if (scale is None) != (scaling == ""):
        raise ValueError(f"scaling {scaling!r} and scale {scale} do not fit each other.")
    bits = sign_bits(weight.detach().cpu()).numpy().reshape(-1)
    signs = torch.from_numpy(np.packbits(bits, bitorder="little"))
    return PackedWeight(signs, tuple(weight.shape), scaling, scale)


def stored(packed: PackedNetwork) -> tuple[dict[str, Tensor], dict[str, LayerNote]]:
    """The tensors as they stand in a file, and a note for every binary weight."""
    tensors = {}
    for name, weight in packed.weights.items():
        tensors[f"{SIGNS}{name}"] = weight.signs
        if weight.scale is not None:
            tensors[f"{SCALE}{name}"] = weight.scale
    notes = {name: LayerNote(shape=weight.shape, scaling=weight.scaling) for name, weight in packed.weights.items()}
    return tensors | dict(packed.values), notes


def from_stored(tensors: Mapping[str, Tensor], notes: Mapping[str, Mapping[str, Any]], *, source: str) -> PackedNetwork:
    """The network of the tensors of a file, which a stranger may have made.

    Args:
        tensors: As ``stored`` gives them; float32 in the place of what was stored in 16 bits.
        notes: As ``stored`` gives them, with shapes of two to five positive numbers.
        source: What messages call the file.

    Raises:
        RunError: Tensors and notes contradict each other.
    """
    left = dict(tensors)
    try:
        weights = {name: _weight(left, name, tuple(note["shape"]), note["scaling"]) for name, note in notes.items()}
        if twice := sorted(weights.keys() & left.keys()):
            raise ValueError(f"holds {printable(twice[0], limit=200)} twice, as signs and as a value.")
        if strangers := [name for name in left if name.startswith((SIGNS, SCALE))]:
            raise ValueError(f"its header does not speak of the tensor {printable(strangers[0], limit=200)}.")
    except ValueError as error:
        raise RunError(f"{source}: {error} Get it anew.") from None
    return PackedNetwork(weights, left)


def sizes(packed: PackedNetwork) -> list[LayerSize]:
    """What every tensor takes, in the order of the network's binary weights and then of its values."""
    rows = []
    for name, weight in packed.weights.items():
        rows.append(LayerSize(name, "binary", weight.num_weights, 1))
        if weight.scale is not None:
            rows.append(LayerSize(name, "scale", weight.scale.numel(), 8 * weight.scale.element_size()))
    for name, value in packed.values.items():
        rows.append(LayerSize(name, "float", value.numel(), 8 * value.element_size()))
    return rows


def _weight(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...], scaling: str) -> PackedWeight:
    """Take a weight out of the tensors."""
    what, count = printable(name, limit=200), math.prod(shape)
    signs, scale = tensors.pop(f"{SIGNS}{name}", None), tensors.pop(f"{SCALE}{name}", None)
    if signs is None or signs.dtype != torch.uint8 or signs.shape != (-(-count // 8),):
        raise ValueError(f"the signs of {what} are missing or do not fit its shape {shape}.")
    if count % 8 and int(signs[-1]) >> count % 8:
        raise ValueError(f"the signs of {what} go on after their end.")
    if scaling not in ("", "binet", "xnor"):
        raise ValueError(f"{what} has an unknown scaling, {printable(scaling, limit=40)!r}.")
    if (scale is not None) != (scaling != ""):
        raise ValueError(f"{what} has scaling {scaling!r}, and {'a' if scale is not None else 'no'} scale.")
    if scale is not None and (scale.dtype != torch.float32 or scale.shape != shape[:1]):
        raise ValueError(f"the scale of {what} does not fit its {shape[0]} outputs.")
    return PackedWeight(signs, shape, cast(Scaling, scaling), scale)
