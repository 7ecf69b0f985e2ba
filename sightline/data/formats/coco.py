"""COCO: one JSON file per split with ``images``, ``annotations`` and ``categories`` (https://cocodataset.org/#format-data).

``bbox`` is (x, y, width, height) in pixels from 0. Category ids may have gaps; classes are in the order of their ids.
Regions of many objects (``iscrowd``) are kept and marked; areas are the file's own. Outlines are not read.

A data set is a folder with ``annotations/instances_*.json`` and folders of images (``train2017`` or
``images/train2017``), a folder with ``train/_annotations.coco.json`` and so on beside the images, or one JSON file.
File names may hold folders, but may not lead out of the data set.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sightline.config.printable import printable
from sightline.data.annotations import Fault, ImageAnnotations
from sightline.data.faults import FormatError, make_fault
from sightline.data.formats.class_names import checked_names
from sightline.data.formats.image_files import (
    entries_of,
    exists,
    is_folder,
    leaves_its_folder,
    list_images,
    name_splits,
    split_name,
    suffix_of,
)
from sightline.data.formats.safe_json import read_json
from sightline.data.formats.source import (
    DataSource,
    Place,
    RawBoxes,
    RawSplit,
    assemble,
    read_image_sizes,
    sorted_splits,
    turn_hint,
)

BOX_KEYS = ("image_id", "category_id", "bbox", "area", "iscrowd")
NUMBERS = (int, float)
ROBOFLOW_FILE = "_annotations.coco.json"
PROBES = 20
MAX_ID = 1 << 62


@dataclass
class CocoFile:
    """What one JSON file says. N images, M boxes."""

    path: Path
    categories: list[tuple[int, str]] = field(default_factory=list)
    """Ids and names, by id."""
    image_ids: array[int] = field(default_factory=lambda: array("q"))
    file_names: list[str] = field(default_factory=list)
    sizes_hw: list[tuple[int, int] | None] = field(default_factory=list)
    """None where the file gives no size."""
    images: array[int] = field(default_factory=lambda: array("q"))
    """(M,) index of the image."""
    category_ids: array[int] = field(default_factory=lambda: array("q"))
    boxes: array[float] = field(default_factory=lambda: array("d"))
    """4 per box: x, y, width, height."""
    areas: array[float] = field(default_factory=lambda: array("d"))
    crowds: bytearray = field(default_factory=bytearray)
    entries: array[int] = field(default_factory=lambda: array("q"))
    """(M,) place in the list ``annotations``."""
    faults: list[Fault] = field(default_factory=list)

    def tell(self, kind: str, message: str, image: int | None = None) -> None:
        """Add a fault."""
        self.faults.append(make_fault(kind, self.path, message, image=image))


class CocoSource(DataSource):
    """One or more COCO files and their images."""

    format: ClassVar[str] = "coco"

    def __init__(self, path: Path, files: dict[str, Path], class_names: Sequence[str] | None = None) -> None:
        super().__init__(path, sorted_splits(files))
        self._paths = files
        self._asked_names = class_names
        self._files: dict[str, CocoFile] = {}

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the categories of the first split, by their ids."""
        first = self._file(self.splits[0])
        names = [name for _, name in first.categories]
        return checked_names(first.path, names, wanted=self._asked_names)

    def _file(self, split: str) -> CocoFile:
        if split not in self._files:
            self._files[split] = read_coco_file(self._paths[split])
        return self._files[split]

    def _read(self, split: str) -> ImageAnnotations:
        class_names = self.class_names
        file, first = self._file(split), self._file(self.splits[0])
        check_categories(file, first)
        if not file.file_names:
            raise FormatError("no_images", file.path, "'images' is an empty list")
        folder = find_images(file, split)
        faults = list(file.faults)
        paths = [f"{folder}/{name}" for name in file.file_names]
        sizes_hw = read_image_sizes(paths, faults, lambda _: None)
        for image, told in enumerate(file.sizes_hw):
            true = (int(sizes_hw[image, 0]), int(sizes_hw[image, 1]))
            if told is not None and true not in ((0, 0), told):
                name = printable(file.file_names[image])
                message = f"{name} is {true[1]}x{true[0]}, but 'images' says {told[1]}x{told[0]}{turn_hint(told, true)}"
                faults.append(make_fault("size_mismatch", file.path, message, image=image))
        boxes = np.array(file.boxes, dtype=np.float64).reshape(-1, 4)
        with np.errstate(over="ignore"):
            boxes[:, 2:] += boxes[:, :2]
        category_ids = np.array([number for number, _ in first.categories], dtype=np.int64)
        entries = file.entries

        def place_of(row: int) -> Place:
            return file.path, None, f"annotations[{entries[row]}]: "

        return assemble(
            RawSplit(
                name=self._title(split),
                source=self.path,
                class_names=class_names,
                paths=paths,
                sizes_hw=sizes_hw,
                boxes=RawBoxes(
                    image_index=np.array(file.images, dtype=np.int64),
                    boxes_xyxy=boxes,
                    labels=np.searchsorted(category_ids, np.array(file.category_ids, dtype=np.int64)),
                    place_of=place_of,
                    is_crowd=np.frombuffer(bytes(file.crowds), dtype=np.bool_),
                    areas=np.array(file.areas, dtype=np.float64),
                ),
                faults=faults,
                image_ids=np.array(file.image_ids, dtype=np.int64),
                category_ids=category_ids,
            )
        )

    def unused(self) -> list[Fault]:
        """Images beside the listed ones that no file lists."""
        folders, listed = set(), set()
        for split in self.splits:
            file = self._file(split)
            if file.file_names:
                folder = find_images(file, split)
                folders.add(str(folder))
                listed |= {str(folder / name) for name in file.file_names}
        there = {path for folder in folders for path in list_images(folder)}
        return [make_fault("image_not_listed", path, "no JSON file lists it") for path in sorted(there - listed)]


