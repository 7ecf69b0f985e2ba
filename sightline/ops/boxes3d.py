"""Boxes in space. Shapes: N, M boxes; C = 7 numbers of a box, or 9 with its velocity.

Convention: ``boxes3d`` is (x, y, z, dx, dy, dz, yaw[, vx, vy]) in the LiDAR frame (x forward, y left, z up): the centre
and the full size in metres, dx along the heading; yaw in radians, counter-clockwise from +x seen from above; velocity
over ground in metres per second. A range is (x_min, y_min, z_min, x_max, y_max, z_max), metres.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class BoxTargets3D(NamedTuple):
    """The true boxes of a batch of B samples, flat."""

    boxes3d: Tensor
    """(M, C) float32, those of one sample after those of another."""
    labels: Tensor
    """(M,) int64 in 0..K-1."""
    counts: tuple[int, ...]
    """(B,) boxes of each sample; on the host."""

    def split(self) -> list[tuple[Tensor, Tensor]]:
        """Boxes (M_b, C) and labels (M_b,) of each sample; views."""
        counts = list(self.counts)
        return list(zip(torch.split(self.boxes3d, counts), torch.split(self.labels, counts), strict=True))


class Detections3D(NamedTuple):
    """What was found in one sample, best first."""

    boxes3d: Tensor
    """(N, C)."""
    scores: Tensor
    """(N,) in [0, 1]."""
    labels: Tensor
    """(N,) int64 in 0..K-1."""


def check_boxes3d(boxes3d: Tensor) -> None:
    """Raise ValueError unless these are boxes (N, C), C >= 7."""
    if boxes3d.dim() != 2 or boxes3d.shape[1] < 7:
        raise ValueError(f"boxes3d: expected shape (N, C) with C >= 7, got {tuple(boxes3d.shape)}.")


def wrap(values: Tensor, offset: float, period: float) -> Tensor:
    """The same angles up to whole periods, in [-offset * period, (1 - offset) * period).

    Args:
        values: Any shape, radians.
        offset: Where the range begins, in periods below zero: 0.5 for a range around zero.
        period: Length of the range, radians.
    """
    return values - torch.floor(values / period + offset) * period


def corners3d(boxes3d: Tensor) -> Tensor:
    """Corners (N, 8, 3) of boxes (N, C): the bottom, ahead and left first and then clockwise, then the top alike."""
    check_boxes3d(boxes3d)
    bottom = bev_corners(boxes3d)[:, :, None].expand(-1, -1, 2, -1)  # (N, 4, 2, 2): each corner below and above
    half = boxes3d[:, 5] / 2
    z = torch.stack((boxes3d[:, 2] - half, boxes3d[:, 2] + half), dim=1)[:, None, :, None].expand(-1, 4, -1, -1)
    return torch.cat((bottom, z), dim=3).transpose(1, 2).reshape(-1, 8, 3)


def bev_corners(boxes3d: Tensor) -> Tensor:
    """Corners (N, 4, 2) in x and y of boxes (N, C) seen from above: ahead and left first, then clockwise."""
    check_boxes3d(boxes3d)
    ahead, aside = boxes3d[:, 3:4] / 2, boxes3d[:, 4:5] / 2  # (N, 1)
    local_x = torch.cat((ahead, ahead, -ahead, -ahead), dim=1)
    local_y = torch.cat((aside, -aside, -aside, aside), dim=1)
    cos, sin = boxes3d[:, 6:7].cos(), boxes3d[:, 6:7].sin()
    turned = torch.stack((local_x * cos - local_y * sin, local_x * sin + local_y * cos), dim=2)
    return turned + boxes3d[:, None, :2]


def nearest_bev_aligned(boxes3d: Tensor) -> Tensor:
    """The axis-aligned boxes_xyxy (N, 4), metres, that boxes (N, C) from above are nearest to in angle.

    Centre and size stay; dx and dy change places where the heading, whole half turns aside, is more than 45 degrees.
    """
    check_boxes3d(boxes3d)
    is_across = wrap(boxes3d[:, 6], 0.5, math.pi).abs() >= math.pi / 4
    size = torch.where(is_across[:, None], boxes3d[:, (4, 3)], boxes3d[:, (3, 4)])
    return torch.cat((boxes3d[:, :2] - size / 2, boxes3d[:, :2] + size / 2), dim=1)


def enlarged(boxes3d: Tensor, extra: Sequence[float]) -> Tensor:
    """Boxes (N, C) with ``extra`` = (dx, dy, dz) metres added to their full sizes; the centres stay."""
    check_boxes3d(boxes3d)
    size = boxes3d[:, 3:6] + boxes3d.new_tensor(extra)
    return torch.cat((boxes3d[:, :3], size, boxes3d[:, 6:]), dim=1)


def centers_in_range(boxes3d: Tensor, point_range: Sequence[float]) -> Tensor:
    """(N,) whether the centre of a box (N, C) is inside of the range (6 numbers), its faces included."""
    check_boxes3d(boxes3d)
    low, high = boxes3d.new_tensor(point_range[:3]), boxes3d.new_tensor(point_range[3:])
    return ((boxes3d[:, :3] >= low) & (boxes3d[:, :3] <= high)).all(dim=1)


def num_corners_in_range(boxes3d: Tensor, point_range: Sequence[float]) -> Tensor:
    """(N,) int64: how many of the 8 corners of a box (N, C) are inside of the range in x and y, its edges included."""
    low, high = boxes3d.new_tensor(point_range[:2]), boxes3d.new_tensor(point_range[3:5])
    corners = corners3d(boxes3d)[:, :, :2]
    return ((corners >= low) & (corners <= high)).all(dim=2).sum(dim=1)
