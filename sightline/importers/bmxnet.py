"""Parameters of BMXNet v2's networks, into ours and back, packed or not.

BMXNet's files name arrays by block and role, such as ``features.1.0.weight`` or ``arg:qconv0_weight``; which block
is which follows from the order in which a network registers them. So layers are matched by order and by the shapes of
all their arrays, and whoever imports gets the table of what went where. A file whose layers stand in another order,
or have names or shapes that do not fit, is refused.

A converted file holds the weight of a binary layer as words, under a float type of the same width. Type and shape tell
them: float32 with C / 32, or float64 with C / 64, in the place of C.

Shapes: O outputs, C input channels.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from sightline.config.errors import RunError
from sightline.config.printable import printable
from sightline.importers.mxnet_params import Array, split_prefix
from sightline.models.blocks.binary_layers import QuantisedActivation, QuantisedLayer
from sightline.models.blocks.packed_layers import (
    COUNTER,
    SIGNS,
    bmxnet_words,
    check_bmxnet_packs,
    is_binary,
    weight_of_words,
)

NORM_ROLES = {"gamma": "weight", "beta": "bias", "running_mean": "running_mean", "running_var": "running_var"}
"""What MXNet calls the arrays of a batch norm, and what PyTorch does."""

THEIR_ROLES = {ours: theirs for theirs, ours in NORM_ROLES.items()}

ROLES = {"weight": "weight", "bias": "bias", **NORM_ROLES, "moving_mean": "running_mean", "moving_var": "running_var"}
"""Last parts of names in files."""

STATISTICS = ("running_mean", "running_var")

QUANTISED = ("qconv", "qdense")
"""Parts of names of quantised layers, where names tell."""

WordBits = Literal[32, 64]

FLOATS = ("float32", "float64", "float16")
"""Types of values that are no words."""

FLOAT_OF_WORD: dict[int, np.dtype[Any]] = {32: np.dtype(np.float32), 64: np.dtype(np.float64)}

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
"""Roles and shapes of a layer's arrays, sorted."""


class Row(NamedTuple):
    """A layer of a file and the layer of ours that it goes to."""

    source: str
    target: str
    shape: tuple[int, ...]
    """Of the weight, or of a batch norm's scale, in ours."""
    word_bits: int
    """Of a packed weight, else 0."""


class Match(NamedTuple):
    """What of a file goes where."""

    rows: list[Row]
    unused: list[str]
    """Arrays of the file that no layer of ours takes."""
    missing: list[str]
    """Layers of ours that nothing in the file fits."""
    is_in_order: bool
    """Whether the layers of both stand in the same order."""

    def table(self) -> str:
        """One line for each layer, and for each thing that was not matched."""
        lines = []
        for row in self.rows:
            packed = f", packed in words of {row.word_bits} bits" if row.word_bits else ""
            lines.append(f"{row.source} -> {row.target} {row.shape}{packed}")
        lines += [f"{name} -> nothing" for name in self.unused]
        lines += [f"nothing -> {name}" for name in self.missing]
        return "\n".join(printable(line) for line in lines)


class _Layer(NamedTuple):
    name: str
    arrays: dict[str, str]
    """Role in PyTorch's words -> name in the file, or in the network."""
    shapes: Shapes
    kind: str
    """Type of its weight, or of what it has."""


class _Stored(NamedTuple):
    """What tells a layer of a file."""

    shapes: Shapes
    kind: str


def match_layers(model: nn.Module, arrays: Mapping[str, Array]) -> Match:
    """Which layer of a file goes to which layer of a network: the first of each shape to the first, and so on.

    Args:
        model: The network.
        arrays: From ``read_params``.
    """
    in_file, unknown = _layers_of_file(arrays)
    waiting: dict[_Stored, deque[tuple[int, _Layer]]] = defaultdict(deque)
    for place, layer in enumerate(in_file):
        waiting[_Stored(layer.shapes, layer.kind)].append((place, layer))
    rows, places, missing = [], [], []
    for name, module in _layers_of(model):
        fitting = [(waiting[stored][0][0], stored, bits) for stored, bits in _stored_as(module) if waiting.get(stored)]
        if not fitting:
            missing.append(name)
            continue
        place, stored, word_bits = min(fitting)
        _, layer = waiting[stored].popleft()
        places.append(place)
        rows.append(Row(layer.name, name, dict(_shapes_of(module))["weight"], word_bits))
    left = [array for queue in waiting.values() for _, layer in queue for array in layer.arrays.values()]
    return Match(rows, unknown + left, missing, places == sorted(places))


