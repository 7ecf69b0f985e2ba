"""KITTI's text files as a scorer reads them: labels and detections of many frames, nothing dropped, nothing repaired.

One file per frame, ``000123.txt``, one object per line, as ``kitti_files`` has it; detections have a 16th column, the
score. Unlike the reader for training this one needs neither points nor calibration. What the official tool would pass
over, such as a broken line or an unknown type, is an error here.

A detector of boxes in the picture alone writes -1 for all three sizes in space, one without angles -10 for alpha.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from sightline.config.errors import DataError, did_you_mean
from sightline.config.printable import counted, printable
from sightline.data.faults import FormatError
from sightline.data.formats.image_files import entries_of, is_folder, read_lines, what_is_there
from sightline.data.formats.kitti_files import CAMERA_BOX, read_label_file
from sightline.data.lidar_annotations import DONT_CARE

Array = np.ndarray[Any, Any]

USUAL_PLACES = ("label_2", "training/label_2", "data")
"""Where the files are when the folder named holds none."""


@dataclass(frozen=True, eq=False)
class KittiObjects:
    """The objects of several frames, flat, in the order of the frames and of their files. M objects."""

    folder: Path
    frames: Array
    """(M,) int64, places in the list of frames that was asked for, ascending."""
    type_names: tuple[str, ...]
    """All types that the files name."""
    types: Array
    """(M,) int64 into ``type_names``."""
    truncations: Array
    """(M,) float64."""
    occlusions: Array
    """(M,) float64."""
    alphas: Array
    """(M,) float64, radians."""
    boxes_xyxy: Array
    """(M, 4) float64, pixels."""
    boxes_camera: Array
    """(M, 7) float64: x, y, z of the middle of the bottom, rect frame; length, height, width; rotation around y."""
    scores: Array
    """(M,) float64; NaN in labels."""


def text_frames(folder: Path, what: str) -> list[str]:
    """Names of all ``.txt`` files of a folder without the ending, sorted.

    Args:
        folder: Where they should be.
        what: What the folder is, for messages.

    Raises:
        DataError: If there is no such folder, or none of them.
    """
    if folder.is_file():
        raise DataError(f"{printable(folder)}: {what} must be a folder of text files; give {printable(folder.parent)}.")
    if not is_folder(folder):
        there = what_is_there(folder)
        end = "" if there.endswith("?") else "."
        raise DataError(f"{printable(folder)}: {what} must be a folder of text files; {there}{end}")
    names = (entry.name for entry in entries_of(folder))
    found = sorted(name[:-4] for name in names if name.endswith(".txt") and not name.startswith("."))
    if not found:
        near = next((folder / place for place in USUAL_PLACES if any((folder / place).glob("*.txt"))), None)
        hint = f" Give {printable(near)}." if near else f" {what_is_there(folder / '000000.txt')}."
        raise DataError(f"{printable(folder)}: {what} has no .txt files, one per frame.{hint}")
    return found


def listed_frames(path: Path) -> list[str]:
    """The frames that a list names, such as ``ImageSets/val.txt``: one a line.

    Raises:
        DataError: If the file cannot be read, is empty, or a frame is named twice or is no plain name.
    """
    lines_of: dict[str, int] = {}
    for line, name in read_lines(path, "list of frames"):
        if not name.isprintable() or "/" in name or "\\" in name:
            raise DataError(f"{printable(path)}:{line}: '{printable(name, limit=60)}' is no name of a frame.")
        if name in lines_of:
            raise DataError(f"{printable(path)}:{line}: {printable(name)} is already in line {lines_of[name]}.")
        lines_of[name] = line
    if not lines_of:
        raise DataError(f"{printable(path)}: the list of frames is empty.")
    return list(lines_of)


def read_kitti_objects(folder: Path, frame_ids: Sequence[str], *, has_scores: bool) -> KittiObjects:
    """Read the files of some frames.

    Args:
        folder: Where they are.
        frame_ids: (B,) names without the ending.
        has_scores: True for detections, which must have a score; False for labels, which must have none.

    Raises:
        DataError: If a file is missing or a line is broken or impossible; names file and line.
    """
    types: list[bytes] = []
    numbers: list[float] = []
    scores: list[float] = []
    lines: list[int] = []
    counts = []
    for frame in frame_ids:
        path = folder / f"{frame}.txt"
        file = read_label_file(str(path))
        if file.problems:
            problem = file.problems[0]
            more = f" ({counted(len(file.problems) - 1, 'more problem')} in it)" if len(file.problems) > 1 else ""
            raise FormatError(problem.kind, path, f"{problem.message}{more}", line=problem.line)
        types += file.types
        numbers += file.numbers
        scores += file.scores
        lines += file.lines
        counts.append(len(file.types))
    names = dict.fromkeys(types)
    number_of = {name: number for number, name in enumerate(names)}
    table = np.array(numbers, dtype=np.float64).reshape(-1, 14)
    objects = KittiObjects(
        folder=folder,
        frames=np.repeat(np.arange(len(counts)), counts),
        type_names=tuple(name.decode("utf-8", "backslashreplace") for name in names),
        types=np.array([number_of[name] for name in types], dtype=np.int64),
        truncations=table[:, 0],
        occlusions=table[:, 1],
        alphas=table[:, 2],
        boxes_xyxy=table[:, 3:7],
        boxes_camera=table[:, CAMERA_BOX],
        scores=np.array(scores, dtype=np.float64),
    )
    _check(objects, frame_ids, lines, has_scores)
    return objects


def _check(objects: KittiObjects, frame_ids: Sequence[str], lines: Sequence[int], has_scores: bool) -> None:
    """Refuse what cannot be."""

    def refuse(wrong: Array, kind: str, message: str) -> None:
        for row in np.flatnonzero(wrong).tolist():
            path = objects.folder / f"{frame_ids[objects.frames[row]]}.txt"
            raise FormatError(kind, path, message.format(*objects.boxes_xyxy[row], row=row), line=lines[row])

    without = np.isnan(objects.scores)
    if has_scores:
        refuse(without, "wrong_columns", "15 columns; a detection has a 16th, its score. (The labels come first)")
        regions = [number for number, name in enumerate(objects.type_names) if name.casefold() == DONT_CARE.casefold()]
        refuse(np.isin(objects.types, regions), "unknown_class", f"{DONT_CARE} marks regions of the labels")
    else:
        refuse(~without, "wrong_columns", "16 columns, so this is a detection; a label has 15. (The labels come first)")
    boxes = objects.boxes_xyxy
    refuse(
        (boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1]),
        "negative_size",
        "left top right bottom are {0:g} {1:g} {2:g} {3:g}: right is left of left, or bottom above top",
    )
    sizes = objects.boxes_camera[:, 3:6]
    refuse(
        (sizes.min(axis=1, initial=np.inf) < 0) & (np.abs(sizes + 1).max(axis=1, initial=0) > 0),
        "bad_size",
        "a size in space is below 0; without a box in space all three are -1",
    )


def refuse_strange_types(objects: KittiObjects, known: Sequence[str], frame_ids: Sequence[str]) -> None:
    """Stop at a type that is none of the known ones; upper and lower case are the same.

    Raises:
        DataError: Names the first file with it.
    """
    plain = {name.casefold() for name in known}
    for number, name in enumerate(objects.type_names):
        if name.casefold() not in plain:
            frame = frame_ids[objects.frames[np.argmax(objects.types == number)]]
            _refuse_type(objects.folder / f"{frame}.txt", name, known)


def _refuse_type(path: Path, name: str, known: Sequence[str]) -> NoReturn:
    there = ", ".join(printable(one, limit=40) for one in known)
    raise DataError(
        f"{printable(path)}: no label has the type '{printable(name, limit=60)}'; there are: {there}."
        f"{did_you_mean(name, known)}"
    )


def detection_text(
    type_names: Sequence[str], boxes_xyxy: Array, boxes_camera: Array, scores: Array, alphas: Array
) -> str:
    """The file of one frame's detections; empty without any. All but the scores have four digits after the point.

    A score keeps all its digits, so that no two become equal.

    Args:
        type_names: (N,).
        boxes_xyxy: (N, 4) pixels.
        boxes_camera: (N, 7) as in ``KittiObjects``.
        scores: (N,).
        alphas: (N,).
    """
    x_y_z, sizes, rotation = boxes_camera[:, :3], boxes_camera[:, [4, 5, 3]], boxes_camera[:, 6:]
    rows = np.concatenate((alphas[:, None], boxes_xyxy, sizes, x_y_z, rotation), axis=1)
    lines = []
    for name, row, score in zip(type_names, rows.tolist(), np.asarray(scores, np.float64).tolist(), strict=True):
        text = f"{score:.4f}"
        numbers = " ".join(f"{value:.4f}" for value in row)
        lines.append(f"{name} -1 -1 {numbers} {text if float(text) == score else repr(score)}\n")
    return "".join(lines)


def write_kitti_detections(folder: Path, texts: dict[str, str]) -> None:
    """Write ``detection_text`` of each frame by its name.

    Raises:
        FileExistsError: If the folder holds text files of other frames, which would be scored with these.
        OSError: If the disk refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for entry in entries_of(folder):
        if entry.name.endswith(".txt") and entry.name[:-4] not in texts and not entry.name.startswith("."):
            raise FileExistsError(errno.EEXIST, f"it holds {printable(entry.name)}, which is of none of the frames")
    for frame, text in texts.items():
        (folder / f"{frame}.txt").write_text(text, encoding="utf-8")
