"""Cross-entropy of one class per image, softened and mixed. Shapes: B images, K classes."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from sightline.ops.checks import check_shape


class MixedLabels(NamedTuple):
    """The second class of images that were mixed of two."""

    labels: Tensor
    """(B,) int64."""
    shares: Tensor
    """(B,) in [0, 1], how much of each image is the *first* one; 1 where nothing was mixed."""


def soft_cross_entropy(
    logits: Tensor, labels: Tensor, *, smoothing: float = 0.0, mixed: MixedLabels | None = None
) -> Tensor:
    """Cross-entropy with the target ``(1 - smoothing) one_hot + smoothing / K``, not reduced.

    Of mixed images the target is the mean of both classes' targets, weighted by their shares.

    Args:
        logits: (B, K), before the softmax.
        labels: (B,) int64 in [0, K).
        smoothing: Part of the target that is spread over all classes, in [0, 1).
        mixed: The second classes, where images were mixed.

    Returns:
        (B,) at least 0.

    Raises:
        ValueError: If a shape or ``smoothing`` is wrong.

    Reference:
        Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016, section 7 (smoothing); Zhang et al.,
        "mixup", ICLR 2018.
    """
    check_shape("logits", logits, ("B", "K"))
    check_shape("labels", labels, (len(logits),))
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing: expected a number in [0, 1), got {smoothing}.")
    log_probs = F.log_softmax(logits, dim=1)  # (B, K)
    losses = F.nll_loss(log_probs, labels, reduction="none")
    if mixed is not None:
        check_shape("mixed.labels", mixed.labels, (len(logits),))
        check_shape("mixed.shares", mixed.shares, (len(logits),))
        other = F.nll_loss(log_probs, mixed.labels, reduction="none")
        losses = other + mixed.shares.to(losses.dtype) * (losses - other)
    if smoothing:
        losses = (1 - smoothing) * losses - smoothing * log_probs.mean(dim=1)
    return losses
