"""The part of ``sightline check`` that is about point clouds: looking into them, and counts of objects."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sightline.config.printable import printable
from sightline.data.annotations import Fault
from sightline.data.faults import make_fault
from sightline.data.lidar_annotations import DONT_CARE, LidarAnnotations, points_in_view, points_per_object
from sightline.data.point_files import PointFileError, read_points

LEVELS = ("easy", "moderate", "hard")


@dataclass(frozen=True)
class LidarSplitReport:
    """What a split of point clouds holds."""

    name: str
    num_frames: int
    """Frames listed, unusable ones included."""
    num_unusable: int
    """Frames that a fatal fault spoils."""
    num_empty: int
    """Frames without an object of a trained class."""
    num_objects: int
    """All objects but DontCare, those of types that are not trained too."""
    num_dont_care: int
    """Regions without labels."""
    objects_per_class: tuple[int, ...]
    """Of trained classes."""
    objects_per_level: tuple[int, ...]
    """Easy, moderate, hard; of trained classes."""
    objects_per_other_type: Mapping[str, int]
    """Types that are not trained."""

    def rows(self, class_names: Sequence[str]) -> list[tuple[str, int]]:
        """Counts in the order of the table."""
        return [
            ("frames", self.num_frames),
            ("  unusable", self.num_unusable),
            ("  without objects", self.num_empty),
            ("objects", self.num_objects),
            *((f"  {name}", count) for name, count in zip(class_names, self.objects_per_class, strict=True)),
            *((f"  {name} (not trained)", count) for name, count in self.objects_per_other_type.items()),
            *((f"  level {name}", count) for name, count in zip(LEVELS, self.objects_per_level, strict=True)),
            (DONT_CARE, self.num_dont_care),
        ]


def report_lidar_split(
    name: str, held: LidarAnnotations, broken: set[str], others: Iterable[LidarAnnotations]
) -> LidarSplitReport:
    """Counts of one split.

    Args:
        name: Of the split.
        held: What was read.
        broken: Files of points that cannot be used.
        others: All splits of the data set: types that none of them has are not listed.
    """
    spoilt = {fault.image for fault in held.faults if fault.fatal and fault.image is not None}
    spoilt |= {i for i, path in enumerate(held.point_paths) if path in broken}
    is_trained = held.labels >= 0
    there = np.sum([split.objects_per_type for split in others], axis=0)
    counts = held.objects_per_type
    return LidarSplitReport(
        name=name,
        num_frames=len(held),
        num_unusable=len(spoilt),
        num_empty=len(held) - len(np.unique(held.frame_index[is_trained])),
        num_objects=int(held.is_object.sum()),
        num_dont_care=int((~held.is_object).sum()),
        objects_per_class=tuple(held.boxes_per_class.tolist()),
        objects_per_level=tuple(int((held.levels[is_trained] == level).sum()) for level in range(len(LEVELS))),
        objects_per_other_type={
            printable(type_name): int(counts[number])
            for number, type_name in enumerate(held.type_names)
            if there[number] and type_name not in (*held.class_names, DONT_CARE)
        },
    )


def look_into_clouds(
    splits: Iterable[LidarAnnotations],
    *,
    read: bool,
    same_content: bool,
    threads: int,
    tell: Callable[[int, int], None] | None,
) -> tuple[list[Fault], int]:
    """Faults that only the points show, and how many files were looked at.

    Args:
        splits: Frames that several of them list are looked at once; those with a fault of their own files are not.
        read: Read all points and count those of every object.
        same_content: Look for files that are copies of each other.
        threads: How many read.
        tell: Called now and then with the number of files looked at and their total.
    """
    frames: dict[str, tuple[LidarAnnotations, int]] = {}
    for held in splits:
        spoilt = {fault.image for fault in held.faults if fault.fatal}
        for index, path in enumerate(held.point_paths):
            if index not in spoilt:
                frames.setdefault(path, (held, index))

    def look(frame: tuple[LidarAnnotations, int]) -> tuple[list[Fault], bytes]:
        held, index = frame
        path = held.point_paths[index]
        try:
            found = faults_of_cloud(held, index) if read else []
            if not same_content:
                return found, b""
            with Path(path).open("rb") as file:
                return found, hashlib.file_digest(file, "sha256").digest()
        except PointFileError as error:
            return [make_fault(error.kind, path, error.message)], b""
        except OSError as error:
            return [make_fault("unreadable_points", path, f"cannot be read: {error.strerror or error}")], b""

    faults: list[Fault] = []
    digests: dict[bytes, str] = {}
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for number, (path, (found, digest)) in enumerate(
            zip(frames, pool.map(look, frames.values()), strict=True), start=1
        ):
            faults += found
            first = digests.setdefault(digest, path) if digest else path
            if first != path:
                faults.append(make_fault("same_content", path, f"the same bytes as {printable(first)}"))
            if tell is not None:
                tell(number, len(frames))
    return faults, len(frames)


def faults_of_cloud(held: LidarAnnotations, index: int) -> list[Fault]:
    """What is wrong with the points of a frame.

    Raises:
        PointFileError: If they cannot be read.
    """
    path = held.point_paths[index]
    points = read_points(path)
    faults = []
    seen = points_in_view(held, index, points)
    if len(seen) == 0:
        message = f"the camera sees none of {len(points):,} points: the calibration, or the file, is of another frame"
        faults.append(make_fault("cloud_out_of_view", path, message))
    rows = held.rows_of(index)
    for place in np.flatnonzero(points_per_object(held, index, seen) == 0).tolist():
        row = rows.start + place
        x, y, z = held.boxes3d[row, :3]
        name = printable(held.type_names[held.types[row]])
        message = f"object {place + 1} of its label, a {name} at ({x:.1f}, {y:.1f}, {z:.1f}) m, has no point inside"
        faults.append(make_fault("box_without_points", path, message))
    return faults
