"""KITTI's curves of precision and of orientation over recall. Flat NumPy arrays, all frames at once.

The rule is that of the devkit (see ``kitti_rules``), in two passes. In the first every object takes, of the detections
that overlap it enough, the one of the highest score; the scores of those found place the thresholds. In the second, at
each threshold, it takes the one that overlaps most.

Shapes: N detections, M truths, P pairs of both, K classes, D = 3 difficulties, S = 2 sets of overlaps (strict, loose),
T thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from sightline.metrics.kitti_boxes import KittiDetections, KittiTruths
from sightline.metrics.kitti_matching import (
    FramePairs,
    choose,
    image_overlap,
    overlapping_pairs,
    same_frame,
    turns_to_choose,
)
from sightline.metrics.kitti_rules import (
    DONT_CARE,
    LIMITS,
    METRICS,
    NEIGHBOURS,
    NUM_RECALLS,
    Difficulty,
    min_overlaps,
    recall_thresholds,
)

Array = np.ndarray[Any, Any]

RECALL_AT = (0.3, 0.5, 0.7)
"""Overlaps in space at which the recall over all classes is given."""
NO_ALPHA = -10.0
"""The angle of a detector that gives none."""


class KittiCurves:
    """One evaluation: what all classes, difficulties and overlaps share, and the curves of each."""

    def __init__(
        self,
        class_names: tuple[str, ...],
        type_names: tuple[str, ...],
        truths: KittiTruths,
        detections: KittiDetections,
    ) -> None:
        self.class_names = class_names
        self.truths, self.detections = truths, detections
        self.type_names = [name.casefold() for name in type_names]
        self.overlaps = np.stack([min_overlaps(name) for name in class_names]) if class_names else np.ones((0, 2, 3))
        least = min([*self.overlaps.ravel().tolist(), *RECALL_AT])
        self.pairs = overlapping_pairs(truths, detections, min_iou=least)
        self.heights = detections.boxes_xyxy[:, 3] - detections.boxes_xyxy[:, 1]  # (N,)
        self.has_angles = len(detections.alphas) > 0 and bool(detections.alphas[0] != NO_ALPHA)
        self.is_beyond = np.stack([_is_beyond(truths, limit) for limit in LIMITS])  # (D, M)
        self.without_labels = self._overlap_without_labels()  # (N,)

    def _overlap_without_labels(self) -> Array:
        """(N,) largest share of each detection's box in the picture that lies in one region without labels."""
        most = np.zeros(len(self.detections.labels))
        regions = np.flatnonzero(self._is_of_type({DONT_CARE}))
        for region, detection in same_frame(self.truths.frames[regions], self.detections.frames):
            share = image_overlap(
                self.truths.boxes_xyxy[regions[region]], self.detections.boxes_xyxy[detection], over_second=True
            )
            np.maximum.at(most, detection, share)
        return most

    def _is_of_type(self, names: set[str] | frozenset[str]) -> Array:
        """(M,) whether the truth's type is one of these."""
        wanted = np.array([name in names for name in self.type_names], dtype=bool)
        is_of_type: Array = wanted[self.truths.types] if len(wanted) else np.zeros(len(self.truths.types), bool)
        return is_of_type

    def all_curves(self) -> dict[str, Array]:
        """``image``, ``bev``, ``3d`` and, where detections have angles, ``aos``: (K, D, S, 41)."""
        names = [*METRICS, "aos"] if self.has_angles else [*METRICS]
        curves = {name: np.zeros((len(self.class_names), len(LIMITS), 2, NUM_RECALLS)) for name in names}
        for label in range(len(self.class_names)):
            self._fill(curves, label)
        return curves

    def num_truths(self) -> Array:
        """(K,) objects of each class."""
        return np.array([self._is_of_type({name.casefold()}).sum() for name in self.class_names], dtype=np.int64)

    def num_detections(self) -> Array:
        """(K,) detections of each class."""
        counts: Array = np.bincount(self.detections.labels + 1, minlength=len(self.class_names) + 1)[1:]
        return counts

    def num_valid(self) -> Array:
        """(K, D) objects of each class that count."""
        own = [self._is_of_type({name.casefold()}) for name in self.class_names]
        counts = [(is_own & ~self.is_beyond).sum(axis=1) for is_own in own]
        return np.array(counts, dtype=np.int64).reshape(len(own), len(LIMITS))

    def recall(self) -> dict[float, float]:
        """Percent of all objects of the classes that some detection overlaps in space by more than each overlap."""
        best = np.zeros(len(self.truths.types))
        np.maximum.at(best, self.pairs.truths, self.pairs.overlaps[2])
        best = best[self._is_of_type({name.casefold() for name in self.class_names})]
        return {at: float(100 * (best > at).mean()) if len(best) else 0.0 for at in RECALL_AT}

    def _fill(self, curves: dict[str, Array], label: int) -> None:
        """The curves of one class."""
        name = self.class_names[label].casefold()
        is_own, is_neighbour = self._is_of_type({name}), self._is_of_type(NEIGHBOURS.get(name, frozenset()))
        is_labelled = self.detections.labels == label
        is_lowest = self.heights < max(limit.min_height for limit in LIMITS)
        is_rival = (is_own | is_neighbour)[self.pairs.truths] & (is_labelled | is_lowest)[self.pairs.detections]
        for place, metric in enumerate(METRICS):
            strict, loose = self.overlaps[label, :, place]
            for which, overlap in enumerate((strict, loose)):
                if which and loose == strict:
                    for name in (metric, *(["aos"] if metric == "image" and self.has_angles else [])):
                        curves[name][label, :, 1] = curves[name][label, :, 0]
                    continue
                chosen = np.flatnonzero(is_rival & (self.pairs.overlaps[place] > overlap))
                rivals = _Rivals.of(self.pairs, chosen, place)
                is_left_out = self.without_labels > overlap if metric == "image" else np.zeros(len(is_labelled), bool)
                for difficulty, limit in enumerate(LIMITS):
                    precision, similarity = self._curves(
                        rivals,
                        counts=is_own & ~self.is_beyond[difficulty],
                        is_judged=is_labelled & (self.heights >= limit.min_height),
                        is_low=self.heights < limit.min_height,
                        is_left_out=is_left_out,
                    )
                    curves[metric][label, difficulty, which] = precision
                    if metric == "image" and self.has_angles:
                        curves["aos"][label, difficulty, which] = similarity

    def _curves(
        self, rivals: _Rivals, *, counts: Array, is_judged: Array, is_low: Array, is_left_out: Array
    ) -> tuple[Array, Array]:
        """(41,) precision and (41,) similarity of orientation.

        Args:
            rivals: Pairs of this class that overlap enough.
            counts: (M,) truths that must be found; other truths of the pairs are ignored.
            is_judged: (N,) detections of the class that are high enough.
            is_low: (N,) detections that are ignored, of whatever class.
            is_left_out: (N,) detections on regions without labels.
        """
        scores = self.detections.scores
        rivals = rivals.only((is_judged | is_low)[rivals.detections])

        # First every object takes its detection of the highest score: these scores are where to look.
        order = np.lexsort((rivals.detections, -scores[rivals.detections], rivals.truths, rivals.turns))
        first = rivals.only(order)
        is_hit = first.choose(np.ones((len(order), 1), bool))[:, 0]
        is_hit &= counts[first.truths] & is_judged[first.detections]
        thresholds = recall_thresholds(scores[first.detections[is_hit]], int(counts.sum()))[:NUM_RECALLS]

        # Then, of the detections at or above each of them, the one that overlaps most; one that is low if need be.
        is_high = is_judged[rivals.detections]
        liking = np.where(is_high, -rivals.overlaps, 0)
        rivals = rivals.only(np.lexsort((rivals.detections, liking, ~is_high, rivals.truths, rivals.turns)))
        taken = rivals.choose(scores[rivals.detections][:, None] >= thresholds)  # (P, T)
        is_hit = counts[rivals.truths] & is_judged[rivals.detections]  # (P,)
        true = taken[is_hit].sum(axis=0)
        is_wrong_unless_taken = is_judged & ~is_left_out
        falling = np.sort(scores[is_wrong_unless_taken])
        false = len(falling) - np.searchsorted(falling, thresholds, "left")
        false -= taken[is_wrong_unless_taken[rivals.detections]].sum(axis=0)
        turned = self.truths.alphas[rivals.truths[is_hit]] - self.detections.alphas[rivals.detections[is_hit]]
        similarity = ((1 + np.cos(turned)) / 2) @ taken[is_hit]
        return _best_from_here_on(true, true + false), _best_from_here_on(similarity, true + false)


