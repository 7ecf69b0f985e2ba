"""How well pairs of boxes overlap: IoU and its relatives that also have a gradient where boxes are apart.

Shapes: N pairs. Each measure is 1 for equal boxes; the loss is 1 minus the measure.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from sightline.ops.checks import check_shape

Overlap = Literal["iou", "giou", "diou", "ciou"]


def paired_overlap(boxes_a: Tensor, boxes_b: Tensor, *, kind: Overlap = "iou", eps: float = 1e-7) -> Tensor:
    """Overlap of the i-th box of ``boxes_a`` with the i-th box of ``boxes_b``.

    ``giou`` subtracts the share of the enclosing box that neither fills, ``diou`` the squared distance of
    the centres over the squared diagonal of the enclosing box, and ``ciou`` in addition
    ``v^2 / (1 - IoU + v)``, where v compares the two aspect ratios; its weight ``v / (1 - IoU + v)`` is taken
    as a constant by the gradient.

    Args:
        boxes_a: (N, 4) xyxy, any unit.
        boxes_b: (N, 4) xyxy, the same unit.
        kind: Which measure.
        eps: Added to heights and denominators, so that boxes without area give finite values and gradients.

    Returns:
        (N,): ``iou`` in [0, 1], the others in (-1, 1] (``ciou`` may go a little below).

    Raises:
        ValueError: If a shape is wrong.

    Reference:
        GIoU: Rezatofighi et al., CVPR 2019. DIoU and CIoU: Zheng et al., AAAI 2020, eq. 7 to 11.
    """
    check_shape("boxes_a", boxes_a, ("N", 4))
    check_shape("boxes_b", boxes_b, (len(boxes_a), 4))
    # In this order of operations values and gradients have the bits of the recorded ones.
    left_a, top_a, right_a, bottom_a = boxes_a.unbind(1)
    left_b, top_b, right_b, bottom_b = boxes_b.unbind(1)
    shared_width = (torch.minimum(right_a, right_b) - torch.maximum(left_a, left_b)).clamp(min=0)
    shared_height = (torch.minimum(bottom_a, bottom_b) - torch.maximum(top_a, top_b)).clamp(min=0)
    overlap = shared_width * shared_height
    width_a, height_a = right_a - left_a, bottom_a - top_a + eps
    width_b, height_b = right_b - left_b, bottom_b - top_b + eps
    union = width_a * height_a + width_b * height_b - overlap + eps
    iou = overlap / union
    if kind == "iou":
        return iou

    hull_width = torch.maximum(right_a, right_b) - torch.minimum(left_a, left_b)
    hull_height = torch.maximum(bottom_a, bottom_b) - torch.minimum(top_a, top_b)
    if kind == "giou":
        hull = hull_width * hull_height + eps
        return iou - (hull - union) / hull

    diagonal = hull_width.square() + hull_height.square() + eps
    twice_dx, twice_dy = left_b + right_b - left_a - right_a, top_b + bottom_b - top_a - bottom_a
    distance = (twice_dx.square() + twice_dy.square()) / 4 / diagonal
    if kind == "diou":
        return iou - distance

    angles = torch.atan(width_b / (height_b + eps)) - torch.atan(width_a / (height_a + eps))
    aspect = 4 / math.pi**2 * angles.square()
    weight = (aspect / (aspect - iou + (1 + eps))).detach()
    return iou - (distance + weight * aspect)
