"""Decoded images, resized once: read anew, kept in memory, or kept in one packed file.

All three give the same pixels; they differ in speed and memory only.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import psutil

from sightline.config.errors import ConfigError
from sightline.data.image_reader import ImageReader
from sightline.data.packed_images import PackedImages, open_packed
from sightline.data.transforms.image import Image

CacheKind = Literal["none", "ram", "disk"]

RECENT_BYTES = 256 << 20


class Images(Protocol):
    """Resized images of a data set, for any number of threads."""

    def hw(self, index: int) -> tuple[int, int]:
        """Height and width of an image."""

    def borrow(self, indices: Sequence[int]) -> Any:
        """Context in which the images (h, w, 3) uint8 RGB of these indices may be read, not written to."""


class _Entry:
    """An image being read or ready; its memory may serve another image when nobody has it pinned."""

    def __init__(self, memory: Image) -> None:
        self.memory = memory
        self.image: Image | None = None
        self.num_pins = 1


class RecentImages:
    """The images used most recently stay in memory, shared by all threads of the process.

    Args:
        reader: Reads the others.
        num_images: How many stay. If more are borrowed at a time, the surplus goes when the next image is read.
    """

    def __init__(self, reader: ImageReader, num_images: int) -> None:
        self._reader = reader
        self._num_images = num_images
        self._entries: OrderedDict[int, _Entry] = OrderedDict()  # the least recently used first
        self._changed = threading.Condition()

    def __getstate__(self) -> tuple[ImageReader, int]:
        return self._reader, self._num_images

    def __setstate__(self, state: tuple[ImageReader, int]) -> None:
        RecentImages.__init__(self, *state)

    def hw(self, index: int) -> tuple[int, int]:
        """Height and width of an image."""
        return self._reader.hw(index)

    @contextmanager
    def borrow(self, indices: Sequence[int]) -> Iterator[list[Image]]:
        """Context in which the images (h, w, 3) uint8 RGB of these indices may be read, not written to."""
        entries: list[_Entry] = []
        images = []
        try:
            for index in indices:
                entry, image = self._pinned(index)
                entries.append(entry)
                images.append(image)
            yield images
        finally:
            with self._changed:
                for entry in entries:
                    entry.num_pins -= 1

    def _pinned(self, index: int) -> tuple[_Entry, Image]:
        with self._changed:
            while (entry := self._entries.get(index)) is not None:
                if entry.image is not None:
                    entry.num_pins += 1
                    self._entries.move_to_end(index)
                    return entry, entry.image
                self._changed.wait()  # another thread is reading it
            entry = self._entries[index] = _Entry(self._memory(index))
        try:
            height, width = self._reader.hw(index)
            image = entry.memory[: height * width * 3].reshape(height, width, 3)
            self._reader.read(index, image)
        except BaseException:
            with self._changed:
                del self._entries[index]
                self._changed.notify_all()
            raise
        with self._changed:
            entry.image = image
            self._changed.notify_all()
        return entry, image

    def _memory(self, index: int) -> Image:
        """Memory for one image: that of the images used longest ago where there are enough."""
        if self._num_images >= len(self._reader):  # all stay, so none is used for another image, which may be larger
            return np.empty(3 * math.prod(self._reader.hw(index)), np.uint8)
        memory = None
        if len(self._entries) >= self._num_images:
            surplus = len(self._entries) - self._num_images + 1
            unused = (old for old, entry in self._entries.items() if entry.num_pins == 0)
            for old in list(islice(unused, surplus)):
                memory = self._entries.pop(old).memory
        return np.empty(3 * self._reader.image_size**2, np.uint8) if memory is None else memory


def open_images(
    reader: ImageReader, *, cache: CacheKind = "none", recent_bytes: int = RECENT_BYTES, folder: Path | None = None
) -> RecentImages | PackedImages:
    """The images of a data set, behind the cache that the user chose.

    Args:
        reader: Reads and resizes them.
        cache: ``none`` keeps the most recent ones; ``ram`` keeps all once they were read, in each worker process;
            ``disk`` writes all to one file outside of the data set, which later runs and all processes use too.
        recent_bytes: Memory of ``none``.
        folder: Of ``disk``; by default a folder of the user's cache.

    Raises:
        ConfigError: If all images do not fit into the free memory or on the disk.
        DataError: If an image is missing or broken (``disk`` reads all of them now).
    """
    per_image = 3 * reader.image_size**2
    if cache == "disk":
        return open_packed(reader, folder)
    if cache == "none":
        return RecentImages(reader, recent_bytes // per_image)
    wanted = sum(3 * height * width for height, width in map(reader.hw, range(len(reader))))
    free = psutil.virtual_memory().available
    if wanted > free:
        raise ConfigError(
            f"data.cache=ram needs {wanted / 2**30:.1f} GiB for {len(reader):,} images, but {free / 2**30:.1f} GiB of "
            "memory are free. Use data.cache=disk or data.cache=none."
        )
    return RecentImages(reader, len(reader))
