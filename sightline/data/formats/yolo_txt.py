"""YOLO text labels: one file per image, one line per object, all numbers relative to the image's width and height.

A line is ``class x_center y_center width height``, or ``class x1 y1 x2 y2 x3 y3 ...`` for a polygon of three points or
more, which counts as the box around it; the two kinds may be mixed, each line is taken by itself. Classes count from
0. Blank lines mean nothing. An image whose label file is empty or missing shows background.

Labels are looked for where the last ``images`` folder in the image's path is called ``labels``, else beside the image.

A data set is a ``data.yaml`` (``path``: root, relative to that file; ``train``, ``val``, ``test``: a folder, a list
of folders, or a text file with a list of images; ``names``: a list, or a map from number to name; ``nc``: their
count, optional), or a folder with ``images`` and ``labels``, or one list file. ``download`` is never followed.
"""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from sightline.config.printable import counted, printable
from sightline.config.safe_file import FileReadError, read_regular_file
from sightline.data.annotations import Fault, Floats, ImageAnnotations
from sightline.data.faults import FormatError, make_fault
from sightline.data.formats.class_names import checked_names, read_classes_file
from sightline.data.formats.data_yaml import read_data_yaml
from sightline.data.formats.image_files import (
    SplitPart,
    entries_of,
    exists,
    is_folder,
    is_image_name,
    list_images,
    name_splits,
    read_lines,
    split_name,
    suffix_of,
    what_is_there,
)
from sightline.data.formats.source import (
    SPLIT_ORDER,
    DataSource,
    Place,
    RawBoxes,
    RawSplit,
    assemble,
    read_image_sizes,
    sorted_splits,
)

MAX_LABEL_BYTES = 1 << 26
MAX_FAULTS_PER_FILE = 100
MAX_INFERRED_CLASSES = 10_000


@dataclass
class Labels:
    """All lines of all label files of a split; grows while reading. M lines."""

    values: array[float] = field(default_factory=lambda: array("d"))
    """5 per line: class, then centre and size, or the corners around a polygon."""
    polygons: bytearray = field(default_factory=bytearray)
    images: array[int] = field(default_factory=lambda: array("q"))
    lines: array[int] = field(default_factory=lambda: array("q"))
    faults: list[Fault] = field(default_factory=list)

    def table(self) -> Floats:
        """(M, 5) class and relative x_min, y_min, x_max, y_max."""
        table = np.array(self.values, dtype=np.float64).reshape(-1, 5)
        boxes = ~np.frombuffer(bytes(self.polygons), dtype=np.bool_)
        center, half = table[boxes, 1:3], table[boxes, 3:5] / 2
        table[boxes, 1:3], table[boxes, 3:5] = center - half, center + half
        return table


@dataclass
class Scan:
    """The files of a split: N images and their labels."""

    paths: list[str]
    label_paths: list[str | None]
    parts: Sequence[SplitPart]
    part_of: array[int]
    """The part that each image came from."""
    line_of: array[int]
    """The line of the list file that names each image; 0 for images found in a folder."""
    labels: Labels
    faults: list[Fault]

    def listed_at(self, image: int) -> tuple[Path, int] | None:
        """List file and line that name an image."""
        line = self.line_of[image]
        return (self.parts[self.part_of[image]].path, line) if line else None


