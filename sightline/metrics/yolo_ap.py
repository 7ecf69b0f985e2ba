"""The detection metric of YOLOv7's own program, to compare with its published logs.

For figures that others can compare, use ``CocoAP``: this metric is about 1.5 AP below the official one at the
top of COCO. Recorded numbers of the original are the source of this variant; tolerance 1e-6.

Shapes: N detections, M truths, K classes, T IoU thresholds, S = 1000 confidences.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from sightline.metrics.matching import overlapping_pairs

Array = np.ndarray[Any, Any]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
CONFIDENCES = np.linspace(0.0, 1.0, 1000)
RECALLS = np.linspace(0.0, 1.0, 101)


def match_yolo(
    boxes_xyxy: Array,
    scores: Array,
    labels: Array,
    truth_boxes_xyxy: Array,
    truth_labels: Array,
    iou_thresholds: Array = IOU_THRESHOLDS,
) -> Array:
    """Which detections of one image are right.

    Per class, in the order of confidence, a detection takes the truth it overlaps most, if no better
    detection has taken it and the IoU is above the lowest threshold. There is no second choice.

    Args:
        boxes_xyxy: (N, 4) pixels.
        scores: (N,).
        labels: (N,).
        truth_boxes_xyxy: (M, 4) pixels.
        truth_labels: (M,).
        iou_thresholds: (T,) ascending; the IoU must be larger.

    Returns:
        (N, T) bool.
    """
    is_true = np.zeros((len(scores), len(iou_thresholds)), dtype=bool)
    by_score = np.argsort(-np.asarray(scores), kind="stable")
    by_label = np.argsort(truth_labels, kind="stable")
    pairs = overlapping_pairs(
        np.asarray(labels).astype(np.int64)[by_score],
        _xywh(boxes_xyxy)[by_score],
        np.asarray(truth_labels).astype(np.int64)[by_label],
        _xywh(truth_boxes_xyxy)[by_label],
        np.zeros(len(by_label), dtype=bool),
        min_iou=float(np.nextafter(iou_thresholds[0], 1.0)),
    )
    order = np.lexsort((pairs.truths, -pairs.iou, pairs.detections))
    _, first = np.unique(pairs.detections[order], return_index=True)
    choice = order[first]  # the favourite of each detection, best detection first
    _, winner = np.unique(pairs.truths[choice], return_index=True)
    won = choice[winner]
    is_true[by_score[pairs.detections[won]]] = pairs.iou[won, None] > iou_thresholds
    return is_true


def _xywh(boxes_xyxy: Array) -> Array:
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    return np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1)


@dataclass(frozen=True)
class YoloAP:
    """Figures per class with truths; ``classes`` names them."""

    classes: Array
    """(K,) int64, ascending."""
    precision: Array
    """(K,) at the confidence of the best mean F1."""
    recall: Array
    """(K,)."""
    f1: Array
    """(K,)."""
    ap: Array
    """(K, T)."""
    precision_curve: Array
    """(K, S) over ``CONFIDENCES``."""
    recall_curve: Array
    """(K, S)."""

    def figures(self) -> dict[str, float]:
        """Means over the classes: precision, recall, AP50, AP; 0 without a class."""
        columns = {"precision": self.precision, "recall": self.recall, "AP50": self.ap[:, 0], "AP": self.ap}
        return {name: float(values.mean()) if values.size else 0.0 for name, values in columns.items()}

    def ap_of_classes(self, num_classes: int) -> Array:
        """(num_classes,) AP over all thresholds; a class without truths gets the mean of the others."""
        values = np.full(num_classes, self.figures()["AP"])
        values[self.classes] = self.ap.mean(axis=1)
        return values


def yolo_ap(
    is_true: Array, scores: Array, labels: Array, truth_labels: Array, *, to_full_recall: bool = False
) -> YoloAP:
    """Average precision from judged detections.

    Args:
        is_true: (N, T) bool, of ``match_yolo``.
        scores: (N,).
        labels: (N,).
        truth_labels: (M,).
        to_full_recall: Let the precision fall to 0 at recall 1 (YOLOv5's way, ``--v5-metric``) instead of
            0.01 after the last recall reached.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    is_true, scores, labels = np.asarray(is_true)[order], np.asarray(scores)[order], np.asarray(labels)[order]
    classes, num_truths = np.unique(np.asarray(truth_labels).astype(np.int64), return_counts=True)
    ap = np.zeros((len(classes), is_true.shape[1]))
    precision_curve, recall_curve = np.zeros((2, len(classes), len(CONFIDENCES)))
    for row, (label, total) in enumerate(zip(classes, num_truths, strict=True)):
        members = labels == label
        if not members.any():
            continue
        true = np.cumsum(is_true[members], axis=0)  # (n, T)
        recall = true / (total + 1e-16)
        precision = true / np.arange(1, len(true) + 1)[:, None]
        falling = -scores[members]
        recall_curve[row] = np.interp(-CONFIDENCES, falling, recall[:, 0], left=0.0)
        precision_curve[row] = np.interp(-CONFIDENCES, falling, precision[:, 0], left=1.0)
        for threshold in range(ap.shape[1]):
            ap[row, threshold] = interpolated_area(
                recall[:, threshold], precision[:, threshold], to_full_recall=to_full_recall
            )
    f1 = 2 * precision_curve * recall_curve / (precision_curve + recall_curve + 1e-16)
    best = int(f1.mean(axis=0).argmax()) if len(classes) else 0
    return YoloAP(
        classes, precision_curve[:, best], recall_curve[:, best], f1[:, best], ap, precision_curve, recall_curve
    )


def interpolated_area(recall: Array, precision: Array, *, to_full_recall: bool = False) -> float:
    """Area below precision over recall: the envelope, read at 101 recalls, by the trapezoid rule.

    Args:
        recall: (n,) ascending, n >= 1.
        precision: (n,).
        to_full_recall: See ``yolo_ap``.
    """
    end = 1.0 if to_full_recall else recall[-1] + 0.01
    recall = np.concatenate(([0.0], recall, [end]))
    precision = np.concatenate(([1.0], precision, [0.0]))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    heights = np.interp(RECALLS, recall, envelope)
    return float(((heights[1:] + heights[:-1]) / 2 * np.diff(RECALLS)).sum())


def fitness(figures: dict[str, float]) -> float:
    """What the original ranks checkpoints by: a tenth of AP50 and nine tenths of AP."""
    return 0.1 * figures["AP50"] + 0.9 * figures["AP"]


class YoloEvaluation:
    """Collects judged detections image by image; ``reset``, ``update``, ``merge``, ``compute``."""

    def __init__(self, *, to_full_recall: bool = False) -> None:
        self.to_full_recall = to_full_recall
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._judged: list[tuple[Array, Array, Array, Array]] = []

    def update(
        self, boxes_xyxy: Array, scores: Array, labels: Array, truth_boxes_xyxy: Array, truth_labels: Array
    ) -> None:
        """Add one image: (N, 4), (N,), (N,) detections and (M, 4), (M,) truths."""
        is_true = match_yolo(boxes_xyxy, scores, labels, truth_boxes_xyxy, truth_labels)
        self._judged.append((is_true, np.asarray(scores), np.asarray(labels), np.asarray(truth_labels)))

    def merge(self, others: Sequence[Self]) -> None:
        """Take in the images of other processes."""
        for other in others:
            self._judged += other._judged

    def evaluate(self) -> YoloAP:
        """All figures over the images since ``reset``."""
        empty = (np.zeros((0, len(IOU_THRESHOLDS)), bool), np.zeros(0), np.zeros(0), np.zeros(0))
        is_true, scores, labels, truth_labels = (
            np.concatenate(parts) for parts in zip(empty, *self._judged, strict=True)
        )
        return yolo_ap(is_true, scores, labels, truth_labels, to_full_recall=self.to_full_recall)

    def compute(self) -> dict[str, float]:
        """Precision, recall, AP50, AP and fitness."""
        figures = self.evaluate().figures()
        return figures | {"fitness": fitness(figures)}
