"""Precision, recall and F1 against the confidence threshold, per class, and the best threshold.

Shapes: N detections, K classes, S confidences, R = 101 recalls.

Variant: at a confidence c the detections with a score of at least c are used; precision is
``true / (true + false)`` (1 where none is left), recall ``true / truths``, F1 their harmonic mean. Detections
are judged as the COCO evaluation judges them, at one IoU threshold; ignored ones do not count. Nothing is
interpolated. Precision over recall is that of COCO AP: the best precision at this recall or a higher one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sightline.metrics.coco_ap import RECALLS, CocoResult

Array = np.ndarray[Any, Any]

CONFIDENCES = np.linspace(0.0, 1.0, 1001)


@dataclass(frozen=True)
class DetectionCurves:
    """Curves per class; NaN for a class without truths. Means are over the classes with truths."""

    iou_threshold: float
    confidences: Array
    """(S,)."""
    precision: Array
    """(K, S)."""
    recall: Array
    """(K, S)."""
    f1: Array
    """(K, S)."""
    mean_precision: Array
    """(S,), NaN where no class has a truth."""
    mean_recall: Array
    mean_f1: Array
    recalls: Array
    """(R,), the recalls of ``precision_at_recall``."""
    precision_at_recall: Array
    """(K, R)."""
    best_confidence: float
    """Where the mean F1 is largest: the middle of those confidences; 0 where nothing is defined."""
    best_index: int
    """Its place in ``confidences``."""

    def at_best(self) -> dict[str, float]:
        """Mean precision, recall and F1 at the best confidence; 0 where nothing is defined or nothing was found."""
        means = {"precision": self.mean_precision, "recall": self.mean_recall, "f1": self.mean_f1}
        figures = {name: float(np.nan_to_num(mean[self.best_index])) for name, mean in means.items()}
        if figures["f1"] == 0:
            figures["precision"] = 0.0  # the curve says 1 where no detection is left, which is no praise
        return figures | {"confidence": self.best_confidence}


def detection_curves(result: CocoResult, confidences: Array = CONFIDENCES) -> DetectionCurves:
    """The curves of an evaluation, at its lowest IoU threshold.

    Args:
        result: Of ``CocoAP.evaluate``.
        confidences: (S,) where to look, ascending.
    """
    judged = result.judged
    num_classes = len(judged.num_truths)
    precision, recall, f1 = (np.full((num_classes, len(confidences)), np.nan) for _ in range(3))
    ends = np.searchsorted(judged.labels, np.arange(num_classes), "right")
    for label in np.flatnonzero(judged.num_truths):
        members = slice(ends[label - 1] if label else 0, ends[label])
        is_true, counts = judged.is_true[members], ~judged.is_ignored[members]
        # A detection that is both true and ignored does not exist: a true one found a truth that counts.
        kept = np.searchsorted(-judged.scores[members], -confidences, "right")  # (S,) detections at or above
        true = np.r_[0, np.cumsum(is_true)][kept]
        judged_so_far = np.r_[0, np.cumsum(counts)][kept]
        precision[label] = np.where(judged_so_far > 0, true / np.maximum(judged_so_far, 1), 1.0)
        recall[label] = true / judged.num_truths[label]
        f1[label] = 2 * true / (judged_so_far + judged.num_truths[label])

    has_truths = judged.num_truths > 0
    means = [
        values[has_truths].mean(axis=0) if has_truths.any() else np.full(len(confidences), np.nan)
        for values in (precision, recall, f1)
    ]
    best = np.flatnonzero(means[2] == means[2].max())
    best_index = int(best[len(best) // 2]) if len(best) else 0
    at_recall = np.where(has_truths[:, None], result.precision[0, :, :, 0].T, np.nan)
    return DetectionCurves(
        iou_threshold=judged.iou_threshold,
        confidences=confidences,
        precision=precision,
        recall=recall,
        f1=f1,
        mean_precision=means[0],
        mean_recall=means[1],
        mean_f1=means[2],
        recalls=RECALLS,
        precision_at_recall=at_recall,
        best_confidence=float(confidences[best_index]) if len(best) else 0.0,
        best_index=best_index,
    )
