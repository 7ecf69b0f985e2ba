"""Boxes in space. Shapes: N, M boxes; C = 7 numbers of a box, or 9 with its velocity.

Convention: ``boxes3d`` is (x, y, z, dx, dy, dz, yaw[, vx, vy]) in the LiDAR frame (x forward, y left, z up): the centre
and the full size in metres, dx along the heading; yaw in radians, counter-clockwise from +x seen from above; velocity
over ground in metres per second.
"""

from __future__ import annotations

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
