"""LiDAR frames of one split with their true boxes, in flat arrays.

Letters: N frames, M objects, K classes. All objects that the files list are here, those of classes that are not trained
and regions without labels (KITTI's DontCare) too: an evaluation needs them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sightline.data.annotations import Bools, Fault, Floats, Ints, PackedStrings, SmallInts, file_stamps
from sightline.ops.frames import Calibration
from sightline.ops.point_pairs import inside_pairs

Array = np.ndarray[Any, Any]

DONT_CARE = "DontCare"
"""The type of regions in which objects are not labelled."""

LEVEL_HEIGHTS = (40.0, 25.0, 25.0)
LEVEL_TRUNCATIONS = (0.15, 0.3, 0.5)
LEVEL_OCCLUSIONS = (0, 1, 2)
"""Limits of easy, moderate and hard."""


FRONT_MARGIN = 0.01
"""Metres behind the camera up to which points are looked at closely: far more than float32 rounds."""

_OF_FRAMES = ("sizes_hw", "image_from_rect", "rect_from_camera", "camera_from_lidar", "planes")
_OF_OBJECTS = (
    "types", "labels", "boxes3d", "boxes_camera", "boxes_xyxy", "alphas", "truncations", "occlusions",
)  # fmt: skip


def difficulty_levels(boxes_xyxy: Floats, truncations: Floats, occlusions: SmallInts) -> SmallInts:
    """How hard objects are to find: 0 easy, 1 moderate, 2 hard, -1 none of them.

    An object has the easiest level of which it meets all limits: height of its box in the picture, last pixel
    included (bottom - top + 1), truncation, occlusion. The benchmark's evaluation leaves out the 1 and wants more
    than the height; databases of objects are filtered by this rule.

    Args:
        boxes_xyxy: (M, 4) pixels; taken as float32, as the rule's origin holds them.
        truncations: (M,).
        occlusions: (M,).

    Returns:
        (M,) int32. The type is not looked at: DontCare has a level too.
    """
    boxes = boxes_xyxy.astype(np.float32).astype(np.float64)
    heights = boxes[:, 3] - boxes[:, 1] + 1
    levels = np.full(len(boxes), -1, np.int32)
    for level in (2, 1, 0):
        meets = (heights >= LEVEL_HEIGHTS[level]) & (truncations <= LEVEL_TRUNCATIONS[level])
        levels[meets & (occlusions <= LEVEL_OCCLUSIONS[level])] = level
    return levels


@dataclass(frozen=True, eq=False)
class LidarAnnotations:
    """Frames of one split with all objects, in flat arrays that nobody may write to."""

    unit: ClassVar[str] = "frame"

    class_names: tuple[str, ...]
    """(K,) classes that are trained, in the order of the labels."""
    frame_ids: PackedStrings
    """(N,) what the data set calls each frame, such as ``000123``."""
    point_paths: PackedStrings
    """(N,) files of points."""
    image_paths: PackedStrings
    """(N,) pictures of the camera; an empty text where there is none."""
    sizes_hw: SmallInts
    """(N, 2) pixels of the pictures; (0, 0) where there is none."""
    image_from_rect: Floats
    """(N, 3, 4) float32; this and the next two as in ``ops.frames.Calibration``."""
    rect_from_camera: Floats
    """(N, 3, 3) float32."""
    camera_from_lidar: Floats
    """(N, 3, 4) float32."""
    planes: Floats
    """(N, 4) float64: a, b, c, d of the ground a x + b y + c z + d = 0 in the rect frame; NaN where none is known."""
    offsets: Ints
    """(N + 1,) the objects of frame i are rows ``offsets[i]`` to ``offsets[i + 1]``."""
    type_names: tuple[str, ...]
    """All types of objects that the files name."""
    types: SmallInts
    """(M,) into ``type_names``."""
    labels: SmallInts
    """(M,) in 0..K-1; -1 for what is not trained."""
    boxes3d: Floats
    """(M, 7) float64 as in ``ops.boxes3d``, LiDAR frame; of DontCare without meaning."""
    boxes_camera: Floats
    """(M, 7) float64 as the file has them: x, y, z of the middle of the bottom, rect frame; length, height, width;
    rotation around the camera's y axis."""
    boxes_xyxy: Floats
    """(M, 4) float64, pixels of the picture."""
    alphas: Floats
    """(M,) float64 radians: angle under which the object is seen."""
    truncations: Floats
    """(M,) float64: share outside of the picture; -1 where the file says none."""
    occlusions: SmallInts
    """(M,) 0 seen, 1 partly, 2 largely hidden, 3 not known, -1 where the file says none."""
    faults: tuple[Fault, ...]
    """Everything found while reading."""
    name: str
    """For messages, such as ``kitti/train``."""
    source: Path
    """The folder that was asked for."""

    def __post_init__(self) -> None:
        N, M = len(self.point_paths), len(self.labels)
        arrays: dict[str, tuple[Any, tuple[int, ...]]] = {
            "sizes_hw": (np.int32, (N, 2)),
            "image_from_rect": (np.float32, (N, 3, 4)),
            "rect_from_camera": (np.float32, (N, 3, 3)),
            "camera_from_lidar": (np.float32, (N, 3, 4)),
            "planes": (np.float64, (N, 4)),
            "offsets": (np.int64, (N + 1,)),
            "types": (np.int32, (M,)),
            "labels": (np.int32, (M,)),
            "boxes3d": (np.float64, (M, 7)),
            "boxes_camera": (np.float64, (M, 7)),
            "boxes_xyxy": (np.float64, (M, 4)),
            "alphas": (np.float64, (M,)),
            "truncations": (np.float64, (M,)),
            "occlusions": (np.int32, (M,)),
        }
        for name, (dtype, shape) in arrays.items():
            array = np.ascontiguousarray(getattr(self, name), dtype=dtype).view()
            if array.shape != shape:
                raise ValueError(f"{name}: expected shape {shape}, got {array.shape}.")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        if self.offsets[0] != 0 or self.offsets[-1] != M or (np.diff(self.offsets) < 0).any():
            raise ValueError(f"offsets: expected to rise from 0 to {M}, got {self.offsets}.")

    def __len__(self) -> int:
        """Number of frames, N."""
        return len(self.point_paths)

    @property
    def paths(self) -> PackedStrings:
        """(N,) files of points: what a frame is called in messages."""
        return self.point_paths

    @property
    def objects_per_frame(self) -> Ints:
        """(N,) number of objects, those that are not trained included."""
        return np.diff(self.offsets)

    @property
    def boxes_per_class(self) -> Ints:
        """(K,) number of objects."""
        return np.bincount(self.labels[self.labels >= 0], minlength=len(self.class_names)).astype(np.int64)

    @property
    def is_object(self) -> Bools:
        """(M,) False for regions without labels (DontCare)."""
        if DONT_CARE not in self.type_names:
            return np.ones(len(self.types), np.bool_)
        return np.not_equal(self.types, self.type_names.index(DONT_CARE))

    @property
    def objects_per_type(self) -> Ints:
        """Number of objects of each of ``type_names``."""
        return np.bincount(self.types, minlength=len(self.type_names)).astype(np.int64)

    @property
    def frame_index(self) -> Ints:
        """(M,) the frame that each object lies in, ascending."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.objects_per_frame)

    @cached_property
    def levels(self) -> SmallInts:
        """(M,) how hard an object is to find, as ``difficulty_levels``."""
        return difficulty_levels(self.boxes_xyxy, self.truncations, self.occlusions)

    def rows_of(self, index: int) -> slice:
        """The rows of a frame's objects."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def calibration(self, index: int) -> Calibration:
        """That of a frame."""
        return Calibration(self.image_from_rect[index], self.rect_from_camera[index], self.camera_from_lidar[index])

    def select(self, frames: Iterable[int]) -> LidarAnnotations:
        """The same data with only these frames, in this order; faults that spoil a left-out frame spoil none now."""
        chosen = np.asarray(list(frames), dtype=np.int64)
        counts = self.objects_per_frame[chosen]
        offsets = np.concatenate(([0], np.cumsum(counts)))  # (n + 1,)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], counts)
        new_index = {int(old): new for new, old in enumerate(chosen)}
        changes: dict[str, Any] = {
            **{name: getattr(self, name)[chosen] for name in _OF_FRAMES},
            **{name: getattr(self, name)[rows] for name in _OF_OBJECTS},
            **{
                name: PackedStrings(getattr(self, name)[int(i)] for i in chosen)
                for name in ("frame_ids", "point_paths", "image_paths")
            },
        }
        return replace(
            self,
            **changes,
            offsets=offsets,
            faults=tuple(
                fault if fault.image is None else replace(fault, image=new_index.get(fault.image))
                for fault in self.faults
            ),
        )


