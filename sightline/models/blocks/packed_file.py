"""A network in one file, with one bit for every binary weight.

The file is a safetensors file (https://huggingface.co/docs/safetensors, "Format"), which any reader of these opens:

- ``signs/NAME``: uint8, the signs of a binary weight in row-major order, 1 for +1, eight to a byte, the least
  significant bit first; the bits that fill up the last byte are 0. Any number of channels, any groups.
- ``scale/NAME``: (O,) float32, for layers that multiply by the mean absolute value of each output's weights.
- ``value/NAME``: every other tensor, float32, or float16 where that was asked for.

Its one metadata text, ``sightline_packed``, is the SHA-256 of the file, taken with 64 zeros in the hash's own place,
a space, and a JSON object: format, version, the network's description, and shape and scaling of every binary weight.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, NamedTuple, NoReturn

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from sightline.config.base import Config
from sightline.config.errors import RunError
from sightline.config.printable import printable
from sightline.ops.bit_packing import sign_bits

FORMAT: Final = "sightline-packed"
VERSION: Final = 1
METADATA = "sightline_packed"

NO_HASH = b"0" * 64
_HASH = re.compile(rb'"%s":"([0-9a-f]{64}) ' % METADATA.encode())

LARGEST_FILE = 4 << 30
"""Bytes of a file that is read."""

Scaling = Literal["", "binet", "xnor"]


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
    """What a packed file holds."""

    network: Mapping[str, Any]
    """What the network is built from, as plain values."""
    weights: Mapping[str, PackedWeight]
    """Binary weights by the name of their parameter."""
    values: Mapping[str, Tensor] = field(default_factory=dict)
    """All other tensors of the state dict by name."""


class LayerSize(NamedTuple):
    """What a tensor takes in a packed file. The file's head is not counted."""

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


class _Layer(Config):
    shape: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=2, max_length=5)]
    scaling: Scaling


class _Manifest(Config):
    format: Literal["sightline-packed"] = FORMAT
    version: Literal[1] = VERSION
    network: dict[str, Any]
    weights: dict[str, _Layer]


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


def encode_packed(packed: PackedNetwork, *, half: bool = False) -> bytes:
    """The content of a packed file; the same network gives the same bytes.

    Args:
        packed: The network; its values are float32 or whole numbers.
        half: Store what is not binary as float16, which rounds it.

    Raises:
        ValueError: A value is of another type, or too large for float16; names it.
    """
    from safetensors.torch import save

    tensors = {}
    for name, weight in packed.weights.items():
        tensors[f"signs/{name}"] = weight.signs
        if weight.scale is not None:
            tensors[f"scale/{name}"] = _stored(name, weight.scale, half)
    tensors |= {f"value/{name}": _stored(name, tensor, half) for name, tensor in packed.values.items()}
    layers = {name: _Layer(shape=weight.shape, scaling=weight.scaling) for name, weight in packed.weights.items()}
    manifest = _Manifest(network=dict(packed.network), weights=layers)
    text = json.dumps(manifest.model_dump(mode="json"), allow_nan=False)
    content: bytes = save(tensors, metadata={METADATA: f"{NO_HASH.decode()} {text}"})
    return _with_hash(content, hashlib.sha256(content).hexdigest().encode())