def num_outputs(arrays: Mapping[str, Array]) -> int:
    """Outputs of the last dense layer of a file.

    Raises:
        RunError: If it has none.
    """
    dense = [shape for layer in _layers_of_file(arrays)[0] for role, shape in layer.shapes if role == "weight"]
    outputs = [shape[0] for shape in dense if len(shape) == 2]
    if not outputs:
        raise RunError(
            "has no dense layer, so that the number of classes is not known. Give parameters of a classifier."
        )
    return outputs[-1]


def import_network(model: nn.Module, arrays: Mapping[str, Array]) -> Match:
    """Copy a file's parameters into a network, words as weights of +1 and -1. A fixed scale stays at 1, as in MXNet.

    Args:
        model: The network; unchanged if the file is refused.
        arrays: From ``read_params``.

    Returns:
        What went where.

    Raises:
        RunError: If an array or a layer is left over, the order differs, a quantised layer would become another, or a
            number is not finite; or the network has layers that BMXNet does not know, or does not pack as the file.
    """
    _check_known(model)
    match = match_layers(model, arrays)
    if match.unused or match.missing:
        unused = [f"{name} {arrays[name].dtype} {arrays[name].shape}" for name in match.unused]
        raise RunError(
            f"{len(match.unused)} arrays of the file have no place in this network ({_some(unused)}), and "
            f"{len(match.missing)} of its layers are not in the file ({_some(match.missing)}). Build the network that "
            "was trained."
        )
    if not match.is_in_order:
        raise RunError(
            "The layers of the file have the shapes of this network's, but stand in another order, so that it is not "
            f"sure which is which:\n{match.table()}"
        )
    layers = dict(_layers_of(model))
    in_file = {layer.name: layer for layer in _layers_of_file(arrays)[0]}
    _check_names(match, layers)
    if any(row.word_bits for row in match.rows):
        _check_activations(model)
    new = {row.target: _values(layers[row.target], row, in_file[row.source], arrays) for row in match.rows}
    for name, values in new.items():
        with torch.no_grad():
            for role, value in values.items():
                cast(Tensor, getattr(layers[name], role)).copy_(value)
    return match


def export_network(
    model: nn.Module, *, word_bits: WordBits | None = 32, names: Mapping[str, str] | None = None
) -> dict[str, Array]:
    """A network's parameters as BMXNet holds them: of a converted file, with binary weights as words, or in floats.

    Args:
        model: The network.
        word_bits: 32 or 64, as BMXNet was built; None for floats, as it saves them after training.
        names: What the file calls our layers, such as ``{row.target: row.source for row in match.rows}``; ours with
            ``_`` for dots otherwise. Dots in a name say that its roles follow a dot too.

    Returns:
        Arrays for ``write_params``; words carry a float type of the same width.

    Raises:
        RunError: BMXNet has no packed layer like one of the network's; names it.
    """
    _check_known(model)
    if word_bits:
        _check_activations(model)
    names = names or {name: name.replace(".", "_") for name, _ in _layers_of(model)}
    arrays: dict[str, Array] = {}
    for name, module in _layers_of(model):
        if name not in names:
            raise RunError(f"{name}: has no name for the file. Name every layer, or none.")
        dot = "." if "." in names[name] else "_"
        for role in (role for role, _ in _shapes_of(module)):
            prefix = "" if dot == "." else "aux:" if role in STATISTICS else "arg:"
            called = THEIR_ROLES.get(role, role) if isinstance(module, _BatchNorm) else role
            arrays[f"{prefix}{names[name]}{dot}{called}"] = _exported(name, module, role, word_bits)
    return arrays


def _exported(name: str, module: nn.Module, role: str, word_bits: WordBits | None) -> Array:
    if word_bits and role == "weight" and is_binary(module):
        try:
            words: Array = bmxnet_words(module, word_bits)
        except ValueError as error:
            raise RunError(f"{name}: {error} Export it in floats, or pack it: sightline pack.") from error
        return words.view(FLOAT_OF_WORD[word_bits])
    values: Array = cast(Tensor, getattr(module, role)).detach().cpu().float().numpy()
    return values


def _layers_of(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """All layers that have arrays, in the order in which they were registered."""
    return (
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, _ConvNd | nn.Linear | _BatchNorm | QuantisedLayer)
    )


def _shapes_of(module: nn.Module) -> Shapes:
    roles = NORM_ROLES.values() if isinstance(module, _BatchNorm) else ("weight", "bias")
    found = {role: getattr(module, role, None) for role in roles}
    return tuple(sorted((role, tuple(value.shape)) for role, value in found.items() if value is not None))


