"""COCO files as a scorer reads them: the truth and the detections, nothing dropped and nothing repaired.

Format: https://cocodataset.org/#format-data and #format-results. Boxes stay (x_min, y_min, width, height) in
float64 as the files say them, because the official evaluation computes in this layout. Unlike the reader for
training, this one needs no pictures and keeps boxes without area: they count as truths that nobody can find.

Ids may be whole numbers or texts. Everything that the official tool would pass over in silence (boxes of unknown
images or classes, ids used twice) is an error here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from sightline.config.errors import DataError
from sightline.config.printable import printable
from sightline.data.formats.safe_json import read_json

Array = np.ndarray[Any, Any]

NUMBERS = {int, float}


@dataclass(frozen=True, eq=False)
class CocoTruth:
    """The truth of a COCO file. M boxes; images and classes are numbered in the order of their ids."""

    path: Path
    image_numbers: dict[int | str, int]
    """Place of each image id among the sorted ids."""
    class_numbers: dict[int | str, int]
    """Label of each category id: its place among the sorted ids."""
    class_names: tuple[str, ...]
    images: Array
    """(M,) int64, number of the image."""
    boxes_xywh: Array
    """(M, 4) float64 pixels."""
    labels: Array
    """(M,) int64."""
    is_crowd: Array
    """(M,) bool."""
    areas: Array
    """(M,) float64; width x height where the file has none."""
    has_id_zero: Array
    """(M,) bool, the annotation's id is 0."""


@dataclass(frozen=True, eq=False)
class CocoDetections:
    """The detections of a COCO result file, in its order."""

    images: Array
    """(N,) int64, number of the image in the truth."""
    boxes_xywh: Array
    """(N, 4) float64 pixels."""
    scores: Array
    """(N,) float64."""
    labels: Array
    """(N,) int64."""


def read_coco_truth(path: Path) -> CocoTruth:
    """Read an annotation file (``instances_*.json``).

    Raises:
        DataError: If the file cannot be read or an entry is impossible; names the entry.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        hint = " Is this the result file? The truth comes first." if isinstance(content, list) else ""
        raise DataError(f"{printable(path)}: expected an object with images, annotations and categories.{hint}")
    images, categories, annotations = (
        _entries(path, name, content.get(name)) for name in ("images", "categories", "annotations")
    )
    image_numbers = _numbers(path, "images", images)
    class_numbers = _numbers(path, "categories", categories)
    names = {entry["id"]: str(entry.get("name", entry["id"])) for entry in categories}
    _numbers(path, "annotations", [entry for entry in annotations if "id" in entry])

    where = f"{printable(path)}, annotations"
    boxes = _boxes(where, annotations)
    given = [entry.get("area") for entry in annotations]
    areas = boxes[:, 2] * boxes[:, 3]
    has_area = np.array([area is not None for area in given], dtype=bool)
    areas[has_area] = _finite(where, "area", annotations, [area for area in given if area is not None], has_area)
    for index, entry in enumerate(annotations):
        if entry.get("iscrowd", 0) not in (0, 1):
            _refuse(where, index, f"iscrowd is {_short(entry['iscrowd'])}, expected 0 or 1")
    return CocoTruth(
        path=path,
        image_numbers=image_numbers,
        class_numbers=class_numbers,
        class_names=tuple(names[identity] for identity in class_numbers),
        images=_looked_up(where, "image_id", annotations, image_numbers, "images of the file"),
        boxes_xywh=boxes,
        labels=_looked_up(where, "category_id", annotations, class_numbers, "categories of the file"),
        is_crowd=np.array([entry.get("iscrowd", 0) == 1 for entry in annotations], dtype=bool),
        areas=areas,
        has_id_zero=np.array([entry.get("id") == 0 for entry in annotations], dtype=bool),
    )


def read_coco_detections(path: Path, truth: CocoTruth) -> CocoDetections:
    """Read a result file: a list of objects with image_id, category_id, bbox and score. It may be empty.

    Raises:
        DataError: If the file cannot be read or an entry is impossible; names the entry.
    """
    content = read_json(path)
    if isinstance(content, dict):
        hint = " Is this the truth? It comes first." if "images" in content else ""
        raise DataError(f"{printable(path)}: expected a list of detections, got an object.{hint}")
    entries = _entries(path, "detections", content)
    where = f"{printable(path)}, detections"
    of_truth = printable(truth.path)
    return CocoDetections(
        images=_looked_up(where, "image_id", entries, truth.image_numbers, f"images of {of_truth}"),
        boxes_xywh=_boxes(where, entries),
        scores=_finite(where, "score", entries, [entry.get("score") for entry in entries]),
        labels=_looked_up(where, "category_id", entries, truth.class_numbers, f"categories of {of_truth}"),
    )


def write_coco_detections(
    path: Path,
    image_ids: Iterable[int | str],
    category_ids: Iterable[int | str],
    boxes_xywh: Array,
    scores: Array,
) -> None:
    """Write a result file that scores to the same bits: no number is rounded.

    Args:
        path: The file; replaced if it exists.
        image_ids: (N,).
        category_ids: (N,).
        boxes_xywh: (N, 4) float64 pixels.
        scores: (N,).
    """
    columns = (image_ids, category_ids, boxes_xywh.tolist(), np.asarray(scores, dtype=np.float64).tolist())
    lines = [
        json.dumps({"image_id": image, "category_id": category, "bbox": box, "score": score})
        for image, category, box, score in zip(*columns, strict=True)
    ]
    path.write_text("[" + ",\n".join(lines) + "]\n", encoding="utf-8")


def _short(value: object) -> str:
    return printable(repr(value), limit=60)


def _refuse(where: str, index: int, what: str) -> NoReturn:
    raise DataError(f"{where}[{index}]: {what}.")


def _entries(path: Path, name: str, value: object) -> list[dict[str, Any]]:
    """A list of objects."""
    if not isinstance(value, list):
        what = "is missing" if value is None else f"is {_short(value)}"
        raise DataError(f"{printable(path)}: {name} {what}, expected a list.")
    for index, entry in enumerate(value):
        if type(entry) is not dict:
            _refuse(f"{printable(path)}, {name}", index, f"{_short(entry)} is not an object")
    return value


def _numbers(path: Path, name: str, entries: Sequence[dict[str, Any]]) -> dict[int | str, int]:
    """The ids of a list, sorted, each with its place."""
    where = f"{printable(path)}, {name}"
    seen: dict[int | str, int] = {}
    for index, entry in enumerate(entries):
        identity: Any = entry.get("id")
        if type(identity) not in (int, str):
            _refuse(where, index, f"id is {_short(identity)}, expected a whole number")
        if identity in seen:
            _refuse(where, index, f"id {_short(identity)} is already that of {name}[{seen[identity]}]")
        seen[identity] = index
    if len({type(identity) for identity in seen}) > 1:
        raise DataError(f"{where}: some ids are numbers and some are texts.")
    return {identity: place for place, identity in enumerate(sorted(seen))}


def _looked_up(
    where: str, key: str, entries: Sequence[dict[str, Any]], known: dict[int | str, int], meaning: str
) -> Array:
    """(N,) place of each entry's id among the known ones."""
    try:
        return np.array([known[entry[key]] for entry in entries], dtype=np.int64)
    except (KeyError, TypeError):
        pass
    for index, entry in enumerate(entries):
        value = entry.get(key)
        if type(value) not in (int, float, str) or value not in known:
            what = f"{key} is missing" if key not in entry else f"{key} {_short(value)} is none of the {meaning}"
            _refuse(where, index, what)
    raise AssertionError(f"{where}: {key} was refused, and every entry is right.")


