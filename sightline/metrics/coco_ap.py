"""COCO box AP: the twelve official figures, the per-class table and precision over recall.

Official source: ``pycocotools.cocoeval`` (COCOeval with ``iouType='bbox'``), 2.0. The figures are equal to it
to 1e-9, with crowds, ties of score and IoU, area ranges and absent classes. Variant: AP is the mean of the
interpolated precision at 101 recalls over the IoU thresholds 0.50:0.05:0.95; at most 100 detections of a class
count in an image; a figure that nothing defines is -1.

Shapes: N detections, M truths, K classes, A = 4 area ranges, T IoU thresholds, R = 101 recalls.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from sightline.metrics.matching import ScoreMatches, match_in_score_order, overlapping_pairs, place_in_run

Array = np.ndarray[Any, Any]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREA_RANGES = {
    "all": (0.0, 1e5**2),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e5**2),
}
"""Square pixels, both ends included, so that a box of exactly 32x32 is small and medium."""
MAX_DETECTIONS = (1, 10, 100)
"""Detections of one class that count in one image."""


@dataclass(frozen=True)
class TruthBoxes:
    """True boxes of several images, flat."""

    image_ids: Array
    """(M,) whole numbers."""
    boxes_xywh: Array
    """(M, 4) x_min, y_min, width, height in pixels of the image."""
    labels: Array
    """(M,) whole numbers from 0."""
    is_crowd: Array | None = None
    """(M,) bool. A crowd is ignored, and so are all detections inside it."""
    areas: Array | None = None
    """(M,) square pixels, for the area ranges; without it width x height. COCO gives the area of the mask."""
    is_ignored: Array | None = None
    """(M,) bool. Such a truth need not be found; the one detection that finds it is ignored."""
    annotation_ids: Array | None = None
    """(M,) whole numbers. Only 0 matters: the official tool takes a match with annotation 0 for no match, and
    so do we where ids are given."""


@dataclass(frozen=True)
class ScoredBoxes:
    """Detections of several images, flat. The order inside an image decides between equal scores."""

    image_ids: Array
    """(N,) whole numbers."""
    boxes_xywh: Array
    """(N, 4) x_min, y_min, width, height in pixels of the image."""
    scores: Array
    """(N,) finite."""
    labels: Array
    """(N,) whole numbers from 0."""


@dataclass(frozen=True)
class ClassFigures:
    """One row of the per-class table. A figure is -1 where the class has no truth that counts."""

    label: int
    ap: float
    ap50: float
    """-1 also where 0.5 is none of the thresholds."""
    ar: float
    """Recall at 100 detections an image, mean over the IoU thresholds."""
    num_truths: int
    """Truths that count: without crowds and ignored ones."""
    num_detections: int
    """All detections of the class, those beyond the best 100 of an image included."""


@dataclass(frozen=True)
class JudgedDetections:
    """Every detection that counts, judged at one IoU threshold over all sizes: what curves are drawn from."""

    iou_threshold: float
    scores: Array
    """(N,) float64; the order is by class and descending."""
    labels: Array
    """(N,) int64."""
    is_true: Array
    """(N,) bool."""
    is_ignored: Array
    """(N,) bool, neither right nor wrong."""
    num_truths: Array
    """(K,) int64, truths that count."""


@dataclass(frozen=True)
class CocoResult:
    """Everything that one evaluation yields."""

    figures: dict[str, float]
    """AP, AP50, AP75, AP_small ... AR_large: see ``CocoAP.compute``."""
    classes: tuple[ClassFigures, ...]
    precision: Array
    """(T, R, K, A) float64, at 100 detections; -1 where a class has no truth."""
    recall: Array
    """(T, K, A, 3) float64, at 1, 10 and 100 detections; -1 where a class has no truth."""
    judged: JudgedDetections
    """At the lowest IoU threshold."""


def xyxy_to_xywh(boxes_xyxy: Array) -> Array:
    """(N, 4) corners to (x_min, y_min, width, height), computed in float64."""
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    return np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1)


class CocoAP:
    """COCO box AP over images that arrive in any order and in any number of processes.

    The result depends on the boxes and the image ids alone, not on who saw an image when.
    """

    def __init__(self, num_classes: int, *, iou_thresholds: Sequence[float] | None = None) -> None:
        """Start empty.

        Args:
            num_classes: Labels are 0 to ``num_classes - 1``.
            iou_thresholds: Ascending, in (0, 1]; without them the official ten.

        Raises:
            ValueError: If a threshold is outside (0, 1] or they are not ascending.
        """
        thresholds = IOU_THRESHOLDS if iou_thresholds is None else np.asarray(iou_thresholds, dtype=np.float64)
        if len(thresholds) == 0 or not (thresholds[0] > 0 and thresholds[-1] <= 1 and (np.diff(thresholds) > 0).all()):
            raise ValueError(f"iou_thresholds: expected ascending values in (0, 1], got {thresholds.tolist()}.")
        self.num_classes = num_classes
        self.iou_thresholds = thresholds
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._image_ids: list[Array] = []
        self._truths: list[_Truths] = []
        self._detections: list[_Detections] = []

    def update(self, image_ids: Array | Sequence[int], truths: TruthBoxes, detections: ScoredBoxes) -> None:
        """Add whole images; each image once.

        Args:
            image_ids: (B,) ids of all images looked at, those without boxes included.
            truths: Of these images.
            detections: Of these images, any number.

        Raises:
            ValueError: If a shape is wrong, a value is not finite, a label is no class, or an image unknown.
        """
        ids = np.asarray(image_ids, dtype=np.int64).reshape(-1)
        checked_truths = _checked_truths(truths)
        checked_detections = _checked_detections(detections)
        for name, boxes in (("truths", checked_truths), ("detections", checked_detections)):
            outside = np.flatnonzero((boxes.labels < 0) | (boxes.labels >= self.num_classes))
            if len(outside):
                raise ValueError(
                    f"{name}: label {boxes.labels[outside[0]]} at index {outside[0]}, "
                    f"but the classes are 0 to {self.num_classes - 1}."
                )
            unknown = np.flatnonzero(~np.isin(boxes.image_ids, ids))
            if len(unknown):
                raise ValueError(
                    f"{name}: image {boxes.image_ids[unknown[0]]} at index {unknown[0]} is none of the images added."
                )
        self._image_ids.append(ids)
        self._truths.append(checked_truths)
        self._detections.append(checked_detections)

    def merge(self, others: Sequence[Self]) -> None:
        """Take in the images of other processes; the result is that of one process that saw them all.

        Raises:
            ValueError: If the other metric has other classes or thresholds.
        """
        for other in others:
            if other.num_classes != self.num_classes or not np.array_equal(other.iou_thresholds, self.iou_thresholds):
                raise ValueError("merge: the metrics have different classes or IoU thresholds.")
            self._image_ids += other._image_ids
            self._truths += other._truths
            self._detections += other._detections

    def compute(self) -> dict[str, float]:
        """The twelve figures: AP, AP50, AP75, AP_small, AP_medium, AP_large, AR_1, AR_10, AR_100, AR_small ..."""
        return self.evaluate().figures

    def evaluate(self) -> CocoResult:
        """All figures, tables and arrays over the images since ``reset``.

        Raises:
            ValueError: If an image was added twice.
        """
        images = _unique_images(self._image_ids)
        truths = _Truths(*_joined([NO_TRUTHS, *self._truths]))
        detections = _Detections(*_joined([NO_DETECTIONS, *self._detections]))

        truth_groups = np.searchsorted(images, truths.image_ids) * self.num_classes + truths.labels
        by_group = np.argsort(truth_groups, kind="stable")
        truth_groups = truth_groups[by_group]
        truth_labels = truths.labels[by_group]
        truth_boxes = truths.boxes_xywh[by_group]
        is_crowd = truths.is_crowd[by_group]
        is_left_out = is_crowd | truths.is_ignored[by_group]
        is_zero = truths.annotation_ids[by_group] == 0

        groups = np.searchsorted(images, detections.image_ids) * self.num_classes + detections.labels
        best_first = np.lexsort((-detections.scores, groups))
        ranks = place_in_run(groups[best_first])
        kept = best_first[ranks < MAX_DETECTIONS[-1]]
        ranks, groups = ranks[ranks < MAX_DETECTIONS[-1]], groups[kept]
        labels, scores, boxes = detections.labels[kept], detections.scores[kept], detections.boxes_xywh[kept]

        low, high = np.array(list(AREA_RANGES.values())).T
        truth_areas = truths.areas[by_group, None]
        areas = (boxes[:, 2] * boxes[:, 3])[:, None]
        truth_is_ignored = is_left_out[:, None] | (truth_areas < low) | (truth_areas > high)  # (M, A)
        is_outside = (areas < low) | (areas > high)  # (N, A)

        min_iou = min(self.iou_thresholds[0], 1 - 1e-10)
        pairs = overlapping_pairs(groups, boxes, truth_groups, truth_boxes, is_crowd, min_iou=min_iou)
        matches = match_in_score_order(
            pairs, groups, truth_is_ignored, is_crowd, is_outside, self.iou_thresholds, uncounted=is_zero
        )
        num_truths = np.stack(
            [np.bincount(truth_labels[~ignored], minlength=self.num_classes) for ignored in truth_is_ignored.T]
        )  # (A, K)
        precision, recall, by_class = _accumulate(matches, labels, scores, ranks, is_outside, num_truths)

        is_true, is_ignored = np.zeros(len(labels), bool), is_outside[:, 0].copy()
        is_true[matches.detections] = matches.is_true[:, 0, 0]
        is_ignored[matches.detections] = matches.is_ignored[:, 0, 0]
        return CocoResult(
            figures=self._figures(precision, recall),
            classes=self._class_table(precision, recall, num_truths[0], detections.labels),
            precision=precision,
            recall=recall,
            judged=JudgedDetections(
                float(self.iou_thresholds[0]),
                scores[by_class],
                labels[by_class],
                is_true[by_class],
                is_ignored[by_class],
                num_truths[0],
            ),
        )

    def _figures(self, precision: Array, recall: Array) -> dict[str, float]:
        at_50, at_75 = self.iou_thresholds == 0.5, self.iou_thresholds == 0.75
        areas = {name: index for index, name in enumerate(AREA_RANGES)}
        figures = {
            "AP": _mean(precision[..., 0]),
            "AP50": _mean(precision[at_50, ..., 0]),
            "AP75": _mean(precision[at_75, ..., 0]),
        }
        figures |= {f"AP_{name}": _mean(precision[..., index]) for name, index in areas.items() if name != "all"}
        figures |= {f"AR_{count}": _mean(recall[:, :, 0, index]) for index, count in enumerate(MAX_DETECTIONS)}
        figures |= {f"AR_{name}": _mean(recall[:, :, index, 2]) for name, index in areas.items() if name != "all"}
        return figures

    def _class_table(
        self, precision: Array, recall: Array, num_truths: Array, labels: Array
    ) -> tuple[ClassFigures, ...]:
        num_detections = np.bincount(labels, minlength=self.num_classes)
        at_50 = self.iou_thresholds == 0.5
        return tuple(
            ClassFigures(
                label=label,
                ap=_mean(precision[:, :, label, 0]),
                ap50=_mean(precision[at_50, :, label, 0]),
                ar=_mean(recall[:, label, 0, 2]),
                num_truths=int(num_truths[label]),
                num_detections=int(num_detections[label]),
            )
            for label in range(self.num_classes)
        )


def _accumulate(
    matches: ScoreMatches, labels: Array, scores: Array, ranks: Array, is_outside: Array, num_truths: Array
) -> tuple[Array, Array, Array]:
    """Precision (T, R, K, A), recall (T, K, A, 3) and the order of the detections by class and score.

    Precision can only rise at a true detection, and only detections that overlap a truth can be true. So the
    cumulative counts are looked at there alone.
    """
    num_areas, num_classes = num_truths.shape
    num_thresholds = matches.is_true.shape[2]
    precision = np.full((num_thresholds, len(RECALLS), num_classes, num_areas), -1.0)
    recall = np.full((num_thresholds, num_classes, num_areas, len(MAX_DETECTIONS)), -1.0)

    by_class = np.lexsort((-scores, labels))  # stable: equal scores stay in the order of images and ranks
    class_ends = np.searchsorted(labels[by_class], np.arange(num_classes), "right")
    place = np.empty(len(labels), np.int64)
    place[by_class] = np.arange(len(labels))
    in_order = np.argsort(place[matches.detections])
    found = matches.detections[in_order]  # the overlapping detections in that order
    found_ends = np.searchsorted(labels[found], np.arange(num_classes), "right")

    start = found_start = 0
    for label, (end, found_end) in enumerate(zip(class_ends, found_ends, strict=True)):
        members, rows = by_class[start:end], in_order[found_start:found_end]
        rivals = found[found_start:found_end]
        is_true, is_ignored = matches.is_true[rows], matches.is_ignored[rows]  # (C, A, T)
        # Judged as right or wrong up to here: first as if nothing had matched, then corrected.
        counted = np.cumsum(~is_outside[members], axis=0)[place[rivals] - start]  # (C, A)
        change = is_outside[rivals][:, :, None].astype(np.int8) - is_ignored  # 1, 0 or -1
        judged = counted[:, :, None] + np.cumsum(change, axis=0, dtype=np.int64)
        right = np.cumsum(is_true, axis=0)
        envelope = right / (judged + np.spacing(1))
        envelope = np.maximum.accumulate(envelope[::-1], axis=0)[::-1]
        envelope = np.concatenate((envelope, np.zeros((1, num_areas, num_thresholds))))  # a recall never reached
        for area in np.flatnonzero(num_truths[:, label]):
            total = num_truths[area, label]
            needed = 1 + np.searchsorted(np.arange(1, total + 1) / total, RECALLS)  # right ones for each recall
            for threshold in range(num_thresholds):
                at = np.searchsorted(right[:, area, threshold], needed)
                precision[threshold, :, label, area] = envelope[at, area, threshold]
            for index, most in enumerate(MAX_DETECTIONS):
                recall[:, label, area, index] = is_true[ranks[rivals] < most, area].sum(axis=0) / total
        start, found_start = end, found_end
    return precision, recall, by_class


def _mean(values: Array) -> float:
    """Mean of the defined values, -1 where there is none."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0


