"""MXNet's ``.params`` files: a list of dense arrays and their names. Nothing in them is ever run.

The format, little endian throughout (MXNet 1.x, "NDArray list"):

- uint64 0x112, uint64 0, uint64 number of arrays, the arrays;
- uint64 number of names (that of the arrays, or 0), each a uint64 length and its bytes.

An array is uint32 0xF993FAC9 (V2, or 0xF993FACA for V3), int32 storage (0: dense), int32 number of axes, int64 sizes,
int32 device kind, int32 device number, int32 type of the values, the values in row-major order. V1 (0xF993FAC8) has no
storage field. Before V1 the first number was the number of axes, and the sizes were uint32.

An array without axes holds no value, and ends after its shape; in V3 that is -1 axes, and 0 axes are a scalar.

Reference:
    https://mxnet.apache.org/versions/1.9.1/api/python/docs/api/ndarray/ndarray.html, ``save`` and ``load``.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from sightline.config.errors import RunError
from sightline.config.printable import printable
from sightline.config.safe_file import FileReadError, cure_of, read_regular_file

Array = NDArray[Any]

LIST_MAGIC = 0x112
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA

LARGEST_FILE = 4 << 30
"""Bytes of a file that is read."""

MOST_AXES = 32
LONGEST_NAME = 10_000

TYPES = ("float32", "float64", "float16", "uint8", "int32", "int8", "int64")
"""Types of values that are read and written; their place is the file's number for them."""

OTHER_TYPES = {7: "bool", 8: "int16", 9: "uint16", 10: "uint32", 11: "uint64", 12: "bfloat16"}
STORAGES = {-1: "undefined", 1: "row-sparse", 2: "compressed sparse row"}

CPU = (1, 0)
"""Device kind and number of arrays in main memory."""


def read_params(path: Path) -> dict[str, Array]:
    """The arrays of a ``.params`` file by name, in the file's order.

    Names come as they stand, with ``arg:`` (trained) and ``aux:`` (running statistics) where the file has them; arrays
    without names are called ``0``, ``1``, ...

    Raises:
        RunError: If it cannot be read, is no such file, is damaged, or holds sparse arrays or types that no network
            has. Names the array and the place.
    """
    try:
        data = read_regular_file(path, limit=LARGEST_FILE)
    except FileReadError as error:
        raise RunError(f"{printable(path)}: {error.message}. {cure_of(error, path, pattern='*.params')}") from None
    return decode_params(data, source=printable(path))


def decode_params(data: bytes, *, source: str = "parameters") -> dict[str, Array]:
    """As ``read_params``, from memory. Nothing is allocated before the file was seen to hold it.

    Args:
        data: The file's content.
        source: What messages call it.

    Raises:
        RunError: As ``read_params``.
    """
    cursor = _Cursor(data, source)
    if len(data) < 24 or cursor.number("Q", "the head") != LIST_MAGIC:
        raise RunError(f"{source}: is no MXNet list of arrays: it does not begin with 0x112. Give a .params file.")
    cursor.number("Q", "the head")
    count = cursor.count("arrays", smallest=4)
    arrays = [_read_array(cursor, f"array {index}") for index in range(count)]
    num_names = cursor.count("names", smallest=8)
    if num_names not in (0, count):
        cursor.refuse(f"has {count} arrays, but {num_names} names")
    names = [_read_name(cursor, index) for index in range(num_names)] or [str(index) for index in range(count)]
    if cursor.place != len(data):
        cursor.refuse(f"goes on for {len(data) - cursor.place:,} bytes after its last name")
    name, uses = max(Counter(names).items(), key=lambda item: item[1], default=("", 0))
    if uses > 1:
        cursor.refuse(f"has {uses} arrays called {printable(name, limit=200)}")
    return dict(zip(names, arrays, strict=True))