def _stored_as(module: nn.Module) -> Iterable[tuple[_Stored, int]]:
    """Ways in which a file may hold a layer, each with the bits of its words: plain, and in words of 32 and 64 bits."""
    for kind in FLOATS:
        yield _Stored(_shapes_of(module), kind), 0
    if not is_binary(module):
        return
    outputs, channels, *kernel = module.weight.shape
    for word_bits, label in FLOAT_OF_WORD.items():
        if channels % word_bits == 0:
            yield _Stored((("weight", (outputs, channels // word_bits, *kernel)),), label.name), word_bits


def _layers_of_file(arrays: Mapping[str, Array]) -> tuple[list[_Layer], list[str]]:
    """Layers in the order of their first array, and arrays whose names end with no known role."""
    found: dict[str, dict[str, str]] = {}
    unknown = []
    for name in arrays:
        bare = split_prefix(name).name
        role = next((one for one in ROLES if bare.endswith((f"_{one}", f".{one}"))), None)
        layer = found.setdefault(bare[: -len(role) - 1], {}) if role else {}
        if role is None or ROLES[role] in layer:
            unknown.append(name)
        else:
            layer[ROLES[role]] = name
    layers = []
    for name, roles in found.items():
        shapes = tuple(sorted((role, arrays[array].shape) for role, array in roles.items()))
        kind = arrays[roles.get("weight", next(iter(roles.values())))].dtype.name
        layers.append(_Layer(name, roles, shapes, kind))
    return layers, unknown


def _values(module: nn.Module, row: Row, layer: _Layer, arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    """What a layer's tensors become, by role."""
    values = {}
    for role, name in layer.arrays.items():
        array = arrays[name]
        if row.word_bits:
            quantised = cast(QuantisedLayer, module)
            try:
                check_bmxnet_packs(quantised)
            except ValueError as error:
                raise RunError(f"{printable(name)} holds words for {row.target}, which {error}") from None
            values[role] = weight_of_words(quantised, array.view(f"u{row.word_bits // 8}"))
        elif array.dtype.name not in FLOATS:
            raise RunError(f"{printable(name)}: holds {array.dtype}, expected floats. Convert it before saving.")
        else:
            values[role] = _as_float32(name, array)
    if isinstance(module, _BatchNorm) and not module.weight.requires_grad:
        values["weight"] = torch.ones_like(module.weight)
    return values


def _as_float32(name: str, array: Array) -> Tensor:
    with np.errstate(over="ignore"):  # what float64 holds and float32 does not is refused below
        values = torch.from_numpy(array.astype(np.float32))
    if not bool(values.isfinite().all()):
        raise RunError(f"{printable(name)}: holds NaN, or a number too large for float32. Take an earlier file.")
    return values


def _check_activations(model: nn.Module) -> None:
    """Refuse what words cannot meet: other activations than signs."""
    for name, module in model.named_modules():
        if isinstance(module, QuantisedActivation) and module.method not in SIGNS:
            raise RunError(f"{name}: the activation is {module.method}; BMXNet's packed layers take signs.")


def _check_known(model: nn.Module) -> None:
    """Refuse tensors that would be passed over."""
    known = {f"{name}.{role}" if name else role for name, layer in _layers_of(model) for role, _ in _shapes_of(layer)}
    strangers = [name for name in model.state_dict() if name not in known and not name.endswith(COUNTER)]
    if strangers:
        raise RunError(
            f"The network has tensors of layers that BMXNet does not know: {_some(strangers)}. Packed layers are among "
            "them: take the network that they were made from."
        )


def _check_names(match: Match, layers: Mapping[str, nn.Module]) -> None:
    """Where names of a file tell quantised layers from others, they must be quantised in ours, and no others."""

    def is_called_quantised(row: Row) -> bool:
        return any(word in row.source for word in QUANTISED)

    if not any(map(is_called_quantised, match.rows)):
        return
    for row in match.rows:
        is_quantised = isinstance(layers[row.target], QuantisedLayer)
        if is_called_quantised(row) != is_quantised:
            raise RunError(
                f"{printable(row.source)} would go to {row.target}, which is {'' if is_quantised else 'not '}"
                "quantised, against its name. Build the network that was trained: see the precision of its shortcuts."
            )


def _some(names: list[str]) -> str:
    shown = ", ".join(printable(name, limit=100) for name in names[:4])
    return shown + (", ..." if len(names) > 4 else "") if names else "none"
