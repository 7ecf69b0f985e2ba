"""All images of a data set, decoded and resized, in one file that is mapped into memory.

Reading from it costs what reading memory costs, and all processes of a machine share its pages. It is about forty
times as large as the JPEG files. It stands in a cache folder outside of the data set; its name is a SHA-256 of what
the image files contain and of all that decides the pixels, so a changed image is never mistaken for the old one.

Layout, little-endian: ``MAGIC``; uint64 number of images N; (N, 2) int32 heights and widths; (N + 1,) int64 offsets;
pixels (h, w, 3) uint8 RGB of image i from offset i on.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from filelock import FileLock

from sightline.config.errors import ConfigError, DataError
from sightline.data.cache_folder import cache_folder
from sightline.data.decode import read_image_bytes
from sightline.data.image_reader import ImageReader
from sightline.data.memory import Image, keep_freed_memory

MAGIC = b"sightline-pixels-1\n".ljust(32, b"\0")

_NUM_THREADS = min(8, os.cpu_count() or 1)
_IMAGES_AT_ONCE = 64


class PackedImages:
    """Resized images of a data set, read from a packed file.

    Raises:
        ValueError: If the file is not whole or holds other images.
    """

    def __init__(self, path: Path, reader: ImageReader) -> None:
        self.path = path
        self._reader = reader
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        count = len(reader)
        start = len(MAGIC) + 8
        sizes_hw, offsets = _index(reader)
        index = MAGIC + np.uint64(count).tobytes() + sizes_hw.tobytes() + offsets.tobytes()
        if self._map[: len(index)] != index or len(self._map) != offsets[-1]:
            raise ValueError(f"{path}: is not whole, or holds other images.")
        # Views of the file itself: no copy for each process.
        self._sizes_hw = np.frombuffer(self._map, "<i4", 2 * count, start).reshape(count, 2)
        self._offsets = np.frombuffer(self._map, "<i8", count + 1, start + self._sizes_hw.nbytes)
        self._bytes = np.frombuffer(self._map, np.uint8)

    def __getstate__(self) -> tuple[Path, ImageReader]:
        return self.path, self._reader

    def __setstate__(self, state: tuple[Path, ImageReader]) -> None:
        PackedImages.__init__(self, *state)

    def hw(self, index: int) -> tuple[int, int]:
        """Height and width of an image."""
        return self._reader.hw(index)

    @contextmanager
    def borrow(self, indices: Sequence[int]) -> Iterator[list[Image]]:
        """Context in which the images (h, w, 3) uint8 RGB of these indices may be read."""
        yield [self._image(index) for index in indices]

    def _image(self, index: int) -> Image:
        height, width = self._sizes_hw[index].tolist()
        start, end = self._offsets[index : index + 2].tolist()
        return self._bytes[start:end].reshape(height, width, 3)


def open_packed(reader: ImageReader, folder: Path | None = None) -> PackedImages:
    """The packed file of these images; it is written first where there is none yet.

    Several processes may ask at once: one writes, the others wait for it. Without ``folder`` it stands in
    ``cache_folder()``.

    Raises:
        ConfigError: If the folder cannot be written to or the disk is too small.
        DataError: If an image is missing or broken.
    """
    folder = cache_folder() if folder is None else folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{_pixels_key(reader, folder)}.pixels"
        with FileLock(f"{path}.lock"):
            if path.exists():
                with contextlib.suppress(ValueError):
                    return PackedImages(path, reader)
            _write_whole(path, lambda file: _write_pixels(file, reader), _index(reader)[1][-1])
            return PackedImages(path, reader)
    except OSError as error:
        raise ConfigError(
            f"{error.filename or folder}: the image cache cannot be written: {error.strerror or error}. "
            "Name another folder with SIGHTLINE_CACHE, or use data.cache=ram or data.cache=none."
        ) from error


def _index(reader: ImageReader) -> tuple[Any, Any]:
    """Sizes (N, 2) int32 and offsets (N + 1,) int64 of the file."""
    sizes_hw = np.array([reader.hw(i) for i in range(len(reader))], "<i4").reshape(-1, 2)
    start = len(MAGIC) + 8 + sizes_hw.nbytes + 8 * (len(sizes_hw) + 1)
    offsets = start + np.concatenate(([0], np.cumsum(3 * sizes_hw.astype("<i8").prod(axis=1))))
    return sizes_hw, offsets.astype("<i8")


def _pixels_key(reader: ImageReader, folder: Path) -> str:
    """Name of what the packed file holds: image contents, size and all else that decides the pixels."""
    settings = f"{MAGIC!r} {cv2.__version__} {reader.image_size} {reader.area} {reader.upscale}"
    return hashlib.sha256(settings.encode() + b"".join(_content_hashes(reader, folder))).hexdigest()[:40]


def _content_hashes(reader: ImageReader, folder: Path) -> list[bytes]:
    """SHA-256 of every image file. Files that kept their size and time of change are not read again."""
    paths = list(reader.paths)
    names = "\0".join(paths).encode("utf-8", "surrogatepass")
    memo = folder / f"{hashlib.sha256(names).hexdigest()[:40]}.hashes"
    row = np.dtype([("size", "<i8"), ("time", "<i8"), ("hash", "V32")])
    known = np.zeros(len(paths), row)
    with FileLock(f"{memo}.lock"):
        with contextlib.suppress(FileNotFoundError):
            if memo.stat().st_size == known.nbytes:
                known = np.fromfile(memo, row)
        stats = [_stat(path) for path in paths]
        stale = [i for i, stat in enumerate(stats) if stat != (known["size"][i], known["time"][i])]
        with ThreadPoolExecutor(_NUM_THREADS) as threads:
            for i, digest in zip(stale, threads.map(lambda i: _file_hash(paths[i]), stale), strict=True):
                known[i] = (*stats[i], digest)
        if stale:
            _write_whole(memo, known.tofile, known.nbytes)
    return [digest.tobytes() for digest in known["hash"]]


def _stat(path: str) -> tuple[int, int]:
    try:
        status = Path(path).stat()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}.") from None
    return status.st_size, status.st_mtime_ns


def _file_hash(path: str) -> bytes:
    return hashlib.sha256(read_image_bytes(path)).digest()


def _write_pixels(file: IO[bytes], reader: ImageReader) -> None:
    sizes_hw, offsets = _index(reader)
    file.write(MAGIC + np.uint64(len(reader)).tobytes() + sizes_hw.tobytes() + offsets.tobytes())

    def pixels(index: int) -> Image:
        image = np.empty((*reader.hw(index), 3), np.uint8)
        reader.read(index, image)
        return image

    keep_freed_memory()
    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        for first in range(0, len(reader), _IMAGES_AT_ONCE):
            for image in threads.map(pixels, range(first, min(first + _IMAGES_AT_ONCE, len(reader)))):
                file.write(image.data)


def _write_whole(path: Path, write: Callable[[IO[bytes]], object], size: int) -> None:
    """Write a file that appears under its name only when it is whole."""
    if shutil.disk_usage(path.parent).free < size:
        raise OSError(errno.ENOSPC, f"{size / 2**30:.1f} GiB do not fit on the disk", str(path.parent))
    part = path.with_name(f".part-{path.name}")  # one writer at a time; what a killed one left is written over
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
