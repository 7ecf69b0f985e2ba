"""Softened class targets."""

import torch
from torch import Tensor

from sightline.ops.checks import check_shape


def smooth_one_hot(
    labels: Tensor, num_classes: int, smoothing: float = 0.0, dtype: torch.dtype | None = None
) -> Tensor:
    """Targets for independent sigmoids: ``1 - smoothing / 2`` for the class of a row, else ``smoothing / 2``.

    Args:
        labels: (N,) int64 in [0, ``num_classes``).
        num_classes: K.
        smoothing: In [0, 1).
        dtype: Of the result; None means torch's default.

    Returns:
        (N, K).

    Raises:
        ValueError: If the shape or ``smoothing`` is wrong.
    """
    check_shape("labels", labels, ("N",))
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing: expected a number in [0, 1), got {smoothing}.")
    targets = torch.full((len(labels), num_classes), smoothing / 2, dtype=dtype, device=labels.device)
    return targets.scatter_(1, labels[:, None], 1 - smoothing / 2)
