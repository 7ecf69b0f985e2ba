"""What every recipe of a 2D detector has in common: where the images come from and how they are prepared."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, cast

from pydantic import Field, PositiveInt, model_validator
from torch import nn

from sightline.config.base import Config
from sightline.config.errors import DataError
from sightline.config.printable import counted, printable
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
from sightline.engine.distributed.processes import WHOLE, Share
from sightline.engine.finding import DataReview
from sightline.engine.run_config import PathText, Problem, RunConfig
from sightline.engine.seed import seed_everything
from sightline.tasks.detection2d import Detection2D, Detector2D


class DataConfig(Config):
    """Where images and boxes come from, and what happens to faulty ones."""

    path: PathText | None = None
    """Data set: YOLO data.yaml or folder, COCO folder or json, Pascal VOC folder. None: the built-in world."""
    format: Literal["yolo", "coco", "voc"] | None = None
    """Which format, where a folder holds several; found by looking when left out."""
    class_names: tuple[str, ...] | None = None
    """Names of the classes in their order, for formats that do not list them (VOC, bare YOLO folders)."""
    train_split: str = "train"
    """Part of the data set to train on."""
    val_split: str = "val"
    """Part of the data set to evaluate on."""
    on_fault: Literal["refuse", "skip"] = "refuse"
    """What to do with images whose file or truth is broken: stop and list them, or leave them out and say how many."""
    cache: Literal["none", "ram", "disk"] = "none"
    """Keep decoded images in memory, or in one packed file in the cache folder (never beside the data)."""
    loader: Literal["threads", "processes"] = "threads"
    """What the workers are."""
    rectangular: bool = True
    """Evaluate images of similar shape together, padded as little as possible."""
    world: EmbeddedWorldConfig = EmbeddedWorldConfig()
    """The built-in world, used when there is no path."""


class Detection2DRun(RunConfig, abc.ABC):
    """A run of a 2D detector."""

    evaluation_keys: ClassVar[tuple[str, ...]] = (
        *RunConfig.evaluation_keys, "image_size", "eval_batch_size", "data", "model",
    )  # fmt: skip

    image_size: int = Field(640, ge=32, le=8192)
    """Long side of the network's input, pixels."""
    eval_batch_size: PositiveInt | None = None
    """Images per batch of an evaluation; twice the training batch when left out."""
    data: DataConfig = DataConfig()
    augment: ImageAugmentConfig = ImageAugmentConfig()

    @model_validator(mode="after")
    def _closing_needs_epochs(self) -> Self:
        if self.augment.close_mosaic and self.epochs is None:
            raise ValueError("augment.close_mosaic counts epochs from the end: give epochs, or augment.close_mosaic=0")
        return self

    def without_effect(self) -> dict[str, str]:
        """The world beside a data set, workers that there are none of, and what the engine says."""
        idle = super().without_effect()
        if self.data.path is not None:
            idle["data.world"] = "the built-in world is not used where data is named (data.path or --data)"
        else:
            reason = "the built-in world is used; it belongs to a data set of yours (--data)"
            idle |= dict.fromkeys(("data.format", "data.class_names"), reason)
        if self.workers == 0:
            idle["data.loader"] = "the training thread prepares the batches itself (workers=0)"
        return idle

    @abc.abstractmethod
    def build_detector(self, class_names: Sequence[str]) -> nn.Module:
        """The model, a ``Detector2D``, with fresh weights."""

    def open(self, *, training: bool = True, share: Share = WHOLE) -> Problem:
        """Read the annotations, build the model for their classes, and the loaders.

        Raises:
            UserError: If the data cannot be used or contradicts the configuration.
        """
        return self.open_source(self.open_data(), training=training, share=share)

    def open_source(self, source: DataSource, *, training: bool = True, share: Share = WHOLE) -> Problem:
        """As ``open``, of a data set that is open already."""
        messages = [str(fault) for fault in source.faults]
        val = self.read_split(source, self.data.val_split, messages)
        train = self.read_split(source, self.data.train_split, messages) if training else None
        seed_everything(self.seed)
        detector = self.build_detector(val.class_names)
        task = Detection2D(detector, class_names=val.class_names, annotations=val)
        return Problem(
            task=task,
            train_loader=None if train is None else self._train_loader(train, share),
            eval_loader=self.eval_loader(val, stride=cast(Detector2D, detector).stride, share=share),
            messages=messages,
            facts=_facts(_given(train, val)),
            unit="images",
            source=f"{printable(self.data.path or 'the built-in world')}, {printable(self.data.val_split)}",
            headline=("AP", "AP50", "precision", "recall"),
            figures=tuple(task.new_metric().compute()),
        )

    def review_data(self, *, decode: bool = True, tell: Callable[[str], None] = lambda text: None) -> DataReview:
        """Labels and images of all splits, classes, the size of the input, and what caches take."""
        from sightline.recipes.detection2d_review import review_data

        return review_data(self, decode=decode, tell=tell)

    def open_trained(self, facts: Mapping[str, Any]) -> Problem:
        """Open the data of an evaluation; it must have the classes of the training, in their order.

        Data without a list of classes (VOC) is read with the names of the training.
        """
        names = tuple(map(str, facts.get("class_names", ())))
        data, config = self.data, self
        if data.path is not None and data.class_names is None and self.open_data().format == "voc":
            config = self.but(data=data.but(class_names=names))
        problem = config.open(training=False)
        found = tuple(problem.facts["class_names"])
        if found != names:
            assert problem.eval_loader is not None
            problem.eval_loader.close()
            raise DataError(
                f"{printable(data.path)}: its classes are not those of the run.\n"
                f"  data: {printable(', '.join(found), limit=200)}\n  run:  {printable(', '.join(names), limit=200)}\n"
                "  Give data with the same names in the same order (data.class_names=[...] where the format has none)."
            )
        return problem

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

    def _train_loader(self, annotations: ImageAnnotations, share: Share) -> BatchLoader:
        source = ImageTrainSource(
            annotations, self.image_size, self.augment, seed=self.seed, epochs=self.epochs, cache=self.data.cache
        )
        sampler = source.sampler(self.samples_per_batch, rank=share.rank, num_processes=share.count)
        return BatchLoader(source, sampler, workers=self.workers, kind=self.data.loader)

    def eval_loader(self, annotations: ImageAnnotations, *, stride: int, share: Share = WHOLE) -> BatchLoader:
        """Every image once, plain."""
        source = ImageEvalSource(
            annotations,
            self.image_size,
            stride=stride,
            rectangular=self.data.rectangular,
            cache=self.data.cache,
        )
        batch_size = self.eval_batch_size if self.eval_batch_size is not None else 2 * self.samples_per_batch
        sampler = source.sampler(batch_size, rank=share.rank, num_processes=share.count)
        return BatchLoader(source, sampler, workers=self.workers, kind=self.data.loader)


def _given(*annotations: ImageAnnotations | None) -> list[ImageAnnotations]:
    return [a for a in annotations if a is not None]


MOST_FAULTS = 200


def _facts(splits: Sequence[ImageAnnotations]) -> dict[str, Any]:
    """What the report says of the data: names, label statistics and faults, as plain values."""
    faults = [
        {
            "split": a.name,
            "kind": fault.kind,
            "place": fault.place,
            "message": printable(fault.message),
            "fatal": fault.fatal,
        }
        for a in splits
        for fault in a.faults
    ]
    return {
        "class_names": list(splits[0].class_names),
        "splits": {a.name: {**label_statistics(a), "content_key": content_key(a)} for a in splits},
        "faults": faults[:MOST_FAULTS],
        "num_faults": len(faults),
    }
