"""Axis-aligned 2D boxes. Shapes: N, M boxes.

Convention: ``boxes_xyxy`` is (x_min, y_min, x_max, y_max) in pixels. The origin is the top-left
corner of the top-left pixel; y points down; a box around one pixel is 1 wide.
``boxes_cxcywh`` is (x_center, y_center, width, height) in the same frame.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sightline.ops.checks import check_shape


class BoxTargets(NamedTuple):
    """The true boxes of a batch of images, flat, in pixels of the network's input."""

    boxes_xyxy: Tensor
    """(M, 4) float32."""
    labels: Tensor
    """(M,) int64."""
    image_index: Tensor
    """(M,) int64, which image of the batch each box lies in; ascending."""


class Detections(NamedTuple):
    """Detections of one image, best first."""

    boxes_xyxy: Tensor
    """(N, 4) float32, pixels."""
    scores: Tensor
    """(N,) float32 in [0, 1]."""
    labels: Tensor
    """(N,) int64."""


def xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """(N, 4) corners to centre and size."""
    check_shape("boxes_xyxy", boxes_xyxy, ("N", 4))
    low, high = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
    return torch.cat(((low + high) / 2, high - low), dim=1)


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """(N, 4) centre and size to corners."""
    check_shape("boxes_cxcywh", boxes_cxcywh, ("N", 4))
    center, half = boxes_cxcywh[:, :2], boxes_cxcywh[:, 2:] / 2
    return torch.cat((center - half, center + half), dim=1)


def box_area(boxes_xyxy: Tensor) -> Tensor:
    """(N,) areas; a box with a negative side has area 0."""
    check_shape("boxes_xyxy", boxes_xyxy, ("N", 4))
    return (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).clamp(min=0).prod(dim=1)


def box_iou(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Intersection over union of every box in ``boxes_a`` with every box in ``boxes_b``.

    Args:
        boxes_a: (N, 4) xyxy, pixels.
        boxes_b: (M, 4) xyxy, pixels.

    Returns:
        (N, M) in [0, 1]. Boxes without area give 0, never NaN.

    Raises:
        ValueError: If a shape is wrong.
    """
    check_shape("boxes_a", boxes_a, ("N", 4))
    check_shape("boxes_b", boxes_b, ("M", 4))
    top_left = torch.maximum(boxes_a[:, None, :2], boxes_b[None, :, :2])  # (N, M, 2)
    bottom_right = torch.minimum(boxes_a[:, None, 2:], boxes_b[None, :, 2:])
    overlap = (bottom_right - top_left).clamp(min=0).prod(dim=-1)  # (N, M)
    union = box_area(boxes_a)[:, None] + box_area(boxes_b)[None, :] - overlap
    return torch.where(union > 0, overlap / union.clamp(min=1e-9), 0.0)
