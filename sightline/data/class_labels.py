"""The classes of a whole data set's images in flat arrays, and everything that was wrong in its files.

Letters: N images, K classes, F files that hold many images each. Images are files of their own, or rows of one array
in memory (CIFAR, MNIST). A million images are then a few large objects, which threads share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sightline.data.annotations import Fault, Ints, PackedStrings, SmallInts, file_stamps

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class PackedPixels:
    """Images of one size that stand in a few files, read as a whole."""

    pixels: Pixels
    """(R, H, W, C) uint8, C = 3 (RGB) or 1 (grey). Nobody may write to it."""
    rows: Ints
    """(N,) the row of ``pixels`` that each image is."""
    files: tuple[Path, ...]
    """(F,) where the rows come from, in order."""
    file_ends: Ints
    """(F,) one past the last row of each file."""

    def select(self, images: Ints) -> PackedPixels:
        """Only these images; the pixels are shared, not copied."""
        return replace(self, rows=self.rows[images])

    def place_of(self, index: int) -> tuple[Path, int]:
        """The file that holds an image, and the image's number in it from 0."""
        row = int(self.rows[index])
        number = int(np.searchsorted(self.file_ends, row, side="right"))
        return self.files[number], row - (int(self.file_ends[number - 1]) if number else 0)


@dataclass(frozen=True, eq=False)
class ClassLabels:
    """Images of one split, each with one class, in flat arrays that nobody may write to."""

    unit: ClassVar[str] = "image"

    class_names: tuple[str, ...]
    labels: Ints
    """(N,) int64 in 0..K-1."""
    faults: tuple[Fault, ...]
    """Everything found while reading."""
    name: str
    """For messages, such as ``cifar10/train``."""
    source: Path
    """The folder or file that was asked for."""
    paths: PackedStrings = field(default_factory=PackedStrings)
    """(N,) image files; empty where the images are packed."""
    sizes_hw: SmallInts = field(default_factory=lambda: np.zeros((0, 2), np.int32))
    """(N, 2) pixels after EXIF rotation, from the files' headers; (0, 0) where that is not known."""
    packed: PackedPixels | None = None
    """The images themselves, where they are no files of their own."""

    def __post_init__(self) -> None:
        N, K = len(self.labels), len(self.class_names)
        arrays: dict[str, tuple[Any, Any, tuple[int, ...]]] = {"labels": (self.labels, np.int64, (N,))}
        if self.packed is None:
            arrays["sizes_hw"] = (self.sizes_hw, np.int32, (N, 2))
            num_images = len(self.paths)
        else:
            sizes_hw = np.broadcast_to(np.array(self.packed.pixels.shape[1:3], np.int32), (N, 2))
            object.__setattr__(self, "sizes_hw", sizes_hw)
            num_images = len(self.packed.rows)
        for name, (given, dtype, shape) in arrays.items():
            array = np.ascontiguousarray(given, dtype=dtype).view()
            if array.shape != shape:
                raise ValueError(f"{name}: expected shape {shape}, got {array.shape}.")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        if num_images != N:
            raise ValueError(f"there are {num_images} images, but {N} labels.")
        if N and not 0 <= self.labels.min() <= self.labels.max() < K:
            raise ValueError(f"labels: expected 0 to {K - 1}, got {self.labels.min()} to {self.labels.max()}.")

    def __len__(self) -> int:
        """Number of images, N."""
        return len(self.labels)

    @property
    def images_per_class(self) -> Ints:
        """(K,) number of images."""
        return np.bincount(self.labels, minlength=len(self.class_names)).astype(np.int64)

    @property
    def channels(self) -> int:
        """1 where all images are grey by their format, else 3."""
        return 3 if self.packed is None else int(self.packed.pixels.shape[3])

    def describe(self, index: int) -> str:
        """What a person calls an image: its file, and its number where a file holds many."""
        if self.packed is None:
            return self.paths[index]
        path, number = self.packed.place_of(index)
        return f"{path}, image {number}"

    def key_of(self, index: int) -> str:
        """A name of the image that is the same wherever the data set stands."""
        if self.packed is None:
            folder = f"{self.source.parent if self.source.is_file() else self.source}/"
            return self.paths[index].removeprefix(folder)
        path, number = self.packed.place_of(index)
        return f"{path.name}#{number}"

    def select(self, images: Iterable[int]) -> ClassLabels:
        """The same data with only these images, in this order; faults that spoil a left-out image spoil none now."""
        chosen = np.fromiter(images, dtype=np.int64)
        new_index = {int(old): new for new, old in enumerate(chosen)} if self.faults else {}
        return replace(
            self,
            labels=self.labels[chosen],
            paths=self.paths if self.packed is not None else PackedStrings(self.paths[int(i)] for i in chosen),
            sizes_hw=self.sizes_hw[chosen],
            packed=None if self.packed is None else self.packed.select(chosen),
            faults=tuple(
                fault if fault.image is None else replace(fault, image=new_index.get(fault.image))
                for fault in self.faults
            ),
        )


def class_content_key(labels: ClassLabels, *, file_times: bool = True) -> str:
    """A SHA-256 that changes whenever the images or their classes change: for a run's record.

    Of image files it covers the names below the data set's folder, the sizes in bytes and (with ``file_times``) the
    times of change; of packed images the pixels themselves.

    Returns:
        64 hexadecimal digits.
    """
    key = hashlib.sha256()
    if labels.packed is None:
        for stamp in file_stamps(labels.source, labels.paths, file_times=file_times):
            key.update(stamp)
    else:
        pixels = labels.packed.pixels
        key.update(f"{pixels.shape}".encode())
        key.update(np.ascontiguousarray(pixels).data)
        key.update(labels.packed.rows.tobytes())
    key.update("\0".join(labels.class_names).encode("utf-8", "surrogatepass"))
    key.update(labels.labels.tobytes())
    return key.hexdigest()
