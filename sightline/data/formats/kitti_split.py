"""Reading the frames of one split of a KITTI folder, and joining what their files say."""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sightline.config.errors import did_you_mean
from sightline.config.printable import printable
from sightline.data.annotations import Bools, Fault, Floats, Ints, PackedStrings, SmallInts
from sightline.data.faults import make_fault
from sightline.data.formats.image_files import entries_of, is_folder, is_image_name
from sightline.data.formats.kitti_files import (
    CAMERA_BOX,
    LARGEST_NUMBER,
    MATRICES,
    CalibrationFile,
    LabelFile,
    Problem,
    read_calibration_file,
    read_label_file,
    read_plane_file,
)
from sightline.data.formats.source import (
    ROUNDING_PIXELS,
    ROUNDING_SHARE,
    by_place,
    in_any_column,
    read_image_sizes,
    shown,
)
from sightline.data.lidar_annotations import DONT_CARE, LidarAnnotations
from sightline.data.point_files import MAX_POINTS, POINT_BYTES
from sightline.ops.frames import Calibration, boxes_camera_to_lidar

Array = np.ndarray[Any, Any]

OCCLUSIONS = (-1, 0, 1, 2, 3)


@dataclass
class _Rows:
    """The objects of a split as the files have them. M objects."""

    types: list[bytes] = field(default_factory=list)
    numbers: array[float] = field(default_factory=lambda: array("d"))
    lines: array[int] = field(default_factory=lambda: array("q"))
    frame_index: array[int] = field(default_factory=lambda: array("q"))


