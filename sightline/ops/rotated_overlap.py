"""Whether boxes seen from above overlap. NumPy, for the data. Shapes: N, M boxes; C = 7 or 9 numbers of a box.

Boxes are as in ``ops.boxes3d``: x, y, z, dx, dy, dz, yaw; heights are not looked at.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


def rotated_overlaps(boxes_a: Array, boxes_b: Array) -> Mask:
    """Which boxes share some area, seen from above; boxes that touch share none, nor do boxes without area.

    By the separating axis theorem (Gottschalk, Lin and Manocha, "OBBTree", SIGGRAPH 1996): two rectangles are apart if
    they are apart along one of their four axes. In float64, and only for pairs near enough for it to be a question.

    Args:
        boxes_a: (N, C).
        boxes_b: (M, C).

    Returns:
        (N, M).
    """
    a, b = np.asarray(boxes_a, np.float64), np.asarray(boxes_b, np.float64)
    radii_a, radii_b = np.hypot(a[:, 3], a[:, 4]) / 2, np.hypot(b[:, 3], b[:, 4]) / 2
    x, y = np.subtract.outer(a[:, 0], b[:, 0]), np.subtract.outer(a[:, 1], b[:, 1])  # (N, M)
    overlaps: Mask = x * x + y * y < np.add.outer(radii_a, radii_b) ** 2
    rows, columns = np.nonzero(overlaps)
    overlaps[rows, columns] = paired_overlaps(a[rows], b[columns])
    return overlaps


def paired_overlaps(boxes_a: Array, boxes_b: Array) -> Mask:
    """As ``rotated_overlaps`` for the boxes of each row: (N, C) and (N, C) -> (N,)."""
    a, b = np.asarray(boxes_a, np.float64).T, np.asarray(boxes_b, np.float64).T
    half_ax, half_ay, half_bx, half_by = a[3] / 2, a[4] / 2, b[3] / 2, b[4] / 2
    turn = b[6] - a[6]
    cos, sin = np.abs(np.cos(turn)), np.abs(np.sin(turn))
    along_a, across_a = _in_frame(b[0] - a[0], b[1] - a[1], a[6])
    along_b, across_b = _in_frame(b[0] - a[0], b[1] - a[1], b[6])
    overlaps: Mask = (
        (np.abs(along_a) < half_ax + cos * half_bx + sin * half_by)
        & (np.abs(across_a) < half_ay + sin * half_bx + cos * half_by)
        & (np.abs(along_b) < half_bx + cos * half_ax + sin * half_ay)
        & (np.abs(across_b) < half_by + sin * half_ax + cos * half_ay)
        & (np.minimum(half_ax, half_ay) > 0)
        & (np.minimum(half_bx, half_by) > 0)
    )
    return overlaps


def _in_frame(x: Array, y: Array, yaw: Array) -> tuple[Array, Array]:
    """A vector along and across the heading."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return x * cos + y * sin, y * cos - x * sin
