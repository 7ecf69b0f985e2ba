"""Weights in OpenPCDet's checkpoints: which of them goes where. Nothing in a file is run.

A checkpoint is a file of ``torch.save``, of either format, with ``model_state``, ``epoch``, ``it`` and ``version``
(``pcdet+0.6.0+py...``). Kernels of sparse convolutions are (out, z, y, x, in) since spconv 2, and were (z, y, x, in,
out) before; both are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sightline.config.errors import RunError
from sightline.config.printable import counted, printable
from sightline.files.torch_file import read_torch_file
from sightline.files.torch_weights import WeightsError, find_weights

STATE = "model_state"
COUNTER = "num_batches_tracked"
UNUSED = {"global_step": "counts iterations that no layer uses"}
"""Tensors of theirs without a counterpart."""
MOST_COUNT = 1 << 62
SHOWN = 4


@dataclass(frozen=True)
class PcdetCheckpoint:
    """What of a checkpoint is used."""

    path: Path
    state: dict[str, Tensor]
    epoch: int
    step: int
    """Updates made; 0 where the file does not say."""
    version: str
    """Of the program that wrote it; empty where the file does not say."""
    left_out: tuple[str, ...]
    """Other keys of the file."""


class WeightRow(NamedTuple):
    """A tensor of a file and the one of ours that it goes to."""

    source: str
    target: str
    shape: tuple[int, ...]
    is_turned: bool
    """Whether its axes are in another order in the file."""


class LayerRow(NamedTuple):
    """A layer of a file and the one of ours that it goes to."""

    source: str
    target: str
    shape: tuple[int, ...]
    """Of its first tensor, in ours."""
    num_tensors: int
    axes: str
    """What was done to them."""


class PcdetMatch(NamedTuple):
    """What of a file goes where."""

    rows: list[WeightRow]
    unused: dict[str, str]
    """Tensors of theirs that no layer of ours takes, with the reason."""

    def layers(self) -> list[LayerRow]:
        """The rows, those of a layer as one."""
        found: dict[tuple[str, str], list[WeightRow]] = {}
        for row in self.rows:
            found.setdefault((row.source.rpartition(".")[0], row.target.rpartition(".")[0]), []).append(row)
        turned = "axes from (z, y, x, in, out)"
        return [
            LayerRow(*names, rows[0].shape, len(rows), turned if any(row.is_turned for row in rows) else "")
            for names, rows in found.items()
        ]


def read_checkpoint(path: Path) -> PcdetCheckpoint:
    """The weights of a checkpoint.

    Raises:
        RunError: It cannot be read or has no ``model_state``.
    """
    tree = read_torch_file(path)
    shown = printable(path)
    try:
        found = find_weights({STATE: tree[STATE]} if isinstance(tree, dict) and STATE in tree else tree)
    except WeightsError as error:
        raise RunError(f"{shown}: {error}. Give a checkpoint of OpenPCDet, such as checkpoint_epoch_80.pth.") from None
    if found.place != STATE or not isinstance(tree, dict):
        raise RunError(
            f"{shown}: has no {STATE}, as OpenPCDet's checkpoints have. Weights of another program start a run with "
            "weights=FILE, as far as names and shapes fit."
        )
    version = tree.get("version")
    return PcdetCheckpoint(
        path=path,
        state=found.tensors,
        epoch=_count(tree.get("epoch")),
        step=_count(tree.get("it")),
        version=printable(version, limit=80) if isinstance(version, str) else "",
        left_out=tuple(printable(key, limit=40) for key in tree if key not in (STATE, "epoch", "it", "version")),
    )


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value < MOST_COUNT else 0


def match_weights(
    checkpoint: PcdetCheckpoint, layers: Mapping[str, str], ours: Mapping[str, Tensor]
) -> tuple[PcdetMatch, dict[str, Tensor]]:
    """Find the place of every tensor of a checkpoint.

    Args:
        checkpoint: The file.
        layers: Their names of layers, each with ours, from a family's ``openpcdet_names``.
        ours: The state of our network, for names and shapes.

    Returns:
        What went where, and our network's new state.

    Raises:
        RunError: A tensor has no place or another shape, a weight is missing, or a number is not finite; names them.
    """
    rows: list[WeightRow] = []
    unused, strangers, misfits = {}, [], []
    state: dict[str, Tensor] = {}
    seen = set()
    for key, value in checkpoint.state.items():
        layer, _, role = key.rpartition(".")
        target = f"{layers[layer]}.{role}" if layer in layers else ""
        if key in UNUSED:
            unused[key] = UNUSED[key]
        elif target not in ours and role == COUNTER:
            unused[key] = "counts batches, which no layer here uses"
        elif target not in ours:
            strangers.append(key)
        else:
            seen.add(target)
            turned, is_turned = _as_ours(value, ours[target].shape)
            if turned is None:
                misfits.append(f"{printable(key)}: file {tuple(value.shape)}, model {tuple(ours[target].shape)}")
                continue
            state[target] = _converted(checkpoint.path, key, turned, ours[target])
            rows.append(WeightRow(printable(key, limit=100), target, tuple(turned.shape), is_turned))
    missing = [name for name in ours if name not in seen and not name.endswith(COUNTER)]
    if strangers or misfits or missing:
        raise RunError(_why_not(checkpoint.path, strangers, misfits, missing))
    return PcdetMatch(rows, unused), {**ours, **state}


def _as_ours(value: Tensor, shape: torch.Size) -> tuple[Tensor | None, bool]:
    """A tensor in our layout, and whether its axes were turned for that; None where it does not fit."""
    if value.shape == shape:
        return value, False
    if value.dim() == 5 and value.permute(4, 0, 1, 2, 3).shape == shape:
        return value.permute(4, 0, 1, 2, 3), True
    return None, False


def _converted(path: Path, key: str, value: Tensor, like: Tensor) -> Tensor:
    if value.is_complex() or value.dtype.is_floating_point != like.dtype.is_floating_point:
        told = f"holds {value.dtype}, expected {'floats' if like.dtype.is_floating_point else 'whole numbers'}"
        raise RunError(f"{printable(path)}: {printable(key)} {told}.")
    found = value.to(like.dtype).contiguous().clone()
    if found.dtype.is_floating_point and not bool(found.isfinite().all()):
        raise RunError(f"{printable(path)}: {printable(key)} holds NaN or infinity. Take an earlier checkpoint.")
    return found


def _why_not(path: Path, strangers: list[str], misfits: list[str], missing: list[str]) -> str:
    parts = []
    if misfits:
        parts.append(f"{counted(len(misfits), 'tensor')} with another shape ({_some(misfits)})")
    if strangers:
        parts.append(f"{counted(len(strangers), 'tensor')} without a place in this network ({_some(strangers)})")
    if missing:
        parts.append(f"{counted(len(missing), 'weight')} missing ({_some(missing)})")
    told = "; ".join(parts)
    return f"{printable(path)}: does not fit the configuration: {told}. Give the --cfg that it was trained with."


def _some(names: list[str]) -> str:
    shown = ", ".join(printable(name, limit=120) for name in names[:SHOWN])
    return shown + (", ..." if len(names) > SHOWN else "")
