"""Files of ``torch.save``, of both its formats, as plain values and tensors. Nothing in them is run or built.

zip
    An archive of uncompressed entries below one folder: ``data.pkl``, a pickle in which persistent ids stand for
    storages; ``data/KEY``, the bytes of each storage; ``byteorder``. Since PyTorch 1.6
    (https://docs.pytorch.org/docs/stable/notes/serialization.html).
one after another
    Pickles of a magic number, a version, facts of the machine, the object, and the list of the keys of storages; then
    for each key the number of its elements (int64) and its bytes. Little-endian.

The pickle is read by ``tolerant_pickle``: an object of another class becomes a ``Foreign``. Sizes are compared with
the file's before memory is taken; storages together take no more of it than the file has bytes. Tensors that share a
storage in the file share it here. Parameters become tensors; gradients and hooks are left out.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from sightline.config.errors import RunError
from sightline.config.printable import printable
from sightline.config.safe_file import FileReadError, open_regular_file
from sightline.files.safe_pickle import CONSTRUCTORS, Constructor, PickleRefusedError, run_pickle
from sightline.files.tolerant_pickle import Foreign, TolerantMachine, set_of

MAGIC = 0x1950A86A20F9469CFC6C
"""First value of a file of the older format."""
VERSION = 1001
"""Second value of it."""
MOST_PICKLED = 1 << 28
"""Bytes of pickles. Tensors stand outside of them; each byte may take a hundred of memory."""
MOST_ELEMENTS = 1 << 62
"""Of a tensor, sides of 0 counted as 1; PyTorch counts in 64 bits."""
CHUNK = 1 << 20
MOST_OF_KEY = 80
"""Letters of the key of a storage."""

DTYPES: Mapping[str, torch.dtype] = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
"""Types of elements by the names of storages."""


class _BrokenError(Exception):
    """The file is not one of ``torch.save``, or says something impossible."""


@dataclass(frozen=True, eq=False)
class _Storage:
    """Elements of one type in a row."""

    dtype: torch.dtype
    raw: Tensor
    """(bytes,) uint8."""


def is_torch_file(path: Path) -> bool:
    """Whether a file's first bytes are those of a file of ``torch.save``; a file that cannot be read is none."""
    try:
        descriptor, _ = open_regular_file(path)
    except FileReadError:
        return False
    with os.fdopen(descriptor, "rb") as file:
        head = file.read(64)
    # The length that a safetensors file begins with may look like anything; its ninth byte opens a JSON object.
    return head[8:9] != b"{" and (head.startswith(b"PK\x03\x04") or _begins_with_magic(head))


def read_torch_file(path: Path) -> Any:
    """The object of a file of ``torch.save``.

    Args:
        path: The file.

    Returns:
        Plain values, tensors on the CPU, NumPy arrays, and a ``Foreign`` for each object and name of a class that is
        none of these. A ``Foreign`` may lead back to itself.

    Raises:
        RunError: It cannot be read, is damaged, or is no file of ``torch.save``.
    """
    try:
        descriptor, size = open_regular_file(path)
    except FileReadError as error:
        raise RunError(f"{printable(path)}: {error.message}.") from None
    with os.fdopen(descriptor, "rb") as file:
        try:
            head = file.read(64)
            file.seek(0)
            if _begins_with_magic(head):
                return _read_in_a_row(file, size)
            return _read_zip(file, size)
        except (_BrokenError, PickleRefusedError, OSError) as error:
            what = printable(error.strerror if isinstance(error, OSError) else error, limit=300)
            raise RunError(
                f"{printable(path)}: no readable file of torch.save: {what}. Get the file anew, or convert it to "
                "safetensors."
            ) from None


def _begins_with_magic(head: bytes) -> bool:
    try:
        return bool(run_pickle(io.BytesIO(head), TolerantMachine({})) == MAGIC)
    except PickleRefusedError:
        return False


# The zip format.


