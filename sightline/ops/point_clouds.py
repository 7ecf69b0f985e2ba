"""Point clouds of a batch. Shapes: B clouds, P points of all of them, F numbers of a point.

A point is (x, y, z, intensity, ...) in the LiDAR frame: x forward, y left, z up, metres; intensity in [0, 1].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class PointClouds(NamedTuple):
    """The points of B clouds, one after the other."""

    points: Tensor
    """(P, F) float32."""
    counts: tuple[int, ...]
    """(B,) points of each cloud; on the host, so that nobody waits for a device to know a shape."""

    def split(self) -> tuple[Tensor, ...]:
        """The clouds, (P_b, F) each; views."""
        return torch.split(self.points, list(self.counts))
