"""What every data format gives: splits, class names, and the annotations of a split in flat arrays."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import numpy as np

from sightline.config.errors import did_you_mean
from sightline.config.printable import counted, printable
from sightline.data.annotations import Bools, Fault, Floats, ImageAnnotations, Ints, PackedStrings, SmallInts
from sightline.data.faults import FormatError, make_fault
from sightline.data.image_header import read_sizes

ROUNDING_PIXELS = 2.0
ROUNDING_SHARE = 0.01
MIN_SIDE = 0.01
TEXT_ROUNDING = 0.01
"""Pixels: six digits of a relative box say no more. So much over the edge is clipped without a word."""

Place = tuple[Path, int | None, str]
"""File, line, and words such as ``annotations[3]: `` that stand before a message."""


Truth = TypeVar("Truth")


class SplitSource(ABC, Generic[Truth]):
    """A data set on disk. Opening it reads little; ``read`` reads the truth of one split."""

    format: ClassVar[str]
    """As in ``data.format``: ``yolo``, ``coco``, ``voc``, or one for classes."""

    def __init__(self, path: Path, splits: Iterable[str], faults: Sequence[Fault] = ()) -> None:
        self.path = path
        """What the user named."""
        self.splits = tuple(splits)
        """Names such as ``train``, ``val``, ``test``, in this order where they exist."""
        self.faults = tuple(faults)
        """Faults of the data set as a whole."""

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """Words of the classes 0..K-1. May read label files where the format has no list of classes."""

    def read(self, split: str) -> Truth:
        """Images of a split with their truth and everything that is wrong with them.

        Raises:
            FormatError: If there is no such split, or its structure is broken as a whole.
        """
        if split not in self.splits:
            has = ", ".join(self.splits) or "none"
            cure = self._way_out(split)
            raise FormatError("unknown_split", self.path, f"no split {printable(split)!r}; it has: {has}", cure=cure)
        return self._read(split)

    def unused(self) -> list[Fault]:
        """Files of the data set that no split uses: labels without image, images that no split lists."""
        return []

    @abstractmethod
    def _read(self, split: str) -> Truth:
        """``read`` of a split that exists."""

    def _way_out(self, split: str) -> str:
        """What to do where there is no such split."""
        way_out = did_you_mean(split, self.splits).strip()
        if not way_out and self.splits:
            way_out = f"Name one of these with data.val_split={self.splits[-1]}, data.train_split or --split,"
            way_out += f" or add {split!r} to the data set."
        return way_out

    def _title(self, split: str) -> str:
        folder = self.path.parent if self.path.is_file() else self.path
        return f"{folder.absolute().resolve().name}/{split}"


class DataSource(SplitSource[ImageAnnotations]):
    """A data set of images with boxes."""


SPLIT_ORDER = ("train", "val", "test")


def sorted_splits(names: Iterable[str]) -> list[str]:
    """``train``, ``val``, ``test`` first, then the others by name."""
    return sorted(names, key=lambda n: (SPLIT_ORDER.index(n) if n in SPLIT_ORDER else len(SPLIT_ORDER), n))


@dataclass
class RawBoxes:
    """Boxes as a file gives them, not checked yet. M boxes, in any order."""

    image_index: Ints
    """(M,)."""
    boxes_xyxy: Floats
    """(M, 4) pixels; may be anything."""
    labels: Ints
    """(M,) class indices; may be anything."""
    place_of: Callable[[int], Place]
    """Where box ``row`` stands."""
    is_crowd: Bools | None = None
    areas: Floats | None = None
    """NaN where the file gives none."""
    is_difficult: Bools | None = None
    hint: str = ""
    """Said after every box that lies outside its image."""


@dataclass
class RawSplit:
    """Images and boxes of a split as read, and the faults met so far."""

    name: str
    source: Path
    class_names: tuple[str, ...]
    paths: Sequence[str]
    sizes_hw: SmallInts
    boxes: RawBoxes
    faults: list[Fault] = field(default_factory=list)
    image_ids: Ints | None = None
    category_ids: Ints | None = None


def read_image_sizes(
    paths: Sequence[str], faults: list[Fault], listed_at: Callable[[int], tuple[Path, int] | None]
) -> SmallInts:
    """(N, 2) sizes from the headers, (0, 0) with a fault where a header cannot be read.

    Args:
        paths: N image files.
        faults: Where faults are added.
        listed_at: File and line of the list that names an image; a missing image is reported there.
    """
    sizes_hw, errors = read_sizes(paths)
    for index, error in errors:
        place = listed_at(index) if error.kind == "missing_image" else None
        if place is None:
            faults.append(make_fault(error.kind, error.path, error.message, image=index))
        else:
            message = f"the image {printable(paths[index])} does not exist"
            faults.append(make_fault(error.kind, place[0], message, line=place[1], image=index))
    return sizes_hw


def assemble(raw: RawSplit) -> ImageAnnotations:
    """Check every box of a split, repair or drop what is mildly wrong, and pack the rest.

    In this order: class, finite numbers, order of corners, place in the image, size, duplicates; a box is reported
    once. A box may reach over the image's edge by rounding: up to 2 pixels or 1 % of the image's side, whichever is
    more; it is clipped. A box with a side below 0.01 pixel has no area that a metric could use; it is dropped.
    Boxes of images whose size is unknown are dropped without a word: the image itself is reported.
    """
    boxes, labels = raw.boxes.boxes_xyxy, raw.boxes.labels
    M, K = len(labels), len(raw.class_names)
    if M == 0 and not any(fault.fatal for fault in raw.faults):
        message = f"none of {counted(len(raw.paths), 'image')} of {raw.name} has a box"
        raw.faults.append(make_fault("no_labels", raw.source, message))
    image_index = raw.boxes.image_index
    limit = raw.sizes_hw[image_index][:, ::-1].astype(np.float64)  # (M, 2) width, height
    alive = ~in_any_column(limit <= 0)
    report = _Reporter(raw, alive)

    with np.errstate(invalid="ignore", over="ignore"):
        classes = "the only class is 0" if K == 1 else f"the classes are 0 to {K - 1}"
        report.drop(
            (labels < 0) | (labels >= K), "class_out_of_range", lambda row: f"class {labels[row]}, but {classes}"
        )
        report.drop(in_any_column(~np.isfinite(boxes)), "non_finite", lambda row: f"the box is {shown(boxes[row])}")
        report.drop(
            in_any_column(boxes[:, 2:] < boxes[:, :2]),
            "negative_size",
            lambda row: f"width or height is negative: the box is {shown(boxes[row])}",
        )
        tolerance = np.maximum(ROUNDING_PIXELS, ROUNDING_SHARE * limit)
        excess = np.maximum(-boxes.reshape(M, 2, 2), boxes.reshape(M, 2, 2) - limit[:, None]).max(axis=1)  # (M, 2)
        report.drop(
            in_any_column((excess > tolerance) | (boxes[:, :2] > limit) | (boxes[:, 2:] < 0)),
            "outside_box",
            lambda row: (
                f"the box {shown(boxes[row])} reaches {excess[row].max():.4g} pixels out of the image "
                f"({limit[row, 0]:.0f}x{limit[row, 1]:.0f}){raw.boxes.hint}"
            ),
        )
        clipped = np.concatenate((boxes[:, :2].clip(0), np.minimum(boxes[:, 2:], limit)), axis=1) if M else boxes
        sides = np.minimum(boxes[:, 2:] - boxes[:, :2], clipped[:, 2:] - clipped[:, :2])
        report.drop(
            in_any_column(sides < MIN_SIDE),
            "degenerate_box",
            lambda row: f"no width or height: the box is {shown(boxes[row])}",
        )
        report.tell(
            alive & in_any_column(excess > TEXT_ROUNDING),
            "clipped_box",
            lambda row: f"the box reaches {excess[row].max():.2g} pixels over the image's edge; clipped",
        )

    crowd = np.zeros(M, dtype=np.bool_) if raw.boxes.is_crowd is None else raw.boxes.is_crowd
    difficult = np.zeros(M, dtype=np.bool_) if raw.boxes.is_difficult is None else raw.boxes.is_difficult
    report.drop(
        repeated(image_index, labels * 2 + crowd, clipped, alive),
        "duplicate_box",
        lambda row: f"the box {shown(boxes[row])} of class {raw.class_names[labels[row]]!r} is given twice",
    )

    rows = np.flatnonzero(alive)
    rows = rows[np.argsort(image_index[rows], kind="stable")]
    kept = clipped[rows]
    box_areas = (kept[:, 2:] - kept[:, :2]).prod(axis=1)
    given = np.full(M, np.nan) if raw.boxes.areas is None else raw.boxes.areas
    N = len(raw.paths)
    counts = np.bincount(image_index[rows], minlength=N)
    return ImageAnnotations(
        class_names=raw.class_names,
        paths=PackedStrings(raw.paths),
        sizes_hw=raw.sizes_hw,
        offsets=np.concatenate(([0], np.cumsum(counts))),
        boxes_xyxy=kept,
        labels=labels[rows].astype(np.int32),
        is_crowd=crowd[rows],
        areas=np.where(np.isnan(given[rows]), box_areas, given[rows]),
        image_ids=np.arange(N) if raw.image_ids is None else raw.image_ids,
        category_ids=np.arange(K) if raw.category_ids is None else raw.category_ids,
        faults=tuple(sorted(raw.faults, key=by_place)),
        name=raw.name,
        source=raw.source,
        is_difficult=difficult[rows],
    )


def turn_hint(told: tuple[int, int], true: tuple[int, int]) -> str:
    """Words for sizes that differ by a quarter turn."""
    return " (its EXIF data turns it; the boxes were drawn on the unturned image)" if told == true[::-1] else ""


def by_place(fault: Fault) -> tuple[float, str, float]:
    """Faults in the order of the images, then of the lines; those of no image or no line last."""
    image = math.inf if fault.image is None else fault.image
    return image, str(fault.path), math.inf if fault.line is None else fault.line


class _Reporter:
    """Turns masks over boxes into faults."""

    def __init__(self, raw: RawSplit, alive: Bools) -> None:
        self.raw, self.alive = raw, alive

    def tell(self, rows: Bools, kind: str, words: Callable[[int], str]) -> None:
        for row in map(int, np.flatnonzero(rows)):
            path, line, before = self.raw.boxes.place_of(row)
            image = int(self.raw.boxes.image_index[row])
            self.raw.faults.append(make_fault(kind, path, before + words(row), line=line, image=image))

    def drop(self, rows: Bools, kind: str, words: Callable[[int], str]) -> None:
        rows = rows & self.alive
        self.tell(rows, kind, words)
        self.alive &= ~rows


def repeated(image_index: Ints, labels: Ints, boxes: Floats, alive: Bools) -> Bools:
    """(M,) True for every box that equals an earlier one of the same image and class.

    Sorts one mixed 64-bit number per box instead of six columns, then compares neighbours exactly.
    """
    rows = np.flatnonzero(alive)
    same = np.zeros(len(alive), dtype=np.bool_)
    if len(rows) < 2:
        return same
    columns = np.concatenate(
        (image_index[rows, None], labels[rows, None], (boxes[rows] + 0.0).view(np.int64)), axis=1
    ).view(np.uint64)  # (R, 6); adding 0 makes -0.0 the same as 0.0
    mixed = np.zeros(len(rows), dtype=np.uint64)
    for column in columns.T:
        mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    order = np.argsort(mixed, kind="stable")
    near = np.flatnonzero(mixed[order[1:]] == mixed[order[:-1]])
    former, latter = order[near], order[near + 1]
    equal = ~in_any_column(columns[former] != columns[latter])
    same[rows[latter[equal]]] = True
    return same


def in_any_column(mask: Bools) -> Bools:
    """(M, C) to (M,)."""
    return np.asarray(mask.any(axis=1), dtype=np.bool_)


def shown(box: Floats) -> str:
    """A box for a message."""
    return f"({', '.join(f'{value:.6g}' for value in box)})"
