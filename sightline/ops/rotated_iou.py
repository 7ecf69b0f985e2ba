"""Overlap of rotated rectangles and of upright boxes, exact. Shapes: N, M, P rectangles or boxes; C >= 7.

Convention: ``rectangles`` is (x, y, dx, dy, angle): centre, full size along the angle and across it, and an angle in
radians that turns x towards y. Seen from above, ``boxes3d`` are such rectangles. KITTI's evaluation looks at cameras'
boxes as (x, z, length, width, rotation_y): there x turns away from z, which is the same with the angle negated.

Everything is reckoned in float64 relative to the second rectangle, so places far from the origin and boxes that are
equal lose nothing. (Apple's GPUs have no float64: float32 there.) No gradient flows.

How: in the frame of the second rectangle the overlap is an integral around the first. At a given x a convex outline
lies between two heights, and cutting both to the second rectangle's range leaves the overlap's height there. So each
of the four edges gives the integral of its height, cut so, over its part inside of the second's range of x (Green's
theorem). It is a continuous function of the input: no points are gathered and sorted, nothing special happens where
edges or corners fall together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from sightline.ops.boxes3d import check_boxes3d
from sightline.ops.checks import check_shape

Over = Literal["union", "first", "second", "nothing"]
"""What an overlap is divided by: the union, the first box, the second box, or nothing."""

_PAIRS_AT_ONCE = 8192
"""So many fit into a processor's cache with all that is reckoned from them."""

_PAIRS_AT_ONCE_ON_ACCELERATOR = 1 << 19

_MATRIX_AT_ONCE = 1 << 20
"""Cells of the table of bounds that exist at a time."""


def bev_rectangles(boxes3d: Tensor) -> Tensor:
    """The boxes (N, C) from above: rectangles (N, 5)."""
    check_boxes3d(boxes3d)
    return boxes3d[:, (0, 1, 3, 4, 6)]


def rotated_iou(rectangles_a: Tensor, rectangles_b: Tensor, *, over: Over = "union") -> Tensor:
    """Overlap of every rectangle in ``rectangles_a`` with every one in ``rectangles_b``.

    Args:
        rectangles_a: (N, 5).
        rectangles_b: (M, 5).
        over: What the overlap is divided by.

    Returns:
        (N, M), float32 or float64 as the rectangles are; in [0, 1], or an area for ``over="nothing"``. Exactly
        1 for equal rectangles; 0 where they only touch, where one has no area, and where a number is not finite.

    Raises:
        ValueError: If a shape is wrong.
    """
    check_shape("rectangles_a", rectangles_a, ("N", 5))
    check_shape("rectangles_b", rectangles_b, ("M", 5))
    a, b = _exact(rectangles_a), _exact(rectangles_b)
    index_a, index_b = touching_pairs(a, b)
    values = iou_of_pairs(a, b, index_a, index_b, over=over)
    return _table(values, index_a, index_b, rectangles_a, rectangles_b)


def paired_rotated_iou(rectangles_a: Tensor, rectangles_b: Tensor, *, over: Over = "union") -> Tensor:
    """As ``rotated_iou``, of each rectangle (P, 5) with the one in the same row of the other: (P,)."""
    check_shape("rectangles_a", rectangles_a, ("P", 5))
    check_shape("rectangles_b", rectangles_b, (len(rectangles_a), 5))
    a, b = _exact(rectangles_a), _exact(rectangles_b)
    row = _touching_rows(a, b)
    return _list(iou_of_pairs(a, b, row, row, over=over), row, rectangles_a, rectangles_b)


def rotated_iou_bev(boxes3d_a: Tensor, boxes3d_b: Tensor, *, over: Over = "union") -> Tensor:
    """As ``rotated_iou``, of boxes (N, C) and (M, C) seen from above: (N, M)."""
    return rotated_iou(bev_rectangles(boxes3d_a), bev_rectangles(boxes3d_b), over=over)


def paired_rotated_iou_bev(boxes3d_a: Tensor, boxes3d_b: Tensor, *, over: Over = "union") -> Tensor:
    """As ``paired_rotated_iou``, of boxes (P, C) seen from above: (P,)."""
    return paired_rotated_iou(bev_rectangles(boxes3d_a), bev_rectangles(boxes3d_b), over=over)


def rotated_iou_3d(boxes3d_a: Tensor, boxes3d_b: Tensor, *, over: Over = "union") -> Tensor:
    """Common volume of every box in ``boxes3d_a`` with every one in ``boxes3d_b``.

    Args:
        boxes3d_a: (N, C).
        boxes3d_b: (M, C).
        over: What the common volume is divided by.

    Returns:
        (N, M) as from ``rotated_iou``; a volume for ``over="nothing"``.

    Raises:
        ValueError: If a shape is wrong.
    """
    a, b = _exact(bev_rectangles(boxes3d_a)), _exact(bev_rectangles(boxes3d_b))
    index_a, index_b = touching_pairs(a, b)
    values = _iou_3d(boxes3d_a, boxes3d_b, index_a, index_b, over)
    return _table(values, index_a, index_b, boxes3d_a, boxes3d_b)