def _boxes(where: str, entries: Sequence[dict[str, Any]]) -> Array:
    """(N, 4) float64, finite."""
    for index, entry in enumerate(entries):
        box = entry.get("bbox")
        if type(box) is not list or len(box) != 4:
            what = "is missing" if "bbox" not in entry else f"is {_short(box)}"
            _refuse(where, index, f"bbox {what}, expected [x, y, width, height]")
        if not {type(value) for value in box} <= NUMBERS:
            _refuse(where, index, f"bbox is {_short(box)}, expected four numbers")
    flat = [value for entry in entries for value in entry["bbox"]]
    boxes = _floats(flat).reshape(-1, 4)
    finite = np.isfinite(boxes).all(axis=1)
    if not finite.all():
        index = int(np.argmin(finite))
        _refuse(where, index, f"bbox is {_short(entries[index]['bbox'])}, which is not finite")
    return boxes


def _finite(
    where: str, key: str, entries: Sequence[dict[str, Any]], values: Sequence[Any], chosen: Array | None = None
) -> Array:
    """(N,) float64 of the entries chosen, or of all."""
    places = list(range(len(entries))) if chosen is None else np.flatnonzero(chosen).tolist()
    for place, value in zip(places, values, strict=True):
        if type(value) not in NUMBERS:
            what = f"{key} is {_short(value)}" if key in entries[place] else f"{key} is missing"
            _refuse(where, place, f"{what}, expected a number")
    numbers = _floats(values)
    finite = np.isfinite(numbers)
    if not finite.all():
        wrong = int(np.argmin(finite))
        _refuse(where, places[wrong], f"{key} is {_short(values[wrong])}, which is not finite")
    return numbers


def _floats(values: Sequence[Any]) -> Array:
    """Numbers as float64; whole numbers too large for it become infinite."""
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:
        largest = 1 << 1000
        return np.array([float(v) if type(v) is float or abs(v) < largest else np.inf for v in values])
