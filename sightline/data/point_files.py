"""Files of points: KITTI's ``.bin``, NumPy's ``.npy``, PCD and PLY, read without trusting them.

What a file says of its size is compared with the size it has before any memory is taken. Nothing in a file is run.

Formats: ``.bin`` is float32, little-endian, one row per point. PCD: the Point Cloud Library's "The PCD (Point Cloud
Data) file format", versions 0.5 to 0.7, ascii, binary and binary_compressed (LZF). PLY: Turk, "The PLY polygon file
format", 1994, ascii and both binary kinds. ``.npy``: NEP 1, versions 1 and 2.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sightline.config.errors import DataError
from sightline.config.printable import counted, printable
from sightline.config.safe_file import FileReadError, read_regular_file
from sightline.data.lzf import LzfError, lzf_decompress

Array = np.ndarray[Any, Any]

POINT_SUFFIXES = (".bin", ".npy", ".pcd", ".ply")
MAX_POINTS = 20_000_000
"""A hundred and fifty times a turn of KITTI's LiDAR; 320 MB."""
MAX_FILE_BYTES = 64 * MAX_POINTS
MAX_HEADER_BYTES = 1 << 16
NUM_FEATURES = 4
POINT_BYTES = 4 * NUM_FEATURES
"""Of a point in a ``.bin`` of KITTI."""
INTENSITY_NAMES = ("intensity", "i", "reflectance", "reflectivity", "scalar_intensity", "remission")

_PCD_KINDS = {
    ("F", 4): "<f4", ("F", 8): "<f8",
    ("I", 1): "<i1", ("I", 2): "<i2", ("I", 4): "<i4", ("I", 8): "<i8",
    ("U", 1): "<u1", ("U", 2): "<u2", ("U", 4): "<u4", ("U", 8): "<u8",
}  # fmt: skip
_PLY_KINDS = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_PLY_FORMATS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_WHOLE = re.compile(r"\d{1,18}", re.ASCII)


class PointFileError(DataError):
    """A file of points cannot be used. ``kind`` is one of the kinds of ``sightline.data.faults``."""

    def __init__(self, kind: str, path: Path | str, message: str) -> None:
        super().__init__(f"{printable(path)}: {printable(message)}.")
        self.kind = kind
        self.path = Path(path)
        self.message = message

    def __reduce__(self) -> tuple[type[PointFileError], tuple[str, Path, str]]:
        return PointFileError, (self.kind, self.path, self.message)


class _Broken(ValueError):  # noqa: N818 - never leaves this module
    """The bytes contradict the format."""

    def __init__(self, message: str, kind: str = "broken_points") -> None:
        super().__init__(message)
        self.kind = kind


def read_points(path: Path | str, *, num_features: int = NUM_FEATURES, notes: list[str] | None = None) -> Array:
    """The points of a file, (P, F) float32: x, y, z in metres, intensity, and what else a ``.bin`` or ``.npy`` has.

    The array may be one that cannot be written to.

    Of PCD and PLY the fields x, y, z and one of ``INTENSITY_NAMES`` are read; whole numbers of 8 or 16 bits are shares
    of the largest one. Without an intensity it is 0. In PCD a point whose x, y and z are NaN stands for no return, by
    the format's own definition, and is left out.

    Args:
        path: A file with one of ``POINT_SUFFIXES``.
        num_features: F, at least 3. The rows of a ``.bin`` have so many; PCD and PLY give 4.
        notes: Where remarks on what was left out or filled in are added.

    Raises:
        PointFileError: A ``DataError`` with the path: missing, no such format, cut off, contradicts its format, no
            point, a number that is not finite, or more than ``MAX_POINTS`` points.
        ValueError: If ``num_features`` is below 3.
    """
    if num_features < 3:
        raise ValueError(f"num_features must be at least 3, got {num_features}.")
    notes = [] if notes is None else notes
    suffix = Path(path).suffix.lower()
    if suffix not in POINT_SUFFIXES:
        message = f"the suffix {suffix!r} is none of {', '.join(POINT_SUFFIXES)}"
        raise PointFileError("unsupported_points", path, message)
    try:
        data = read_regular_file(path, limit=MAX_FILE_BYTES)
    except FileReadError as error:
        kinds = {"missing_file": "missing_points", "file_too_big": "too_large_points"}
        raise PointFileError(kinds.get(error.kind, "unreadable_points"), path, error.message) from None
    if not data:
        raise PointFileError("empty_points", path, "the file is empty (0 bytes)")
    try:
        if suffix == ".bin":
            points = _read_bin(data, num_features)
        elif suffix == ".npy":
            points = _read_npy(data, num_features, notes)
        else:
            points = (_read_pcd if suffix == ".pcd" else _read_ply)(data, notes)
            if num_features != NUM_FEATURES:
                raise _Broken(
                    f"{suffix} gives 4 numbers per point, but {num_features} are wanted", "unsupported_points"
                )
        if len(points) == 0:
            raise _Broken("there is not a single point", "empty_points")
        refuse_non_finite(points)
    except _Broken as error:
        raise PointFileError(error.kind, path, str(error)) from None
    return points


