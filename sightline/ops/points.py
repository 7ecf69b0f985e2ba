"""Clouds of points beside ranges. NumPy. Shapes: P points, F >= 3 numbers of a point.

A point is (x, y, z, ...) in the LiDAR frame, metres; ranges are as in ``ops.boxes3d``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def points_in_range(points: Array, point_range: Sequence[float]) -> Array:
    """(P,) whether a point (P, F) is inside of the range (6 numbers) in x and y, its edges included.

    Height is not asked for: voxels outside of the range are left out later, where points become voxels.
    """
    check_columns("points", points, 3)
    x_min, y_min, _, x_max, y_max, _ = np.asarray(point_range, dtype=points.dtype)
    x, y = points[:, 0], points[:, 1]
    inside: Array = (x >= x_min) & (x <= x_max) & (y >= y_min) & (y <= y_max)
    return inside


def check_columns(name: str, array: Array, numbers: int) -> None:
    """Raise ValueError unless this is a table with at least so many columns."""
    if array.ndim != 2 or array.shape[1] < numbers:
        raise ValueError(f"{name}: expected shape (_, at least {numbers}), got {array.shape}.")