class SplitReader:
    """Reads the files of a split's frames and joins them."""

    def __init__(
        self, folder: Path, frames: list[str], lines: list[int], list_path: Path | None, faults: list[Fault]
    ) -> None:
        self.folder, self.frames, self.lines, self.list_path = folder, frames, lines, list_path
        self.faults = faults

    def annotations(
        self, class_names: tuple[str, ...], type_names: tuple[str, ...], name: str, source: Path
    ) -> LidarAnnotations:
        """Everything, checked."""
        point_paths = self.paths("velodyne", ".bin")
        for index, path in enumerate(point_paths):
            self.check_point_file(index, path)
        matrices, is_calibrated = self.calibrations()
        image_paths, sizes_hw = self.images()
        self.check_middles(matrices["P2"], sizes_hw, is_calibrated)
        rows = self.labels()
        types, numbers, frame_index = self.checked(rows, type_names, sizes_hw)
        label_of_type = np.array([class_names.index(t) if t in class_names else -1 for t in type_names], np.int32)
        boxes_camera = numbers[:, CAMERA_BOX]
        counts = np.bincount(frame_index, minlength=len(self.frames))
        offsets = np.concatenate(([0], np.cumsum(counts)))
        boxes3d = np.empty_like(boxes_camera)
        for index in np.flatnonzero(counts).tolist():
            part = slice(offsets[index], offsets[index + 1])
            calibration = Calibration(*(matrices[matrix][index] for matrix in MATRICES))
            boxes3d[part] = boxes_camera_to_lidar(boxes_camera[part], calibration)
        labels = label_of_type[types]
        self.tell_empty_classes(class_names, labels, name, source)
        return LidarAnnotations(
            class_names=class_names,
            frame_ids=PackedStrings(self.frames),
            point_paths=PackedStrings(point_paths),
            image_paths=PackedStrings(image_paths),
            sizes_hw=sizes_hw,
            image_from_rect=matrices["P2"],
            rect_from_camera=matrices["R0_rect"],
            camera_from_lidar=matrices["Tr_velo_to_cam"],
            planes=self.planes(),
            offsets=offsets,
            type_names=type_names,
            types=types,
            labels=labels,
            boxes3d=boxes3d,
            boxes_camera=boxes_camera,
            boxes_xyxy=numbers[:, 3:7],
            alphas=numbers[:, 2],
            truncations=numbers[:, 0],
            occlusions=numbers[:, 1].astype(np.int32),
            faults=tuple(sorted(self.faults, key=by_place)),
            name=name,
            source=source,
        )

    def paths(self, kind: str, suffix: str) -> list[str]:
        """The file of every frame."""
        start = f"{self.folder / kind}{os.sep}"
        return [f"{start}{frame}{suffix}" for frame in self.frames]

    def tell(self, problem: Problem, path: str, index: int) -> None:
        """Report what is wrong with a frame's file."""
        self.faults.append(make_fault(problem.kind, path, problem.message, line=problem.line, image=index))

    def check_point_file(self, index: int, path: str) -> None:
        """Report a file that is not there, or whose size cannot be right; the points are not read."""
        problem = None
        try:
            status = os.stat(path)  # noqa: PTH116 - once per frame
        except (OSError, ValueError) as error:
            if self.list_path is not None and isinstance(error, FileNotFoundError):
                message = f"the point file {printable(path)} does not exist"
                place = (self.list_path, self.lines[index])
                self.faults.append(make_fault("missing_points", place[0], message, line=place[1], image=index))
                return
            problem = Problem("missing_points", f"the file cannot be looked at: {error}")
        else:
            size = status.st_size
            if not stat.S_ISREG(status.st_mode):
                problem = Problem("unreadable_points", "is not a file")
            elif size == 0:
                problem = Problem("empty_points", "the file is empty (0 bytes)")
            elif size % POINT_BYTES:
                message = f"{size:,} bytes are no whole number of points of {POINT_BYTES} bytes (4 x float32)"
                problem = Problem("truncated_points", message)
            elif size > MAX_POINTS * POINT_BYTES:
                message = f"holds {size // POINT_BYTES:,} points; at most {MAX_POINTS:,} are read"
                problem = Problem("too_large_points", message)
        if problem is not None:
            self.tell(problem, path, index)

    def calibrations(self) -> tuple[dict[str, Array], Bools]:
        """Matrices (N, rows, columns) float32 by name, unit matrices where a file is at fault; (N,) what is sound."""
        N = len(self.frames)
        matrices = {name: np.zeros((N, *shape), np.float32) for name, shape in MATRICES.items()}
        is_sound = np.zeros(N, np.bool_)
        known: dict[bytes, CalibrationFile] = {}
        for index, path in enumerate(self.paths("calib", ".txt")):
            file = read_calibration_file(path, known)
            for problem in file.problems:
                self.tell(problem, path, index)
            is_sound[index] = not file.problems
            for name, shape in MATRICES.items():
                matrices[name][index] = np.eye(*shape) if file.problems else file.matrices[name]
        return matrices, is_sound

    def images(self) -> tuple[list[str], SmallInts]:
        """Files of the pictures, empty where there is none, and their sizes."""
        folder = self.folder / "image_2"
        found = {Path(e.name).stem: e.path for e in entries_of(folder) if is_image_name(e.name)}
        if not found:
            message = f"no pictures in {folder.name}, so points are not cut to the camera's view"
            self.faults.append(make_fault("frame_without_image", folder, message))
            return [""] * len(self.frames), np.zeros((len(self.frames), 2), np.int32)
        paths = [found.get(frame) or str(folder / f"{frame}.png") for frame in self.frames]

        def listed_at(index: int) -> tuple[Path, int] | None:
            return None if self.list_path is None else (self.list_path, self.lines[index])

        return paths, read_image_sizes(paths, self.faults, listed_at)

    def check_middles(self, image_from_rect: Array, sizes_hw: SmallInts, is_calibrated: Bools) -> None:
        """Report pictures of another size than that which was calibrated: the camera looks out of their side."""
        middle = image_from_rect[:, :2, 2]  # (N, 2) u, v
        with np.errstate(invalid="ignore"):
            is_inside = ((middle > 0) & (middle < sizes_hw[:, ::-1])).all(axis=1)
        for index in np.flatnonzero(is_calibrated & (sizes_hw[:, 0] > 0) & ~is_inside).tolist():
            height, width = sizes_hw[index].tolist()
            message = (
                f"P2 has the middle of the view at ({middle[index, 0]:.6g}, {middle[index, 1]:.6g}), "
                f"but the picture has {width}x{height} pixels"
            )
            self.tell(Problem("size_mismatch", message), self.path("calib", index), index)

    def path(self, kind: str, index: int) -> str:
        """A text file of one frame."""
        return str(self.folder / kind / f"{self.frames[index]}.txt")

    def planes(self) -> Floats:
        """(N, 4), NaN where there is none."""
        planes = np.full((len(self.frames), 4), np.nan)
        if not is_folder(self.folder / "planes"):
            return planes
        for index, path in enumerate(self.paths("planes", ".txt")):
            planes[index], problems = read_plane_file(path)
            for problem in problems:
                self.tell(problem, path, index)
        return planes

    def labels(self) -> _Rows:
        """All objects of all frames."""
        rows = _Rows()
        folder = self.folder / "label_2"
        if not is_folder(folder):
            if self.folder.name == "training":
                message = f"no folder {folder.name}, so nothing is known of the objects"
                self.faults.append(make_fault("frame_without_label", folder, message))
            return rows
        for index, path in enumerate(self.paths("label_2", ".txt")):
            file: LabelFile = read_label_file(path)
            rows.types += file.types
            rows.numbers.extend(file.numbers)
            rows.lines.extend(file.lines)
            rows.frame_index.extend([index] * len(file.types))
            for problem in file.problems:
                self.tell(problem, path, index)
        return rows

    def checked(self, rows: _Rows, type_names: tuple[str, ...], sizes_hw: SmallInts) -> tuple[SmallInts, Floats, Ints]:
        """Types (M,), numbers (M, 14) and frames (M,) of the objects that can be true; the others are reported."""
        index_of = {name.encode(): number for number, name in enumerate(type_names)}
        types = np.fromiter((index_of.get(name, -1) for name in rows.types), np.int32, len(rows.types))
        numbers = np.array(rows.numbers, np.float64).reshape(-1, 14)
        frame_index = np.array(rows.frame_index, np.int64)
        alive = np.ones(len(types), np.bool_)

        def drop(wrong: Bools, kind: str, words: Callable[[int], str]) -> None:
            for row in np.flatnonzero(wrong & alive).tolist():
                index = int(frame_index[row])
                self.tell(Problem(kind, words(row), rows.lines[row]), self.path("label_2", index), index)
            alive[wrong] = False

        def unknown(row: int) -> str:
            name = rows.types[row].decode("utf-8", "backslashreplace")
            return (
                f"type '{printable(name, limit=60)}' is none of: {', '.join(type_names)}."
                f"{did_you_mean(name, type_names)} Name it with data.class_names to train it"
            )

        drop(types < 0, "unknown_class", unknown)
        is_object = (types >= 0) & (types != type_names.index(DONT_CARE))
        boxes, sizes, occlusions = numbers[:, 3:7], numbers[:, 7:10], numbers[:, 1]
        largest = np.abs(numbers).max(axis=1)
        drop(
            largest > LARGEST_NUMBER,
            "bad_value",
            lambda row: f"a number is as large as {largest[row]:.6g}; at most {LARGEST_NUMBER:,.0f} can be true",
        )
        drop(
            ~np.isin(occlusions, OCCLUSIONS),
            "bad_value",
            lambda row: f"occluded is {occlusions[row]:g}; KITTI knows 0, 1, 2, 3 and -1 for none",
        )
        drop(
            is_object & in_any_column(~(sizes > 0)),
            "bad_size",
            lambda row: f"height, width, length are {shown(sizes[row])}; all must be above 0",
        )
        drop(
            in_any_column(boxes[:, 2:] < boxes[:, :2]),
            "negative_size",
            lambda row: f"left top right bottom are {shown(boxes[row])}: right is left of left, or bottom above top",
        )
        limit = sizes_hw[frame_index][:, ::-1].astype(np.float64)  # (M, 2) width, height
        tolerance = np.maximum(ROUNDING_PIXELS, ROUNDING_SHARE * limit)
        excess = np.maximum(-boxes.reshape(-1, 2, 2), boxes.reshape(-1, 2, 2) - limit[:, None]).max(axis=1)  # (M, 2)
        drop(
            (limit > 0).all(axis=1) & in_any_column(excess > tolerance),
            "outside_box",
            lambda row: (
                f"the box {shown(boxes[row])} reaches {excess[row].max():.4g} pixels out of the picture "
                f"({limit[row, 0]:.0f}x{limit[row, 1]:.0f})"
            ),
        )
        return types[alive], numbers[alive], frame_index[alive]

    def tell_empty_classes(self, class_names: tuple[str, ...], labels: SmallInts, name: str, source: Path) -> None:
        """Say which trained classes have no object."""
        if not is_folder(self.folder / "label_2"):
            return
        for number, class_name in enumerate(class_names):
            if not (labels == number).any():
                text = f"the class {printable(class_name)!r} has no object in {name}"
                self.faults.append(make_fault("empty_class", source, text))
