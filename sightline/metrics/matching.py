"""Which detection found which true box. Flat numpy arrays, all images and classes at once.

Shapes: N detections, M truths, P pairs, C detections that overlap something, A area ranges, T IoU
thresholds. ``boxes_xywh`` is (x_min, y_min, width, height) in pixels, the layout of COCO files: the official
evaluation computes with width and height, so rounding is the same only in this layout.

A *group* holds the boxes that may match each other: those of one image, or of one image and one class.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

PAIRS_AT_ONCE = 2_000_000
"""Pairs whose IoU is computed in one go; bounds memory where one image holds thousands of boxes."""


@dataclass(frozen=True)
class BoxPairs:
    """Pairs of a detection and a truth of the same group that overlap enough to be worth a look."""

    detections: Array
    """(P,) int64, index of the detection; ascending."""
    truths: Array
    """(P,) int64, index of the truth; ascending inside a detection."""
    iou: Array
    """(P,) float64."""


def overlapping_pairs(
    detection_groups: Array,
    detection_boxes_xywh: Array,
    truth_groups: Array,
    truth_boxes_xywh: Array,
    is_crowd: Array,
    *,
    min_iou: float,
) -> BoxPairs:
    """All pairs of one group with an IoU of at least ``min_iou``.

    With a crowd truth the overlap is divided by the area of the detection alone, so that a detection inside
    the crowd's region counts as overlapping it fully. Boxes without area overlap nothing.

    Args:
        detection_groups: (N,) int64, the group of each detection, in any order.
        detection_boxes_xywh: (N, 4) float64.
        truth_groups: (M,) int64, ascending.
        truth_boxes_xywh: (M, 4) float64.
        is_crowd: (M,) bool.
        min_iou: In (0, 1].
    """
    first = np.searchsorted(truth_groups, detection_groups, "left")
    count = np.searchsorted(truth_groups, detection_groups, "right") - first
    ends = np.cumsum(count)
    parts: list[tuple[Array, Array, Array]] = []
    start = 0
    while start < len(detection_groups):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + PAIRS_AT_ONCE, "right")))
        counts = count[start:stop]
        detections = np.repeat(np.arange(start, stop), counts)
        truths = np.arange(len(detections)) + np.repeat(first[start:stop] - (ends[start:stop] - counts - done), counts)
        iou = _pair_iou(detection_boxes_xywh, truth_boxes_xywh, is_crowd, detections, truths)
        near = np.flatnonzero(iou >= min_iou)
        parts.append((detections[near], truths[near], iou[near]))
        start = stop
    if not parts:
        return BoxPairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    detections, truths, iou = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return BoxPairs(detections, truths, iou)


def _pair_iou(
    detection_boxes_xywh: Array, truth_boxes_xywh: Array, is_crowd: Array, detections: Array, truths: Array
) -> Array:
    """(P,) IoU of the named pairs, with the operations of the official tool in their order."""
    d_x, d_y, d_w, d_h = (column[detections] for column in detection_boxes_xywh.T)
    t_x, t_y, t_w, t_h = (column[truths] for column in truth_boxes_xywh.T)
    width = np.minimum(d_w + d_x, t_w + t_x) - np.maximum(d_x, t_x)
    height = np.minimum(d_h + d_y, t_h + t_y) - np.maximum(d_y, t_y)
    area = d_w * d_h
    overlap = width * height
    union = np.where(is_crowd[truths], area, area + t_w * t_h - overlap)
    iou = np.zeros(len(overlap))
    np.divide(overlap, union, out=iou, where=(width > 0) & (height > 0))
    return iou


@dataclass(frozen=True)
class ScoreMatches:
    """What the detections that overlap some truth became, for every area range and IoU threshold.

    A detection that is not listed in ``detections`` found nothing.
    """

    detections: Array
    """(C,) int64, index of the detection; ascending."""
    is_true: Array
    """(C, A, T) bool: found a truth that counts."""
    is_ignored: Array
    """(C, A, T) bool: neither right nor wrong."""


def match_in_score_order(
    pairs: BoxPairs,
    detection_groups: Array,
    truth_is_ignored: Array,
    is_crowd: Array,
    detection_is_outside: Array,
    iou_thresholds: Array,
    uncounted: Array | None = None,
) -> ScoreMatches:
    """The matching of the COCO evaluation: inside a group, the best detection chooses first.

    A detection takes the free truth with the largest IoU at or above the threshold. Truths that count go
    before ignored ones, whatever their IoU; of equal IoUs the last truth wins. A truth is taken once, a crowd
    any number of times. A detection that found nothing and whose area is out of range is ignored.

    Args:
        pairs: Of these detections, with every IoU of at least ``min(iou_thresholds)``.
        detection_groups: (N,) int64. The detections of a group stand together, best score first.
        truth_is_ignored: (M, A) bool.
        is_crowd: (M,) bool.
        detection_is_outside: (N, A) bool, the area is out of range.
        iou_thresholds: (T,) float64.
        uncounted: (M,) bool, truths whose match does not count as one (see ``CocoAP``).
    """
    num_areas, num_thresholds = truth_is_ignored.shape[1], len(iou_thresholds)
    detections, of_pair = np.unique(pairs.detections, return_inverse=True)
    turn_of_detection = place_in_run(detection_groups[detections])

    # Turn by turn: the n-th overlapping detections of all groups choose together, for they never compete.
    order = np.lexsort((pairs.truths, pairs.iou, of_pair, turn_of_detection[of_pair]))
    of_pair, truths, iou = of_pair[order], pairs.truths[order], pairs.iou[order]
    ends: Array = np.cumsum(np.bincount(turn_of_detection[of_pair]))

    place = (place_in_run(of_pair) + 1).astype(np.int32)  # larger is better: by IoU, then by position
    counts = np.int32(len(iou) + 1)  # what a truth that counts is worth more than an ignored one
    worth = place[:, None] + counts * ~truth_is_ignored[truths]  # (P, A)
    far_enough = iou[:, None] >= np.minimum(iou_thresholds, 1 - 1e-10)  # (P, T)
    is_taken = np.zeros((len(is_crowd), num_areas, num_thresholds), dtype=bool)
    is_true = np.zeros((len(detections), num_areas, num_thresholds), dtype=bool)
    is_ignored = np.zeros_like(is_true)
    start = 0
    for end in ends:
        turn = slice(start, end)
        chooser, truth = of_pair[turn], truths[turn]
        is_free = far_enough[turn, None, :] & ~is_taken[truth]
        offer = np.where(is_free, worth[turn, :, None], 0)  # (turn's pairs, A, T)
        is_first = np.r_[True, chooser[1:] != chooser[:-1]]
        best = np.maximum.reduceat(offer, np.flatnonzero(is_first), axis=0)
        is_chosen = (offer == best[np.cumsum(is_first) - 1]) & is_free
        is_taken[truth] |= is_chosen & ~is_crowd[truth, None, None]

        chooser = chooser[is_first]
        is_hit, is_good = best > 0, best > counts
        is_void = np.zeros_like(is_hit)
        if uncounted is not None and uncounted[truth].any():
            lost = is_chosen & uncounted[truth, None, None]
            is_void = np.logical_or.reduceat(lost, np.flatnonzero(is_first), axis=0)
        is_true[chooser] = is_good & ~is_void
        is_outside = detection_is_outside[detections[chooser], :, None]
        is_ignored[chooser] = (is_hit & ~is_good) | (~(is_hit & ~is_void) & is_outside)
        start = end
    return ScoreMatches(detections, is_true, is_ignored)


def match_by_overlap(pairs: BoxPairs) -> tuple[Array, Array]:
    """One-to-one pairs by IoU: each detection names its best truth, then each truth keeps its best detection.

    A detection whose best truth prefers another gets no second choice. Of equal IoUs the first detection and
    the first truth win.

    Args:
        pairs: Where a group is an image, classes are mixed.

    Returns:
        Indices (K,) of the detections and (K,) of their truths.
    """
    order = np.lexsort((pairs.truths, pairs.detections, -pairs.iou))
    detections, truths = pairs.detections[order], pairs.truths[order]
    for side in (0, 1):
        _, first = np.unique((detections, truths)[side], return_index=True)
        first.sort()
        detections, truths = detections[first], truths[first]
    return detections, truths


def place_in_run(keys: Array) -> Array:
    """(N,) how many equal neighbours stand directly before each element: [5, 5, 2, 5] gives [0, 1, 0, 0]."""
    if len(keys) == 0:
        return np.zeros(0, np.int64)
    is_first = np.r_[True, keys[1:] != keys[:-1]]
    places: Array = np.arange(len(keys)) - np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
    return places
