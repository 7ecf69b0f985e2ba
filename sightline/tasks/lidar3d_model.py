"""A trained LiDAR detector as it is used: boxes in one point cloud."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sightline.data.decode import decode_image
from sightline.data.formats.kitti_results import detection_text
from sightline.data.point_files import POINT_SUFFIXES
from sightline.data.sample import Box3DPrediction, PointBatch
from sightline.data.single_cloud import Cloud, batch_of_cloud, cloud_of_array, read_cloud
from sightline.tasks.drawing import Pixels
from sightline.tasks.drawing3d import Extent, ShownBoxes, draw_from_above, draw_in_camera, one_above_the_other
from sightline.tasks.kitti_scoring import camera_detections
from sightline.tasks.lidar3d import SHOWN_SCORE, Lidar3D
from sightline.tasks.trained_model import Found, TrainedModel


@dataclass(frozen=True)
class FoundBox3D(Found):
    """A box in space."""

    box3d: tuple[float, ...]
    """As in ``ops.boxes3d``: x, y, z, dx, dy, dz, yaw[, vx, vy]; LiDAR frame, metres, radians."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        x, y, z, dx, dy, dz, yaw, *velocity = (round(value, 4) for value in self.box3d)
        entry = {**super().as_dict(), "center": [x, y, z], "size": [dx, dy, dz], "yaw": yaw}
        return entry | ({"velocity": velocity} if velocity else {})


class Lidar3DModel(TrainedModel):
    """A detector for files of points.

    Args:
        task: The detector.
        class_names: Names by label.
        point_range: x, y, z of the least and the greatest corner of the space that it sees, metres.
        in_view: Whether it was trained on the points that a camera sees; a cloud with a calibration beside it is then
            cut to these.
    """

    answers = "detections"
    score_threshold = SHOWN_SCORE
    suffixes = frozenset(POINT_SUFFIXES)
    takes = (
        "point cloud",
        "Give a file of points (.bin as KITTI has them, .npy, .pcd or .ply), a folder, or a pattern in quotes such as "
        "'velodyne/*.bin'.",
    )

    def __init__(
        self,
        task: Lidar3D,
        class_names: Sequence[str],
        *,
        point_range: tuple[float, float, float, float, float, float],
        in_view: bool,
    ) -> None:
        super().__init__(task, class_names)
        self.point_range = point_range
        self.in_view = in_view

    def samples_of(self, path: Path) -> Iterator[tuple[int | None, Cloud]]:
        """The cloud of a file, with the calibration and picture that lie beside it in KITTI's folders."""
        yield None, read_cloud(path)

    def batch_of(self, sample: Cloud | np.ndarray[Any, Any]) -> PointBatch:
        """The points that the detector sees; of an array of (P, 4) all inside its range.

        Raises:
            DataError: As ``cloud_of_array``.
        """
        cloud = sample if isinstance(sample, Cloud) else cloud_of_array(sample)
        return batch_of_cloud(cloud, self.point_range, in_view=self.in_view)

    def found(self, prediction: Box3DPrediction, *, score_threshold: float) -> tuple[FoundBox3D, ...]:
        """Boxes with at least this score, best first; no box whose numbers are not finite."""
        rows = zip(prediction.labels.tolist(), prediction.scores.tolist(), prediction.boxes3d.tolist(), strict=True)
        return tuple(
            FoundBox3D(self.class_names[label], label, score, tuple(box))
            for label, score, box in rows
            if score >= score_threshold and all(map(math.isfinite, box))
        )

    def draw(self, sample: Cloud | np.ndarray[Any, Any], found: Sequence[FoundBox3D]) -> Pixels:
        """The cloud from above with the boxes; above it the camera's picture with them, where there is one."""
        cloud = sample if isinstance(sample, Cloud) else cloud_of_array(sample)
        x0, y0, _, x1, y1, _ = self.point_range
        boxes = ShownBoxes(
            np.array([one.box3d for one in found], np.float64).reshape(len(found), -1),
            np.array([one.label for one in found], np.int64),
            np.array([one.score for one in found], np.float64),
        )
        above = draw_from_above(cloud.points, self.class_names, extent=Extent(x0, y0, x1, y1), found=boxes)
        if cloud.calibration is None or cloud.image_path is None:
            return above
        picture = decode_image(cloud.image_path)
        return one_above_the_other(draw_in_camera(picture, cloud.calibration, self.class_names, found=boxes), above)

    def other_files(
        self, path: Path, sample: Cloud | np.ndarray[Any, Any], found: Sequence[FoundBox3D]
    ) -> Mapping[str, str]:
        """The boxes as a text file of KITTI's, where there is a calibration beside the cloud."""
        if not isinstance(sample, Cloud) or sample.calibration is None:
            return {}
        prediction = Box3DPrediction(
            0,
            torch.tensor([one.box3d for one in found]).reshape(len(found), -1),
            torch.tensor([one.score for one in found]),
            torch.tensor([one.label for one in found], dtype=torch.int64),
        )
        seen, _ = camera_detections(prediction, sample.calibration, sample.image_hw)
        names = [self.class_names[label] for label in seen.labels.tolist()]
        return {".txt": detection_text(names, seen.boxes_xyxy, seen.boxes_camera, seen.scores, seen.alphas)}