def decode_packed(content: bytes, *, source: str = "packed network") -> PackedNetwork:
    """The network of a packed file.

    Args:
        content: The whole file.
        source: What messages call it.

    Returns:
        The network; values that were stored as float16 are float32 again.

    Raises:
        RunError: It is no packed file, was cut or changed, contradicts itself, or comes from a newer version.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    refuse = _Refusal(source)

    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    found = _HASH.search(header)
    if found is None:
        refuse("is no packed network; its head has no mark of one. Give a file that `export_packed` wrote.")
    if hashlib.sha256(_with_hash(content, NO_HASH)).hexdigest().encode() != found[1]:
        refuse("its content does not fit its own SHA-256; it was cut or changed. Copy or export it again.")
    try:
        text = json.loads(header)["__metadata__"][METADATA]
        fields = json.loads(text[len(NO_HASH) + 1 :])
        if fields["format"] == FORMAT and type(fields["version"]) is int and fields["version"] > VERSION:
            refuse(f"has format version {fields['version']}, this sightline reads up to {VERSION}. Update sightline.")
        manifest = _Manifest.model_validate_json(json.dumps(fields), strict=True)
        tensors = load(content)
    except ValidationError as error:
        fault = error.errors()[0]
        refuse(f"its head is no packed network's ({'.'.join(map(str, fault['loc']))}: {fault['msg']}).")
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        refuse(f"is no readable packed network ({printable(error, limit=200)}).")
    weights = {name: _weight(tensors, name, layer, refuse) for name, layer in manifest.weights.items()}
    values = {name.removeprefix("value/"): tensors.pop(name) for name in list(tensors) if name.startswith("value/")}
    if both := sorted(weights.keys() & values.keys()):
        refuse(f"holds {printable(both[0], limit=200)} twice, as signs and as a value.")
    if tensors:
        refuse(f"holds a tensor that its head does not speak of: {printable(next(iter(tensors)), limit=200)}.")
    whole = {name: value.float() if value.is_floating_point() else value for name, value in values.items()}
    return PackedNetwork(manifest.network, weights, whole)


def sizes(packed: PackedNetwork, *, half: bool = False) -> list[LayerSize]:
    """What every tensor takes, in the order of the network's binary weights and then of its values.

    Args:
        packed: The network.
        half: Whether it is stored with float16.
    """
    wide = 16 if half else 32
    rows = []
    for name, weight in packed.weights.items():
        rows.append(LayerSize(name, "binary", weight.num_weights, 1))
        if weight.scale is not None:
            rows.append(LayerSize(name, "scale", weight.scale.numel(), wide))
    for name, value in packed.values.items():
        bits = wide if value.is_floating_point() else 8 * value.element_size()
        rows.append(LayerSize(name, "float", value.numel(), bits))
    return rows


def size_table(rows: list[LayerSize]) -> str:
    """The rows as text, with a total: numbers, bits, bytes, bytes as float32, and how many times smaller."""
    width = max([len(row.name) for row in rows] + [5])
    lines = [f"{'':{width}}  {'kind':6} {'numbers':>12} {'bits':>4} {'bytes':>12} {'float32':>12} {'ratio':>6}"]
    for row in rows:
        ratio = row.float_bytes / row.bytes
        lines.append(
            f"{row.name:{width}}  {row.kind:6} {row.num_values:12,} {row.bits:4} {row.bytes:12,} {row.float_bytes:12,} "
            f"{ratio:5.1f}x"
        )
    stored, plain = sum(row.bytes for row in rows), sum(row.float_bytes for row in rows)
    count = sum(row.num_values for row in rows if row.kind != "scale")
    ratio = plain / max(stored, 1)
    lines.append(f"{'total':{width}}  {'':6} {count:12,} {'':4} {stored:12,} {plain:12,} {ratio:5.1f}x")
    return "\n".join(lines)


class _Refusal:
    """Ends reading with what is wrong, and where."""

    def __init__(self, source: str) -> None:
        self.source = source

    def __call__(self, what: str) -> NoReturn:
        raise RunError(f"{self.source}: {what}")


def _with_hash(content: bytes, digest: bytes) -> bytes:
    found = _HASH.search(content)
    assert found is not None, "the head has been looked at"
    return b"".join((content[: found.start(1)], digest, content[found.end(1) :]))


def _stored(name: str, tensor: Tensor, half: bool) -> Tensor:
    value = tensor.detach().cpu().contiguous()
    if not value.is_floating_point():
        return value
    if value.dtype != torch.float32:
        raise ValueError(f"{name}: is {value.dtype}; only float32 is stored. Convert the network with .float() before.")
    if half and bool((value.isfinite() & value.half().isinf()).any()):
        raise ValueError(f"{name}: a value of {float(value.abs().max()):.4g} is too large for float16.")
    return value.half() if half else value


def _weight(tensors: dict[str, Tensor], name: str, layer: _Layer, refuse: _Refusal) -> PackedWeight:
    what, count = printable(name, limit=200), math.prod(layer.shape)
    signs, scale = tensors.pop(f"signs/{name}", None), tensors.pop(f"scale/{name}", None)
    if signs is None or signs.dtype != torch.uint8 or signs.shape != (-(-count // 8),):
        refuse(f"the signs of {what} are missing or do not fit its shape {layer.shape}.")
    if count % 8 and int(signs[-1]) >> count % 8:
        refuse(f"the signs of {what} go on after their end.")
    if (scale is not None) != (layer.scaling != ""):
        refuse(f"{what} has scaling {layer.scaling!r}, and {'a' if scale is not None else 'no'} scale.")
    if scale is not None and (not scale.is_floating_point() or scale.shape != layer.shape[:1]):
        refuse(f"the scale of {what} does not fit its {layer.shape[0]} outputs.")
    return PackedWeight(signs, layer.shape, layer.scaling, None if scale is None else scale.float())
