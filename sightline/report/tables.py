"""The page's tables about classes: what each of them came to, and which are taken for each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sightline.report.layout import ClassRow, Confusion, DataFacts, Evaluation, SplitFacts
from sightline.report.plots import confusion_counts

MAX_UNSORTED = 30
"""The table of more classes of images begins with the worst one."""
MAX_PAIRS = 20


@dataclass(frozen=True)
class Column:
    """A column of the table of classes."""

    title: str
    field: str
    form: str = "figure"
    """``bar``, ``figure`` or ``count``."""


BOX_COLUMNS = (
    Column("AP", "ap", "bar"),
    Column("AP50", "ap50", "bar"),
    Column("recall (AR)", "ar"),
    Column("precision", "precision"),
    Column("recall", "recall"),
    Column("F1", "f1"),
    Column("truths", "num_truths", "count"),
    Column("detections", "num_detections", "count"),
)
SPACE_COLUMNS = (
    Column("3D easy", "ap_3d_easy"),
    Column("3D moderate", "ap_3d_moderate"),
    Column("3D hard", "ap_3d_hard"),
    Column("from above, moderate", "bev_moderate"),
    Column("picture, moderate", "image_moderate"),
    Column("orientation, moderate", "aos_moderate"),
    Column("truths", "num_truths", "count"),
    Column("detections", "num_detections", "count"),
)
IMAGE_COLUMNS = (
    Column("accuracy", "accuracy", "bar"),
    Column("top5", "top5"),
    Column("precision", "precision"),
    Column("F1", "f1"),
    Column("images", "num_images", "count"),
)


@dataclass(frozen=True)
class ClassTable:
    """What stands under Classes."""

    columns: Sequence[Column]
    rows: Sequence[ClassRow]
    about: str
    """What the columns are, for whoever does not know."""
    worst_first: bool = False


@dataclass(frozen=True)
class ConfusedPair:
    """A class that is taken for another."""

    true: str
    predicted: str
    count: int
    share: float
    """Of the images of the true class."""


def class_table(evaluation: Evaluation | None) -> ClassTable | None:
    """The table of a detector's classes, or of those of whole images; None for those of another problem."""
    rows = evaluation.classes if evaluation else []
    if evaluation and evaluation.kitti is not None:
        return ClassTable(SPACE_COLUMNS, rows, _about_space(evaluation))
    if any(row.ap is not None or row.num_truths for row in rows):
        return ClassTable(BOX_COLUMNS, rows, _about_boxes(evaluation))
    if not any(row.accuracy is not None or row.num_images is not None for row in rows):
        return None
    columns = [one for one in IMAGE_COLUMNS if any(getattr(row, one.field) is not None for row in rows)]
    if len(rows) <= MAX_UNSORTED:
        return ClassTable(columns, rows, ABOUT_IMAGES)
    about = f"All {len(rows):,} classes, the least accurate first. {ABOUT_IMAGES}"
    return ClassTable(columns, sorted(rows, key=_accuracy), about, worst_first=True)


ABOUT_IMAGES = (
    "Accuracy is the share of the class's images that are told right, its recall; precision the share that is right of "
    "the images told to be of it. A dash stands where no image defines a figure."
)


def _about_boxes(evaluation: Evaluation | None) -> str:
    """What the columns of a 2D detector are."""
    curves = evaluation.curves if evaluation else None
    where = "at the best confidence"
    if curves is not None:
        where = f"at IoU {curves.iou_threshold:g} and confidence {figure(curves.best_confidence)}"
        where += ", where the mean F1 is largest"
    return (
        f"AP, AP50 and AR are those of COCO. Precision, recall and F1 are {where}. "
        "A dash stands where a class has no truth."
    )


def _about_space(evaluation: Evaluation) -> str:
    """What the columns of a LiDAR detector are, and what is to be known of small data sets."""
    assert evaluation.kitti is not None
    overlaps = ", ".join(
        f"{name} {table[0][2]:g}"
        for name, table in zip(evaluation.class_names, evaluation.kitti.min_overlaps, strict=False)
    )
    return " ".join(
        (
            f"KITTI's average precision at 40 places of recall, percent; boxes in space need the IoU {overlaps}. "
            "Orientation is the similarity of angles along the same curve.",
            *evaluation.kitti.notes,
        )
    )


def figure(value: float | None) -> str:
    """A figure as the page shows it."""
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


def _accuracy(row: ClassRow) -> float:
    """To sort by: classes without one last."""
    return row.accuracy if row.accuracy is not None and row.accuracy == row.accuracy else np.inf


def confused_pairs(confusion: Confusion, class_names: Sequence[str]) -> list[ConfusedPair]:
    """The largest counts beside the diagonal of a matrix without background, the largest first.

    Raises:
        ValueError: If the matrix is not square.
    """
    counts = confusion_counts(confusion)
    images = counts.sum(axis=0)
    np.fill_diagonal(counts, 0)
    largest = np.argsort(-counts, axis=None, kind="stable")[:MAX_PAIRS]
    names = [class_names[index] if index < len(class_names) else str(index) for index in range(len(counts))]
    return [
        ConfusedPair(
            names[true], names[predicted], int(counts[predicted, true]), counts[predicted, true] / images[true]
        )
        for predicted, true in zip(*np.unravel_index(largest, counts.shape), strict=True)
        if counts[predicted, true] > 0
    ]


def split_columns(data: DataFacts) -> tuple[str, ...]:
    """Heads of the columns of counts in the table of splits."""
    if not data.has_boxes:
        return "images", "classes"
    return f"{data.unit}s", "without boxes", "boxes", "crowds" if data.unit == "image" else "other objects"


def split_counts(data: DataFacts, split: SplitFacts) -> tuple[int, ...]:
    """The counts of one split below those heads; ``classes`` are those that have images."""
    if data.has_boxes:
        return split.num_images, split.num_empty_images, split.num_boxes or 0, split.num_crowds
    return split.num_images, sum(count > 0 for count in split.class_counts)
