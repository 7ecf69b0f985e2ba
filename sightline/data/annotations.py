"""The boxes of a whole data set in a few flat arrays, and everything that was wrong in its files.

Letters: N images, M boxes, K classes. One array holds all boxes; those of image ``i`` are
``offsets[i]:offsets[i + 1]``. A million boxes are then a few large objects, which worker processes share instead of
copying, however long they live.

Boxes are ``boxes_xyxy`` in pixels of the image file after its EXIF rotation: the origin is the top-left corner of the
top-left pixel, y points down, a box around one pixel is 1 wide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, overload

import numpy as np
from numpy.typing import NDArray

from sightline.config.printable import printable

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
SmallInts = NDArray[np.int32]
Bools = NDArray[np.bool_]


class PackedStrings(Sequence[str]):
    """Many texts as one blob of bytes and one array of offsets; indexing gives a ``str``.

    File names that are not UTF-8 (lone surrogates in Python) come back as they went in.
    """

    __slots__ = ("blob", "ends")

    def __init__(self, texts: Iterable[str] = ()) -> None:
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        self.blob = b"".join(encoded)
        self.ends: Ints = np.cumsum([0, *map(len, encoded)], dtype=np.int64)  # (N + 1,)

    def __len__(self) -> int:
        return len(self.ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> PackedStrings: ...
    def __getitem__(self, index: int | slice) -> str | PackedStrings:
        if isinstance(index, slice):
            return PackedStrings(self[i] for i in range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} texts")
        index %= len(self)
        return self.blob[self.ends[index] : self.ends[index + 1]].decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PackedStrings):
            return NotImplemented
        return self.blob == other.blob and np.array_equal(self.ends, other.ends)

    def __hash__(self) -> int:
        return hash((self.blob, self.ends.tobytes()))

    def __repr__(self) -> str:
        return f"PackedStrings({len(self)} texts, {len(self.blob)} bytes)"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong in a data set's files."""

    kind: str
    """Name of the kind, such as ``class_out_of_range``; see ``sightline.data.faults.KINDS``."""
    path: Path
    line: int | None
    """Line in a text or XML file, from 1; None where the file has no lines or the whole file is meant."""
    message: str
    fatal: bool
    """True: the image's truth cannot be trusted, so training refuses or leaves the image out."""
    image: int | None = None
    """Index of the image that it spoils in the annotations that report it; None if it spoils none."""

    @property
    def place(self) -> str:
        """``file`` or ``file:line``, safe to print."""
        return printable(self.path) if self.line is None else f"{printable(self.path)}:{self.line}"

    def __str__(self) -> str:
        return f"{self.place}: {printable(self.message)}"