def open_coco(path: Path, class_names: Sequence[str] | None) -> CocoSource:
    """A folder or one JSON file, whose split is called by its name if that is the name of one, else ``train``."""
    if is_folder(path):
        return CocoSource(path, find_files(path), class_names)
    name = split_name(path.parent.name if path.name == ROBOFLOW_FILE else bare_stem(path))
    return CocoSource(path, {name if name in ("train", "val", "test") else "train": path}, class_names)


def find_files(path: Path) -> dict[str, Path]:
    """Annotation files of a folder by split; empty if it holds none."""
    jsons = [Path(entry.path) for entry in entries_of(path / "annotations") if suffix_of(entry.name) == ".json"]
    named = [file for file in jsons if file.name.startswith("instances_")]
    if not named:
        named = [file for file in jsons if split_name(file.stem) in ("train", "val", "test", "trainval")]
    if named:
        files = {bare_stem(file): file for file in named}
        return {split: files[stem] for split, stem in name_splits(files).items()}
    folders = {entry.name: Path(entry.path) / ROBOFLOW_FILE for entry in entries_of(path)}
    folders = {name: file for name, file in folders.items() if exists(file)}
    return {split: folders[name] for split, name in name_splits(folders).items()}


def bare_stem(path: Path) -> str:
    """``train2017`` of ``instances_train2017.json``."""
    return path.stem.removeprefix("instances_")


