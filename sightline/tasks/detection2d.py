"""2D object detection: boxes on images. Shapes: B images, M true boxes of a batch, N detections of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from sightline.data.annotations import ImageAnnotations
from sightline.data.formats.coco_results import write_coco_detections
from sightline.data.sample import BoxPrediction, ImageBatch
from sightline.engine.task import Picture, Task
from sightline.metrics.box_details import box_details
from sightline.metrics.coco_ap import CocoAP, CocoResult, ScoredBoxes, TruthBoxes, xyxy_to_xywh
from sightline.metrics.confusion_matrix import ConfusionMatrix
from sightline.metrics.detection_curves import detection_curves
from sightline.ops.boxes2d import BoxTargets, Detections
from sightline.ops.process_shares import PartWeights
from sightline.tasks.drawing import draw_boxes, side_by_side

SHOWN_SCORE = 0.25
"""Detections above it are drawn, as most tools do."""


class Detector2D(Protocol):
    """What a family of 2D detectors gives: losses for training, detections for use.

    Its losses are weighted by ``share_weights``, so that processes with uneven shares of boxes add up to the whole.
    """

    stride: int
    """Heights and widths of inputs are multiples of it."""

    def losses(self, images: Tensor, targets: BoxTargets) -> dict[str, Tensor]:
        """(B, 3, H, W) RGB in [0, 1] and the true boxes -> weighted scalars, means over the images."""

    def detect(self, images: Tensor) -> list[Detections]:
        """(B, 3, H, W) RGB in [0, 1] -> detections of each image in input pixels, best first."""


class Detection2D(Task):
    """Boxes on images: a detector, COCO AP on the validation images, pictures of truth beside predictions.

    Args:
        detector: A module that is also a ``Detector2D``.
        annotations: The images that are evaluated, with their truth; None for a task that only predicts.
        class_names: Names by label.
    """

    losses_are_whole = True

    def __init__(
        self, detector: nn.Module, *, class_names: Sequence[str], annotations: ImageAnnotations | None = None
    ) -> None:
        super().__init__()
        self.detector = detector
        self.class_names = tuple(class_names)
        self.annotations = annotations

    def forward(self, batch: ImageBatch) -> dict[str, Tensor]:
        """Weighted losses of the detector, means over the images of the batch."""
        detector = cast(Detector2D, self.detector)
        return detector.losses(self.as_input(batch.images), batch.targets)

    def predict(self, batch: ImageBatch) -> list[BoxPrediction]:
        """Boxes in pixels of each image file, best first, on the CPU."""
        detector = cast(Detector2D, self.detector)
        found = detector.detect(self.as_input(batch.images))
        predictions = []
        for sample_id, geometry, one in zip(batch.sample_ids, batch.geometries, found, strict=True):
            boxes = one.boxes_xyxy.float().cpu()
            boxes = boxes if geometry is None else geometry.to_image(boxes)
            predictions.append(BoxPrediction(sample_id, boxes, one.scores.float().cpu(), one.labels.cpu()))
        return predictions

    def as_input(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> in [0, 1] and of the weights' type, on the images' device."""
        weight = next(self.detector.parameters(), None)
        return images.to(torch.float32 if weight is None else weight.dtype).div_(255)

    def new_metric(self) -> Detection2DMetric:
        """COCO AP with curves and confusion matrix, against the truth in the annotations."""
        assert self.annotations is not None, "a task without annotations only predicts"
        return Detection2DMetric(self.annotations)

    def weigh_parts(self, parts: int) -> PartWeights:
        """Means over boxes count by the boxes of each part."""
        return PartWeights(parts)

    def modules_to_compile(self) -> list[nn.Module]:
        """The detector's network; the number of boxes changes from batch to batch, so the loss is left alone."""
        network = getattr(self.detector, "network", None)
        return [network if isinstance(network, nn.Module) else self.detector]

    def draw(self, batch: ImageBatch, predictions: Sequence[BoxPrediction] | None) -> list[Picture]:
        """Without predictions the batch as the network sees it; with them truth (left) beside predictions (right)."""
        pictures = []
        for place, sample_id in enumerate(batch.sample_ids):
            pixels = batch.images[place].permute(1, 2, 0).cpu().numpy()
            mine = batch.image_index == place
            truth = draw_boxes(
                pixels, batch.boxes_xyxy[mine].cpu().numpy(), batch.labels[mine].cpu().numpy(), self.class_names
            )
            if predictions is None:
                pictures.append(Picture(f"sample {sample_id}", truth))
                continue
            prediction, geometry = predictions[place], batch.geometries[place]
            boxes = prediction.boxes_xyxy if geometry is None else geometry.to_input(prediction.boxes_xyxy)
            shown = prediction.scores > SHOWN_SCORE
            found = draw_boxes(
                pixels,
                boxes[shown].numpy(),
                prediction.labels[shown].numpy(),
                self.class_names,
                scores=prediction.scores[shown].numpy(),
            )
            name = self.annotations.paths[sample_id] if self.annotations is not None else f"sample {sample_id}"
            pictures.append(Picture(name, side_by_side(truth, found), caption="truth | predictions"))
        return pictures


