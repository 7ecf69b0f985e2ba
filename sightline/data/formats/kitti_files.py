"""The text files of KITTI's object benchmark: labels, calibration, road planes and lists of frames.

Format: readme of the object development kit, https://www.cvlibs.net/datasets/kitti/eval_object.php?obj_benchmark=3d.
Label: ``type truncated occluded alpha left top right bottom height width length x y z rotation_y [score]``, one object
per line. Calibration: ``NAME: numbers``, one matrix per line, row by row. Plane: the last line is ``a b c d``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from sightline.config.printable import counted, printable
from sightline.config.safe_file import FileReadError, read_regular_file
from sightline.data.lidar_annotations import DONT_CARE

Array = np.ndarray[Any, Any]

MAX_TEXT_BYTES = 1 << 20
NUM_COLUMNS = 15
KITTI_TYPES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc", DONT_CARE)
"""All types that KITTI's own labels have."""
CAMERA_BOX = [10, 11, 12, 9, 7, 8, 13]
"""x, y, z, length, height, width, rotation among the 14 numbers of a label."""
MATRICES = {"P2": (3, 4), "R0_rect": (3, 3), "Tr_velo_to_cam": (3, 4)}
"""What is read of a calibration, and the shape of each."""
ROTATION_TOLERANCE = 0.01
"""KITTI's files are exact to 1e-5; numbers that were rounded to two digits still pass."""
LARGEST_NUMBER = 1e5
"""Metres, pixels or radians: what is larger in a label, a calibration or a plane is a mistake, and spoils float32."""

_NUMBER = rb"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_IS_NUMBER = re.compile(_NUMBER)
_IS_NON_FINITE = re.compile(rb"[-+]?(?:nan|inf|infinity)", re.IGNORECASE)
_PLAIN_LABELS = re.compile(rb"(?:[^\s]+(?:[ \t]+%s){14}[ \t]*\r?(?:\n|\Z))*" % _NUMBER)


class Problem(NamedTuple):
    """One thing that is wrong in a file, as ``faults.make_fault`` takes it."""

    kind: str
    message: str
    line: int | None = None


@dataclass
class LabelFile:
    """What one label file says. n objects."""

    types: list[bytes] = field(default_factory=list)
    numbers: list[float] = field(default_factory=list)
    """14 per object, in the order of the file."""
    scores: list[float] = field(default_factory=list)
    """The 16th column of a result; NaN where there is none."""
    lines: list[int] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    """Objects with a problem are not among the others."""


def read_label_file(path: str) -> LabelFile:
    """Read one label file, or one of results, which has a 16th column, the score.

    Only its form is checked here: columns, numbers, finite. An empty file has no objects.
    """
    try:
        data = read_regular_file(path, limit=MAX_TEXT_BYTES)
    except FileReadError as error:
        kind = "missing_label" if error.kind == "missing_file" else "unreadable_label"
        return LabelFile(problems=[Problem(kind, error.message)])
    return parse_labels(data)


