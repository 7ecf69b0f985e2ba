"""A trained classifier as it is used: the classes of one picture."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sightline.config.printable import printable
from sightline.data.sample import ClassBatch, ClassPrediction
from sightline.data.single_image import class_batch_of_one
from sightline.tasks.classification import Classification
from sightline.tasks.drawing import GREY, Pixels, captioned
from sightline.tasks.graph import Graph, GraphOutput, PixelType
from sightline.tasks.image_model import ImageModel, image_graph
from sightline.tasks.trained_model import Found

MOST_SHOWN = 5


class ClassificationModel(ImageModel):
    """A classifier for pictures of any size.

    Args:
        task: The classifier.
        class_names: Names by label.
        image_size: Height and width of its input, pixels.
        crop_ratio: The short side becomes ``image_size / crop_ratio`` before the middle is cut out.
        grey: Whether it takes one channel of grey.
    """

    answers = "classes"
    score_threshold = 0.01

    def __init__(
        self, task: Classification, class_names: Sequence[str], *, image_size: int, crop_ratio: float, grey: bool
    ) -> None:
        super().__init__(task, class_names)
        self.classifier = task
        self.image_size = image_size
        self.crop_ratio = crop_ratio
        self.grey = grey

    def batch_of(self, sample: Pixels) -> ClassBatch:
        """The middle of the picture, as an evaluation sees it."""
        channels = 1 if self.grey else 3
        return class_batch_of_one(sample, self.image_size, crop_ratio=self.crop_ratio, channels=channels)

    def found(self, prediction: ClassPrediction, *, score_threshold: float) -> tuple[Found, ...]:
        """At most five classes with at least this probability, the likeliest first."""
        scores, labels = prediction.probs.topk(min(MOST_SHOWN, len(prediction.probs)))
        rows = zip(labels.tolist(), scores.tolist(), strict=True)
        return tuple(Found(self.class_names[label], label, score) for label, score in rows if score >= score_threshold)

    def draw(self, sample: Pixels, found: Sequence[Found]) -> Pixels:
        """The picture above its classes."""
        return captioned(sample, [(f"{one.class_name} {one.score:.2f}", GREY) for one in found])

    def tell(self, found: Sequence[Found]) -> str:
        """``car 0.93, truck 0.04``."""
        return ", ".join(f"{printable(one.class_name)} {one.score:.2f}" for one in found)

    def graph(self, *, dynamic_batch: bool = False, input: PixelType | None = None) -> Graph:
        """Images to logits."""
        task = self.classifier
        normalised = input == "float32"
        colours = "grey" if self.grey else "RGB"
        mean = (task.offset / 255).flatten().tolist()
        std = (1 / (255 * task.scale)).flatten().tolist()
        rounded = {"mean": [round(value, 6) for value in mean], "std": [round(value, 6) for value in std]}
        float_input = f"float32 {colours}, (image / 255 - mean) / std with mean {rounded['mean']}, std {rounded['std']}"
        return image_graph(
            task.network if normalised else _Logits(task),
            channels=1 if self.grey else 3,
            image_size=self.image_size,
            meaning=float_input if normalised else f"uint8 {colours}, 0 to 255; normalised inside",
            output=GraphOutput("logits", f"(B, {len(self.class_names)}), before the softmax"),
            facts={"crop_ratio": self.crop_ratio, **rounded},
            prepared=task.normalised if normalised else lambda images: images,
            dynamic_batch=dynamic_batch,
        )


class _Logits(nn.Module):
    def __init__(self, task: Classification) -> None:
        super().__init__()
        self.task = task

    def forward(self, images: Tensor) -> Tensor:
        return self.task.logits(images)
