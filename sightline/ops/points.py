"""Clouds of points beside boxes and ranges. NumPy. Shapes: P points, F >= 3 numbers of a point, N boxes; C >= 7.

A point is (x, y, z, ...) in the LiDAR frame, metres; ``boxes3d`` and ranges are as in ``ops.boxes3d``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

SIDE_MARGIN = 0.01
"""Metres by which a box is wider on each side, along and across its heading, when OpenPCDet asks what lies in it."""


def points_in_boxes(points: Array, boxes3d: Array, *, side_margin: float = SIDE_MARGIN) -> Array:
    """Which points lie in which boxes.

    A point is inside when it is no higher or lower than the faces, and nearer to the centre than half the size and
    ``side_margin`` along the heading and across it. All is reckoned in the precision of the points.

    Args:
        points: (P, F). A point with a coordinate that is not finite is in no box.
        boxes3d: (N, C).
        side_margin: Metres.

    Returns:
        (N, P) bool.

    Raises:
        ValueError: If a shape is wrong.
    """
    _check("points", points, 3)
    _check("boxes3d", boxes3d, 7)
    boxes3d = np.asarray(boxes3d, dtype=points.dtype)
    inside = np.zeros((len(boxes3d), len(points)), dtype=bool)
    if inside.size == 0:
        return inside
    x = np.ascontiguousarray(points[:, 0])
    for row, box in zip(inside, boxes3d, strict=True):
        reach = np.hypot(box[3], box[4]) / 2 + side_margin + 1e-3 + 1e-6 * abs(box[0])  # and what rounding may do
        near = np.flatnonzero((x > box[0] - reach) & (x < box[0] + reach))
        row[near] = _is_inside(points[near], box, side_margin)
    return inside


def rotate_points(points: Array, angle: float) -> Array:
    """The points (P, F) turned around the z axis by ``angle`` radians, from x towards y; other numbers stay."""
    _check("points", points, 3)
    cos, sin = points.dtype.type(np.cos(angle)), points.dtype.type(np.sin(angle))
    turned = points.copy()
    turned[:, 0] = points[:, 0] * cos - points[:, 1] * sin
    turned[:, 1] = points[:, 0] * sin + points[:, 1] * cos
    return turned


def points_in_range(points: Array, point_range: Sequence[float]) -> Array:
    """(P,) whether a point (P, F) is inside of the range (6 numbers) in x and y, its edges included.

    Height is not asked for: voxels outside of the range are left out later, where points become voxels.
    """
    _check("points", points, 3)
    x_min, y_min, _, x_max, y_max, _ = np.asarray(point_range, dtype=points.dtype)
    x, y = points[:, 0], points[:, 1]
    inside: Array = (x >= x_min) & (x <= x_max) & (y >= y_min) & (y <= y_max)
    return inside


def _is_inside(points: Array, box: Array, side_margin: float) -> Array:
    """(P,) whether points (P, F) are in one box (C,)."""
    cos, sin = np.cos(box[6]), np.sin(box[6])
    x, y, z = (points[:, axis] - box[axis] for axis in range(3))
    ahead, aside = np.abs(x * cos + y * sin), np.abs(y * cos - x * sin)
    half = box[3:6].astype(np.float64) / 2
    inside: Array = (np.abs(z) <= half[2]) & (ahead < half[0] + side_margin) & (aside < half[1] + side_margin)
    return inside


def _check(name: str, array: Array, numbers: int) -> None:
    if array.ndim != 2 or array.shape[1] < numbers:
        raise ValueError(f"{name}: expected shape (_, at least {numbers}), got {array.shape}.")
