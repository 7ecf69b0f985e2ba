"""Distances of the corners of boxes in space. Shapes: N boxes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.ops.boxes3d import corners3d
from sightline.ops.checks import check_shape


def corner_loss(boxes3d: Tensor, targets: Tensor) -> Tensor:
    """Smooth L1 (beta 1) of the distances of the eight corners, mean over these; the front may be the rear.

    Args:
        boxes3d: (N, 7).
        targets: (N, 7).

    Returns:
        (N,).

    Reference:
        Qi et al., "Frustum PointNets", CVPR 2018, eq. 3.
    """
    check_shape("boxes3d", boxes3d, ("N", 7))
    check_shape("targets", targets, boxes3d.shape)
    turned = torch.cat((targets[:, :6], targets[:, 6:] + math.pi), dim=1)
    corners = corners3d(boxes3d)
    distances = [(corners - corners3d(truth)).norm(dim=2) for truth in (targets, turned)]
    nearest = torch.minimum(*distances)  # (N, 8)
    return F.smooth_l1_loss(nearest, torch.zeros_like(nearest), reduction="none").mean(dim=1)
