"""One point cloud from anywhere, with the camera beside it where there is one: for prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sightline.config.errors import DataError
from sightline.config.printable import counted, printable
from sightline.data.formats.kitti_files import MATRICES, read_calibration_file
from sightline.data.image_header import read_sizes
from sightline.data.point_files import NUM_FEATURES, read_points
from sightline.data.sample import PointBatch
from sightline.ops.frames import Calibration
from sightline.ops.points import points_in_range

Array = np.ndarray[Any, Any]

PICTURES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, eq=False)
class Cloud:
    """A point cloud, and the camera that was beside the LiDAR."""

    points: Array
    """(P, F) float32, LiDAR frame."""
    calibration: Calibration | None = None
    """None where nothing is known of a camera."""
    image_path: Path | None = None
    """The camera's picture."""
    image_hw: tuple[int, int] | None = None
    """Height and width of the picture, pixels."""


def read_cloud(path: Path) -> Cloud:
    """The cloud of a file; of ``velodyne/ID.bin`` with ``calib/ID.txt`` and ``image_2/ID.*``, where they can be read.

    Raises:
        DataError: If the file of points, or that of the calibration, cannot be used.
    """
    points = read_points(path)
    folder = path.parent.parent
    calibration_path = folder / "calib" / f"{path.stem}.txt"
    if not calibration_path.is_file():
        return Cloud(points)
    found = read_calibration_file(str(calibration_path), {})
    if found.problems:
        raise DataError(
            f"{printable(calibration_path)}: {found.problems[0].message}. Repair it, or move the cloud to a folder of "
            "its own to use it without a camera."
        )
    calibration = Calibration(*(found.matrices[name].astype(np.float32) for name in MATRICES))
    for image_path in (folder / "image_2" / f"{path.stem}{suffix}" for suffix in PICTURES):
        sizes_hw, errors = read_sizes([str(image_path)])
        if not errors:
            height, width = sizes_hw[0].tolist()
            return Cloud(points, calibration, image_path, (height, width))
    return Cloud(points, calibration)


def cloud_of_array(points: Array) -> Cloud:
    """A cloud of one's own points, without a camera.

    Args:
        points: (P, 4): x, y, z in metres, LiDAR frame, and intensity. P may be 0.

    Raises:
        DataError: If the shape is another, or a number is not finite in float32.
    """
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != NUM_FEATURES or points.dtype.kind not in "fiu":
        raise DataError(
            f"points: expected numbers of shape (P, {NUM_FEATURES}), x, y, z, intensity, got {points.dtype} of shape "
            f"{points.shape}."
        )
    with np.errstate(over="ignore"):
        points = points.astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if len(wrong):
        raise DataError(
            f"points: {counted(len(wrong), 'point')} of {len(points):,} with NaN or infinity, the first is number "
            f"{wrong[0]}. Leave such points out."
        )
    return Cloud(points)


def batch_of_cloud(cloud: Cloud, point_range: Sequence[float], *, in_view: bool) -> PointBatch:
    """A batch of one cloud without boxes.

    Args:
        cloud: What is looked at.
        point_range: x, y, z of the least and the greatest corner; points beside it in x or y are left out.
        in_view: Leave out what the camera does not see, where there is one.
    """
    points = cloud.points
    if in_view and cloud.calibration is not None and cloud.image_hw is not None:
        points = points[cloud.calibration.is_in_image(points, cloud.image_hw)]
    points = points[points_in_range(points, point_range)]
    return PointBatch(
        points=torch.from_numpy(np.ascontiguousarray(points, np.float32)),
        point_counts=(len(points),),
        boxes3d=torch.zeros(0, 7),
        labels=torch.zeros(0, dtype=torch.int64),
        box_counts=(0,),
        sample_ids=(0,),
    )