def find_images(file: CocoFile, split: str) -> Path:
    """The folder that the file names are relative to: the likely one that holds most of them.

    Raises:
        FormatError: If no likely folder holds any of the images looked for.
    """
    beside = file.path.parent
    base = beside.parent if beside.name == "annotations" else beside
    full = bare_stem(file.path)
    folders = [
        base / full,
        base / "images" / full,
        base / split,
        base / "images" / split,
        base / "images",
        base,
        beside,
    ]
    folders = list(dict.fromkeys(folders))
    probed = file.file_names[:: max(1, len(file.file_names) // PROBES)][:PROBES]
    found = [sum(exists(folder / name) for name in probed) if is_folder(folder) else 0 for folder in folders]
    if not max(found):
        looked = ", ".join(printable(folder) for folder in folders if is_folder(folder))
        message = f"none of its images, such as {printable(probed[0])}, is in {looked}"
        raise FormatError("no_images", file.path, message)
    return folders[found.index(max(found))]


def check_categories(file: CocoFile, first: CocoFile) -> None:
    """Refuse a split whose categories contradict those of the first split.

    Raises:
        FormatError: Names the category.
    """
    known = dict(first.categories)
    for number, name in file.categories:
        if known.get(number) != name:
            there = repr(known[number]) if number in known else "missing"
            message = f"category {number} is {name!r}, but {there} in {printable(first.path)}"
            raise FormatError("bad_names", file.path, message)


def compact(value: dict[str, Any]) -> Any:
    """A tuple for an annotation, without its outline, which is the bulk of a file; other objects as they are."""
    return tuple(map(value.get, BOX_KEYS)) if "image_id" in value else value


def read_coco_file(path: Path) -> CocoFile:
    """Read a JSON file and check the type of everything in it.

    Raises:
        FormatError: If the file is no COCO file as a whole; faults of single entries are kept.
    """
    content = read_json(path, keep=compact)
    if not isinstance(content, dict):
        raise FormatError("wrong_type", path, "expected an object with 'images', 'annotations' and 'categories'")
    for key in ("images", "annotations", "categories"):
        if key not in content:
            raise FormatError("missing_key", path, f"{key!r} is missing")
        if not isinstance(content[key], list):
            raise FormatError("wrong_type", path, f"{key!r} must be a list")
    file = CocoFile(path)
    take_categories(file, content["categories"])
    take_images(file, content["images"])
    take_annotations(file, content["annotations"])
    return file


def take_categories(file: CocoFile, items: Sequence[Any]) -> None:
    """Ids and names of the categories; any fault is one of the whole file."""
    known: dict[int, str] = {}
    for index, item in enumerate(items):
        where = f"categories[{index}]"
        if not isinstance(item, dict):
            raise FormatError("wrong_type", file.path, f"{where} must be an object")
        for key, kind, words in (("id", int, "a whole number"), ("name", str, "text")):
            if key not in item:
                raise FormatError("missing_key", file.path, f"{where} has no {key!r}")
            if type(item[key]) is not kind:
                raise FormatError("wrong_type", file.path, f"{where}: {key!r} must be {words}, got {brief(item[key])}")
        number = item["id"]
        if not -MAX_ID < number < MAX_ID:
            raise FormatError("bad_value", file.path, f"{where}: the id {brief(number)} is too large")
        if number in known:
            raise FormatError("duplicate_id", file.path, f"{where}: the id {number} is given twice")
        known[number] = item["name"].strip()
    file.categories = sorted(known.items())
    checked_names(file.path, [name for _, name in file.categories])


def take_images(file: CocoFile, items: Sequence[Any]) -> None:
    """Ids, names and sizes of the images. One without id or name cannot be listed; it is a fault without image."""
    ids: set[int] = set()
    names: set[str] = set()
    for index, item in enumerate(items):
        where = f"images[{index}]"
        if not isinstance(item, dict):
            file.tell("wrong_type", f"{where} must be an object, got {brief(item)}")
            continue
        number, name = item.get("id"), item.get("file_name")
        if number is None or name is None:
            file.tell("missing_key", f"{where} has no {'id' if number is None else 'file_name'!r}")
        elif type(number) is not int or not -MAX_ID < number < MAX_ID:
            file.tell("wrong_type", f"{where}: 'id' must be a whole number, got {brief(number)}")
        elif not isinstance(name, str) or not name:
            file.tell("wrong_type", f"{where}: 'file_name' must be text, got {brief(name)}")
        elif number in ids:
            file.tell("duplicate_id", f"{where} ({printable(name)}): the id {number} is given twice")
        elif name in names:
            file.tell("duplicate_id", f"{where}: the file {printable(name)} is listed twice, as id {number} too")
        else:
            if leaves_its_folder(name) or "\0" in name:
                raise FormatError("unsafe_path", file.path, f"{where}: {printable(name)} leads out of the data set")
            ids.add(number)
            names.add(name)
            file.image_ids.append(number)
            file.file_names.append(name)
            take_size(file, where, item)


def take_size(file: CocoFile, where: str, item: dict[str, Any]) -> None:
    """The size that the file gives an image, if it gives one."""
    sides = [item.get("height"), item.get("width")]
    for key, side in zip(("height", "width"), sides, strict=True):
        if side is not None and (type(side) not in NUMBERS or side < 0 or side != side // 1):
            file.tell("bad_value", f"{where}: {key!r} is {brief(side)}", image=len(file.file_names) - 1)
            sides = [None, None]
    file.sizes_hw.append((int(sides[0]), int(sides[1])) if sides[0] and sides[1] else None)


def take_annotations(file: CocoFile, items: Sequence[Any]) -> None:
    """Boxes whose parts have the right types."""
    image_of = {number: index for index, number in enumerate(file.image_ids)}
    category_ids = {number for number, _ in file.categories}
    for index, item in enumerate(items):
        if not isinstance(item, tuple):
            kind, what = (
                ("missing_key", "has no 'image_id'") if isinstance(item, dict) else ("wrong_type", "is no object")
            )
            file.tell(kind, f"annotations[{index}] {what}")
            continue
        image_id, category_id, bbox, area, crowd = item
        image = image_of.get(image_id) if type(image_id) is int else None
        fault = annotation_fault(image, category_id in category_ids if type(category_id) is int else False, item)
        if fault is not None:
            file.tell(fault[0], f"annotations[{index}]: {fault[1]}", image)
            continue
        assert image is not None  # else it had been a fault
        file.images.append(image)
        file.category_ids.append(category_id)
        file.boxes.extend(bbox)
        file.areas.append(np.nan if area is None else area)
        file.crowds.append(bool(crowd))
        file.entries.append(index)


def annotation_fault(image: int | None, is_category: bool, item: tuple[Any, ...]) -> tuple[str, str] | None:
    """Kind and words of what is wrong with an annotation, or None."""
    image_id, category_id, bbox, area, crowd = item
    for key, value in (("image_id", image_id), ("category_id", category_id), ("bbox", bbox)):
        if value is None:
            return "missing_key", f"{key!r} is missing"
    for key, value in (("image_id", image_id), ("category_id", category_id)):
        if type(value) is not int:
            return "wrong_type", f"{key!r} must be a whole number, got {brief(value)}"
    if image is None:
        return "unknown_image_id", f"no image has the id {brief(image_id)}"
    if not is_category:
        return "unknown_category_id", f"no category has the id {brief(category_id)}"
    if type(bbox) is not list or len(bbox) != 4:
        return "wrong_columns", f"'bbox' must be 4 numbers, got {brief(bbox)}"
    for key, value in (*(("bbox", number) for number in bbox), ("area", 0 if area is None else area)):
        if type(value) not in NUMBERS:
            return "bad_number", f"{key!r} holds {brief(value)}, which is no number"
        if not abs(value) < 1e300:  # whole numbers may be too long for a float
            return "non_finite", f"{key!r} holds a number without limit"
    if area is not None and area < 0:
        return "bad_value", f"'area' is {area}"
    if crowd is not None and (type(crowd) not in (int, bool) or crowd not in (0, 1)):
        return "bad_value", f"'iscrowd' must be 0 or 1, got {brief(crowd)}"
    return None


def brief(value: object) -> str:
    """A value from a file for a message."""
    if isinstance(value, dict | list | tuple):
        return f"a {'list' if isinstance(value, list) else 'map'} of {len(value)}"
    return printable(repr(value) if abs_small(value) else "a very long number", limit=50)


def abs_small(value: object) -> bool:
    """Whether ``repr`` of a value is cheap and allowed: Python refuses whole numbers of thousands of digits."""
    return not isinstance(value, int) or -(10**100) < value < 10**100
