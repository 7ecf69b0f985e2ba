"""Which detection found which object by the rule of KITTI's devkit. Flat NumPy arrays, all frames at once.

Shapes: N detections, M truths, P pairs of both, T score thresholds.

The rule: in a frame the objects choose one after the other, in the order of the file, among the detections that are
left. What one object takes is missing for the next, but only where both overlap the same detection; so objects that
share none choose together, whatever their frame and for all thresholds at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from sightline.metrics.kitti_boxes import KittiDetections, KittiTruths
from sightline.ops.rotated_iou import paired_rotated_iou

Array = np.ndarray[Any, Any]

PAIRS_AT_ONCE = 2_000_000
"""Pairs looked at in one go; bounds memory where a frame holds thousands of boxes."""


class FramePairs(NamedTuple):
    """Pairs of a truth and a detection of one frame that overlap enough; by truth, then by detection."""

    truths: Array
    """(P,) int64."""
    detections: Array
    """(P,) int64."""
    overlaps: Array
    """(3, P) float64: intersection over union in the picture, from above, and in space."""


def same_frame(truth_frames: Array, detection_frames: Array) -> Iterator[tuple[Array, Array]]:
    """Indices (P,) and (P,) of all pairs of one frame, in parts of a bounded size; both inputs ascend."""
    first = np.searchsorted(detection_frames, truth_frames, "left")
    count = np.searchsorted(detection_frames, truth_frames, "right") - first
    ends = np.cumsum(count)
    start = 0
    while start < len(truth_frames):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + PAIRS_AT_ONCE, "right")))
        counts = count[start:stop]
        truths = np.repeat(np.arange(start, stop), counts)
        within = np.arange(len(truths)) - np.repeat(ends[start:stop] - counts - done, counts)
        yield truths, within + np.repeat(first[start:stop], counts)
        start = stop


def overlapping_pairs(truths: KittiTruths, detections: KittiDetections, *, min_iou: float) -> FramePairs:
    """All pairs of one frame of which some overlap exceeds ``min_iou``.

    Args:
        truths: By ascending frame.
        detections: By ascending frame.
        min_iou: In (0, 1].
    """
    truth_ground, detection_ground = _ground(truths.boxes_camera), _ground(detections.boxes_camera)
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((3, 0)))]
    for t, d in same_frame(truths.frames, detections.frames):
        image = image_overlap(truths.boxes_xyxy[t], detections.boxes_xyxy[d])
        is_near = _may_overlap(truth_ground, detection_ground, t, d, min_iou)
        overlaps = np.stack((image, np.zeros(len(t)), np.zeros(len(t))))
        near = np.flatnonzero(is_near)
        overlaps[1:, near] = _overlaps_in_space(truths.boxes_camera[t[near]], detections.boxes_camera[d[near]])
        kept = np.flatnonzero((overlaps > min_iou).any(axis=0))
        parts.append((t[kept], d[kept], overlaps[:, kept]))
    return FramePairs(*(np.concatenate(columns, axis=-1) for columns in zip(*parts, strict=True)))


def image_overlap(boxes_a: Array, boxes_b: Array, *, over_second: bool = False) -> Array:
    """(P,) intersection of boxes (P, 4) with those of the same row, over the union or over the second's area."""
    size = np.minimum(boxes_a[:, 2:], boxes_b[:, 2:]) - np.maximum(boxes_a[:, :2], boxes_b[:, :2])
    common = size[:, 0] * size[:, 1]
    area_a, area_b = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) for boxes in (boxes_a, boxes_b))
    overlap = np.zeros(len(common))
    whole = area_b if over_second else area_a + area_b - common
    np.divide(common, whole, out=overlap, where=(size > 0).all(axis=1))
    return overlap


def _ground(boxes_camera: Array) -> Array:
    """(N, 5) the boxes from above, as ``ops.rotated_iou`` takes rectangles: x, z, length, width, -rotation."""
    x, _, z, length, _, width, rotation = boxes_camera.T
    return np.stack((x, z, length, width, -rotation), axis=1)