def points_in_view(annotations: LidarAnnotations, index: int, points: Array) -> Array:
    """The points (P, F) of a frame that its camera sees; all of them where there is no picture."""
    height, width = annotations.sizes_hw[index].tolist()
    if height == 0:
        return points
    calibration = annotations.calibration(index)
    ahead = calibration.image_from_rect[2, :3] @ calibration.rect_from_lidar[:3]  # (4,)
    front = points.take(np.flatnonzero(points[:, :3] @ ahead[:3] > -ahead[3] - FRONT_MARGIN), axis=0)
    return front.take(np.flatnonzero(calibration.is_in_image(front, (height, width))), axis=0)


def points_per_object(annotations: LidarAnnotations, index: int, points: Array) -> Ints:
    """(n,) how many points (P, F) lie inside of the objects of a frame; -1 for DontCare.

    Unlike ``ground_truth_database`` without a margin, as KITTI's numbers of points are counted in OpenPCDet; give
    ``points_in_view`` for those.
    """
    rows = annotations.rows_of(index)
    boxes3d = annotations.boxes3d[rows]
    _, owners = inside_pairs(points.astype(np.float64), boxes3d, side_margin=0)
    counts = np.bincount(owners, minlength=len(boxes3d))
    return np.where(annotations.is_object[rows], counts, -1).astype(np.int64)


def lidar_content_key(annotations: LidarAnnotations, *, file_times: bool = True, with_classes: bool = True) -> str:
    """A SHA-256 that changes whenever the frames or their truth change: for caches and for a run's record.

    Covers all numbers of frames and objects, the types, and of every file of points its name below the data set's
    folder, its size in bytes and (with ``file_times``) its time of change. Points and pictures themselves are not read.

    Args:
        annotations: What was read.
        file_times: False leaves the times out, so that two copies of one data set have the same key.
        with_classes: False leaves out which types are trained.

    Returns:
        64 hexadecimal digits.
    """
    key = hashlib.sha256()
    for stamp in file_stamps(annotations.source, annotations.point_paths, file_times=file_times):
        key.update(stamp)
    names = (*(annotations.class_names if with_classes else ()), "", *annotations.type_names)
    key.update("\0".join(names).encode("utf-8", "surrogatepass"))
    for name in (*_OF_FRAMES, "offsets", *_OF_OBJECTS):
        if name == "labels" and not with_classes:
            continue
        array = getattr(annotations, name)
        key.update(f"{name}{array.dtype.str}{array.shape}".encode())
        key.update(array.tobytes())
    return key.hexdigest()
