"""Tables and curves of one evaluation as plain values, small enough for a JSON file that a report is made from."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sightline.metrics.coco_ap import CocoResult
from sightline.metrics.confusion_matrix import ConfusionMatrix
from sightline.metrics.detection_curves import DetectionCurves

Array = np.ndarray[Any, Any]

EVERY = 5
"""Every so many confidences of a curve are kept: 201 points of 1001."""


def box_details(
    result: CocoResult, curves: DetectionCurves, matrix: ConfusionMatrix, class_names: Sequence[str]
) -> dict[str, Any]:
    """Table of classes, curves and confusion matrix; what is undefined is None.

    Returns:
        ``class_names``; ``classes``, one object a class with ``name``, ``ap``, ``ap50``, ``ar``,
        ``precision``, ``recall`` and ``f1`` at the best confidence, ``num_truths``, ``num_detections``;
        ``curves`` with ``iou_threshold``, ``best_confidence``, ``best_f1``, ``confidences`` (S), ``precision``,
        ``recall`` and ``f1`` (K lists of S), their means ``mean_...`` (S), ``recalls`` (R) and
        ``precision_at_recall`` (K lists of R); ``confusion`` with ``counts`` (K + 1 rows of predicted classes),
        ``score_threshold`` and ``iou_threshold``.
    """
    best = curves.best_index
    rows = [
        {
            "name": class_names[row.label],
            "ap": _defined(row.ap),
            "ap50": _defined(row.ap50),
            "ar": _defined(row.ar),
            "precision": _plain(curves.precision[row.label, best]),
            "recall": _plain(curves.recall[row.label, best]),
            "f1": _plain(curves.f1[row.label, best]),
            "num_truths": row.num_truths,
            "num_detections": row.num_detections,
        }
        for row in result.classes
    ]
    over_confidence = {
        name: _plain(getattr(curves, name)[..., ::EVERY])
        for name in ("confidences", "precision", "recall", "f1", "mean_precision", "mean_recall", "mean_f1")
    }
    return {
        "class_names": list(class_names),
        "classes": rows,
        "curves": {
            "iou_threshold": curves.iou_threshold,
            "best_confidence": curves.best_confidence,
            "best_f1": curves.at_best()["f1"],
            **over_confidence,
            "recalls": _plain(curves.recalls),
            "precision_at_recall": _plain(curves.precision_at_recall),
        },
        "confusion": {
            "counts": matrix.counts.tolist(),
            "score_threshold": matrix.score_threshold,
            "iou_threshold": matrix.iou_threshold,
        },
    }


def _defined(figure: float) -> float | None:
    return None if figure == -1 else figure


def _plain(values: Any) -> Any:
    """Numbers or lists of numbers with five decimals; NaN becomes None."""
    rounded = np.asarray(np.round(values, 5), dtype=np.float64)
    plain = rounded.astype(object)
    plain[np.isnan(rounded)] = None
    return plain.tolist()
