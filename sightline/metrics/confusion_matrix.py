"""Which class the detector says where another one stands.

Rows are predicted classes, columns true classes; the last row is "nothing predicted" (missed truths), the last
column "nothing there" (false detections). Shapes: N detections, M truths, K classes.

Which detection belongs to which truth: detections with a score above the threshold, classes mixed, IoU above
the threshold; each detection names the truth it overlaps most, then each truth keeps the detection that
overlaps it most. The others are false; they get no second choice. Crowds and ignored truths are in no column;
a detection left over on one of them is in no row.
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from sightline.metrics.coco_ap import ScoredBoxes, TruthBoxes
from sightline.metrics.matching import BoxPairs, match_by_overlap, overlapping_pairs

Array = np.ndarray[Any, Any]


class ConfusionMatrix:
    """Counts over the images added."""

    def __init__(self, num_classes: int, *, score_threshold: float = 0.25, iou_threshold: float = 0.45) -> None:
        """Start empty.

        Args:
            num_classes: Labels are 0 to ``num_classes - 1``; the last row and column are the background.
            score_threshold: Only detections with a larger score are looked at.
            iou_threshold: A pair needs a larger IoU.
        """
        self.num_classes = num_classes
        self.score_threshold = score_threshold
        self.iou_threshold = iou_threshold
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self.counts: Array = np.zeros((self.num_classes + 1, self.num_classes + 1), dtype=np.int64)

    def update(self, truths: TruthBoxes, detections: ScoredBoxes) -> None:
        """Add whole images: all their truths and detections in one call.

        Raises:
            ValueError: If a label is no class.
        """
        for name, labels in (("truths", truths.labels), ("detections", detections.labels)):
            outside = [label for label in np.unique(labels) if not 0 <= label < self.num_classes]
            if outside:
                raise ValueError(f"{name}: label {outside[0]}, but the classes are 0 to {self.num_classes - 1}.")
        order = np.argsort(truths.image_ids, kind="stable")
        truth_images = np.asarray(truths.image_ids)[order].astype(np.int64)
        truth_boxes = np.asarray(truths.boxes_xywh, dtype=np.float64).reshape(-1, 4)[order]
        truth_labels = np.asarray(truths.labels)[order].astype(np.int64)
        is_crowd, is_ignored = (
            np.zeros(len(order), bool) if flags is None else np.asarray(flags, dtype=bool)[order]
            for flags in (truths.is_crowd, truths.is_ignored)
        )
        counts = ~(is_crowd | is_ignored)

        kept = np.flatnonzero(np.asarray(detections.scores) > self.score_threshold)
        images = np.asarray(detections.image_ids)[kept].astype(np.int64)
        boxes = np.asarray(detections.boxes_xywh, dtype=np.float64).reshape(-1, 4)[kept]
        labels = np.asarray(detections.labels)[kept].astype(np.int64)

        above = np.nextafter(self.iou_threshold, 1.0)  # strictly more than the threshold
        pairs = overlapping_pairs(images, boxes, truth_images, truth_boxes, is_crowd, min_iou=above)
        on_counted = counts[pairs.truths]
        found, true = match_by_overlap(
            BoxPairs(pairs.detections[on_counted], pairs.truths[on_counted], pairs.iou[on_counted])
        )
        is_false = np.ones(len(kept), bool)
        is_false[found] = False
        is_false[pairs.detections[~on_counted]] = False
        is_missed = counts.copy()
        is_missed[true] = False
        np.add.at(self.counts, (labels[found], truth_labels[true]), 1)
        self.counts[:-1, -1] += np.bincount(labels[is_false], minlength=self.num_classes)
        self.counts[-1, :-1] += np.bincount(truth_labels[is_missed], minlength=self.num_classes)

    def merge(self, others: Sequence[Self]) -> None:
        """Add the counts of other processes."""
        for other in others:
            self.counts += other.counts
