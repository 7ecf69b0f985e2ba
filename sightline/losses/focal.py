"""Cross-entropy of independent sigmoids, with weights for positives and for hard answers."""

import torch
import torch.nn.functional as F
from torch import Tensor


def weighted_bce(logits: Tensor, targets: Tensor, *, positive_weight: float = 1.0) -> Tensor:
    """Binary cross-entropy of independent sigmoids, not reduced.

    Args:
        logits: Any shape, before the sigmoid.
        targets: The same shape, in [0, 1].
        positive_weight: Factor of the positive part: ``-w * t * log(p) - (1 - t) * log(1 - p)``.

    Returns:
        The shape of ``logits``.
    """
    weight = None if positive_weight == 1 else logits.new_tensor(positive_weight)
    return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="none")


def sigmoid_focal_loss(
    logits: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 2.0, positive_weight: float = 1.0
) -> Tensor:
    """Focal loss of independent per-class sigmoids, not reduced.

    ``alpha_t * (1 - p_t) ** gamma`` times the cross-entropy, where ``p_t = t * p + (1 - t) * (1 - p)`` and
    ``alpha_t = t * alpha + (1 - t) * (1 - alpha)``, so that soft targets are allowed.
    With ``gamma=0, alpha=0.5`` it is half the binary cross-entropy.

    Args:
        logits: Any shape, before the sigmoid.
        targets: The same shape, in [0, 1].
        alpha: Weight of positive answers, in [0, 1].
        gamma: Damping of easy answers, >= 0.
        positive_weight: As in ``weighted_bce``.

    Returns:
        The shape of ``logits``. The caller reduces.

    Reference:
        Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, eq. 5.
    """
    cross_entropy = weighted_bce(logits, targets, positive_weight=positive_weight)
    probs = torch.sigmoid(logits)
    # 1 - p_t; never exactly 0, where the gradient of a power below 1 is infinite.
    miss = (targets + probs - 2 * targets * probs).clamp(min=torch.finfo(logits.dtype).tiny)
    return (targets * alpha + (1 - targets) * (1 - alpha)) * miss**gamma * cross_entropy


def background_focal_loss(logits: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """``sigmoid_focal_loss`` where all targets are 0, with fewer passes over the logits; not reduced."""
    probs = torch.sigmoid(logits).clamp(min=torch.finfo(logits.dtype).tiny)
    return probs**gamma * F.softplus(logits) * (1 - alpha)
