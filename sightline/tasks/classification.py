"""Image classification: one class per image. Shapes: B images, C channels, K classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from sightline.data.class_labels import ClassLabels
from sightline.data.sample import ClassBatch, ClassPrediction
from sightline.engine.task import Picture, Task
from sightline.losses.cross_entropy import MixedLabels, soft_cross_entropy
from sightline.metrics.classification import ClassificationMetric
from sightline.tasks.drawing import GREEN, GREY, RED, captioned


class Classification(Task):
    """A network that gives logits, cross-entropy, accuracy on the validation images, pictures of right and wrong.

    Args:
        network: (B, C, H, W) normalised images to logits (B, K).
        class_names: Names by label.
        mean: Of each channel of images in [0, 1]; it is taken away ...
        std: ... and the rest divided by this.
        label_smoothing: Part of the target that is spread over all classes.
        labels: The images that are evaluated, with their classes; None for a task that only predicts.
    """

    only_shown = frozenset({"top1"})

    def __init__(
        self,
        network: nn.Module,
        *,
        class_names: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        label_smoothing: float = 0.0,
        labels: ClassLabels | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.class_names = tuple(class_names)
        self.label_smoothing = label_smoothing
        self.labels = labels
        offset, scale = torch.tensor(mean), torch.tensor(std)
        self.offset: Tensor
        self.scale: Tensor
        self.register_buffer("offset", (255 * offset).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("scale", (1 / (255 * scale)).view(1, -1, 1, 1), persistent=False)

    def forward(self, batch: ClassBatch) -> dict[str, Tensor]:
        """Cross-entropy, a mean over the images; and ``top1``, the share that has the right class as its best."""
        logits = self.logits(batch.images)
        mixed = MixedLabels(batch.labels_b, batch.shares)
        losses = soft_cross_entropy(logits, batch.labels, smoothing=self.label_smoothing, mixed=mixed)  # (B,)
        is_right = logits.detach().argmax(dim=1) == batch.labels
        count = max(len(batch), 1)
        return {"cross_entropy": losses.sum() / count, "top1": is_right.to(losses.dtype).sum() / count}

    def predict(self, batch: ClassBatch) -> list[ClassPrediction]:
        """What it says of each class, on the CPU."""
        logits = self.logits(batch.images).cpu()  # (B, K)
        return [ClassPrediction(sample_id, row) for sample_id, row in zip(batch.sample_ids, logits, strict=True)]

    def normalised(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 -> what the network takes, of its weights' type."""
        weight = next(self.network.parameters(), self.scale)
        return (images.to(weight.dtype) - self.offset.to(weight.dtype)) * self.scale.to(weight.dtype)

    def logits(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 -> (B, K), at least float32."""
        logits: Tensor = self.network(self.normalised(images))
        return logits if logits.dtype == torch.float64 else logits.float()

    def new_metric(self) -> ImageClassMetric:
        """Accuracy and calibration on the evaluated images."""
        assert self.labels is not None, "a task without labels only predicts"
        return ImageClassMetric(self.labels)

    def modules_to_compile(self) -> list[nn.Module]:
        """The network."""
        return [self.network]

    def draw(self, batch: ClassBatch, predictions: Sequence[ClassPrediction] | None) -> list[Picture]:
        """Each image above its class; with predictions also the best answer, green where it is right, else red."""
        pictures = []
        for place, sample_id in enumerate(batch.sample_ids):
            pixels = batch.images[place].expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()
            lines = [(self._truth(batch, place), GREY)]
            name = f"sample {sample_id}"
            if predictions is not None:
                score, label = predictions[place].probs.max(dim=0)
                is_right = int(label) == int(batch.labels[place])
                lines.append((f"{self.class_names[int(label)]} {float(score):.2f}", GREEN if is_right else RED))
                name = name if self.labels is None else self.labels.describe(sample_id)
            pictures.append(Picture(name, captioned(pixels, lines)))
        return pictures

    def _truth(self, batch: ClassBatch, place: int) -> str:
        """The class of an image, or both of a mixed one with their shares."""
        first, share = self.class_names[int(batch.labels[place])], float(batch.shares[place])
        if share == 1:
            return first
        return f"{share:.2f} {first}, {1 - share:.2f} {self.class_names[int(batch.labels_b[place])]}"


class ImageClassMetric:
    """The figures of a classifier on images that have names.

    Args:
        labels: The images, by their sample ids.
    """

    def __init__(self, labels: ClassLabels) -> None:
        self.labels = labels
        self._metric = ClassificationMetric(len(labels.class_names))

    def reset(self) -> None:
        """Forget all images."""
        self._metric.reset()

    def update(self, predictions: Sequence[ClassPrediction], batch: ClassBatch) -> None:
        """Add the predictions of one batch."""
        if len(batch):
            logits = torch.stack([one.logits for one in predictions])
            self._metric.update(batch.sample_ids, logits, batch.labels)

    def state(self) -> dict[str, Tensor]:
        """A few numbers of every image."""
        return self._metric.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become the metric whose ``state`` this is."""
        self._metric.load_state(state)

    def merge(self, others: Sequence[Self]) -> None:
        """Take in the images that other processes saw."""
        self._metric.merge([other._metric for other in others])

    def compute(self) -> dict[str, float]:
        """``top1``, ``top5`` and the others of ``ClassificationMetric``."""
        return self._metric.compute()

    def details(self) -> dict[str, Any]:
        """Table of classes, confusion matrix and calibration: plain JSON values."""
        return self._metric.details(self.labels.class_names)

    def save(self, path: Path) -> None:
        """Write one line an image as CSV: its class, the predicted one, and how sure the classifier was."""
        self._metric.save(path, names=[self.labels.describe(index) for index in range(len(self.labels))])