class Detection2DMetric:
    """COCO AP, precision and recall at the best confidence, curves and confusion matrix, in image pixels.

    The truth is that of the annotations, not that of the batch, so letterboxing rounds nothing. Objects that
    Pascal VOC calls difficult are ignored, as in its own evaluation.
    """

    def __init__(self, annotations: ImageAnnotations) -> None:
        self.annotations = annotations
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self.predictions: dict[int, BoxPrediction] = {}
        self._result: CocoResult | None = None

    def update(self, predictions: Sequence[BoxPrediction], batch: ImageBatch) -> None:
        """Add the predictions of one batch; images without any detection count too."""
        self.predictions.update({prediction.sample_id: prediction for prediction in predictions})
        self._result = None

    def state(self) -> dict[str, Tensor]:
        """All predictions, flat: sample ids, number of detections of each, and their boxes, scores and labels."""
        found = list(self.predictions.values())
        none = torch.zeros(0)
        return {
            "sample_ids": torch.tensor([one.sample_id for one in found], dtype=torch.int64),
            "counts": torch.tensor([len(one.scores) for one in found], dtype=torch.int64),
            "boxes_xyxy": torch.cat([none.reshape(0, 4), *(one.boxes_xyxy for one in found)]),
            "scores": torch.cat([none, *(one.scores for one in found)]),
            "labels": torch.cat([none.long(), *(one.labels for one in found)]),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become the metric whose ``state`` this is."""
        self.reset()
        sizes = state["counts"].tolist()
        parts = zip(
            state["sample_ids"].tolist(),
            torch.split(state["boxes_xyxy"], sizes),
            torch.split(state["scores"], sizes),
            torch.split(state["labels"], sizes),
            strict=True,
        )
        for sample_id, boxes, scores, labels in parts:
            self.predictions[sample_id] = BoxPrediction(sample_id, boxes, scores, labels)

    def merge(self, others: Sequence[Self]) -> None:
        """Take in the images that other processes saw."""
        for other in others:
            self.predictions.update(other.predictions)
        self._result = None

    def compute(self) -> dict[str, float]:
        """The twelve COCO figures, and precision, recall and F1 (IoU 0.5) where the mean F1 is best."""
        result = self.coco()
        return result.figures | detection_curves(result).at_best()

    def details(self) -> dict[str, Any]:
        """Per-class table, curves over confidence and recall, and the confusion matrix: plain JSON values."""
        result = self.coco()
        class_names = self.annotations.class_names
        confusion = ConfusionMatrix(len(class_names))
        confusion.update(self._truths(), self._detections())
        return box_details(result, detection_curves(result), confusion, class_names)

    def save(self, path: Path) -> None:
        """Write the detections as a COCO result file; no number is rounded."""
        write_coco_detections(path, *self.coco_results())

    def coco_results(self) -> tuple[Any, Any, Any, Any]:
        """Detections as COCO's result format wants them: image ids, category ids, boxes_xywh and scores."""
        found = self._detections()
        return (
            self.annotations.image_ids[found.image_ids].tolist(),
            self.annotations.category_ids[found.labels].tolist(),
            found.boxes_xywh,
            found.scores,
        )

    def coco(self) -> CocoResult:
        """The whole COCO evaluation of the images since ``reset``; made once, whatever is asked of it."""
        if self._result is None:
            metric = CocoAP(num_classes=len(self.annotations.class_names))
            metric.update(self._images(), self._truths(), self._detections())
            self._result = metric.evaluate()
        return self._result

    def _images(self) -> np.ndarray[Any, Any]:
        return np.array(sorted(self.predictions), dtype=np.int64)

    def _truths(self) -> TruthBoxes:
        a, images = self.annotations, self._images()
        counts = np.diff(a.offsets)[images]
        rows = np.concatenate([np.arange(a.offsets[i], a.offsets[i + 1]) for i in images] or [np.zeros(0, np.int64)])
        return TruthBoxes(
            image_ids=np.repeat(images, counts),
            boxes_xywh=xyxy_to_xywh(a.boxes_xyxy[rows]),
            labels=a.labels[rows],
            is_crowd=a.is_crowd[rows],
            areas=a.areas[rows],
            is_ignored=a.is_difficult[rows],
        )

    def _detections(self) -> ScoredBoxes:
        found = [self.predictions[int(i)] for i in self._images()]
        empty = torch.zeros(0)
        return ScoredBoxes(
            image_ids=np.repeat(self._images(), [len(one.scores) for one in found]),
            boxes_xywh=xyxy_to_xywh(torch.cat([empty.reshape(0, 4), *(one.boxes_xyxy for one in found)]).numpy()),
            scores=torch.cat([empty, *(one.scores for one in found)]).numpy(),
            labels=torch.cat([empty.long(), *(one.labels for one in found)]).numpy(),
        )
