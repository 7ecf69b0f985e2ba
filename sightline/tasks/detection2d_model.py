"""A trained 2D detector as it is used: boxes on one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from sightline.config.errors import ConfigError
from sightline.data.sample import BoxPrediction, ImageBatch
from sightline.data.single_image import batch_of_one
from sightline.tasks.detection2d import SHOWN_SCORE, Detection2D
from sightline.tasks.drawing import Pixels, draw_boxes
from sightline.tasks.graph import Graph, GraphOutput, PixelType
from sightline.tasks.image_model import ImageModel, image_graph
from sightline.tasks.trained_model import Found


@dataclass(frozen=True)
class FoundBox(Found):
    """One detected object."""

    box_xyxy: tuple[float, float, float, float]
    """Pixels of the original image."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return super().as_dict() | {"box_xyxy": [round(value, 2) for value in self.box_xyxy]}


class Detection2DModel(ImageModel):
    """A detector for pictures of any size.

    Args:
        detector: A module that is also a ``Detector2D``; its ``fuse``, where it has one, makes a faster copy.
        class_names: Names by label.
        image_size: Long side of its input, pixels.
    """

    answers = "detections"
    score_threshold = SHOWN_SCORE

    def __init__(self, detector: nn.Module, class_names: Sequence[str], *, image_size: int) -> None:
        super().__init__(Detection2D(detector, class_names=class_names), class_names)
        self.image_size = image_size
        self.stride = int(cast(Any, detector).stride)

    def prepare(self, device: torch.device) -> None:
        """Fuse what can be fused, now that the weights are there."""
        task = cast(Detection2D, self.task)
        fuse = getattr(task.detector, "fuse", None)
        if fuse is not None:
            task.detector = fuse()
        super().prepare(device)

    def batch_of(self, sample: Pixels) -> ImageBatch:
        """The picture resized and padded to the detector's stride."""
        return batch_of_one(sample, self.image_size, stride=self.stride)

    def found(self, prediction: BoxPrediction, *, score_threshold: float) -> tuple[FoundBox, ...]:
        """Boxes with at least this score, best first."""
        rows = zip(prediction.labels.tolist(), prediction.scores.tolist(), prediction.boxes_xyxy.tolist(), strict=True)
        return tuple(
            FoundBox(self.class_names[label], label, score, (box[0], box[1], box[2], box[3]))
            for label, score, box in rows
            if score >= score_threshold
        )

    def draw(self, sample: Pixels, found: Sequence[FoundBox]) -> Pixels:
        """Boxes with class and score."""
        boxes = np.array([one.box_xyxy for one in found], dtype=np.float32).reshape(-1, 4)
        labels = np.array([one.label for one in found], dtype=np.int64)
        scores = np.array([one.score for one in found], dtype=np.float32)
        return draw_boxes(sample, boxes, labels, self.class_names, scores=scores)

    def graph(self, *, dynamic_batch: bool = False, input: PixelType | None = None) -> Graph:
        """Square images to the boxes of all anchors, before non-maximum suppression.

        Raises:
            ConfigError: If the detector does not give them.
        """
        task = cast(Detection2D, self.task)
        if getattr(task.detector, "decoded", None) is None:
            raise ConfigError(f"{type(task.detector).__name__}: this detector cannot be exported yet; YOLOv7 can.")
        columns, normalised = 5 + len(self.class_names), input == "float32"
        return image_graph(
            _Decoded(task, normalised=normalised),
            channels=3,
            image_size=self.image_size,
            meaning="float32 RGB, 0 to 1" if normalised else "uint8 RGB, 0 to 255; divided by 255 inside",
            output=GraphOutput(
                "boxes",
                f"(B, N, {columns}), centre x, y, width, height in pixels of the input, objectness and the probability "
                "of each class; scores are objectness times probability; before non-maximum suppression",
            ),
            facts={},
            prepared=task.as_input if normalised else lambda images: images,
            dynamic_batch=dynamic_batch,
        )


class _Decoded(nn.Module):
    def __init__(self, task: Detection2D, *, normalised: bool) -> None:
        super().__init__()
        self.task = task
        self.normalised = normalised

    def forward(self, images: Tensor) -> Tensor:
        inputs = images if self.normalised else self.task.as_input(images)
        decoded: Tensor = cast(Any, self.task.detector).decoded(inputs)
        return decoded
