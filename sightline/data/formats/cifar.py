"""CIFAR-10 and CIFAR-100 as they are downloaded: the python version, the binary version, or an archive of either.

Both hold 32x32 RGB images as planes, 3,072 bytes each (https://www.cs.toronto.edu/~kriz/cifar.html):

python
    Pickles: ``data_batch_1`` to ``data_batch_5``, ``test_batch`` and ``batches.meta`` (CIFAR-10); ``train``, ``test``
    and ``meta`` (CIFAR-100). They are read by ``sightline.files.safe_pickle``, which runs nothing.
binary
    Records of one byte for the class and the image: ``data_batch_1.bin`` ...; of two bytes for coarse and fine class
    and the image: ``train.bin``, ``test.bin``. Names stand in ``batches.meta.txt`` or ``fine_label_names.txt``.

The classes of CIFAR-100 are the 100 fine ones. There is no validation part: cut one, or validate on ``test``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sightline.config.printable import counted, printable
from sightline.config.safe_file import FileReadError, cure_of, read_regular_file
from sightline.data.annotations import Ints
from sightline.data.class_labels import ClassLabels, Pixels
from sightline.data.faults import FormatError
from sightline.data.formats.archive import ARCHIVE_SUFFIXES, archive_names, read_from_archive
from sightline.data.formats.class_names import checked_names
from sightline.data.formats.class_source import ClassSource, packed_labels
from sightline.data.formats.image_files import entries_of, is_folder
from sightline.data.formats.source import sorted_splits
from sightline.files.safe_pickle import PickleRefusedError, read_pickle

SIDE = 32
IMAGE_BYTES = 3 * SIDE * SIDE
MAX_BYTES = 1 << 29
BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))


@dataclass(frozen=True)
class CifarLayout:
    """What the files of one version are called."""

    format: str
    folder: str
    """Of the archive."""
    splits: dict[str, tuple[str, ...]]
    names_file: str
    names_key: str
    """Of the pickle with the class names."""
    labels_key: str
    label_bytes: int
    """Of a binary record, before the image; the last one is the class."""


LAYOUTS = (
    CifarLayout(
        "cifar_python",
        "cifar-10-batches-py",
        {"train": BATCHES, "test": ("test_batch",)},
        "batches.meta",
        "label_names",
        "labels",
        0,
    ),
    CifarLayout(
        "cifar_python",
        "cifar-100-python",
        {"train": ("train",), "test": ("test",)},
        "meta",
        "fine_label_names",
        "fine_labels",
        0,
    ),
    CifarLayout(
        "cifar_binary",
        "cifar-10-batches-bin",
        {"train": tuple(f"{name}.bin" for name in BATCHES), "test": ("test_batch.bin",)},
        "batches.meta.txt",
        "",
        "",
        1,
    ),
    CifarLayout(
        "cifar_binary",
        "cifar-100-binary",
        {"train": ("train.bin",), "test": ("test.bin",)},
        "fine_label_names.txt",
        "",
        "",
        2,
    ),
)


@dataclass(frozen=True)
class CifarPlace:
    """Files of a CIFAR version, in a folder or an archive."""

    path: Path
    """The folder, or the archive."""
    layout: CifarLayout
    in_archive: bool

    def file(self, name: str) -> Path:
        """A file of it, for messages."""
        return self.path / name

    def read(self, names: Sequence[str]) -> dict[str, bytes]:
        """Content of some of the files.

        Raises:
            FormatError: If one is missing or cannot be read.
        """
        if self.in_archive:
            return read_from_archive(self.path, names)
        return {name: self._read_file(self.path / name) for name in names}

    def _read_file(self, path: Path) -> bytes:
        try:
            return read_regular_file(path, limit=MAX_BYTES)
        except FileReadError as error:
            kind = "not_found" if error.kind == "missing_file" else "unreadable_file"
            cure = "Download the data set again." if kind == "not_found" else cure_of(error, path)
            raise FormatError(kind, path, error.message, cure=cure) from None


def find_cifar(path: Path) -> dict[str, CifarPlace]:
    """CIFAR files of each format in a folder, in its subfolder of their usual name, or in an archive."""
    if not is_folder(path):
        if not path.name.lower().endswith(ARCHIVE_SUFFIXES):
            return {}
        names = archive_names(path)
        return {layout.format: CifarPlace(path, layout, True) for layout in LAYOUTS if _fits(layout, names)}
    found: dict[str, CifarPlace] = {}
    for layout in LAYOUTS:
        for folder in (path, path / layout.folder):
            names = {entry.name for entry in entries_of(folder) if not entry.is_dir()}
            if layout.format not in found and _fits(layout, names):
                found[layout.format] = CifarPlace(folder, layout, False)
    return found


def _fits(layout: CifarLayout, names: Iterable[str]) -> bool:
    """Whether any file with images is there, and one that tells the version apart where the names are common words."""
    names = set(names)
    has_images = any(file in names for files in layout.splits.values() for file in files)
    return has_images and (layout.format == "cifar_binary" or "data_batch_1" in names or layout.names_file in names)


def open_cifar(place: CifarPlace, path: Path, class_names: Sequence[str] | None = None) -> CifarSource:
    """The data set of CIFAR files that were found."""
    kind = CifarPythonSource if place.layout.format == "cifar_python" else CifarBinarySource
    return kind(place, path, class_names)


class CifarSource(ClassSource):
    """What both versions share."""

    def __init__(self, place: CifarPlace, path: Path, class_names: Sequence[str] | None) -> None:
        self._place, self._wanted = place, class_names
        layout = place.layout
        there = archive_names(place.path) if place.in_archive else {e.name for e in entries_of(place.path)}
        splits = [split for split, files in layout.splits.items() if any(file in there for file in files)]
        super().__init__(path, sorted_splits(splits))
        for split in splits:
            for file in layout.splits[split]:
                if file not in there:
                    raise FormatError(
                        "not_found",
                        place.file(file),
                        f"the file is missing, but others of {split!r} are there",
                        cure="Unpack or download the data set again.",
                    )
        self._has_names = layout.names_file in there
        if not self._has_names and class_names is None:
            raise FormatError(
                "bad_names",
                place.file(layout.names_file),
                "the list of class names is missing",
                cure="Unpack the data set again, or give them with data.class_names=[...].",
            )

    @cached_property
    def _names(self) -> tuple[str, ...]:
        place = self._place.file(self._place.layout.names_file)
        if not self._has_names:
            return checked_names(place, self._wanted or ())
        return checked_names(place, self._read_names(), wanted=self._wanted)

    @property
    def class_names(self) -> tuple[str, ...]:
        """From the list of names."""
        return self._names

    def _read(self, split: str) -> ClassLabels:
        names = self._place.layout.splits[split]
        contents = self._place.read(names)
        parts = []
        for name in names:
            path = self._place.file(name)
            parts.append((path, *self._images(contents.pop(name), path)))
        return packed_labels(self, split, parts=parts, class_names=self.class_names)

    @abstractmethod
    def _read_names(self) -> list[str]:
        """Class names as the files give them."""

    @abstractmethod
    def _images(self, data: bytes, path: Path) -> tuple[Pixels, Ints]:
        """(n, 32, 32, 3) pixels and (n,) classes of one file."""


class CifarPythonSource(CifarSource):
    """Pickles, read as plain data."""

    format: ClassVar[str] = "cifar_python"

    def _read_names(self) -> list[str]:
        layout = self._place.layout
        path = self._place.file(layout.names_file)
        table = _plain_table(self._place.read([layout.names_file])[layout.names_file], path)
        names = _entry(table, layout.names_key, list, path)
        return [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names]

    def _images(self, data: bytes, path: Path) -> tuple[Pixels, Ints]:
        table = _plain_table(data, path)
        pixels = _entry(table, "data", np.ndarray, path)
        labels = _entry(table, self._place.layout.labels_key, list, path)
        if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != IMAGE_BYTES:
            message = f"its images are {pixels.shape} {pixels.dtype}; expected (n, {IMAGE_BYTES}) uint8"
            raise FormatError("broken_file", path, message)
        if len(labels) != len(pixels):
            message = f"has {counted(len(pixels), 'image')}, but {counted(len(labels), 'label')}"
            raise FormatError("count_mismatch", path, message)
        bad = next((i for i, label in enumerate(labels) if type(label) is not int or abs(label) >= 2**62), None)
        if bad is not None:
            message = f"image {bad}: the class is {printable(repr(labels[bad]), limit=40)}, not a whole number"
            raise FormatError("bad_class", path, message)
        return _from_planes(pixels), np.array(labels, np.int64)


class CifarBinarySource(CifarSource):
    """Records of fixed length."""

    format: ClassVar[str] = "cifar_binary"

    def _read_names(self) -> list[str]:
        name = self._place.layout.names_file
        text = self._place.read([name])[name].decode("utf-8", "replace")
        return [line.strip() for line in text.splitlines() if line.strip()]

    def _images(self, data: bytes, path: Path) -> tuple[Pixels, Ints]:
        head = self._place.layout.label_bytes
        record = head + IMAGE_BYTES
        whole, rest = divmod(len(data), record)
        if rest or not whole:
            message = f"has {len(data):,} bytes: {counted(whole, 'record')} of {record:,} bytes and {rest:,} bytes more"
            raise FormatError("truncated_file", path, message, cure="Unpack or download it again.")
        table = np.frombuffer(data, np.uint8).reshape(whole, record)
        return _from_planes(table[:, head:]), table[:, head - 1].astype(np.int64)


def _from_planes(rows: Any) -> Pixels:
    """(n, 3072) planes to (n, 32, 32, 3)."""
    return np.ascontiguousarray(rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))


def _plain_table(data: bytes, path: Path) -> dict[str, Any]:
    """The dictionary of a pickle, keys as text."""
    try:
        value = read_pickle(data)
    except PickleRefusedError as error:
        cure = "Download the data set from its home page again."
        raise FormatError("bad_pickle", path, f"at byte {error.offset:,}: {error.message}", cure=cure) from None
    if not isinstance(value, dict):
        raise FormatError("broken_file", path, f"holds a {type(value).__name__}, not a table of images")
    return {key.decode("latin-1") if isinstance(key, bytes) else str(key): entry for key, entry in value.items()}


def _entry(table: dict[str, Any], key: str, kind: type, path: Path) -> Any:
    if key not in table:
        raise FormatError("missing_key", path, f"has no {key!r}; it holds {printable(', '.join(table), limit=80)}")
    if not isinstance(table[key], kind):
        raise FormatError("wrong_type", path, f"{key!r} is a {type(table[key]).__name__}, not a {kind.__name__}")
    return table[key]
