"""Greedy suppression of boxes in space that overlap from above. Shapes: N boxes, K classes, E pairs; C >= 7.

The overlap is exact, on any device. Blocks of the best boxes are decided, and what they keep drops its neighbours
among all others. Inside of a block it goes in rounds: a box stays when no better box around it is undecided, which
holds for many boxes at once, and only what stays is compared with its neighbours. So overlaps are worked out for about
the pairs of the textbook's loop whose bounds meet, and the result is that of the loop.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from sightline.ops.checks import check_shape
from sightline.ops.nms import best_candidates
from sightline.ops.rotated_iou import bev_rectangles, iou_of_pairs, touching_pairs

_FIRST_BLOCK = 64
"""Where many boxes lie around few objects, so many of the best are enough to drop nearly all others."""

_LARGEST_BLOCK = 1024

_WORTH_A_ROUND = 1 / 16
"""A round that decides a smaller share of the pairs is the last: long chains of boxes are walked one by one."""


def rotated_nms(
    boxes3d: Tensor,
    scores: Tensor,
    iou_threshold: float,
    *,
    labels: Tensor | None = None,
    score_threshold: float | None = None,
    max_candidates: int | None = None,
    max_kept: int | None = None,
) -> Tensor:
    """Walk from the best box down and drop what overlaps a kept box from above.

    Args:
        boxes3d: (N, C). A box with a number that is not finite overlaps nothing.
        scores: (N,), finite. Equal scores are taken in the order given.
        iou_threshold: Boxes with a larger IoU are dropped, in [0, 1].
        labels: (N,) integers: then only boxes of one class suppress each other.
        score_threshold: Only boxes with at least this score take part.
        max_candidates: Only so many of the best take part, >= 1.
        max_kept: Only so many of the best are returned.

    Returns:
        (K,) int64 indices of the kept boxes, best first.

    Raises:
        ValueError: If a shape or the threshold is wrong.
    """
    rectangles = bev_rectangles(boxes3d)
    check_shape("scores", scores, (len(boxes3d),))
    if labels is not None:
        check_shape("labels", labels, (len(boxes3d),))
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold: expected a number in [0, 1], got {iou_threshold}.")
    order = _candidates(scores, score_threshold, max_candidates)
    kept = _suppress_sorted(rectangles[order], None if labels is None else labels[order], iou_threshold, max_kept)
    return order[kept][:max_kept]


def rotated_nms_per_class(
    boxes3d: Tensor,
    class_scores: Tensor,
    iou_threshold: float,
    *,
    score_threshold: float | None = None,
    max_candidates: int | None = None,
    max_kept: int | None = None,
) -> tuple[Tensor, Tensor]:
    """``rotated_nms`` for each class alone: a box can stay in several classes.

    Args:
        boxes3d: (N, C).
        class_scores: (N, K).
        iou_threshold: As for ``rotated_nms``; this and the limits hold for each class.
        score_threshold: As there.
        max_candidates: As there.
        max_kept: As there.

    Returns:
        Indices (P,) int64 of the boxes and their labels (P,) int64: those of class 0, best first, then of class 1, ...

    Raises:
        ValueError: If a shape or the threshold is wrong.
    """
    check_shape("class_scores", class_scores, (len(boxes3d), "K"))
    kept = [
        rotated_nms(
            boxes3d,
            scores,
            iou_threshold,
            score_threshold=score_threshold,
            max_candidates=max_candidates,
            max_kept=max_kept,
        )
        for scores in class_scores.unbind(dim=1)
    ]
    labels = [torch.full_like(indices, label) for label, indices in enumerate(kept)]
    nothing = torch.zeros(0, dtype=torch.int64, device=boxes3d.device)
    return torch.cat((*kept, nothing)), torch.cat((*labels, nothing))


def _candidates(scores: Tensor, score_threshold: float | None, limit: int | None) -> Tensor:
    """Indices of the boxes that take part, best first."""
    if score_threshold is None:
        return best_candidates(scores, max(len(scores), 1) if limit is None else limit)
    chosen = (scores >= score_threshold).nonzero().squeeze(1)
    return chosen[best_candidates(scores[chosen], max(len(chosen), 1) if limit is None else limit)]


def _suppress_sorted(rectangles: Tensor, labels: Tensor | None, iou_threshold: float, max_kept: int | None) -> Tensor:
    """Kept positions, ascending, of rectangles (N, 5) that are sorted best first; a few more than ``max_kept``."""
    undecided = torch.arange(len(rectangles), device=rectangles.device)
    kept, count = [undecided[:0]], 0
    size = _FIRST_BLOCK
    while len(undecided) > 0 and (max_kept is None or count < max_kept):
        block, undecided = undecided[:size], undecided[size:]
        block = block[_decide(rectangles[block], None if labels is None else labels[block], iou_threshold)]
        kept.append(block)
        count += len(block)
        winner, loser = _neighbours(rectangles, labels, block, undecided)
        overlaps = iou_of_pairs(rectangles[block], rectangles[undecided], winner, loser) > iou_threshold
        is_open = torch.ones_like(undecided, dtype=torch.bool)
        is_open[loser[overlaps]] = False
        undecided = undecided[is_open]
        size = min(2 * size, _LARGEST_BLOCK)
    return torch.cat(kept)


def _decide(rectangles: Tensor, labels: Tensor | None, iou_threshold: float) -> Tensor:
    """Kept positions, ascending, of a block of rectangles (B, 5) that are sorted best first."""
    every = torch.arange(len(rectangles), device=rectangles.device)
    better, worse = _neighbours(rectangles, labels, every, every)
    is_pair = better < worse
    better, worse = better[is_pair], worse[is_pair]
    is_open = torch.ones(len(rectangles), dtype=torch.bool, device=rectangles.device)
    is_kept = torch.zeros_like(is_open)
    while len(better) > 0:
        before = len(better)
        stays = is_open.index_fill(0, worse, False)  # nobody better around it is open
        is_kept |= stays
        is_open &= ~stays
        decides = stays[better]
        winner, loser = better[decides], worse[decides]
        is_open[loser[iou_of_pairs(rectangles, rectangles, winner, loser) > iou_threshold]] = False
        # Both ends open: the pairs just looked at are out, since the winner is not open any more.
        remains = is_open[better] & is_open[worse]
        better, worse = better[remains], worse[remains]
        if before - len(better) < before * _WORTH_A_ROUND:
            overlaps = iou_of_pairs(rectangles, rectangles, better, worse) > iou_threshold
            _walk(is_open, better[overlaps], worse[overlaps])
            break
    return (is_kept | is_open).nonzero().squeeze(1)


def _neighbours(rectangles: Tensor, labels: Tensor | None, some: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (E,) in ``some`` and (E,) in ``others`` of all pairs of one class whose bounds meet."""
    first, second = touching_pairs(rectangles[some], rectangles[others])
    if labels is None:
        return first, second
    is_one_class = labels[some][first] == labels[others][second]
    return first[is_one_class], second[is_one_class]


def _walk(is_open: Tensor, better: Tensor, worse: Tensor) -> None:
    """Close, in place, what the textbook's loop would drop; each pair (E,) suppresses if its better one stays."""
    by_better = better.argsort()
    losers = worse[by_better].cpu().numpy()
    rows, starts = np.unique(better[by_better].cpu().numpy(), return_index=True)
    survives = is_open.cpu().numpy()
    for row, (start, end) in zip(rows, pairwise([*starts, len(losers)]), strict=True):
        if survives[row]:
            survives[losers[start:end]] = False
    is_open.copy_(torch.from_numpy(survives))