def paired_rotated_iou_3d(boxes3d_a: Tensor, boxes3d_b: Tensor, *, over: Over = "union") -> Tensor:
    """As ``rotated_iou_3d``, of each box (P, C) with the one in the same row of the other: (P,)."""
    check_shape("boxes3d_b", boxes3d_b, (len(boxes3d_a), boxes3d_b.shape[-1]))
    row = _touching_rows(_exact(bev_rectangles(boxes3d_a)), _exact(bev_rectangles(boxes3d_b)))
    return _list(_iou_3d(boxes3d_a, boxes3d_b, row, row, over), row, boxes3d_a, boxes3d_b)


def iou_of_pairs(
    rectangles_a: Tensor, rectangles_b: Tensor, index_a: Tensor, index_b: Tensor, *, over: Over = "union"
) -> Tensor:
    """As ``rotated_iou`` for chosen pairs only, in float64; all of them are worked out, whether bounds meet or not.

    Args:
        rectangles_a: (N, 5).
        rectangles_b: (M, 5).
        index_a: (P,) rows of ``rectangles_a``.
        index_b: (P,) rows of ``rectangles_b``.
        over: What the overlap is divided by.

    Returns:
        (P,). The memory needed besides does not grow with P.
    """
    a, b = _exact(rectangles_a), _exact(rectangles_b)
    return _divided(_overlap(a, b, index_a, index_b), _areas(a)[index_a], _areas(b)[index_b], over)