def parse_labels(data: bytes) -> LabelFile:
    """As ``read_label_file``, from the bytes of the file."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    if _PLAIN_LABELS.fullmatch(data):
        tokens = data.split()
        types = tokens[::NUM_COLUMNS]
        del tokens[::NUM_COLUMNS]
        numbers = list(map(float, tokens))
        if all(map(math.isfinite, numbers)):  # 1e999 is written as a number and is none
            return LabelFile(types, numbers, [math.nan] * len(types), list(range(1, len(types) + 1)))
    if b"\0" in data:
        return LabelFile(problems=[Problem("not_text", "holds null bytes, so it is no label file")])
    file = LabelFile()
    for line, text in enumerate(data.splitlines(), start=1):
        fields = text.split()
        if not fields:
            continue
        if len(fields) not in (NUM_COLUMNS, NUM_COLUMNS + 1):
            message = (
                f"expected 15 columns (type truncated occluded alpha, 4 of the 2D box, height width length, x y z, "
                f"rotation_y), got {len(fields)}: {shown(text)}"
            )
            file.problems.append(Problem("wrong_columns", message, line))
            continue
        numbers, problem = read_numbers(fields[1:], line, first_column=2)
        if problem is not None:
            file.problems.append(problem)
            continue
        file.types.append(fields[0])
        file.numbers += numbers[: NUM_COLUMNS - 1]
        file.scores.append(numbers[-1] if len(numbers) == NUM_COLUMNS else math.nan)
        file.lines.append(line)
    return file


def read_numbers(
    fields: Sequence[bytes], line: int, *, first_column: int, what: str = ""
) -> tuple[list[float], Problem | None]:
    """Finite decimal numbers, or the first problem among them; ``what`` stands before its message."""
    numbers = []
    for column, text in enumerate(fields, start=first_column):
        value = float(text) if _IS_NUMBER.fullmatch(text) else math.nan
        if not math.isfinite(value):
            non_finite = _IS_NUMBER.fullmatch(text) or _IS_NON_FINITE.fullmatch(text)
            kind, why = ("non_finite", "not a finite number") if non_finite else ("bad_number", "not a number")
            return [], Problem(kind, f"{what}column {column} is {shown(text)}, {why}", line)
        numbers.append(value)
    return numbers, None


def shown(text: bytes) -> str:
    """A piece of a file for a message."""
    return f"'{printable(text.decode('utf-8', 'backslashreplace'), limit=80)}'"


@dataclass
class CalibrationFile:
    """What one calibration file says; the matrices are of use only where there is no problem."""

    matrices: dict[str, Array] = field(default_factory=dict)
    """float64 by the names in ``MATRICES``."""
    problems: list[Problem] = field(default_factory=list)


def read_calibration_file(path: str, known: dict[bytes, CalibrationFile]) -> CalibrationFile:
    """Read one calibration file.

    Args:
        path: The file.
        known: Files by their content, filled here: the frames of one drive share theirs.
    """
    try:
        data = read_regular_file(path, limit=MAX_TEXT_BYTES)
    except FileReadError as error:
        kind = "missing_calibration" if error.kind == "missing_file" else "unreadable_calibration"
        return CalibrationFile(problems=[Problem(kind, error.message)])
    found = known.get(data)
    if found is None:
        found = known[data] = parse_calibration(data)
    return found


def parse_calibration(data: bytes) -> CalibrationFile:
    """The matrices ``P2``, ``R0_rect`` and ``Tr_velo_to_cam``; other lines are not looked at."""
    if b"\0" in data:
        return CalibrationFile(problems=[Problem("not_text", "holds null bytes, so it is no calibration")])
    file = CalibrationFile()
    seen: dict[str, int] = {}
    for line, text in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        word, colon, rest = text.partition(b":")
        name = word.strip().decode("latin-1")
        if not colon or name not in MATRICES:
            continue
        if name in seen:
            file.problems.append(
                Problem("bad_calibration", f"{name} is given twice (first in line {seen[name]})", line)
            )
            continue
        seen[name] = line
        shape, fields = MATRICES[name], rest.split()
        if len(fields) != math.prod(shape):
            message = f"{name} has {counted(len(fields), 'number')}, expected {math.prod(shape)}"
            file.problems.append(Problem("bad_calibration", message, line))
            continue
        numbers, problem = read_numbers(fields, line, first_column=1, what=f"{name}, ")
        if problem is not None:
            file.problems.append(problem)
            continue
        file.matrices[name] = matrix = np.array(numbers).reshape(shape)
        why = _impossible(name, matrix)
        if why:
            file.problems.append(Problem("bad_calibration", f"{name} {why}", line))
    missing = [name for name in MATRICES if name not in seen]
    if missing:
        has = ", ".join(printable(name, limit=30) for name in seen) or "none of them"
        message = f"no line {' and no line '.join(f'{name!r}' for name in missing)}; of those needed it has {has}"
        file.problems.append(Problem("bad_calibration", message))
    return file


def _impossible(name: str, matrix: Array) -> str:
    """Why a matrix cannot be what it is called, or an empty text."""
    largest = np.abs(matrix).max()
    if largest > LARGEST_NUMBER:
        return f"has numbers up to {largest:.6g}; at most {LARGEST_NUMBER:,.0f} can be true"
    if name == "P2":
        if matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
            return f"has the focal lengths {matrix[0, 0]:.6g} and {matrix[1, 1]:.6g}; both must be positive"
        if np.abs(matrix[2] - (0, 0, 1, matrix[2, 3])).max() > ROTATION_TOLERANCE:
            return (
                f"is no camera behind rectification: its last row is {shown_row(matrix[2])}, expected (0, 0, 1, small)"
            )
        return ""
    rotation = matrix[:, :3]
    error = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if error > ROTATION_TOLERANCE:
        return f"is no rotation: times its transpose it is off the unit matrix by {error:.3g}"
    if np.linalg.det(rotation) < 0:
        return "is a reflection, not a rotation: its determinant is -1"
    return ""


def shown_row(numbers: Array) -> str:
    """Numbers for a message."""
    return f"({', '.join(f'{value:.6g}' for value in numbers)})"


def read_plane_file(path: str) -> tuple[Array, list[Problem]]:
    """a, b, c, d of the ground, a x + b y + c z + d = 0 in the rect frame, (a, b, c) of length 1 and upwards (b < 0).

    Returns:
        (4,) float64, NaN where there is a problem; and the problems.
    """
    none = np.full(4, np.nan)
    try:
        data = read_regular_file(path, limit=MAX_TEXT_BYTES)
    except FileReadError as error:
        kind = "frame_without_plane" if error.kind == "missing_file" else "bad_plane"
        return none, [Problem(kind, error.message)]
    lines = [(line, text.split()) for line, text in enumerate(data.splitlines(), start=1) if text.strip()]
    line, fields = lines[-1] if lines else (None, [])
    if line is None or len(fields) != 4:
        return none, [Problem("bad_plane", f"the last line must have 4 numbers, got {len(fields)}", line)]
    numbers, problem = read_numbers(fields, line, first_column=1)
    if problem is not None:
        return none, [problem]
    plane = np.array(numbers)
    length = math.hypot(*numbers[:3])
    if not 0 < length < math.inf or abs(plane[1]) < 0.5 * length:
        return none, [Problem("bad_plane", f"{shown_row(plane)} is no ground: its normal must point up or down", line)]
    if abs(plane[3]) > LARGEST_NUMBER * length:
        message = f"{shown_row(plane)} is no ground: it is more than {LARGEST_NUMBER:,.0f} m from the camera"
        return none, [Problem("bad_plane", message, line)]
    return plane / (length if plane[1] < 0 else -length), []