def _read_zip(file: BinaryIO, size: int) -> Any:
    try:
        with zipfile.ZipFile(file) as archive:
            return _ZipReader(archive, size).read()
    except (zipfile.BadZipFile, RuntimeError, EOFError, ValueError, OverflowError, struct.error) as error:
        if isinstance(error, PickleRefusedError):
            raise
        raise _BrokenError(f"as a zip archive it is broken ({error})") from None


class _ZipReader:
    """Takes storages from an archive. Entries are only looked up by name; none becomes a path."""

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self.archive = archive
        self.size = size
        self.entries: dict[str, zipfile.ZipInfo] = {}
        for entry in archive.infolist():
            if entry.filename in self.entries:
                raise _BrokenError(f"it holds {printable(entry.filename, limit=80)!r} twice")
            self.entries[entry.filename] = entry
        roots = [name.removesuffix("data.pkl") for name in self.entries if name.split("/")[1:] == ["data.pkl"]]
        if len(roots) != 1:
            raise _BrokenError("it holds no data.pkl, and so is another kind of archive" if not roots else "two files")
        self.root = roots[0]
        self.left = size
        """Bytes that storages may still take."""
        self.storages: dict[str, _Storage] = {}
        self.is_big = False

    def read(self) -> Any:
        """The object."""
        if f"{self.root}byteorder" in self.entries:
            order = self.small(f"{self.root}byteorder", most=16)
            if order not in (b"little", b"big"):
                raise _BrokenError(f"its byte order is {printable(repr(order), limit=40)}")
            self.is_big = order == b"big"
        data = self.small(f"{self.root}data.pkl", most=MOST_PICKLED)
        return run_pickle(io.BytesIO(data), _machine(self.storage, self.size))

    def entry(self, name: str) -> zipfile.ZipInfo:
        """An entry that is no larger than the file."""
        entry = self.entries.get(name)
        if entry is None:
            raise _BrokenError(f"it lacks {printable(name, limit=80)!r}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise _BrokenError(f"{printable(name, limit=80)!r} in it is compressed, which torch.save does not do")
        if entry.file_size > self.size:
            raise _BrokenError(f"{printable(name, limit=80)!r} in it would be larger than the whole file")
        return entry

    def small(self, name: str, *, most: int) -> bytes:
        """The whole content of an entry."""
        entry = self.entry(name)
        if entry.file_size > most:
            raise _BrokenError(f"{printable(name, limit=80)!r} in it has {entry.file_size:,} bytes, more than {most:,}")
        return self.archive.read(entry)

    def storage(self, key: object) -> _Storage:
        """What a persistent id stands for: ``("storage", type, key, device, number of elements)``."""
        dtype, name, count, _ = _parts_of_id(key)
        num_bytes = count * dtype.itemsize
        if name in self.storages:
            return _again(self.storages[name], dtype, num_bytes, name)
        entry = self.entry(f"{self.root}data/{name}")
        if entry.file_size != num_bytes:
            raise _BrokenError(f"storage {name!r} has {entry.file_size:,} bytes, {num_bytes:,} were announced")
        self.left -= num_bytes
        if self.left < 0:
            raise _BrokenError("its storages overlap")
        raw = torch.empty(num_bytes, dtype=torch.uint8)
        with self.archive.open(entry) as stream:
            _fill(raw, stream)
            if stream.read(1):  # the end is where the checksum is compared
                raise _BrokenError(f"storage {name!r} is longer than it was announced")
        if self.is_big:
            _swap_bytes(raw, dtype)
        return self.storages.setdefault(name, _Storage(dtype, raw))


# The older format.


class _Bounded:
    """A stream that takes memory for what there is, not for what is asked."""

    def __init__(self, file: BinaryIO, end: int) -> None:
        self.file = file
        self.end = end

    def read(self, count: int, /) -> bytes:
        """As of a file."""
        return self.file.read(max(0, min(count, self.end - self.file.tell())))

    def readline(self) -> bytes:
        """As of a file."""
        return self.file.readline(max(0, min(CHUNK, self.end - self.file.tell())))

    def tell(self) -> int:
        """As of a file."""
        return self.file.tell()


def _read_in_a_row(file: BinaryIO, size: int) -> Any:
    stream = _Bounded(file, min(size, MOST_PICKLED))
    reader = _RowReader(size)
    head = [run_pickle(stream, TolerantMachine(CONSTRUCTORS)) for _ in range(3)]  # magic number, version, machine
    if head[1] != VERSION:
        raise _BrokenError(f"its format has another version than {VERSION}")
    value = run_pickle(stream, _machine(reader.storage, size))
    stream.end = min(size, stream.tell() + MOST_PICKLED)
    keys = run_pickle(stream, TolerantMachine(CONSTRUCTORS))
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(reader.storages):
        raise _BrokenError("its list of storages does not fit its object")
    stream.end = size
    for key in keys:
        storage = reader.storages.pop(key, None)
        if storage is None:
            raise _BrokenError(f"storage {printable(key, limit=80)!r} is listed twice")
        (count,) = struct.unpack("<q", _exactly(stream, 8))
        if count * storage.dtype.itemsize != len(storage.raw):
            raise _BrokenError(f"storage {printable(key, limit=80)!r} has {count:,} elements, others were announced")
        _fill(storage.raw, file)
    return value


class _RowReader:
    """Takes memory for storages; their content follows the object."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.storages: dict[str, _Storage] = {}

    def storage(self, key: object) -> Any:
        """As in an archive, with a last part: None, or ``(key, offset, number of elements)`` of a part of it."""
        if isinstance(key, tuple) and len(key) > 1 and key[0] == "module":
            return key[1]  # a class, with the text of its program
        dtype, name, count, part = _parts_of_id(key)
        num_bytes = count * dtype.itemsize
        if name not in self.storages:
            self.left -= num_bytes
            if self.left < 0:
                raise _BrokenError("its storages would be larger than the whole file")
            self.storages[name] = _Storage(dtype, torch.empty(num_bytes, dtype=torch.uint8))
        storage = _again(self.storages[name], dtype, num_bytes, name)
        if part is None:
            return storage
        if not isinstance(part, tuple) or len(part) != 3 or not all(map(_is_count, part[1:])):
            raise _BrokenError("a part of a storage has no place")
        start, length = (one * dtype.itemsize for one in part[1:])
        if start + length > num_bytes:
            raise _BrokenError(f"a part of storage {name!r} reaches beyond its end")
        return _Storage(dtype, storage.raw[start : start + length])


def _exactly(stream: _Bounded, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise _BrokenError("it ends too early")
    return data


# Storages and tensors.


def _parts_of_id(key: object) -> tuple[torch.dtype, str, int, object]:
    """Type, key, number of elements, and what the older format adds."""
    if not isinstance(key, tuple) or len(key) not in (5, 6) or key[0] != "storage":
        raise _BrokenError("it refers to something that is no storage")
    kind, name, count = key[1], key[2], key[4]
    if not isinstance(kind, Constructor) or kind.name not in DTYPES:
        name = kind.name if isinstance(kind, Foreign) else "none"
        raise _BrokenError(f"storages of the type {printable(name, limit=80)} are not read")
    if not isinstance(name, str) or len(name) > MOST_OF_KEY or not _is_count(count):
        raise _BrokenError("a storage has no key or no size")
    return DTYPES[kind.name], printable(name, limit=80), count, key[5] if len(key) == 6 else None


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= MOST_ELEMENTS


def _again(storage: _Storage, dtype: torch.dtype, num_bytes: int, name: str) -> _Storage:
    """The same bytes, perhaps as elements of another type."""
    if len(storage.raw) != num_bytes:
        raise _BrokenError(f"storage {name!r} has two sizes")
    return storage if storage.dtype == dtype else _Storage(dtype, storage.raw)


def _fill(raw: Tensor, stream: Any) -> None:
    array: Any = raw.numpy()
    into, done = memoryview(array), 0
    while done < len(into):
        count = stream.readinto(into[done : done + CHUNK])
        if not count:
            raise _BrokenError("it ends too early")
        done += count


def _swap_bytes(raw: Tensor, dtype: torch.dtype) -> None:
    width = dtype.itemsize // (2 if dtype.is_complex else 1)
    if width > 1:
        array: np.ndarray[Any, Any] = raw.numpy().view(f"u{width}")
        array.byteswap(inplace=True)


def _machine(storage: Callable[[object], Any], file_bytes: int) -> TolerantMachine:
    """A machine that knows tensors."""

    def tensor_of(storage: object, offset: object, size: object, stride: object, *rest: object) -> Tensor:
        """``_rebuild_tensor_v2``: requires_grad, hooks and a table of lazy conjugation may follow."""
        if not isinstance(storage, _Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
            raise _BrokenError("a tensor has no storage or no shape")
        if len(size) != len(stride) or len(size) > 64 or not all(map(_is_count, (offset, *size, *stride))):
            raise _BrokenError("a tensor has an impossible shape or stride")
        if len(rest) > 2 and rest[2]:
            raise _BrokenError("a tensor is conjugated or negated lazily, which is not read")
        width, numel = storage.dtype.itemsize, math.prod(size)
        if math.prod(max(side, 1) for side in size) > MOST_ELEMENTS:
            raise _BrokenError("a tensor has an impossible shape")
        ends = sum((side - 1) * step for side, step in zip(size, stride, strict=True)) + 1 if numel else 0
        if (offset + ends) * width > len(storage.raw):  # type: ignore[operator]
            raise _BrokenError(f"a tensor of shape {printable(size, limit=80)} reaches beyond the end of its storage")
        if numel * width > file_bytes:
            raise _BrokenError(f"a tensor of shape {printable(size, limit=80)} would be larger than the whole file")
        try:
            return storage.raw.view(storage.dtype).as_strided(size, stride, offset)  # type: ignore[arg-type]
        except RuntimeError:
            raise _BrokenError(f"a tensor of shape {printable(size, limit=80)} cannot be") from None

    def of_subclass(maker: object, _: object, arguments: object, *__: object) -> Any:
        if not isinstance(maker, Constructor) or not isinstance(arguments, tuple):
            raise ValueError("its tensor is made in an unknown way")
        return maker.build(*arguments)

    return TolerantMachine(
        {
            **CONSTRUCTORS,
            **{("torch", name): _storage_kind(name) for name in DTYPES},
            **{("torch.cuda", name): _storage_kind(name) for name in DTYPES},
            ("torch._utils", "_rebuild_tensor"): Constructor("tensor", _complete(tensor_of, 4), is_needed=True),
            ("torch._utils", "_rebuild_tensor_v2"): Constructor("tensor", _complete(tensor_of, 6), is_needed=True),
            ("torch._utils", "_rebuild_parameter"): Constructor("parameter", _first, is_needed=True),
            ("torch._utils", "_rebuild_parameter_with_state"): Constructor("parameter", _first, is_needed=True),
            ("torch._tensor", "_rebuild_from_type_v2"): Constructor("tensor of a subclass", of_subclass),
            ("torch", "Size"): Constructor("torch.Size", tuple),
            ("collections", "defaultdict"): Constructor("collections.defaultdict", _table),
            ("builtins", "set"): Constructor("set", _set),
            ("__builtin__", "set"): Constructor("set", _set),
        },
        storage,
    )


def _storage_kind(name: str) -> Constructor:
    def never(*_: object) -> Any:
        raise ValueError("a storage is not made on its own")

    return Constructor(name, never)


def _complete(build: Callable[..., Tensor], least: int) -> Callable[..., Tensor]:
    def checked(*arguments: object) -> Tensor:
        if len(arguments) < least:
            raise _BrokenError("a tensor is incomplete")
        return build(*arguments)

    return checked


def _first(*arguments: object) -> Any:
    """A parameter is its tensor; whether it had a gradient does not matter."""
    if not arguments or not isinstance(arguments[0], Tensor):
        raise _BrokenError("a parameter is no tensor")
    return arguments[0]


def _table(*_: object) -> dict[Any, Any]:
    return {}


def _set(values: object = ()) -> set[Any]:
    return set_of(values)
