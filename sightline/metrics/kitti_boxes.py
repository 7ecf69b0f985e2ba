"""Objects and detections of frames as KITTI's evaluation takes them: flat, in float64, checked.

Shapes: N detections, M truths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, TypeVar

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class KittiTruths:
    """Objects of several frames, flat; those of a frame in the order of its file, which the rule depends on."""

    frames: Array
    """(M,) whole numbers."""
    types: Array
    """(M,) into the ``type_names`` of the metric."""
    boxes_xyxy: Array
    """(M, 4) pixels."""
    boxes_camera: Array
    """(M, 7) rect frame: x, y, z of the middle of the bottom, length, height, width, rotation around y."""
    alphas: Array
    """(M,) radians."""
    truncations: Array
    """(M,)."""
    occlusions: Array
    """(M,)."""


@dataclass(frozen=True)
class KittiDetections:
    """Detections of several frames, flat; the order inside a frame decides between equal ones."""

    frames: Array
    """(N,) whole numbers."""
    labels: Array
    """(N,) in 0..K-1; -1 for another class. Such a detection can be ignored where it is low, but never be right."""
    boxes_xyxy: Array
    """(N, 4) pixels."""
    boxes_camera: Array
    """(N, 7) as the truth's."""
    scores: Array
    """(N,)."""
    alphas: Array
    """(N,) radians; -10 of a detector that gives none."""


_Boxes = TypeVar("_Boxes", KittiTruths, KittiDetections)


class _Column(NamedTuple):
    dtype: Any
    row_shape: tuple[int, ...] = ()


_COLUMNS = {
    "frames": _Column(np.int64),
    "types": _Column(np.int64),
    "labels": _Column(np.int64),
    "boxes_xyxy": _Column(np.float64, (4,)),
    "boxes_camera": _Column(np.float64, (7,)),
    "alphas": _Column(np.float64),
    "truncations": _Column(np.float64),
    "occlusions": _Column(np.float64),
    "scores": _Column(np.float64),
}


def checked(boxes: _Boxes) -> _Boxes:
    """The same with every column as an array of its kind.

    Raises:
        ValueError: If columns differ in length, a shape is wrong, or a value is not finite.
    """
    count = len(boxes.frames)
    return type(boxes)(**{one.name: _checked(one.name, getattr(boxes, one.name), count) for one in fields(boxes)})


def _checked(name: str, values: Any, count: int) -> Array:
    kind = _COLUMNS[name]
    shape = (count, *kind.row_shape)
    column = np.asarray(values)
    if column.size == 0 and count == 0:
        column = column.reshape(shape)
    if column.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {column.shape}.")
    if column.dtype.kind == "f" and not np.isfinite(column).all():
        row = int(np.argmin(np.isfinite(column).reshape(count, -1).all(axis=1)))
        raise ValueError(f"{name}: {column[row]} at index {row} is not finite.")
    checked: Array = column.astype(kind.dtype)
    return checked


def joined(parts: Sequence[_Boxes]) -> _Boxes:
    """All of them by ascending frame; those of a frame stay in their order."""
    columns = {field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(parts[0])}
    order = np.argsort(columns["frames"], kind="stable")
    return type(parts[0])(**{name: column[order] for name, column in columns.items()})


NO_TRUTHS = checked(KittiTruths(*[np.zeros(0)] * 7))
NO_DETECTIONS = checked(KittiDetections(*[np.zeros(0)] * 6))
