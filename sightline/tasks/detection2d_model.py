"""A trained 2D detector as it is used: boxes on one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from sightline.config.printable import printable
from sightline.data.sample import BoxPrediction, ImageBatch
from sightline.data.single_image import batch_of_one
from sightline.tasks.detection2d import SHOWN_SCORE, Detection2D
from sightline.tasks.drawing import Pixels, draw_boxes
from sightline.tasks.image_model import Found, ImageModel


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

    def batch_of(self, image: Pixels) -> ImageBatch:
        """The picture resized and padded to the detector's stride."""
        return batch_of_one(image, self.image_size, stride=self.stride)

    def found(self, prediction: BoxPrediction, *, score_threshold: float) -> tuple[FoundBox, ...]:
        """Boxes with at least this score, best first."""
        rows = zip(prediction.labels.tolist(), prediction.scores.tolist(), prediction.boxes_xyxy.tolist(), strict=True)
        return tuple(
            FoundBox(self.class_names[label], label, score, (box[0], box[1], box[2], box[3]))
            for label, score, box in rows
            if score >= score_threshold
        )

    def draw(self, image: Pixels, found: Sequence[FoundBox]) -> Pixels:
        """Boxes with class and score."""
        boxes = np.array([one.box_xyxy for one in found], dtype=np.float32).reshape(-1, 4)
        labels = np.array([one.label for one in found], dtype=np.int64)
        scores = np.array([one.score for one in found], dtype=np.float32)
        return draw_boxes(image, boxes, labels, self.class_names, scores=scores)

    def tell(self, found: Sequence[Found]) -> str:
        """How many of each class: ``2 car, 1 person``."""
        names = [one.class_name for one in found]
        counts = {name: names.count(name) for name in dict.fromkeys(names)}
        return ", ".join(f"{count} {printable(name)}" for name, count in counts.items())
