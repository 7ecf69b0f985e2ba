"""Whether every file of points of a split can be used: looked at once, then remembered.

What is wrong inside of a file, such as a number that is not finite, shows only when all of it is read. Without this a
run would stop at the first such file, in the middle of an epoch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from sightline.config.errors import ConfigError
from sightline.data.cache_folder import cache_folder
from sightline.data.faults import make_fault
from sightline.data.formats.source import SplitSource
from sightline.data.lidar_annotations import LidarAnnotations, lidar_content_key
from sightline.data.point_files import PointFileError, read_points
from sightline.files.atomic_file import replace_file

_NUM_THREADS = 4
_Found = list[tuple[int, str, str]]
"""Frame, kind and message of each fault."""


class WholeClouds(SplitSource[LidarAnnotations]):
    """A data set whose splits also tell the faults inside of their files of points.

    Args:
        source: The data set.
        folder: Where it is remembered; by default in ``cache_folder()``.
    """

    def __init__(self, source: SplitSource[LidarAnnotations], folder: Path | None = None) -> None:
        super().__init__(source.path, source.splits, source.faults)
        self.source = source
        self.folder = folder

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those of the data set."""
        return self.source.class_names

    def _read(self, split: str) -> LidarAnnotations:
        return with_cloud_faults(self.source.read(split), folder=self.folder)


def with_cloud_faults(annotations: LidarAnnotations, *, folder: Path | None = None) -> LidarAnnotations:
    """The same split with a fatal fault for each file of points that cannot be used.

    Reads all of them, once: what was found is kept under the ``lidar_content_key``, which tells when a file changes.
    Several processes may ask at once: one reads, the others wait for it.

    Args:
        annotations: The split; frames that are spoilt already are left alone.
        folder: Where it is kept; by default in ``cache_folder()``.

    Raises:
        ConfigError: If the folder cannot be written to.
    """
    folder = cache_folder() if folder is None else folder
    key = hashlib.sha256(f"clouds 1 {lidar_content_key(annotations, with_classes=False)}".encode()).hexdigest()[:40]
    path = folder / f"{key}.clouds.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            found = _remembered(path, len(annotations))
            if found is None:
                found = _look(annotations)
                replace_file(path, [json.dumps(found).encode()])
    except OSError as error:
        raise ConfigError(
            f"{error.filename or folder}: cannot be written: {error.strerror or error}. "
            "Name another folder with SIGHTLINE_CACHE."
        ) from error
    faults = tuple(
        make_fault(kind, annotations.point_paths[frame], message, image=frame) for frame, kind, message in found
    )
    return replace(annotations, faults=(*annotations.faults, *faults)) if faults else annotations


def _remembered(path: Path, num_frames: int) -> _Found | None:
    """What the file says; None where there is none, or it is damaged."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        found = [(int(frame), str(kind), str(message)) for frame, kind, message in json.loads(path.read_bytes())]
        return found if all(0 <= frame < num_frames for frame, _, _ in found) else None
    return None


def _look(annotations: LidarAnnotations) -> _Found:
    spoilt = {fault.image for fault in annotations.faults if fault.fatal}

    def fault_of(frame: int) -> tuple[int, str, str] | None:
        try:
            read_points(annotations.point_paths[frame])
        except PointFileError as error:
            return frame, error.kind, error.message
        return None

    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        looked = threads.map(fault_of, (frame for frame in range(len(annotations)) if frame not in spoilt))
        return [one for one in looked if one is not None]
