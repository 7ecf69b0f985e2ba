"""Boxes in space as offsets from anchors, and back. Shapes: N boxes, each with its anchor; C numbers of a box, >= 7.

Reference:
    Yan et al., "SECOND: Sparsely Embedded Convolutional Detection", Sensors 2018, eq. 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sightline.ops.checks import check_shape

SMALLEST_SIZE = 1e-5
"""Smaller boxes and anchors are taken for this size, metres."""


def encode_residuals(boxes3d: Tensor, anchors: Tensor, *, as_sine_and_cosine: bool = False) -> Tensor:
    """Offsets of boxes from anchors.

    x and y over the diagonal of the anchor's ground plane, z over its height, logarithms of the ratios of sizes, and
    the differences of yaw and of what follows (velocities).

    Args:
        boxes3d: (N, C), as in ``ops.boxes3d``.
        anchors: (N, C).
        as_sine_and_cosine: Differences of the cosine and of the sine of the yaw, in place of that of the yaw.

    Returns:
        (N, C), or (N, C + 1).
    """
    check_shape("boxes3d", boxes3d, ("N", "C"))
    check_shape("anchors", anchors, boxes3d.shape)
    sizes, anchor_sizes = boxes3d[:, 3:6].clamp(min=SMALLEST_SIZE), anchors[:, 3:6].clamp(min=SMALLEST_SIZE)
    centers = (boxes3d[:, :3] - anchors[:, :3]) / _units(anchor_sizes)
    yaw, anchor_yaw = boxes3d[:, 6:7], anchors[:, 6:7]
    turned = [yaw.cos() - anchor_yaw.cos(), yaw.sin() - anchor_yaw.sin()] if as_sine_and_cosine else [yaw - anchor_yaw]
    return torch.cat((centers, (sizes / anchor_sizes).log(), *turned, boxes3d[:, 7:] - anchors[:, 7:]), dim=1)


def decode_residuals(codes: Tensor, anchors: Tensor, *, as_sine_and_cosine: bool = False) -> Tensor:
    """The boxes of such offsets.

    Args:
        codes: (N, C), or (N, C + 1).
        anchors: (N, C).
        as_sine_and_cosine: As in ``encode_residuals``.

    Returns:
        (N, C).
    """
    check_shape("anchors", anchors, ("N", "C"))
    check_shape("codes", codes, (len(anchors), anchors.shape[1] + as_sine_and_cosine))
    anchor_sizes = anchors[:, 3:6]
    centers = codes[:, :3] * _units(anchor_sizes) + anchors[:, :3]
    yaw = anchors[:, 6:7]
    if as_sine_and_cosine:
        yaw = torch.atan2(codes[:, 7:8] + yaw.sin(), codes[:, 6:7] + yaw.cos())
    else:
        yaw = codes[:, 6:7] + yaw
    rest = codes[:, 7 + as_sine_and_cosine :] + anchors[:, 7:]
    return torch.cat((centers, codes[:, 3:6].exp() * anchor_sizes, yaw, rest), dim=1)


def _units(sizes: Tensor) -> Tensor:
    """(N, 3) sizes to what the offsets of the centre are counted in."""
    diagonal = (sizes[:, 0].square() + sizes[:, 1].square()).sqrt()
    return torch.stack((diagonal, diagonal, sizes[:, 2]), dim=1)
