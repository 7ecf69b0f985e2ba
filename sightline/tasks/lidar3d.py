"""3D object detection in point clouds. Shapes: B clouds, M true boxes of a batch, N detections of a cloud."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

from torch import Tensor, nn

from sightline.data.decode import decode_image
from sightline.data.lidar_annotations import LidarAnnotations
from sightline.data.sample import Box3DPrediction, PointBatch
from sightline.engine.task import Picture, Task
from sightline.ops.boxes3d import BoxTargets3D, Detections3D
from sightline.ops.point_clouds import PointClouds
from sightline.ops.process_shares import PartWeights
from sightline.tasks.drawing3d import Extent, ShownBoxes, draw_from_above, draw_in_camera, one_above_the_other
from sightline.tasks.kitti_scoring import Lidar3DMetric

SHOWN_SCORE = 0.25
"""Detections above it are drawn."""


class LidarDetector(Protocol):
    """What a family of LiDAR detectors gives: losses for training, detections for use.

    Its losses are weighted by ``share_weights``, so that processes with uneven shares of boxes add up to the whole.
    """

    def losses(self, clouds: PointClouds, targets: BoxTargets3D) -> dict[str, Tensor]:
        """Point clouds and their true boxes, LiDAR frame -> weighted scalars, means over the clouds."""

    def detect(self, clouds: PointClouds) -> list[Detections3D]:
        """Point clouds -> detections in each, LiDAR frame, best first."""

    def fixed_parts(self) -> list[nn.Module]:
        """The parts whose shapes are the same for all clouds: what is worth compiling."""


class Lidar3D(Task):
    """Boxes in space: a detector, KITTI's AP on the validation frames, pictures from above and from the camera.

    Args:
        detector: A module that is also a ``LidarDetector``.
        class_names: Names by label.
        point_range: x, y, z of the least and the greatest corner of the space that is seen, metres: what is drawn.
        annotations: The frames that are evaluated, with their truth; None for a task that only predicts.
    """

    losses_are_whole = True

    def __init__(
        self,
        detector: nn.Module,
        *,
        class_names: Sequence[str],
        point_range: Sequence[float],
        annotations: LidarAnnotations | None = None,
    ) -> None:
        super().__init__()
        self.detector = detector
        self.class_names = tuple(class_names)
        x0, y0, _, x1, y1, _ = point_range
        self.extent = Extent(x0, y0, x1, y1)
        self.annotations = annotations

    def forward(self, batch: PointBatch) -> dict[str, Tensor]:
        """Weighted losses of the detector, means over the clouds of the batch."""
        return cast(LidarDetector, self.detector).losses(batch.clouds, batch.targets)

    def predict(self, batch: PointBatch) -> list[Box3DPrediction]:
        """Boxes in the LiDAR frame, best first, on the CPU."""
        found = cast(LidarDetector, self.detector).detect(batch.clouds)
        return [
            Box3DPrediction(sample_id, one.boxes3d.float().cpu(), one.scores.float().cpu(), one.labels.cpu())
            for sample_id, one in zip(batch.sample_ids, found, strict=True)
        ]

    def new_metric(self) -> Lidar3DMetric:
        """KITTI's average precision and recall, against the truth in the annotations."""
        assert self.annotations is not None, "a task without annotations only predicts"
        return Lidar3DMetric(self.annotations)

    def weigh_parts(self, parts: int) -> PartWeights:
        """Means over boxes count by the boxes of each part."""
        return PartWeights(parts)

    def modules_to_compile(self) -> list[nn.Module]:
        """The layers on maps; points, pillars and boxes are as many as there are, so these parts are left alone."""
        return cast(LidarDetector, self.detector).fixed_parts()

    def draw(self, batch: PointBatch, predictions: Sequence[Box3DPrediction] | None) -> list[Picture]:
        """Each cloud from above with its true boxes; with predictions also these, below the camera's picture."""
        pictures = []
        clouds, targets = batch.clouds.split(), batch.targets.split()
        for place, sample_id in enumerate(batch.sample_ids):
            points = clouds[place].cpu().numpy()
            boxes3d, labels = (one.cpu().numpy() for one in targets[place])
            truths, found = ShownBoxes(boxes3d, labels), None
            if predictions is not None:
                one = predictions[place]
                shown = one.scores > SHOWN_SCORE
                found = ShownBoxes(one.boxes3d[shown].numpy(), one.labels[shown].numpy(), one.scores[shown].numpy())
            pixels = draw_from_above(points, self.class_names, extent=self.extent, truths=truths, found=found)
            if found is None or self.annotations is None:
                pictures.append(Picture(f"sample {sample_id}", pixels))
                continue
            path = self.annotations.image_paths[sample_id]
            if path:
                calibration = self.annotations.calibration(sample_id)
                seen = draw_in_camera(decode_image(path), calibration, self.class_names, truths=truths, found=found)
                pixels = one_above_the_other(seen, pixels)
            name = self.annotations.point_paths[sample_id]
            pictures.append(Picture(name, pixels, caption="white: truth; in colours: predictions"))
        return pictures