@dataclass(frozen=True)
class _Rivals:
    """Pairs (P,) of a truth and a detection of one class that overlap enough, and when each truth chooses."""

    truths: Array
    detections: Array
    overlaps: Array
    turns: Array

    @classmethod
    def of(cls, pairs: FramePairs, chosen: Array, place: int) -> Self:
        """The chosen pairs with one of their overlaps."""
        truths, detections = pairs.truths[chosen], pairs.detections[chosen]
        return cls(truths, detections, pairs.overlaps[place, chosen], turns_to_choose(truths, detections))

    def only(self, chosen: Array) -> Self:
        """Some pairs, or all in another order."""
        return replace(
            self,
            truths=self.truths[chosen],
            detections=self.detections[chosen],
            overlaps=self.overlaps[chosen],
            turns=self.turns[chosen],
        )

    def choose(self, allowed: Array) -> Array:
        """(P, T) which pairs the truths choose among the allowed ones (P, T); the pairs stand as ``choose`` asks."""
        return choose(self.turns, self.truths, self.detections, allowed)


def _is_beyond(truths: KittiTruths, limit: Difficulty) -> Array:
    """(M,) whether the object is too low, hidden or cut off to count."""
    heights = truths.boxes_xyxy[:, 3] - truths.boxes_xyxy[:, 1]
    is_beyond: Array = (
        (heights <= limit.min_height)
        | (truths.occlusions > limit.max_occlusion)
        | (truths.truncations > limit.max_truncation)
    )
    return is_beyond


def _best_from_here_on(values: Array, counts: Array) -> Array:
    """(41,) share at each threshold, or a later one if that is better; 0 where no threshold is left."""
    curve = np.zeros(NUM_RECALLS)
    np.divide(values, counts, out=curve[: len(counts)], where=counts > 0)
    best: Array = np.maximum.accumulate(curve[::-1])[::-1]
    return best
