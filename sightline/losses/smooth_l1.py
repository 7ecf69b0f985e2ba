"""Absolute differences that are squared near 0, and differences of angles."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def smooth_l1_loss(predicted: Tensor, targets: Tensor, *, beta: float, code_weights: Tensor | None = None) -> Tensor:
    """``d^2 / (2 beta)`` where ``|d| < beta``, else ``|d| - beta / 2``; not reduced.

    Args:
        predicted: (..., C).
        targets: The same shape; where NaN, the loss and its gradient are 0.
        beta: >= 0; with 0 the absolute difference.
        code_weights: (C,) factors of the difference ``d``.

    Returns:
        The shape of ``predicted``.

    Reference:
        Girshick, "Fast R-CNN", ICCV 2015, eq. 3.
    """
    difference = predicted - torch.where(targets.isnan(), predicted, targets)
    if code_weights is not None:
        difference = difference * code_weights
    return F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none", beta=beta)


def sine_pair(predicted: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Two numbers whose difference is ``sin(predicted - target)``, so that half a turn costs nothing.

    Args:
        predicted: Angles, radians, any shape.
        targets: The same shape.

    Reference:
        Yan et al., "SECOND: Sparsely Embedded Convolutional Detection", Sensors 2018, eq. 3.
    """
    return predicted.sin() * targets.cos(), predicted.cos() * targets.sin()
