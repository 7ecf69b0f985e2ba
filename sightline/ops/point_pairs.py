"""Which points lie in which boxes, for many points and boxes at once. NumPy.

Shapes: P points, M boxes, F and C numbers of each. LiDAR frame; boxes are as in ``ops.boxes3d``.

Nearly all points of a scene are in no box. So a coarse map of the ground says which boxes are near a point, and the
exact rule is asked for those pairs only: time grows with P + M, not with P x M.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sightline.ops.points import SIDE_MARGIN

Array = np.ndarray[Any, Any]
Rows = np.ndarray[Any, np.dtype[np.intp]]

_CELLS = 96
"""Cells of the coarse map along its longer side, at most."""
_SMALLEST_CELL = 0.5
"""Metres."""


def inside_pairs(points: Array, boxes3d: Array) -> tuple[Rows, Rows]:
    """All pairs of a point and a box that it lies in.

    The rule is that of ``points_in_boxes``, reckoned in float32 as it is there for points of that type.

    Args:
        points: (P, F) with x, y, z in front; points that are not finite lie in no box.
        boxes3d: (M, C).

    Returns:
        Rows of ``points`` in rising order, and for each the row of ``boxes3d``; where a point lies in several boxes,
        the boxes rise too.
    """
    none = np.zeros(0, np.intp)
    boxes = np.asarray(boxes3d, np.float32)
    boxes_rows = np.flatnonzero(np.isfinite(boxes[:, :7]).all(axis=1) & (boxes[:, 3:6] >= 0).all(axis=1))
    if not len(points) or not len(boxes_rows):
        return none, none
    near, candidates = _near_pairs(points, boxes[boxes_rows])
    box_of_pair = boxes_rows[candidates]
    table = np.column_stack((boxes[:, :3], np.cos(boxes[:, 6]), np.sin(boxes[:, 6])))  # (M, 5) float32
    limits = boxes[:, 3:6].astype(np.float64) / 2 + (SIDE_MARGIN, SIDE_MARGIN, 0)
    centre_x, centre_y, centre_z, cos, sin = table.take(box_of_pair, axis=0).T
    limit_x, limit_y, limit_z = limits.take(box_of_pair, axis=0).T
    x, y, z = points.take(near, axis=0)[:, :3].T
    x, y, z = x - centre_x, y - centre_y, z - centre_z
    inside = np.abs(z) <= limit_z
    inside &= np.abs(x * cos + y * sin) < limit_x
    inside &= np.abs(y * cos - x * sin) < limit_y
    return near[inside], box_of_pair[inside]


class _Map(NamedTuple):
    """A grid over the ground with a border of one cell, into which everything outside falls."""

    low: tuple[float, float]
    cell: float
    width: int
    depth: int

    def cells(self, points: Array) -> Array:
        """(P,) int32 cell of each point; any number for a point that is not finite, which is in no box anyway."""
        with np.errstate(invalid="ignore"):
            column = self._steps(points[:, 0], self.low[0], self.width)
            column *= self.depth + 2
            column += self._steps(points[:, 1], self.low[1], self.depth)
        return column

    def _steps(self, values: Array, low: float, steps: int) -> Array:
        """(P,) 1 to ``steps`` on the map, 0 or ``steps + 1`` outside."""
        place: Array = values - np.float32(low)
        place *= np.float32(1 / self.cell)
        place += np.float32(1)
        return place.clip(np.float32(0), np.float32(steps + 1), out=place).astype(np.int32)


def _near_pairs(points: Array, boxes: Array) -> tuple[Rows, Rows]:
    """Points and boxes that share a cell of the map."""
    ground, cells, box_of_cell = _covered_cells(boxes)
    counts = np.bincount(cells, minlength=(ground.width + 2) * (ground.depth + 2))
    cell_of_point = ground.cells(points)
    near = np.flatnonzero((counts > 0).take(cell_of_point, mode="wrap"))
    own = cell_of_point[near].astype(np.intp) % len(counts)
    repeats = counts[own]
    start = (counts.cumsum() - counts)[own]
    return np.repeat(near, repeats), box_of_cell[np.repeat(start, repeats) + _count_up(repeats)]


def _covered_cells(boxes: Array) -> tuple[_Map, Rows, Rows]:
    """A map that holds all boxes; the cells that they may reach into, rising; and the box of each."""
    cos, sin = np.abs(np.cos(boxes[:, 6])), np.abs(np.sin(boxes[:, 6]))
    length, width = boxes[:, 3], boxes[:, 4]
    reach = np.stack((cos * length + sin * width, sin * length + cos * width), axis=1) / 2 + 2 * SIDE_MARGIN
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