def _unique_images(chunks: Sequence[Array]) -> Array:
    images = np.concatenate([np.zeros(0, np.int64), *chunks])
    unique, counts = np.unique(images, return_counts=True)
    if len(unique) != len(images):
        twice = unique[counts > 1]
        raise ValueError(f"{len(twice)} images were added more than once, image {twice[0]} first.")
    return unique


class _Truths(NamedTuple):
    """``TruthBoxes`` with every column filled in."""

    image_ids: Array
    boxes_xywh: Array
    labels: Array
    is_crowd: Array
    areas: Array
    is_ignored: Array
    annotation_ids: Array


class _Detections(NamedTuple):
    image_ids: Array
    boxes_xywh: Array
    scores: Array
    labels: Array


def _column(name: str, values: Array | None, length: int, dtype: Any, default: Any) -> Array:
    if values is None:
        return np.full(length, default, dtype=dtype)
    column = np.asarray(values).reshape(-1)
    if len(column) != length:
        raise ValueError(f"{name}: expected {length} values, one a box, got {len(column)}.")
    if column.dtype.kind == "f" and not np.isfinite(column).all():
        raise ValueError(f"{name}: {column[~np.isfinite(column)][0]} at index {np.argmin(np.isfinite(column))}.")
    return column.astype(dtype)


