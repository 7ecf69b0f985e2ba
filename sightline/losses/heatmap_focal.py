"""Losses of detectors that find the centres of objects: of the heat map, and of the numbers told at a centre."""

import torch
from torch import Tensor


def heatmap_focal_loss(probs: Tensor, targets: Tensor, *, alpha: float = 2.0, beta: float = 4.0) -> Tensor:
    """Focal loss of a heat map, not reduced.

    ``-(1 - p)^alpha * log(p)`` where the target is 1, else ``-(1 - t)^beta * p^alpha * log(1 - p)``: near a centre a
    high answer costs less. The caller sums and divides by the number of targets that are 1.

    Args:
        probs: Any shape, in (0, 1), after the sigmoid; clamped away from 0 and 1.
        targets: The same shape, in [0, 1].
        alpha: Damping of easy answers, >= 0.
        beta: Damping near centres, >= 0.

    Returns:
        The shape of ``probs``.

    Reference:
        Law and Deng, "CornerNet: Detecting Objects as Paired Keypoints", ECCV 2018, eq. 1.
    """
    is_centre = targets == 1
    hit = torch.where(is_centre, probs, 1 - probs)
    weight = torch.where(is_centre, 1.0, (1 - targets) ** beta)
    return -weight * (1 - hit) ** alpha * torch.log(hit)


def known_l1_loss(predicted: Tensor, targets: Tensor) -> Tensor:
    """Absolute differences, not reduced; 0, and without gradient, where the target is NaN: nobody knows it.

    Args:
        predicted: Any shape.
        targets: The same shape; NaN where unknown, as velocities of objects seen once.

    Returns:
        The shape of ``predicted``.
    """
    return (predicted - torch.where(targets.isnan(), predicted.detach(), targets)).abs()
