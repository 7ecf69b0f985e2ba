"""What every recipe of a 2D detector has in common: where the images come from and how they are prepared."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Self, cast

from pydantic import Field, model_validator
from torch import nn

from sightline.config.errors import DataError
from sightline.config.printable import counted
from sightline.data.annotations import ImageAnnotations, content_key
from sightline.data.faults import enforce
from sightline.data.formats import open_dataset
from sightline.data.formats.source import DataSource
from sightline.data.image_source import ImageEvalSource, ImageTrainSource
from sightline.data.label_statistics import label_statistics
from sightline.data.loader import BatchLoader
from sightline.data.transforms.augment import ImageAugmentConfig
from sightline.data.world.config import EmbeddedWorldConfig
from sightline.data.world.embedded import embedded_world
from sightline.engine.distributed.processes import Share
from sightline.engine.finding import DataReview
from sightline.engine.run_config import PathText, RunConfig
from sightline.engine.task import Task
from sightline.recipes.images import ImageDataConfig, ImageRun
from sightline.tasks.detection2d import Detection2D, Detector2D
from sightline.tasks.detection2d_model import Detection2DModel
from sightline.tasks.operations import count_operations


class DataConfig(ImageDataConfig):
    """Where images and boxes come from, and what happens to faulty ones."""

    path: PathText | None = None
    """Data set: YOLO data.yaml or folder, COCO folder or json, Pascal VOC folder. None: the built-in world."""
    format: Literal["yolo", "coco", "voc"] | None = None
    """Which format, where a folder holds several; found by looking when left out."""
    class_names: tuple[str, ...] | None = None
    """Names of the classes in their order, for formats that do not list them (VOC, bare YOLO folders)."""
    rectangular: bool = True
    """Evaluate images of similar shape together, padded as little as possible."""
    world: EmbeddedWorldConfig = EmbeddedWorldConfig()
    """The built-in world, used when there is no path."""


class Detection2DRun(ImageRun, abc.ABC):
    """A run of a 2D detector."""

    evaluation_keys: ClassVar[tuple[str, ...]] = (
        *RunConfig.evaluation_keys, "image_size", "eval_batch_size", "data", "model",
    )  # fmt: skip
    headline: ClassVar[tuple[str, ...]] = ("AP", "AP50", "precision", "recall")
    kept_for_world: ClassVar[tuple[str, ...]] = ("format", "class_names")

    image_size: int = Field(640, ge=32, le=8192)
    """Long side of the network's input, pixels."""
    data: DataConfig = DataConfig()
    augment: ImageAugmentConfig = ImageAugmentConfig()

    @model_validator(mode="after")
    def _closing_needs_epochs(self) -> Self:
        if self.augment.close_mosaic and self.epochs is None:
            raise ValueError("augment.close_mosaic counts epochs from the end: give epochs, or augment.close_mosaic=0")
        return self

    @abc.abstractmethod
    def build_detector(self, class_names: Sequence[str]) -> nn.Module:
        """The model, a ``Detector2D``, with fresh weights."""

    def build_task(self, val: ImageAnnotations) -> Detection2D:
        """The detector with the truth that it is evaluated against."""
        return Detection2D(self.build_detector(val.class_names), class_names=val.class_names, annotations=val)

    def trained_model(self, class_names: Sequence[str]) -> Detection2DModel:
        """The detector for use on pictures, with fresh weights."""
        return Detection2DModel(self.build_detector(class_names), class_names, image_size=self.image_size)

    def describe_model(self, task: Task) -> str:
        """Operations for one image: those of a small one, scaled up, which is exact for convolutions."""
        detector: Any = cast(Detection2D, task).detector
        size, small = self.image_size, 2 * int(detector.stride)
        operations = count_operations(detector, detector.detect, (1, 3, small, small), is_compiled=bool(self.compile))
        return f"{operations * (size / small) ** 2 / 1e9:.3g} GFLOPs at {size} x {size}"

    def statistics(self, split: ImageAnnotations) -> dict[str, Any]:
        """Counts of boxes, tables of where and how large they are."""
        return {**label_statistics(split), "content_key": content_key(split)}

    def review_data(self, *, decode: bool = True, tell: Callable[[str], None] = lambda text: None) -> DataReview:
        """Labels and images of all splits, classes, the size of the input, and what caches take."""
        from sightline.recipes.detection2d_review import BoxReview

        return BoxReview(self, tell).run(decode=decode)

    def with_classes(self, class_names: tuple[str, ...]) -> Detection2DRun:
        """VOC has no list of classes."""
        if self.data.path is None or self.data.class_names is not None or self.open_data().format != "voc":
            return self
        return self.but(data=self.data.but(class_names=class_names))

    def open_data(self) -> DataSource:
        """The data set, or the built-in world where none is named."""
        if self.data.path is None:
            return open_dataset(embedded_world(self.data.world))
        return open_dataset(self.data.path, class_names=self.data.class_names, format=self.data.format)

    def read_split(self, source: DataSource, split: str, messages: list[str]) -> ImageAnnotations:
        """A split with its faults dealt with as ``data.on_fault`` says; what was found is added to ``messages``."""
        annotations, said = enforce(source.read(split), self.data.on_fault)
        messages += said
        if len(annotations) == 0:
            raise DataError(f"{source.path}: the split {split!r} has no images. Splits: {', '.join(source.splits)}.")
        if len(annotations.labels) == 0:
            raise DataError(f"{source.path}: none of {counted(len(annotations), 'image')} of {split!r} has a label.")
        return annotations

    def train_loader(self, train: ImageAnnotations, share: Share) -> BatchLoader:
        """Augmented squares, in the order of the seed."""
        source = ImageTrainSource(
            train, self.image_size, self.augment, seed=self.seed, epochs=self.epochs, cache=self.data.cache
        )
        sampler = source.sampler(
            self.samples_per_batch, rank=share.rank, num_processes=share.count, drop_last=self.data.drop_last
        )
        return BatchLoader(source, sampler, workers=self.workers, kind=self.data.loader)

    def eval_loader(self, val: ImageAnnotations, task: Task, share: Share) -> BatchLoader:
        """Every image once, plain."""
        source = ImageEvalSource(
            val,
            self.image_size,
            stride=cast(Detector2D, cast(Detection2D, task).detector).stride,
            rectangular=self.data.rectangular,
            cache=self.data.cache,
        )
        sampler = source.sampler(self.samples_per_evaluation_batch, rank=share.rank, num_processes=share.count)
        return BatchLoader(source, sampler, workers=self.workers, kind=self.data.loader)