def _boxes(name: str, boxes_xywh: Array) -> Array:
    boxes = np.asarray(boxes_xywh, dtype=np.float64)
    if boxes.size == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name}: expected shape (N, 4), got {boxes.shape}.")
    finite = np.isfinite(boxes).all(axis=1)
    if not finite.all():
        raise ValueError(f"{name}: {boxes[~finite][0].tolist()} at index {np.argmin(finite)} is not finite.")
    return boxes


def _checked_truths(truths: TruthBoxes) -> _Truths:
    boxes = _boxes("truths.boxes_xywh", truths.boxes_xywh)
    length = len(boxes)
    areas = boxes[:, 2] * boxes[:, 3]
    return _Truths(
        _column("truths.image_ids", truths.image_ids, length, np.int64, 0),
        boxes,
        _column("truths.labels", truths.labels, length, np.int64, 0),
        _column("truths.is_crowd", truths.is_crowd, length, bool, False),
        areas if truths.areas is None else _column("truths.areas", truths.areas, length, np.float64, 0),
        _column("truths.is_ignored", truths.is_ignored, length, bool, False),
        _column("truths.annotation_ids", truths.annotation_ids, length, np.int64, -1),
    )


def _checked_detections(detections: ScoredBoxes) -> _Detections:
    boxes = _boxes("detections.boxes_xywh", detections.boxes_xywh)
    length = len(boxes)
    return _Detections(
        _column("detections.image_ids", detections.image_ids, length, np.int64, 0),
        boxes,
        _column("detections.scores", detections.scores, length, np.float64, 0),
        _column("detections.labels", detections.labels, length, np.int64, 0),
    )


def _joined(chunks: Sequence[tuple[Array, ...]]) -> list[Array]:
    return [np.concatenate(column) for column in zip(*chunks, strict=True)]


NO_TRUTHS = _checked_truths(TruthBoxes(np.zeros(0), np.zeros((0, 4)), np.zeros(0)))
NO_DETECTIONS = _checked_detections(ScoredBoxes(np.zeros(0), np.zeros((0, 4)), np.zeros(0), np.zeros(0)))
