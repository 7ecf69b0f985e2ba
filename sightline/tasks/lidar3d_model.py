"""A trained LiDAR detector as it is used: boxes in one point cloud."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from sightline.config.errors import ConfigError
from sightline.data.decode import decode_image
from sightline.data.formats.kitti_results import detection_text
from sightline.data.point_files import POINT_SUFFIXES
from sightline.data.sample import Box3DPrediction, PointBatch
from sightline.data.single_cloud import Cloud, batch_of_cloud, cloud_of_array, read_cloud
from sightline.models.blocks.pillar_graph import PillarGraph
from sightline.models.blocks.sparse_encoder import SparseEncoder
from sightline.tasks.drawing import Pixels
from sightline.tasks.drawing3d import Extent, ShownBoxes, draw_from_above, draw_in_camera, one_above_the_other
from sightline.tasks.graph import PILLARS, Graph, GraphInput, GraphOutput, PixelType
from sightline.tasks.kitti_scoring import camera_detections
from sightline.tasks.lidar3d import SHOWN_SCORE, Lidar3D
from sightline.tasks.trained_model import Found, TrainedModel


@dataclass(frozen=True)
class FoundBox3D(Found):
    """A box in space."""

    box3d: tuple[float, ...]
    """As in ``ops.boxes3d``: x, y, z, dx, dy, dz, yaw[, vx, vy]; LiDAR frame, metres, radians."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the yaw between -pi and pi."""
        turned = (*self.box3d[:6], math.remainder(self.box3d[6], math.tau), *self.box3d[7:])
        x, y, z, dx, dy, dz, yaw, *velocity = (round(value, 4) for value in turned)
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
    unit = "point cloud"
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
            _boxes_of(found),
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
            torch.from_numpy(_boxes_of(found).astype(np.float32)),
            torch.tensor([one.score for one in found]),
            torch.tensor([one.label for one in found], dtype=torch.int64),
        )
        seen, _ = camera_detections(prediction, sample.calibration, sample.image_hw)
        names = [self.class_names[label] for label in seen.labels.tolist()]
        return {".txt": detection_text(names, seen.boxes_xyxy, seen.boxes_camera, seen.scores, seen.alphas)}

    def graph(self, *, dynamic_batch: bool = False, input: PixelType | None = None) -> Graph:
        """One cloud from its pillars on, to all boxes before suppression.

        Raises:
            ConfigError: If the detector is not on pillars, or options of images are given.
        """
        for name, is_given in (("--dynamic-batch", dynamic_batch), ("--input", input is not None)):
            if is_given:
                raise ConfigError(f"{name} is for networks on images: this graph takes the pillars of one cloud.")
        module = self._pillar_graph()
        places, features = module.max_points_per_pillar, module.num_point_features
        examples = [module.inputs(points) for points in self._trial_clouds(module)]
        padded = [torch.cat((one, one.new_zeros(3, *one.shape[1:]))) for one in examples[-1]]
        with torch.no_grad():
            boxes3d, _ = module(*examples[-1])
        num_boxes, columns = boxes3d.shape
        velocity = ", and velocity vx, vy, m/s" if columns > 7 else ""
        return Graph(
            module=module,
            inputs=(
                GraphInput(
                    "points",
                    (PILLARS, places, features),
                    "float32, the points of each pillar: x, y, z, metres, LiDAR frame, and intensity, 0 to 1; zeros "
                    "behind the last",
                ),
                GraphInput("num_points", (PILLARS,), "int64, points of each pillar; 0 for a place that is not used"),
                GraphInput("coords", (PILLARS, 4), "int64, 0, 0, y, x of each pillar's cell; no cell twice"),
            ),
            outputs=(
                GraphOutput(
                    "boxes",
                    f"({num_boxes}, {columns}), centre x, y, z and size dx, dy, dz, metres, yaw, radians, LiDAR "
                    f"frame{velocity}; before non-maximum suppression",
                    by_element=True,
                ),
                GraphOutput(
                    "scores",
                    f"({num_boxes}, {len(self.class_names)}), probability of each class; {module.scores_are}",
                    by_element=True,
                ),
            ),
            facts={"in_view": self.in_view, **module.facts},
            examples=[*examples, tuple(padded)],
            undecided=_Undecided(module),
        )

    def _pillar_graph(self) -> PillarGraph:
        detector = cast(Lidar3D, self.task).detector
        make = getattr(detector, "graph", None)
        if make is not None:
            return cast(PillarGraph, make())
        name = type(detector).__name__
        if any(isinstance(one, SparseEncoder) for one in detector.modules()):
            raise ConfigError(
                f"{name}: cannot be exported, because ONNX has no operator for its sparse convolutions. PointPillars "
                "and CenterPoint on pillars can."
            )
        raise ConfigError(f"{name}: this detector has no graph that can be exported.")

    def _trial_clouds(self, module: PillarGraph) -> list[torch.Tensor]:
        """Noise with more points in one pillar than it holds, nothing, and a single point."""
        random = torch.Generator().manual_seed(0)
        low, high = (torch.tensor(corner) for corner in (self.point_range[:3], self.point_range[3:]))
        points = torch.rand(2000, module.num_point_features, generator=random)
        points[:, :3] = low + points[:, :3] * (high - low)
        crowd = points[:1].repeat(module.max_points_per_pillar + 1, 1)
        return [torch.cat((points, crowd)), points[:0], points[:1]]


class _Undecided:
    """Of the numbers of a box only the yaw can jump."""

    def __init__(self, module: PillarGraph) -> None:
        self.module = module

    def __call__(
        self, points: torch.Tensor, num_points: torch.Tensor, coords: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        boxes3d, scores = self.module(points, num_points, coords)
        turns = torch.zeros_like(boxes3d, dtype=torch.bool)
        turns[:, 6] = self.module.undecided(points, num_points, coords)
        return turns, torch.zeros_like(scores, dtype=torch.bool)


def _boxes_of(found: Sequence[FoundBox3D]) -> np.ndarray[Any, Any]:
    """(N, 7 or 9) float64; of nothing (0, 7)."""
    return np.array([one.box3d for one in found], np.float64) if found else np.zeros((0, 7))