@dataclass(frozen=True, eq=False)
class ImageAnnotations:
    """Images of one split with their true boxes, in flat arrays that nobody may write to."""

    unit: ClassVar[str] = "image"

    class_names: tuple[str, ...]
    paths: PackedStrings
    """(N,) image files."""
    sizes_hw: SmallInts
    """(N, 2) pixels after EXIF rotation, from the file's header; (0, 0) where that cannot be read."""
    offsets: Ints
    """(N + 1,)."""
    boxes_xyxy: Floats
    """(M, 4) pixels of the image file, inside the image."""
    labels: SmallInts
    """(M,) in 0..K-1."""
    is_crowd: Bools
    """(M,) COCO's regions of many objects: never matched, never counted as missed."""
    areas: Floats
    """(M,) square pixels: COCO's own (mask) area where it is given, else that of the box."""
    image_ids: Ints
    """(N,) the format's own ids (COCO), else 0..N-1."""
    category_ids: Ints
    """(K,) COCO's category ids, else 0..K-1."""
    faults: tuple[Fault, ...]
    """Everything found while reading. Boxes and images with non-fatal faults are repaired or dropped already."""
    name: str
    """For messages, such as ``bccd/train``."""
    source: Path
    """The folder or file that was asked for."""
    is_difficult: Bools = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    """(M,) VOC's mark for objects that its evaluation ignores; empty means none."""

    def __post_init__(self) -> None:
        N, M, K = len(self.paths), len(self.labels), len(self.class_names)
        difficult = self.is_difficult if len(self.is_difficult) else np.zeros(M, dtype=np.bool_)
        arrays: dict[str, tuple[Any, Any, tuple[int, ...]]] = {
            "sizes_hw": (self.sizes_hw, np.int32, (N, 2)),
            "offsets": (self.offsets, np.int64, (N + 1,)),
            "boxes_xyxy": (self.boxes_xyxy, np.float64, (M, 4)),
            "labels": (self.labels, np.int32, (M,)),
            "is_crowd": (self.is_crowd, np.bool_, (M,)),
            "areas": (self.areas, np.float64, (M,)),
            "image_ids": (self.image_ids, np.int64, (N,)),
            "category_ids": (self.category_ids, np.int64, (K,)),
            "is_difficult": (difficult, np.bool_, (M,)),
        }
        for name, (given, dtype, shape) in arrays.items():
            array = np.ascontiguousarray(given, dtype=dtype).view()
            if array.shape != shape:
                raise ValueError(f"{name}: expected shape {shape}, got {array.shape}.")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        if self.offsets[0] != 0 or self.offsets[-1] != M or (np.diff(self.offsets) < 0).any():
            raise ValueError(f"offsets: expected to rise from 0 to {M}, got {self.offsets}.")

    def __len__(self) -> int:
        """Number of images, N."""
        return len(self.paths)

    def boxes_of(self, index: int) -> tuple[Floats, SmallInts]:
        """Views of the boxes (n, 4) xyxy in pixels of the image file and labels (n,) of one image."""
        part = slice(self.offsets[index], self.offsets[index + 1])
        return self.boxes_xyxy[part], self.labels[part]

    @property
    def boxes_per_image(self) -> Ints:
        """(N,) number of boxes; 0 for a background image."""
        return np.diff(self.offsets)

    @property
    def boxes_per_class(self) -> Ints:
        """(K,) number of boxes."""
        return np.bincount(self.labels, minlength=len(self.class_names)).astype(np.int64)

    @property
    def image_index(self) -> Ints:
        """(M,) index of the image that each box lies in, ascending."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.boxes_per_image)

    def select(self, images: Iterable[int]) -> ImageAnnotations:
        """The same data with only these images, in this order; faults that spoil a left-out image spoil none now."""
        chosen = np.asarray(list(images), dtype=np.int64)
        counts = self.boxes_per_image[chosen]
        offsets = np.concatenate(([0], np.cumsum(counts)))  # (n + 1,)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], counts)
        new_index = {int(old): new for new, old in enumerate(chosen)}
        return replace(
            self,
            paths=PackedStrings(self.paths[int(i)] for i in chosen),
            sizes_hw=self.sizes_hw[chosen],
            offsets=offsets,
            boxes_xyxy=self.boxes_xyxy[rows],
            labels=self.labels[rows],
            is_crowd=self.is_crowd[rows],
            areas=self.areas[rows],
            image_ids=self.image_ids[chosen],
            is_difficult=self.is_difficult[rows],
            faults=tuple(
                fault if fault.image is None else replace(fault, image=new_index.get(fault.image))
                for fault in self.faults
            ),
        )


def content_key(annotations: ImageAnnotations, *, file_times: bool = True) -> str:
    """A SHA-256 that changes whenever the images or their truth change: for caches and for a run's record.

    Covers class names, all boxes and marks, and of every image its name below the data set's folder, its size in
    bytes and (with ``file_times``) its time of change. The pixels themselves are not read.

    Args:
        annotations: What was read.
        file_times: False leaves the times out, so that two copies of one data set have the same key.

    Returns:
        64 hexadecimal digits.
    """
    key = hashlib.sha256()
    for stamp in file_stamps(annotations.source, annotations.paths, file_times=file_times):
        key.update(stamp)
    key.update("\0".join(annotations.class_names).encode("utf-8", "surrogatepass"))
    for array in (
        annotations.sizes_hw,
        annotations.offsets,
        annotations.boxes_xyxy,
        annotations.labels,
        annotations.is_crowd,
        annotations.is_difficult,
        annotations.areas,
        annotations.image_ids,
        annotations.category_ids,
    ):
        key.update(f"{array.dtype.str}{array.shape}".encode())
        key.update(array.tobytes())
    return key.hexdigest()


def file_stamps(source: Path, paths: Iterable[str], *, file_times: bool) -> Iterator[bytes]:
    """Of each file its name below the data set's folder, its size and (with ``file_times``) its time of change."""
    folder = f"{source.parent if source.is_file() else source}/"
    for path in paths:
        try:
            status = Path(path).stat()
            stamp = f"{status.st_size} {status.st_mtime_ns if file_times else 0}"
        except (OSError, ValueError):
            stamp = "missing"
        yield f"{path.removeprefix(folder)}\0{stamp}\n".encode("utf-8", "surrogatepass")
