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
    of_boxes: bool
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
    if any(row.ap is not None or row.num_truths for row in rows):
        return ClassTable(BOX_COLUMNS, rows, of_boxes=True)
    if not any(row.accuracy is not None or row.num_images is not None for row in rows):
        return None
    columns = [one for one in IMAGE_COLUMNS if any(getattr(row, one.field) is not None for row in rows)]
    if len(rows) <= MAX_UNSORTED:
        return ClassTable(columns, rows, of_boxes=False)
    return ClassTable(columns, sorted(rows, key=_accuracy), of_boxes=False, worst_first=True)


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
    return ("images", "without boxes", "boxes", "crowds") if data.has_boxes else ("images", "classes")


def split_counts(data: DataFacts, split: SplitFacts) -> tuple[int, ...]:
    """The counts of one split below those heads; ``classes`` are those that have images."""
    if data.has_boxes:
        return split.num_images, split.num_empty_images, split.num_boxes or 0, split.num_crowds
    return split.num_images, sum(count > 0 for count in split.class_counts)