def _may_overlap(ground_a: Array, ground_b: Array, index_a: Array, index_b: Array, min_iou: float) -> Array:
    """(P,) whether the upright bounds of the rectangles leave room for more than ``min_iou``."""
    sides = []
    for ground, index in ((ground_a, index_a), (ground_b, index_b)):
        half = np.maximum(ground[:, 2:4], 0) / 2
        cos, sin = np.abs(np.cos(ground[:, 4])), np.abs(np.sin(ground[:, 4]))
        reach = np.stack((half[:, 0] * cos + half[:, 1] * sin, half[:, 0] * sin + half[:, 1] * cos), axis=1)
        low, high = ground[:, :2] - reach, ground[:, :2] + reach
        sides.append((low[index], high[index], (4 * half.prod(axis=1))[index]))
    (low_a, high_a, area_a), (low_b, high_b, area_b) = sides
    size = np.minimum(high_a, high_b) - np.maximum(low_a, low_b)
    most = np.minimum(np.maximum(size, 0).prod(axis=1), np.minimum(area_a, area_b))
    may: Array = (most > 0) & (most * (1 + 1e-9) > min_iou * (area_a + area_b - most))
    return may


def _overlaps_in_space(boxes_a: Array, boxes_b: Array) -> Array:
    """(2, P) overlap from above and in space of camera boxes (P, 7) with those of the same row."""
    grounds = [torch.from_numpy(np.ascontiguousarray(_ground(boxes))) for boxes in (boxes_a, boxes_b)]
    common = paired_rotated_iou(*grounds, over="nothing").numpy()
    (area_a, height_a), (area_b, height_b) = ((b[:, 3] * b[:, 5], b[:, 4]) for b in (boxes_a, boxes_b))
    top = np.maximum(boxes_a[:, 1] - height_a, boxes_b[:, 1] - height_b)  # y points down
    volume = common * np.maximum(np.minimum(boxes_a[:, 1], boxes_b[:, 1]) - top, 0)
    bev, space = np.zeros(len(common)), np.zeros(len(common))
    np.divide(common, area_a + area_b - common, out=bev, where=common > 0)
    np.divide(volume, area_a * height_a + area_b * height_b - volume, out=space, where=volume > 0)
    return np.stack((bev, space))


def turns_to_choose(truths: Array, detections: Array) -> Array:
    """(P,) when the truth of each pair chooses: after all earlier truths that overlap a detection which it overlaps.

    Args:
        truths: (P,) indices; a smaller one chooses first.
        detections: (P,).
    """
    if len(truths) == 0:
        return np.zeros(0, np.int64)
    by_detection = np.lexsort((truths, detections))
    t, d = truths[by_detection], detections[by_detection]
    shared = np.flatnonzero(d[1:] == d[:-1])
    earlier, later = t[shared], t[shared + 1]
    turn = np.zeros(int(truths.max()) + 1, np.int64)
    while True:
        before = turn[later]
        np.maximum.at(turn, later, turn[earlier] + 1)
        if (turn[later] == before).all():
            return turn[truths]


def choose(turns: Array, truths: Array, detections: Array, allowed: Array) -> Array:
    """(P, T) bool: what each truth takes: the first of its pairs that is allowed and not taken yet.

    Args:
        turns: (P,) of ``turns_to_choose``, ascending.
        truths: (P,) equal ones of a turn stand together, what they like best first.
        detections: (P,).
        allowed: (P, T) bool.
    """
    chosen = np.zeros_like(allowed)
    if len(truths) == 0:
        return chosen
    taken = np.zeros((int(detections.max()) + 1, allowed.shape[1]), dtype=bool)
    start = 0
    for end in (np.flatnonzero(np.diff(turns, append=turns[-1] + 1)) + 1).tolist():
        rows = slice(start, end)
        free = allowed[rows] & ~taken[detections[rows]]
        is_first = np.r_[True, truths[rows][1:] != truths[rows][:-1]]
        if not is_first.all():
            count = np.cumsum(free, axis=0, dtype=np.int32)
            firsts = np.flatnonzero(is_first)
            before = (count[firsts] - free[firsts])[np.cumsum(is_first) - 1]
            free &= count - before == 1
        chosen[rows] = free
        taken[detections[rows]] |= free  # nobody else of this turn overlaps these detections
        start = end
    return chosen
