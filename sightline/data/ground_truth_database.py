"""The objects of a split with their points, to be put into other scenes: made once, then mapped into memory.

Letters: E objects, T points of all of them. Yan et al., "SECOND: sparsely embedded convolutional detection", Sensors
2018, section 3.2.

The file stands in a cache folder outside of the data set, and its name is a SHA-256 of what decides its content, so a
changed split is never mistaken for the old one. Layout, little-endian: ``MAGIC``; SHA-256 of all that follows; uint64
E, T, F; then the arrays of ``GroundTruthDatabase`` from ``offsets`` to ``frames``, and its ``points`` at last.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from sightline.config.errors import ConfigError
from sightline.data.annotations import Floats, Ints, SmallInts
from sightline.data.cache_folder import cache_folder
from sightline.data.lidar_annotations import LidarAnnotations, lidar_content_key
from sightline.data.point_files import NUM_FEATURES, read_points
from sightline.files.atomic_file import replace_file
from sightline.ops.point_pairs import inside_pairs

Array = np.ndarray[Any, Any]
Progress = Callable[[int, int], None]
"""Called with the number of frames looked at and their total."""

MAGIC = b"sightline-objects-1\n".ljust(32, b"\0")

_NUM_THREADS = min(4, os.cpu_count() or 1)
_FRAMES_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class GroundTruthDatabase:
    """Objects cut out of their frames, in flat arrays that nobody may write to; in the order of frames and files."""

    type_names: tuple[str, ...]
    """All types of objects that the split names."""
    points: Array
    """(T, F) float32: x, y, z minus the centre of the object's box, metres, not rotated; intensity and what else the
    data has. In the order of the file."""
    offsets: Ints
    """(E + 1,) int64: the points of object e are rows ``offsets[e]`` to ``offsets[e + 1]``."""
    boxes3d: Floats
    """(E, 7) float64 as in ``ops.boxes3d``, where the object stood in its own frame."""
    types: SmallInts
    """(E,) int32 into ``type_names``."""
    levels: SmallInts
    """(E,) int32: 0 easy, 1 moderate, 2 hard, -1 none of them."""
    frames: SmallInts
    """(E,) int32: index of the frame in the split."""

    def __post_init__(self) -> None:
        E, T = len(self.types), len(self.points)
        arrays: dict[str, tuple[Any, tuple[int, ...]]] = {
            "points": (np.float32, (T, *self.points.shape[1:])),
            "offsets": (np.int64, (E + 1,)),
            "boxes3d": (np.float64, (E, 7)),
            "types": (np.int32, (E,)),
            "levels": (np.int32, (E,)),
            "frames": (np.int32, (E,)),
        }
        for name, (dtype, shape) in arrays.items():
            array = np.ascontiguousarray(getattr(self, name), dtype=dtype).view()
            if array.shape != shape or (name == "points" and array.ndim != 2):
                raise ValueError(f"{name}: expected shape {shape}, got {array.shape}.")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        if self.offsets[0] != 0 or self.offsets[-1] != T or (np.diff(self.offsets) < 0).any():
            raise ValueError(f"offsets: expected to rise from 0 to {T}, got {self.offsets}.")
        if E and not (self.types.min() >= 0 and self.types.max() < len(self.type_names)):
            raise ValueError(f"types: expected 0 to {len(self.type_names) - 1}, got up to {self.types.max()}.")

    def __len__(self) -> int:
        """Number of objects, E."""
        return len(self.types)

    @property
    def num_points(self) -> Ints:
        """(E,) int64 points of each object."""
        return np.diff(self.offsets)

    def points_of(self, index: int) -> Array:
        """The points (n, F) of an object, relative to its centre; a view."""
        return self.points[self.offsets[index] : self.offsets[index + 1]]

    def of_type(self, name: str) -> Ints:
        """Objects of a type in the order of the database; none of a type that the split does not name."""
        if name not in self.type_names:
            return np.zeros(0, np.int64)
        return np.flatnonzero(self.types == self.type_names.index(name))

    def select(self, objects: Iterable[int]) -> GroundTruthDatabase:
        """The same database with only these objects, in this order; points are copied."""
        chosen = np.asarray(list(objects), dtype=np.int64)
        counts = self.num_points[chosen]
        offsets = np.concatenate(([0], np.cumsum(counts)))  # (e + 1,)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], counts)
        return GroundTruthDatabase(
            self.type_names,
            self.points[rows],
            offsets,
            self.boxes3d[chosen],
            self.types[chosen],
            self.levels[chosen],
            self.frames[chosen],
        )


class _Mapped(GroundTruthDatabase):
    """A database in a file. Pickled as the name of the file, so that worker processes share its pages."""

    path: Path

    def __reduce__(self) -> tuple[Callable[..., GroundTruthDatabase], tuple[Any, ...]]:
        return _opened, (self.path, self.type_names)


def ground_truth_database(
    annotations: LidarAnnotations,
    *,
    num_features: int = NUM_FEATURES,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> GroundTruthDatabase:
    """The objects of a split with their points; they are cut out first where that was not done yet.

    All objects are there but DontCare, also those of types that are not trained and those without a point. A point
    belongs to an object by the rule of ``ops.point_pairs``; all points of the file are asked, not only those
    that the camera sees. Several processes may ask at once: one cuts, the others wait for it. A damaged file is made
    anew.

    Args:
        annotations: The split.
        num_features: F, as for ``read_points``.
        folder: Where the file stands; by default in ``cache_folder()``.
        progress: Called now and then while objects are cut out.

    Raises:
        ConfigError: If the folder cannot be written to or the disk is too small.
        DataError: If a file of points cannot be used.
    """
    folder = cache_folder() if folder is None else folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{_key(annotations, num_features)}.objects"
        with FileLock(f"{path}.lock"):
            if path.exists():
                with contextlib.suppress(ValueError):
                    return _opened(path, annotations.type_names, is_checked=False)
            replace_file(path, _file_parts(cut_out(annotations, num_features=num_features, progress=progress)))
            return _opened(path, annotations.type_names)
    except OSError as error:
        raise ConfigError(
            f"{error.filename or folder}: the database of objects cannot be written: {error.strerror or error}. "
            "Name another folder with SIGHTLINE_CACHE, or paste nothing: augment.paste=null."
        ) from error


def cut_out(
    annotations: LidarAnnotations, *, num_features: int = NUM_FEATURES, progress: Progress | None = None
) -> GroundTruthDatabase:
    """As ``ground_truth_database``, in memory."""
    is_object = annotations.is_object
    with_objects = np.unique(annotations.frame_index[is_object]).tolist()

    def objects_of(frame: int) -> list[Array]:
        points = read_points(annotations.point_paths[frame], num_features=num_features)
        rows = np.flatnonzero(is_object[annotations.rows_of(frame)]) + annotations.offsets[frame]
        boxes = annotations.boxes3d[rows]
        inside, owners = inside_pairs(points, boxes)
        by_box = np.argsort(owners, kind="stable")
        cut = points[inside[by_box]]
        cut[:, :3] = cut[:, :3].astype(np.float64) - boxes[owners[by_box], :3]
        return np.split(cut, np.bincount(owners, minlength=len(boxes)).cumsum()[:-1])

    parts: list[Array] = []
    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        for first in range(0, len(with_objects), _FRAMES_AT_ONCE):
            for cut in threads.map(objects_of, with_objects[first : first + _FRAMES_AT_ONCE]):
                parts += cut
            if progress is not None:
                progress(min(first + _FRAMES_AT_ONCE, len(with_objects)), len(with_objects))
    return GroundTruthDatabase(
        type_names=annotations.type_names,
        points=np.concatenate([np.zeros((0, num_features), np.float32), *parts]),
        offsets=np.cumsum([0, *map(len, parts)], dtype=np.int64),
        boxes3d=annotations.boxes3d[is_object],
        types=annotations.types[is_object],
        levels=annotations.levels[is_object],
        frames=annotations.frame_index[is_object].astype(np.int32),
    )


def _key(annotations: LidarAnnotations, num_features: int) -> str:
    """Name of the file: files of points, boxes and types decide what is in it; which classes are trained does not."""
    key = f"{MAGIC!r} {num_features} {lidar_content_key(annotations, with_classes=False)}"
    return hashlib.sha256(key.encode()).hexdigest()[:40]


_ARRAYS = (("offsets", "<i8"), ("boxes3d", "<f8"), ("types", "<i4"), ("levels", "<i4"), ("frames", "<i4"))


def _file_parts(database: GroundTruthDatabase) -> Iterator[bytes | memoryview]:
    """The content of the file."""
    counts = np.array([len(database), *database.points.shape], "<u8")
    arrays = [np.ascontiguousarray(getattr(database, name), kind) for name, kind in _ARRAYS]
    parts = [counts, *arrays, np.ascontiguousarray(database.points, "<f4")]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.reshape(-1).view(np.uint8).data)
    yield MAGIC + digest.digest()
    yield from (part.reshape(-1).view(np.uint8).data for part in parts)


def _opened(path: Path, type_names: tuple[str, ...], *, is_checked: bool = True) -> GroundTruthDatabase:
    """The database of a file.

    Args:
        path: The file.
        type_names: Of the split.
        is_checked: Whether its bytes are known to be whole.

    Raises:
        ValueError: If they are not.
    """
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    start = len(MAGIC) + hashlib.sha256().digest_size
    if len(data) < start + 24 or data[: len(MAGIC)] != MAGIC:
        raise ValueError(f"{path}: is no database of objects.")
    if not is_checked and hashlib.sha256(memoryview(data)[start:]).digest() != data[len(MAGIC) : start]:
        raise ValueError(f"{path}: is damaged.")
    E, T, F = np.frombuffer(data, "<u8", 3, start).tolist()
    place = start + 24
    arrays: dict[str, Array] = {}
    for name, kind in (*_ARRAYS, ("points", "<f4")):
        shape = {"offsets": (E + 1,), "boxes3d": (E, 7), "points": (T, F)}.get(name, (E,))
        count = int(np.prod(shape))
        arrays[name] = np.frombuffer(data, kind, count, place).reshape(shape)
        place += count * np.dtype(kind).itemsize
    database = _Mapped(type_names, **arrays)
    object.__setattr__(database, "path", path)
    return database