def refuse_non_finite(points: Array) -> None:
    """Stop at NaN and infinite numbers."""
    if np.isfinite(points).all():
        return
    wrong = np.flatnonzero(~np.isfinite(points).all(axis=1))
    row = ", ".join(f"{value:g}" for value in points[wrong[0]])
    raise _Broken(
        f"{counted(len(wrong), 'point')} of {len(points):,} with NaN or infinity, the first is number {wrong[0]}: "
        f"({row}); leave such points out of the file",
        "non_finite_points",
    )


def _check_count(count: int) -> int:
    if count > MAX_POINTS:
        raise _Broken(f"holds {count:,} points; at most {MAX_POINTS:,} are read", "too_large_points")
    return count


def _read_bin(data: bytes, num_features: int) -> Array:
    if len(data) % (4 * num_features):
        message = (
            f"{len(data):,} bytes are no whole number of points of {4 * num_features} bytes ({num_features} x float32)"
        )
        raise _Broken(message, "truncated_points")
    _check_count(len(data) // (4 * num_features))
    return np.frombuffer(data, "<f4").astype(np.float32, copy=False).reshape(-1, num_features)


def _read_npy(data: bytes, num_features: int, notes: list[str]) -> Array:
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise _Broken(f"version {version} of the format is not read", "unsupported_points")
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = header(file)
    except _Broken:
        raise
    except Exception as error:  # NumPy parses the header with several modules, each with errors of its own
        raise _Broken(f"broken header: {printable(error, limit=120)}") from None
    if dtype.kind not in "fiu":
        raise _Broken(f"holds {printable(dtype, limit=60)}, expected numbers")
    if len(shape) != 2 or shape[1] < 3 or shape[0] < 0:
        raise _Broken(f"has the shape {shape}, expected (points, {num_features})")
    _check_count(shape[0])
    size = math.prod(shape) * dtype.itemsize
    if len(data) - file.tell() < size:
        message = f"is cut off: {len(data) - file.tell():,} bytes of {size:,} behind the header"
        raise _Broken(message, "truncated_points")
    array = np.frombuffer(data, dtype, math.prod(shape), file.tell()).reshape(shape, order="F" if is_fortran else "C")
    if shape[1] < num_features:
        if (shape[1], num_features) != (3, NUM_FEATURES):
            raise _Broken(f"has {shape[1]} numbers per point, but {num_features} are wanted")
        return _joined([array[:, 0], array[:, 1], array[:, 2]], None, notes)
    if shape[1] > num_features:
        notes.append(f"of {shape[1]} numbers per point the first {num_features} are used")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array[:, :num_features], np.float32)


def _joined(xyz: Sequence[Array], intensity: Array | None, notes: list[str]) -> Array:
    """(P, 4) float32 from columns."""
    points = np.zeros((len(xyz[0]), NUM_FEATURES), np.float32)
    with np.errstate(over="ignore"):
        for column, values in enumerate(xyz):
            points[:, column] = values
        if intensity is None:
            notes.append("no intensity; it is taken as 0")
        elif intensity.dtype.kind == "u" and intensity.dtype.itemsize <= 2:
            points[:, 3] = intensity.astype(np.float32) / np.iinfo(intensity.dtype).max
        else:
            points[:, 3] = intensity
    largest = points[:, 3].max(initial=0.0)
    if largest > 1:
        notes.append(f"intensities up to {largest:g}; KITTI's are 0 to 1")
    return points


