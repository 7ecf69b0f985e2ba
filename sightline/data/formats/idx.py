"""MNIST, Fashion-MNIST and their kin: IDX files, compressed or not.

``train-images-idx3-ubyte`` with ``train-labels-idx1-ubyte``, and the same with ``t10k`` for the test images, in the
folder or its ``raw``; also with ``.gz``, and with a dot in place of the second hyphen. An IDX file begins with two zero
bytes, a byte for the type (8: unsigned bytes), a byte for the number of axes, and the length of each axis as a
big-endian 32-bit number (Y. LeCun et al., "The MNIST database"). Images are grey (n, H, W) or have channels last
(n, H, W, C).

The files do not name the classes: they are called ``0``, ``1``, ... up to the largest label, unless the caller names
them.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sightline.config.printable import counted
from sightline.data.class_labels import ClassLabels
from sightline.data.faults import FormatError
from sightline.data.formats.archive import read_whole
from sightline.data.formats.class_names import checked_names
from sightline.data.formats.class_source import ClassSource, packed_labels
from sightline.data.formats.image_files import entries_of, is_folder
from sightline.data.formats.source import sorted_splits

NAME = re.compile(r"(?:.+-)?(train|t10k|test)-(images|labels)[-.]idx[134]-ubyte(?:\.gz)?", re.ASCII)
UNSIGNED_BYTE = 8
MAX_SIDE = 4096

Parts = dict[str, Path]
"""``images`` and ``labels`` of a split."""


def find_idx(path: Path) -> dict[str, Parts]:
    """IDX files of each split in a folder or its ``raw``, or beside a named file; plain ones before compressed ones."""
    if not is_folder(path):
        if not NAME.fullmatch(path.name):
            return {}
        path = path.parent
    for folder in (path, path / "raw"):
        found: dict[str, Parts] = {}
        for entry in entries_of(folder):
            match = NAME.fullmatch(entry.name)
            if match is not None and not entry.is_dir():
                split = "train" if match[1] == "train" else "test"
                found.setdefault(split, {}).setdefault(match[2], Path(entry.path))
        if found:
            return found
    return {}


class IdxSource(ClassSource):
    """Two files a split.

    Raises:
        FormatError: If the images or the labels of a split are missing, or the names cannot be.
    """

    format: ClassVar[str] = "idx"

    def __init__(self, path: Path, files: dict[str, Parts], class_names: Sequence[str] | None = None) -> None:
        super().__init__(path, sorted_splits(files))
        self._files = files
        self._wanted = None if class_names is None else checked_names(path, class_names)
        for split, parts in files.items():
            for there, missing in (("images", "labels"), ("labels", "images")):
                if missing not in parts:
                    name = parts[there].name.replace(there, missing).replace("idx3", "idx1")
                    message = f"the {missing} of {split!r} are missing"
                    cure = f"They belong to {parts[there].name}; download them again."
                    raise FormatError("not_found", parts[there].with_name(name), message, cure=cure)

    @cached_property
    def _numbers(self) -> tuple[str, ...]:
        largest = max(int(self._labels(split).max(initial=0)) for split in self.splits)
        return tuple(map(str, range(largest + 1)))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those of the caller, else the numbers of the classes."""
        return self._numbers if self._wanted is None else self._wanted

    def _labels(self, split: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        path = self._files[split]["labels"]
        labels = read_idx(path)
        if labels.ndim != 1:
            raise FormatError("broken_file", path, f"byte 3: labels have 1 axis, these have {labels.ndim}")
        return labels

    def _read(self, split: str) -> ClassLabels:
        path = self._files[split]["images"]
        images, labels = read_idx(path), self._labels(split)
        if images.ndim == 3:
            images = images[..., None]
        if images.ndim != 4 or images.shape[3] not in (1, 3):
            raise FormatError("broken_file", path, f"byte 3: images of the shape {images.shape} are not read")
        if not 1 <= min(images.shape[1:3]) <= max(images.shape[1:3]) <= MAX_SIDE:
            raise FormatError("broken_file", path, f"byte 8: images of {images.shape[2]}x{images.shape[1]} pixels")
        if len(images) != len(labels):
            beside = self._files[split]["labels"]
            message = f"has {counted(len(labels), 'label')}, but {path.name} {counted(len(images), 'image')}"
            raise FormatError("count_mismatch", beside, message, cure="Download both again.")
        return packed_labels(self, split, parts=[(path, images, labels.astype(np.int64))], class_names=self.class_names)


def read_idx(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The array of an IDX file of unsigned bytes.

    Raises:
        FormatError: With the byte where the file contradicts its format.
    """
    data = read_whole(path)
    if len(data) < 4 or data[:2] != b"\0\0":
        raise FormatError(
            "broken_file", path, f"byte 0: an IDX file begins with two zero bytes, this with {data[:4]!r}"
        )
    if data[2] != UNSIGNED_BYTE:
        raise FormatError("broken_file", path, f"byte 2: values of the type {data[2]} are not read, only bytes (8)")
    num_axes = data[3]
    start = 4 + 4 * num_axes
    if not 1 <= num_axes <= 4:
        raise FormatError("broken_file", path, f"byte 3: {num_axes} axes; expected 1 to 4")
    if len(data) < start:
        raise FormatError("truncated_file", path, f"the file ends inside its header, after {len(data)} bytes")
    shape = struct.unpack_from(f">{num_axes}I", data, 4)
    wanted = start + math.prod(shape)
    if len(data) != wanted:
        kind = "truncated_file" if len(data) < wanted else "broken_file"
        message = f"byte 4: its header says {' x '.join(map(str, shape))}, so {wanted:,} bytes; it has {len(data):,}"
        raise FormatError(kind, path, message, cure="Download it again.")
    try:
        return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
    except ValueError:  # an axis of length 0 beside others whose product no array can have
        message = f"byte 4: its header says {' x '.join(map(str, shape))}, which no array can be"
        raise FormatError("broken_file", path, message, cure="Download it again.") from None