class YoloSource(DataSource):
    """A YOLO data set, whatever way it was named."""

    format: ClassVar[str] = "yolo"

    def __init__(
        self,
        path: Path,
        parts: dict[str, list[SplitPart]],
        names: Sequence[str] | None,
        faults: Sequence[Fault] = (),
    ) -> None:
        super().__init__(path, sorted_splits(parts), faults)
        self._parts = parts
        self._names = None if names is None else tuple(names)
        self._scans: dict[str, Scan] = {}

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The given names; where none are given, ``class_0`` up to the highest class in any label file."""
        if self._names is not None:
            return self._names
        highest = -1
        for split in self.splits:
            classes = self._scan(split).labels.table()[:, 0]
            classes = classes[np.isfinite(classes)]
            highest = max(highest, int(classes.max(initial=-1)))
        if not 0 <= highest < MAX_INFERRED_CLASSES:
            why = "the labels hold no class" if highest < 0 else f"the labels speak of class {highest}"
            raise FormatError(
                "bad_names", self.path, f"no names of classes are given and {why}", cure="Write a data.yaml with names."
            )
        return tuple(f"class_{i}" for i in range(highest + 1))

    def _read(self, split: str) -> ImageAnnotations:
        class_names = self.class_names
        scan = self._scan(split)
        faults = [*scan.faults, *scan.labels.faults]
        sizes_hw = read_image_sizes(scan.paths, faults, scan.listed_at)
        table, lines = scan.labels.table(), np.array(scan.labels.lines, dtype=np.int64)
        images = np.array(scan.labels.images, dtype=np.int64)

        def place_of(image: int, line: int) -> Place:
            return Path(scan.label_paths[image] or scan.paths[image]), line, ""

        whole = np.abs(table[:, 0]) < 1 << 31
        whole &= np.floor(table[:, 0]) == table[:, 0]
        for row in np.flatnonzero(~whole):
            path, line, _ = place_of(images[row], int(lines[row]))
            message = f"the class must be a whole number, got {table[row, 0]:g}"
            faults.append(make_fault("bad_class", path, message, line=line, image=int(images[row])))
        table, images, lines = table[whole], images[whole], lines[whole]
        with np.errstate(over="ignore", invalid="ignore"):
            boxes = table[:, 1:] * np.tile(sizes_hw[images][:, ::-1], 2)
        return assemble(
            RawSplit(
                name=self._title(split),
                source=self.path,
                class_names=class_names,
                paths=scan.paths,
                sizes_hw=sizes_hw,
                boxes=RawBoxes(
                    image_index=images,
                    boxes_xyxy=boxes,
                    labels=table[:, 0].astype(np.int64),
                    place_of=lambda row: place_of(int(images[row]), int(lines[row])),
                    hint="; coordinates are shares of the image, 0 to 1",
                ),
                faults=faults,
            )
        )

    def unused(self) -> list[Fault]:
        """Label files for which no image exists."""
        folders = {os.path.dirname(path) for split in self.splits for path in self._scan(split).paths}  # noqa: PTH120
        found = []
        for folder in sorted(folders):
            labels = labels_folder(folder)
            if labels is None:
                continue
            stems = {Path(entry.name).stem for entry in entries_of(folder) if is_image_name(entry.name)}
            found += [
                make_fault("label_without_image", entry.path, f"no image of this name in {printable(folder)}")
                for entry in entries_of(labels)
                if suffix_of(entry.name) == ".txt" and entry.name != "classes.txt"
                if Path(entry.name).stem not in stems
            ]
        return found

    def _scan(self, split: str) -> Scan:
        if split not in self._scans:
            self._scans[split] = scan_split(self.path, split, self._parts[split])
        return self._scans[split]


def scan_split(source: Path, split: str, parts: Sequence[SplitPart]) -> Scan:
    """Find the images of a split and read their label files.

    Raises:
        FormatError: If a part does not exist or there is no image at all.
    """
    faults: list[Fault] = []
    paths: list[str] = []
    part_of, line_of = array("q"), array("q")
    known: set[str] = set()
    for number, part in enumerate(parts):
        for path, line in images_of(part):
            if path in known:
                message = f"{printable(path)} is listed again"
                faults.append(make_fault("duplicate_image", part.path, message, line=line or None))
                continue
            known.add(path)
            paths.append(path)
            part_of.append(number)
            line_of.append(line)
    if not paths:
        looked = ", ".join(printable(part.path) for part in parts)
        raise FormatError("no_images", source, f"split {split!r} has no images in {looked}")
    label_paths = find_labels(paths)
    labels = Labels()
    without = []
    for image, label_path in enumerate(label_paths):
        if label_path is None:
            without.append(image)
        else:
            read_label_file(label_path, image, labels)
    if len(without) == len(paths):
        message = f"split {split!r}: none of {counted(len(paths), 'image')} has a label file; {where_labels_go(paths)}"
        faults.append(make_fault("no_labels", source, message))
    else:
        message = "no label file; taken as background"
        faults += [make_fault("image_without_label", paths[image], message, image=image) for image in without]
    return Scan(paths, label_paths, parts, part_of, line_of, labels, faults)


def images_of(part: SplitPart) -> list[tuple[str, int]]:
    """Images of a part, each with its line in a list file (0 where there is none)."""
    if is_folder(part.path):
        return [(path, 0) for path in list_images(part.path)]
    if not exists(part.path):
        message = f"{part.told_by} does not exist; {part.hint or what_is_there(part.path)}"
        raise FormatError("not_found", part.path, message)
    if suffix_of(part.path.name) != ".txt":
        return [(str(part.path), 0)]
    folder = part.path.parent
    return [(str(folder / name), line) for line, name in read_lines(part.path, "list of images")]


def find_labels(paths: Sequence[str]) -> list[str | None]:
    """Label file of every image, or None. Every folder is listed once instead of asking for every file."""
    listed: dict[str, tuple[str, set[str]]] = {}
    found: list[str | None] = []
    for path in paths:
        folder, _, name = path.rpartition(os.sep)
        if folder not in listed:
            labels = labels_folder(folder) or folder
            listed[folder] = labels, {entry.name for entry in entries_of(labels)}
        labels, names = listed[folder]
        label = f"{os.path.splitext(name)[0]}.txt"  # noqa: PTH122 - once per image
        found.append(f"{labels}{os.sep}{label}" if label in names else None)
    return found


def mirrored_folder(images_folder: str) -> Path | None:
    """The path in which the last ``images`` is ``labels``; None if there is no such part."""
    parts = Path(images_folder).parts
    if "images" not in parts:
        return None
    last = len(parts) - 1 - parts[::-1].index("images")
    return Path(*parts[:last], "labels", *parts[last + 1 :])


def labels_folder(images_folder: str) -> str | None:
    """The ``labels`` folder that mirrors a folder of images, if it exists."""
    mirrored = mirrored_folder(images_folder)
    return str(mirrored) if mirrored is not None and is_folder(mirrored) else None


def where_labels_go(paths: Sequence[str]) -> str:
    """Where the labels of the first image were looked for."""
    folder = paths[0].rpartition(os.sep)[0]
    return f"they were looked for in {printable(mirrored_folder(folder) or folder)}"


def read_label_file(path: str, image: int, labels: Labels) -> None:
    """Add the lines of one label file to ``labels``, malformed ones to its faults."""

    def tell(kind: str, message: str, line: int | None = None) -> None:
        labels.faults.append(make_fault(kind, path, message, line=line, image=image))

    try:
        data = read_regular_file(path, limit=MAX_LABEL_BYTES)
    except FileReadError as error:
        tell("missing_label" if error.kind == "missing_file" else "unreadable_label", error.message)
        return
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not data.isascii() or b"\0" in data:
        place = next(i for i, byte in enumerate(data) if byte >= 0x80 or byte == 0)
        tell("not_text", f"byte 0x{data[place]:02x} cannot stand in a label", data.count(b"\n", 0, place) + 1)
        return
    plain = parse_plain(data)
    if plain is not None:
        count = len(plain) // 5
        labels.values.extend(plain)
        labels.polygons.extend(bytes(count))
        labels.images.extend(array("q", [image]) * count)
        labels.lines.extend(range(1, count + 1))
        return
    num_bad = 0
    for number, line in enumerate(data.splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        row = parse_fields(fields)
        if isinstance(row, list):
            labels.values.extend(row)
            labels.polygons.append(len(fields) > 5)
            labels.images.append(image)
            labels.lines.append(number)
            continue
        num_bad += 1
        if num_bad <= MAX_FAULTS_PER_FILE:
            tell(*row, number)
    if num_bad > MAX_FAULTS_PER_FILE:
        tell("wrong_columns", f"{num_bad - MAX_FAULTS_PER_FILE:,} more malformed lines")


def parse_plain(data: bytes) -> array[float] | None:
    """5 numbers per line of a file that has nothing but these, one space apart; None for any other file.

    Almost all files are so, and are then read five times as fast as line by line.
    """
    if data.translate(None, b"0123456789.+-eE \n"):
        return None
    lines = data.removesuffix(b"\n").split(b"\n") if data else []
    fields = data.split()
    if len(fields) != 5 * len(lines) or any(line.count(b" ") != 4 for line in lines):
        return None
    try:
        return array("d", map(float, fields))
    except ValueError:
        return None


def parse_fields(fields: list[bytes]) -> list[float] | tuple[str, str]:
    """Class and 4 numbers of a line, or kind and words of what is wrong with it."""
    count = len(fields)
    if count != 5 and (count < 7 or count % 2 == 0):
        start = b" ".join(fields)[:60].decode("ascii")
        return "wrong_columns", f"expected 'class x y w h' or a polygon, got {counted(count, 'column')}: {start!r}"
    try:
        values = list(map(float, fields))
    except ValueError:
        values = []
    if not values or any(b"_" in text for text in fields):  # Python reads 1_0 as 10
        column, text = next((i, text) for i, text in enumerate(fields) if not is_number(text))
        shown = text[:40].decode("ascii")
        if column == 0:
            return "bad_class", f"the class must be a whole number, got {shown!r}"
        return "bad_number", f"column {column + 1} is {shown!r}, not a number"
    if count == 5:
        return values
    xs, ys = values[1::2], values[2::2]
    if not all(map(math.isfinite, values)):
        return [values[0], math.nan, math.nan, math.nan, math.nan]
    return [values[0], min(xs), min(ys), max(xs), max(ys)]


def is_number(text: bytes) -> bool:
    """Whether a field is a plain number (or NaN or infinite, which is judged later)."""
    try:
        float(text)
    except ValueError:
        return False
    return b"_" not in text


def open_data_yaml(path: Path, class_names: Sequence[str] | None) -> YoloSource:
    """The data set that a ``data.yaml`` describes."""
    described = read_data_yaml(path)
    names = checked_names(path, described.names, wanted=class_names)
    return YoloSource(path, described.parts, names, described.faults)


def open_folder(path: Path, class_names: Sequence[str] | None) -> YoloSource:
    """A folder with ``images`` and ``labels``, or with folders such as ``train`` that hold these."""
    parts = {name: [SplitPart(folder, "the folder")] for name, folder in split_folders(path).items()}
    if not parts:
        raise FormatError("no_images", path, "no images below 'images'")
    names = class_names if class_names is not None else read_classes_file((path, path / "labels"))
    return YoloSource(path, parts, names)


def open_list_file(path: Path, class_names: Sequence[str] | None) -> YoloSource:
    """One list of images; its split is called by the file's name, if that is the name of a split, else ``train``.

    Raises:
        FormatError: If it is a text that names no image.
    """
    lines = read_lines(path, "list of images")
    if lines and not any(is_image_name(Path(text).name) for _, text in lines):
        line, text = lines[0]
        if not exists(path.parent / text):
            raise FormatError(
                "not_a_dataset",
                path,
                f"no list of images: {printable(text, limit=80)!r} names no image",
                line=line,
                cure="Give a list with the path of an image in each line, a data.yaml or a folder.",
            )
    name = split_name(path.stem)
    split = name if name in ("train", "val", "test") else "train"
    names = class_names if class_names is not None else read_classes_file((path.parent, path.parent / "labels"))
    return YoloSource(path, {split: [SplitPart(path, "the list")]}, names)


def split_folders(path: Path) -> dict[str, Path]:
    """Folders of images by split: ``images/train``, or all of ``images`` as ``train``, or ``train/images``."""
    inner = {entry.name: Path(entry.path) for entry in entries_of(path / "images") if is_visible_folder(entry)}
    inner = {name: folder for name, folder in inner.items() if list_images(folder)}
    if any(split_name(name) in SPLIT_ORDER for name in inner):
        return {split: inner[name] for split, name in name_splits(inner).items()}
    if list_images(path / "images"):
        return {"train": path / "images"}
    outer = {entry.name: Path(entry.path) / "images" for entry in entries_of(path) if is_visible_folder(entry)}
    outer = {name: images for name, images in outer.items() if split_name(name) in SPLIT_ORDER and is_folder(images)}
    return {split: outer[name] for split, name in name_splits(outer).items()}


def is_visible_folder(entry: os.DirEntry[str]) -> bool:
    """A folder whose name does not begin with a dot."""
    return not entry.name.startswith(".") and entry.is_dir()