class _Table(NamedTuple):
    """How the points lie in a file: one record per point, fields by name."""

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    """NumPy's codes, byte order included."""
    counts: tuple[int, ...]
    """Numbers of each field."""
    num_points: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of each field."""
        return tuple(np.dtype(kind).itemsize * count for kind, count in zip(self.kinds, self.counts, strict=True))

    def columns(self) -> tuple[list[int], int | None]:
        """Places of x, y, z among the fields, and of the intensity."""
        places = {name.lower(): place for place, name in reversed(list(enumerate(self.names)))}
        has = ", ".join(printable(name, limit=30) for name in self.names[:20])
        for name in "xyz":
            if name not in places:
                raise _Broken(f"has no field {name!r}; its fields are {has}")
            if [one.lower() for one in self.names].count(name) > 1:
                raise _Broken(f"has several fields {name!r}; its fields are {has}")
        wanted = [places[name] for name in "xyz"]
        intensity = next((places[name] for name in INTENSITY_NAMES if name in places), None)
        for place in [*wanted, *([] if intensity is None else [intensity])]:
            if self.counts[place] != 1:
                raise _Broken(f"the field {self.names[place]!r} has {self.counts[place]} numbers, expected one")
        return wanted, intensity

    def from_records(self, data: bytes, offset: int, notes: list[str]) -> Array:
        """The points where record follows record."""
        starts = np.cumsum([0, *self.sizes])
        need_bytes(data, offset, int(starts[-1]) * self.num_points)
        xyz, intensity = self.columns()
        chosen = [*xyz, *([] if intensity is None else [intensity])]
        record = np.dtype(
            {
                "names": [str(place) for place in chosen],
                "formats": [self.kinds[place] for place in chosen],
                "offsets": [int(starts[place]) for place in chosen],
                "itemsize": int(starts[-1]),
            }
        )
        rows = np.frombuffer(data, record, self.num_points, offset)
        return _joined([rows[str(p)] for p in xyz], None if intensity is None else rows[str(intensity)], notes)

    def from_blocks(self, data: bytes, notes: list[str]) -> Array:
        """The points where all numbers of one field come before those of the next."""
        starts = np.cumsum([0, *self.sizes]) * self.num_points
        need_bytes(data, 0, int(starts[-1]))
        xyz, intensity = self.columns()

        def block(place: int) -> Array:
            return np.frombuffer(data, self.kinds[place], self.num_points, int(starts[place]))

        return _joined([block(place) for place in xyz], None if intensity is None else block(intensity), notes)

    def from_text(self, data: bytes, offset: int, notes: list[str]) -> Array:
        """The points where each is a line of numbers."""
        xyz, intensity = self.columns()
        firsts = np.cumsum([0, *self.counts]).tolist()
        try:
            text = data[offset:].decode("ascii")
        except UnicodeDecodeError:
            raise _Broken("is called ascii, but holds other bytes") from None
        if not text.strip():
            raise _Broken(f"is cut off: 0 points of {self.num_points:,}", "truncated_points")
        try:
            lines = islice(filter(str.strip, io.StringIO(text)), self.num_points)
            rows = np.loadtxt(lines, np.float64, comments=None, ndmin=2)
        except ValueError:
            rows = np.zeros((0, 0))
        if rows.shape[1] != firsts[-1]:
            raise _Broken(_first_broken_line(text, firsts[-1], data.count(b"\n", 0, offset) + 1))
        if len(rows) < self.num_points:
            message = f"is cut off: {len(rows):,} points of {self.num_points:,}"
            raise _Broken(message, "truncated_points")
        values = None if intensity is None else rows[:, firsts[intensity]]
        if values is not None and intensity is not None:
            kind = np.dtype(self.kinds[intensity])
            if kind.kind == "u" and kind.itemsize <= 2:
                values = values / np.iinfo(kind).max
        return _joined([rows[:, firsts[place]] for place in xyz], values, notes)


def _first_broken_line(text: str, columns: int, first_line: int) -> str:
    """What is wrong in a text that should have so many numbers in each line."""
    for line, words in enumerate(map(str.split, text.split("\n")), start=first_line):
        if words and len(words) != columns:
            return f"line {line} has {counted(len(words), 'number')}, expected {columns}"
        for word in words:
            try:
                float(word)
            except ValueError:
                return f"line {line}: {printable(word, limit=40)!r} is not a number"
    return "its text holds what is not a number"


def need_bytes(data: bytes, offset: int, size: int) -> None:
    """Stop where fewer bytes are left than a header promised."""
    left = len(data) - offset
    if left < size:
        raise _Broken(f"is cut off: {max(left, 0):,} bytes of {size:,} behind the header", "truncated_points")


def _whole(word: str, what: str) -> int:
    if not _WHOLE.fullmatch(word):
        raise _Broken(f"broken header: {what} is {printable(word, limit=40)!r}, not a whole number")
    return int(word)


def _header_lines(data: bytes, is_last: Callable[[str], bool]) -> tuple[list[list[str]], int]:
    """Words of each line of a header, and where the points begin."""
    lines: list[list[str]] = []
    start = 0
    head = data[:MAX_HEADER_BYTES]
    while (end := head.find(b"\n", start)) >= 0:
        try:
            text = head[start:end].decode("utf-8").strip()
        except UnicodeDecodeError:
            raise _Broken(f"broken header: line {len(lines) + 1} is no text") from None
        lines.append(text.split())
        start = end + 1
        if is_last(text):
            return lines, start
    raise _Broken("broken header: its end is missing", "truncated_points")


def _read_pcd(data: bytes, notes: list[str]) -> Array:
    lines, start = _header_lines(data, lambda text: text.upper().startswith("DATA"))
    entries = {words[0].upper(): words[1:] for words in lines if words and not words[0].startswith("#")}
    names = entries.get("FIELDS") or entries.get("COLUMNS")
    if not names or "SIZE" not in entries or "TYPE" not in entries or "WIDTH" not in entries:
        raise _Broken("broken header: FIELDS, SIZE, TYPE or WIDTH is missing")
    sizes, kinds = entries["SIZE"], entries["TYPE"]
    counts = entries.get("COUNT") or ["1"] * len(names)
    if not len(names) == len(sizes) == len(kinds) == len(counts):
        raise _Broken("broken header: FIELDS, SIZE, TYPE and COUNT have different lengths")
    codes = []
    for kind, size in zip(kinds, sizes, strict=True):
        code = _PCD_KINDS.get((kind.upper(), _whole(size, "SIZE")))
        if code is None:
            raise _Broken(f"broken header: no field has the type {printable(kind, limit=10)!r} and {size} bytes")
        codes.append(code)
    width = _whole(" ".join(entries["WIDTH"]), "WIDTH")
    height = _whole(" ".join(entries.get("HEIGHT") or ["1"]), "HEIGHT")
    told = _whole(" ".join(entries.get("POINTS") or [str(width * height)]), "POINTS")
    if told != width * height:
        raise _Broken(f"broken header: POINTS is {told}, but WIDTH x HEIGHT is {width * height}")
    table = _Table(
        tuple(names), tuple(codes), tuple(_whole(count, "COUNT") for count in counts), _check_count(width * height)
    )
    _refuse_wide(table)
    form = " ".join(entries["DATA"]).lower()
    if form == "ascii":
        points = table.from_text(data, start, notes) if table.num_points else np.zeros((0, 4), np.float32)
    elif form == "binary":
        points = table.from_records(data, start, notes)
    elif form == "binary_compressed":
        points = table.from_blocks(_unpacked(data, start, table), notes)
    else:
        raise _Broken(f"DATA is {printable(form, limit=40)!r}; ascii, binary, binary_compressed are read")
    is_no_return = np.isnan(points[:, :3]).all(axis=1)
    if is_no_return.any():
        notes.append(f"{counted(int(is_no_return.sum()), 'point')} without a return left out")
        points = points[~is_no_return]
    return points


def _refuse_wide(table: _Table) -> None:
    """A record of a point has a few dozen bytes; a header that says kilobytes is wrong or wants our memory."""
    if sum(table.sizes) > 4096:
        raise _Broken(f"broken header: {sum(table.sizes):,} bytes per point")


def _unpacked(data: bytes, start: int, table: _Table) -> bytes:
    need_bytes(data, start, 8)
    packed_size, size = (int(value) for value in np.frombuffer(data, "<u4", 2, start))
    if size != sum(table.sizes) * table.num_points:
        raise _Broken(f"unfolds to {size:,} bytes, but its header says {sum(table.sizes) * table.num_points:,}")
    need_bytes(data, start + 8, packed_size)
    try:
        return lzf_decompress(data[start + 8 : start + 8 + packed_size], size)
    except LzfError as error:
        raise _Broken(f"broken compression: {error}") from None


def _read_ply(data: bytes, notes: list[str]) -> Array:
    if not data.startswith(b"ply"):
        raise _Broken("is no PLY: it does not begin with 'ply'")
    lines, start = _header_lines(data, lambda text: text == "end_header")
    order: str | None = None
    table: _Table | None = None
    names: list[str] = []
    kinds: list[str] = []
    element = ""
    num_points = 0
    for words in lines:
        match words:
            case ["format", name, _]:
                order = _PLY_FORMATS.get(name)
            case ["element", name, count]:
                if element == "" and name != "vertex":
                    message = f"its first element is {printable(name, limit=40)!r}; it must be 'vertex'"
                    raise _Broken(message, "unsupported_points")
                element = name
                if name == "vertex":
                    num_points = _check_count(_whole(count, "the number of vertices"))
            case ["property", "list", *_] if element == "vertex":
                raise _Broken("its vertices have lists, which no point has", "unsupported_points")
            case ["property", kind, name] if element == "vertex":
                if kind not in _PLY_KINDS:
                    raise _Broken(f"broken header: no type is called {printable(kind, limit=40)!r}")
                names.append(name)
                kinds.append(_PLY_KINDS[kind])
    if order is None or not names:
        raise _Broken("broken header: a known format or the properties of the vertices are missing")
    table = _Table(tuple(names), tuple(f"{order}{kind}" for kind in kinds), (1,) * len(names), num_points)
    _refuse_wide(table)
    if order:
        return table.from_records(data, start, notes)
    return table.from_text(data, start, notes) if num_points else np.zeros((0, 4), np.float32)