def touching_pairs(rectangles_a: Tensor, rectangles_b: Tensor) -> tuple[Tensor, Tensor]:
    """Indices (P,) into ``rectangles_a`` (N, 5) and (P,) into ``rectangles_b`` (M, 5): all pairs whose bounds meet."""
    low_a, high_a = axis_aligned_bounds(rectangles_a)
    low_b, high_b = axis_aligned_bounds(rectangles_b)
    rows = max(_MATRIX_AT_ONCE // max(len(low_b), 1), 1)
    found = []
    for first in range(0, len(low_a), rows):
        part = slice(first, first + rows)
        meets = low_a[part, None, 0] < high_b[None, :, 0]  # (rows, M)
        meets &= low_b[None, :, 0] < high_a[part, None, 0]
        meets &= low_a[part, None, 1] < high_b[None, :, 1]
        meets &= low_b[None, :, 1] < high_a[part, None, 1]
        found.append(meets.nonzero() + torch.tensor((first, 0), device=meets.device))
    pairs = torch.cat(found) if found else torch.zeros(0, 2, dtype=torch.int64, device=low_a.device)
    return pairs[:, 0], pairs[:, 1]


def axis_aligned_bounds(rectangles: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest (N, 2) x and y of each rectangle (N, 5), in float64."""
    rectangles = _exact(rectangles)
    half = rectangles[:, 2:4].clamp(min=0) / 2
    cos, sin = rectangles[:, 4].cos().abs(), rectangles[:, 4].sin().abs()
    reach = torch.stack((half[:, 0] * cos + half[:, 1] * sin, half[:, 0] * sin + half[:, 1] * cos), dim=1)
    return rectangles[:, :2] - reach, rectangles[:, :2] + reach


def _exact(rectangles: Tensor) -> Tensor:
    return rectangles.detach().to(torch.float32 if rectangles.device.type == "mps" else torch.float64)


def _areas(rectangles: Tensor) -> Tensor:
    return rectangles[:, 2:4].clamp(min=0).prod(dim=1)


def _touching_rows(a: Tensor, b: Tensor) -> Tensor:
    """Rows (Q,) whose two rectangles have bounds that meet."""
    (low_a, high_a), (low_b, high_b) = axis_aligned_bounds(a), axis_aligned_bounds(b)
    return ((low_a < high_b) & (low_b < high_a)).all(dim=1).nonzero().squeeze(1)


def _chunks(count: int, device: torch.device) -> Iterator[slice]:
    size = _PAIRS_AT_ONCE if device.type == "cpu" else _PAIRS_AT_ONCE_ON_ACCELERATOR
    for first in range(0, count, size):
        yield slice(first, first + size)


def _overlap(a: Tensor, b: Tensor, index_a: Tensor, index_b: Tensor) -> Tensor:
    parts = [_common_area(a[index_a[part]], b[index_b[part]]) for part in _chunks(len(index_a), a.device)]
    return torch.cat(parts) if parts else a.new_zeros(0)


def _common_area(a: Tensor, b: Tensor) -> Tensor:
    """Common area (P,) of each rectangle (P, 5) with the one in the same row."""
    half_x, half_y = b[:, 2] / 2, b[:, 3] / 2
    cos, sin = b[:, 4].cos(), b[:, 4].sin()
    off_x, off_y = a[:, 0] - b[:, 0], a[:, 1] - b[:, 1]
    center = torch.stack((off_x * cos + off_y * sin, off_y * cos - off_x * sin))  # (2, P) in the frame of b
    turn = a[:, 4] - b[:, 4]
    cos, sin = turn.cos(), turn.sin()
    along = torch.stack((cos, sin)) * (a[:, 2] / 2)
    across = torch.stack((-sin, cos)) * (a[:, 3] / 2)
    to_left, to_right = along + across, along - across
    corners = torch.stack((to_left, -to_right, -to_left, to_right, to_left), dim=1) + center[:, None]  # (2, 5, P)
    x, y = corners
    cut_x = torch.minimum(torch.maximum(x, -half_x), half_x)
    # The part of each edge inside of the range of x: from (cut_x[i], y_start) to (cut_x[i + 1], y_end).
    run = x.diff(dim=0)  # (4, P)
    slope = y.diff(dim=0)
    safe_run = torch.where(run == 0, 1.0, run)
    y_start = y[:-1] + (cut_x[:-1] - x[:-1]) / safe_run * slope
    y_end = y[1:] + (cut_x[1:] - x[1:]) / safe_run * slope
    height = _mean_when_cut(y_start, y_end, half_y)
    area = -(cut_x.diff(dim=0) * height).sum(dim=0)
    # Below what rounding leaves of an overlap that is none: an error of the place along the whole outline.
    length_a, length_b = a[:, 2:4].abs().sum(dim=1), b[:, 2:4].abs().sum(dim=1)
    reach = center.abs().sum(dim=0) + length_a + length_b
    noise = 4 * torch.finfo(area.dtype).eps * reach * torch.minimum(length_a, length_b)
    largest = torch.minimum(_areas(a), _areas(b))
    area = torch.minimum(area, largest)
    return torch.where((area > noise) & area.isfinite() & (largest > 0), area, 0.0)


def _mean_when_cut(start: Tensor, end: Tensor, limit: Tensor) -> Tensor:
    """Mean of clamp(v, -limit, limit) where v goes evenly from ``start`` to ``end``; stable where those are equal."""
    cut_start = torch.minimum(torch.maximum(start, -limit), limit)
    cut_end = torch.minimum(torch.maximum(end, -limit), limit)
    lost_at_start, lost_at_end = (start - cut_start).abs(), (end - cut_end).abs()
    way = (end - start).abs()
    share = (lost_at_start - lost_at_end) / torch.where(way == 0, 1.0, way)
    return 0.5 * (cut_start + cut_end + (cut_start - cut_end) * share)


def _divided(overlap: Tensor, size_a: Tensor, size_b: Tensor, over: Over) -> Tensor:
    """The overlap (P,) over what was asked for; 0 for nothing over nothing."""
    if over == "nothing":
        return overlap
    whole = {"union": size_a + size_b - overlap, "first": size_a, "second": size_b}[over]
    return torch.where(overlap > 0, overlap / torch.where(overlap > 0, whole, 1.0), 0.0)


def _iou_3d(boxes3d_a: Tensor, boxes3d_b: Tensor, index_a: Tensor, index_b: Tensor, over: Over) -> Tensor:
    """(P,) common volume of the pairs over what was asked for."""
    a, b = _exact(boxes3d_a)[index_a], _exact(boxes3d_b)[index_b]
    row = torch.arange(len(a), device=a.device)
    area = _overlap(bev_rectangles(a), bev_rectangles(b), row, row)
    height_a, height_b = a[:, 5].clamp(min=0), b[:, 5].clamp(min=0)
    rise = (a[:, 2] - b[:, 2]).abs()  # of one centre over the other
    common = torch.minimum((height_a + height_b) / 2 - rise, torch.minimum(height_a, height_b)).clamp(min=0)
    volume = torch.where(common.isfinite(), area * common, 0.0)
    return _divided(volume, a[:, 3:6].clamp(min=0).prod(dim=1), b[:, 3:6].clamp(min=0).prod(dim=1), over)


def _result_dtype(a: Tensor, b: Tensor) -> torch.dtype:
    dtype = torch.promote_types(a.dtype, b.dtype)
    return dtype if dtype == torch.float64 else torch.float32


def _table(values: Tensor, index_a: Tensor, index_b: Tensor, a: Tensor, b: Tensor) -> Tensor:
    table = torch.zeros(len(a), len(b), dtype=_result_dtype(a, b), device=a.device)
    table[index_a, index_b] = values.to(table.dtype)
    return table


def _list(values: Tensor, row: Tensor, a: Tensor, b: Tensor) -> Tensor:
    filled = torch.zeros(len(a), dtype=_result_dtype(a, b), device=a.device)
    filled[row] = values.to(filled.dtype)
    return filled
