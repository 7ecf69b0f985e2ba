"""The heading of a box as one of a few directions. Shapes: N boxes.

Losses that compare sines cannot tell the front of a box from its rear; which of some parts of a turn the heading lies
in is predicted apart. Bin k begins at ``offset + k * 2 pi / bins``.
"""

from __future__ import annotations

import math

from torch import Tensor

from sightline.ops.boxes3d import wrap


def direction_labels(yaws: Tensor, *, bins: int, offset: float) -> Tensor:
    """(N,) yaws, radians, to the bin of each, (N,) int64 in 0..bins-1."""
    turn = wrap(yaws - offset, 0.0, 2 * math.pi)
    return (turn / (2 * math.pi / bins)).floor().long().clamp(0, bins - 1)


def yaws_in_bins(yaws: Tensor, labels: Tensor, *, bins: int, offset: float, limit_offset: float = 0.0) -> Tensor:
    """(N,) yaws turned by whole bins into those of ``labels`` (N,).

    Args:
        yaws: Radians, right up to whole bins.
        labels: int64 in 0..bins-1.
        bins: Their number.
        offset: Where the first one begins, radians.
        limit_offset: Where the part of a turn begins into which yaws are brought before the bin is added, in bins
            before ``offset``; 0 for yaws inside of their bins.
    """
    period = 2 * math.pi / bins
    return wrap(yaws - offset, limit_offset, period) + offset + period * labels.to(yaws.dtype)
