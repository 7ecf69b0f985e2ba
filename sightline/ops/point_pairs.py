"""Which points lie in which boxes, for many points and boxes at once. NumPy.

Shapes: P points, M boxes, F >= 3 and C >= 7 numbers of each. LiDAR frame; boxes are as in ``ops.boxes3d``.

Nearly all points of a scene are in no box. So a coarse map of the ground says which boxes are near a point, and the
exact rule is asked for those pairs only: time grows with P + M, not with P x M.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from sightline.ops.points import check_columns

Array = np.ndarray[Any, Any]
Rows = np.ndarray[Any, np.dtype[np.intp]]

SIDE_MARGIN = 0.01
"""Metres by which a box is wider on each side, along and across its heading, when OpenPCDet asks what lies in it."""

_CELLS = 96
"""Cells of the coarse map along its longer side, at most."""
_SMALLEST_CELL = 0.5
"""Metres."""
_PAIRS_AT_ONCE = 1 << 20
"""Pairs that are worked on at a time, which bounds memory where many boxes lie around the same points."""
_ROUNDING = 1e-6
"""More than float32 loses of a place on the map, as a share of the largest coordinate."""


def inside_pairs(points: Array, boxes3d: Array, *, side_margin: float = SIDE_MARGIN) -> tuple[Rows, Rows]:
    """All pairs of a point and a box that it lies in.

    A point is inside when it is no higher or lower than the faces, and nearer to the centre than half the size and
    ``side_margin`` along the heading and across it. All is reckoned in float64 if the points are, else in float32.

    Args:
        points: (P, F) with x, y, z in front; points that are not finite lie in no box.
        boxes3d: (M, C); those with a negative size or a number that is not finite hold nothing.
        side_margin: Metres.

    Returns:
        Rows of ``points`` in rising order, and for each the row of ``boxes3d``; where a point lies in several boxes,
        the boxes rise too.

    Raises:
        ValueError: If a shape is wrong.
    """
    check_columns("points", points, 3)
    check_columns("boxes3d", boxes3d, 7)
    with np.errstate(over="ignore"):
        boxes: Array = np.asarray(boxes3d, np.float64 if points.dtype == np.float64 else np.float32)
    boxes_rows = np.flatnonzero(np.isfinite(boxes[:, :7]).all(axis=1) & (boxes[:, 3:6] >= 0).all(axis=1))
    found = [(np.zeros(0, np.intp), np.zeros(0, np.intp))]
    if len(points) and len(boxes_rows):
        boxes = boxes[boxes_rows]
        table = np.column_stack((boxes[:, :3], np.cos(boxes[:, 6]), np.sin(boxes[:, 6])))  # (M, 5)
        limits = boxes[:, 3:6].astype(np.float64) / 2 + (side_margin, side_margin, 0)
        for near, box in _near_pairs(points, boxes, side_margin):
            inside = _is_inside(points.take(near, axis=0), table.take(box, axis=0), limits.take(box, axis=0))
            found.append((near[inside], boxes_rows[box[inside]]))
    rows, owners = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return rows, owners


def _is_inside(points: Array, table: Array, limits: Array) -> Array:
    """(Q,) whether points (Q, F) are in the boxes of the same rows.

    Args:
        points: x, y, z in front.
        table: (Q, 5) x, y, z of each box, cosine and sine of its heading.
        limits: (Q, 3) how far a point may be from the centre along the heading, across it, and up or down.
    """
    centre_x, centre_y, centre_z, cos, sin = table.T
    limit_x, limit_y, limit_z = limits.T
    x, y, z = points.T[:3]
    x, y, z = x - centre_x, y - centre_y, z - centre_z
    inside: Array = np.abs(z) <= limit_z
    inside &= np.abs(x * cos + y * sin) < limit_x
    inside &= np.abs(y * cos - x * sin) < limit_y
    return inside


class _Map(NamedTuple):
    """A grid over the ground with a border of one cell, into which everything outside falls."""

    low: tuple[float, float]
    cell: float
    width: int
    depth: int

    def cells(self, points: Array) -> Array:
        """(P,) int32 cell of each point; any number for a point that is not finite, which is in no box anyway."""
        with np.errstate(invalid="ignore", over="ignore"):
            column = self._steps(points[:, 0], self.low[0], self.width)
            column *= self.depth + 2
            column += self._steps(points[:, 1], self.low[1], self.depth)
        return column

    def _steps(self, values: Array, low: float, steps: int) -> Array:
        """(P,) 1 to ``steps`` on the map, 0 or ``steps + 1`` outside."""
        place: Array = values - low
        place *= 1 / self.cell
        place += 1
        return place.clip(0, steps + 1, out=place).astype(np.int32)


def _near_pairs(points: Array, boxes: Array, side_margin: float) -> Iterator[tuple[Rows, Rows]]:
    """Points and boxes that share a cell of the map, by rising point, in portions."""
    ground, cells, box_of_cell = _covered_cells(boxes, side_margin)
    counts = np.bincount(cells, minlength=(ground.width + 2) * (ground.depth + 2))
    cell_of_point = ground.cells(points)
    near = np.flatnonzero((counts > 0).take(cell_of_point, mode="wrap"))
    own = cell_of_point[near].astype(np.intp) % len(counts)
    repeats = counts[own]
    start = (counts.cumsum() - counts)[own]
    ends = repeats.cumsum()
    total = int(ends[-1]) if len(ends) else 0
    borders = np.searchsorted(ends, np.arange(_PAIRS_AT_ONCE, total, _PAIRS_AT_ONCE))
    for first, last in pairwise([0, *borders.tolist(), len(near)]):
        mine = slice(first, last)
        yield (
            np.repeat(near[mine], repeats[mine]),
            box_of_cell[np.repeat(start[mine], repeats[mine]) + _count_up(repeats[mine])],
        )


def _covered_cells(boxes: Array, side_margin: float) -> tuple[_Map, Rows, Rows]:
    """A map that holds all boxes; the cells that they may reach into, rising; and the box of each."""
    boxes = boxes.astype(np.float64)
    cos, sin = np.abs(np.cos(boxes[:, 6])), np.abs(np.sin(boxes[:, 6]))
    length, width = boxes[:, 3], boxes[:, 4]
    reach = np.stack((cos * length + sin * width, sin * length + cos * width), axis=1) / 2 + 2 * side_margin
    reach += _ROUNDING * (np.abs(boxes[:, :2]) + reach).max()
    low, high = boxes[:, :2] - reach, boxes[:, :2] + reach
    origin, extent = low.min(axis=0), (high.max(axis=0) - low.min(axis=0))
    cell = max(float(extent.max()) / _CELLS, _SMALLEST_CELL)
    columns, rows = (np.floor(extent / cell).astype(np.intp) + 1).tolist()
    first = np.floor((low - origin) / cell).astype(np.intp)
    last = np.minimum(np.floor((high - origin) / cell).astype(np.intp), (columns - 1, rows - 1))
    sides = last - first + 1
    counts = sides[:, 0] * sides[:, 1]
    box_of_cell = np.repeat(np.arange(len(boxes)), counts)
    column, row = np.divmod(_count_up(counts), sides[box_of_cell, 1])
    column, row = column + first[box_of_cell, 0] + 1, row + first[box_of_cell, 1] + 1
    cells = column * (rows + 2) + row
    order = np.argsort(cells, kind="stable")
    ground = _Map((float(origin[0]), float(origin[1])), cell, columns, rows)
    return ground, cells[order], box_of_cell[order]


def _count_up(counts: Rows) -> Rows:
    """0, 1, ... for each count, one after the other: (2, 3) -> 0 1 0 1 2."""
    return np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