def encode_params(arrays: Mapping[str, Array]) -> bytes:
    """The content of a ``.params`` file (V2, dense, main memory) that MXNet 1.x loads.

    Args:
        arrays: By name; with at least one axis and one value each.

    Raises:
        ValueError: If an array has a type that the format has no number for, or no axis or value.
    """
    parts = [struct.pack("<QQQ", LIST_MAGIC, 0, len(arrays))]
    for name, array in arrays.items():
        if array.dtype.name not in TYPES:
            raise ValueError(f"{name}: MXNet's format has no {array.dtype.name}; it has {', '.join(TYPES)}.")
        if array.ndim == 0 or array.size == 0:
            raise ValueError(f"{name}: MXNet's format cannot hold an array of shape {array.shape}.")
        head = struct.pack("<Iii", V2, 0, array.ndim) + struct.pack(f"<{array.ndim}q", *array.shape)
        parts.append(head + struct.pack("<iii", *CPU, TYPES.index(array.dtype.name)))
        parts.append(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
    encoded = [name.encode() for name in arrays]
    parts.append(struct.pack("<Q", len(encoded)))
    parts += [struct.pack("<Q", len(name)) + name for name in encoded]
    return b"".join(parts)


class Prefixed(NamedTuple):
    """A name without its prefix, and the prefix: ``arg``, ``aux`` or an empty text."""

    kind: str
    name: str


def split_prefix(name: str) -> Prefixed:
    """``arg:conv0_weight`` -> (``arg``, ``conv0_weight``); ``features.0.weight`` -> (empty, itself)."""
    kind, colon, rest = name.partition(":")
    return Prefixed(kind, rest) if colon and kind in ("arg", "aux") else Prefixed("", name)


class _Cursor:
    """Reads on through the content; knows what it cannot hold."""

    def __init__(self, data: bytes, source: str) -> None:
        self.data, self.source, self.place = data, source, 0

    @property
    def left(self) -> int:
        return len(self.data) - self.place

    def refuse(self, what: str) -> NoReturn:
        raise RunError(
            f"{self.source}: {what} (at byte {self.place:,}). The file is damaged; fetch or export it again."
        )

    def take(self, size: int, what: str) -> int:
        """Pass over ``size`` bytes; returns where they begin."""
        if size > self.left:
            self.refuse(f"ends inside {what}, which needs {size:,} bytes of the {self.left:,} that are left")
        self.place += size
        return self.place - size

    def numbers(self, kind: str, what: str) -> tuple[int, ...]:
        return struct.unpack_from(f"<{kind}", self.data, self.take(struct.calcsize(f"<{kind}"), what))

    def number(self, kind: str, what: str) -> int:
        return self.numbers(kind, what)[0]

    def count(self, what: str, *, smallest: int) -> int:
        """A number of things of at least ``smallest`` bytes each, which the rest of the file can hold."""
        count = self.number("Q", f"the number of {what}")
        if count * smallest > self.left:
            self.refuse(f"speaks of {count:,} {what}, which its {self.left:,} remaining bytes cannot hold")
        return count


def _read_array(cursor: _Cursor, what: str) -> Array:
    magic = cursor.number("I", what)
    if magic in (V2, V3):
        storage = cursor.number("i", what)
        if storage in STORAGES:
            raise RunError(
                f"{cursor.source}: {what} is stored as {STORAGES[storage]}; only dense arrays are read. "
                "Convert it with tostype('default') before saving."
            )
        if storage != 0:
            cursor.refuse(f"{what} has the unknown storage {storage}")
    shape = _read_shape(cursor, what, magic)
    cursor.numbers("ii", what)  # the device it was on
    number = cursor.number("i", what)
    if number in OTHER_TYPES:
        raise RunError(
            f"{cursor.source}: {what} holds {OTHER_TYPES[number]}, which is not read; {', '.join(TYPES)} are. "
            "Convert it with astype('float32') before saving."
        )
    if not 0 <= number < len(TYPES):
        cursor.refuse(f"{what} has the unknown type {number}")
    kind = np.dtype(TYPES[number])
    size = math.prod(shape)
    start = cursor.take(size * kind.itemsize, f"{what} of {TYPES[number]} {shape}")
    values = np.frombuffer(cursor.data, kind.newbyteorder("<"), size, start)
    return values.astype(kind).reshape(shape)  # a copy of its own, aligned and writable


def _read_shape(cursor: _Cursor, what: str, magic: int) -> tuple[int, ...]:
    is_old = magic not in (V1, V2, V3)
    axes = magic if is_old else cursor.number("i", what)
    if not -1 <= axes <= MOST_AXES:
        cursor.refuse(f"{what} begins with neither a magic number nor a number of axes: {axes:#x}")
    if axes == -1 or (axes == 0 and magic != V3):
        raise RunError(f"{cursor.source}: {what} has no shape and no values; it was saved before it was initialised.")
    shape = cursor.numbers(f"{axes}{'I' if is_old else 'q'}", f"the shape of {what}")
    if any(size < 1 for size in shape):
        cursor.refuse(f"{what} has the impossible shape {shape}")
    return shape


def _read_name(cursor: _Cursor, index: int) -> str:
    length = cursor.number("Q", f"name {index}")
    if length > LONGEST_NAME:
        cursor.refuse(f"name {index} has {length:,} bytes; names have at most {LONGEST_NAME:,}")
    start = cursor.take(length, f"name {index}")
    try:
        return cursor.data[start : start + length].decode()
    except UnicodeDecodeError:
        cursor.refuse(f"name {index} is no UTF-8 text")
