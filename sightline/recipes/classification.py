"""What every recipe of an image classifier has in common: where the images come from and how they are prepared."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import Field, FiniteFloat, model_validator
from torch import nn

from sightline.config.base import Config
from sightline.config.errors import ConfigError, DataError
from sightline.config.printable import printable
from sightline.data.class_labels import ClassLabels, class_content_key
from sightline.data.class_source import ClassEvalSource, ClassTrainSource
from sightline.data.faults import enforce
from sightline.data.formats.class_source import ClassSource
from sightline.data.formats.find_classes import ClassFormatName, open_class_dataset
from sightline.data.formats.source import SplitSource
from sightline.data.loader import BatchLoader
from sightline.data.transforms.class_augment import ClassAugmentConfig
from sightline.data.world.config import EmbeddedCropsConfig
from sightline.data.world.embedded import embedded_crops
from sightline.engine.distributed.processes import WHOLE, Share
from sightline.engine.finding import DataReview
from sightline.engine.run_config import PathText, Problem, RunConfig
from sightline.engine.task import Task
from sightline.recipes.images import ImageDataConfig, ImageRun
from sightline.tasks.classification import Classification
from sightline.tasks.classification_model import ClassificationModel
from sightline.tasks.operations import count_operations
from sightline.tasks.shape_trial import needs_two_images, refusal_of_shape


class ClassDataConfig(ImageDataConfig):
    """Where images and their classes come from, and what happens to faulty ones."""

    path: PathText | None = None
    """Data set: folders of classes, ImageNet, CIFAR-10 or CIFAR-100, MNIST or Fashion-MNIST. None: objects cut out of
    the built-in world."""
    format: ClassFormatName | None = None
    """Which format, where a folder holds several; found by looking when left out."""
    class_names: tuple[str, ...] | None = None
    """Names of the classes in their order; found by looking when left out."""
    val_split: str = "val"
    """Part of the data set to evaluate on. Where there is no val, as in CIFAR and MNIST, val means test."""
    val_fraction: float = Field(0.0, ge=0, lt=1)
    """Cut this share of the training images as the split ``val``, where the data set has none."""
    grey: bool = False
    """Give the network one channel of grey in place of red, green and blue."""
    world: EmbeddedCropsConfig = EmbeddedCropsConfig()
    """The objects of the built-in world, used when there is no path."""


class NormalizeConfig(Config):
    """``(image - mean) / std`` with images in [0, 1]; one number for all channels, or one for each."""

    mean: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (0.485, 0.456, 0.406)
    std: tuple[Annotated[FiniteFloat, Field(gt=0)], ...] = (0.229, 0.224, 0.225)

    @model_validator(mode="after")
    def _same_channels(self) -> Self:
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise ValueError(
                f"mean and std: give one number or three in both, got {len(self.mean)} and {len(self.std)}"
            )
        return self


class ClassificationLossConfig(Config):
    """Cross-entropy."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Part of the target that is spread over all classes."""


class ClassificationRun(ImageRun, abc.ABC):
    """A run of an image classifier."""

    evaluation_keys: ClassVar[tuple[str, ...]] = (
        *RunConfig.evaluation_keys, "image_size", "eval_batch_size", "data", "model", "normalize", "crop_ratio",
    )  # fmt: skip
    headline: ClassVar[tuple[str, ...]] = ("top1", "top5")
    smaller_is_better: ClassVar[tuple[str, ...]] = ("nll", "ece")
    kept_for_world: ClassVar[tuple[str, ...]] = ("format", "class_names", "val_fraction")

    image_size: Annotated[int, Field(ge=8, le=2048)] = 224
    """Height and width of the network's input, pixels."""
    crop_ratio: Annotated[float, Field(gt=0, le=1)] = 0.875
    """For evaluation and prediction, the short side of an image becomes ``image_size / crop_ratio`` pixels, and the
    middle of it is used. 1 uses as much of the image as there is."""
    normalize: NormalizeConfig = NormalizeConfig()
    data: ClassDataConfig = ClassDataConfig()
    augment: ClassAugmentConfig = ClassAugmentConfig()
    loss: ClassificationLossConfig = ClassificationLossConfig()

    @model_validator(mode="after")
    def _channels_agree(self) -> Self:
        if self.data.grey and len(self.normalize.mean) == 3:
            raise ValueError("data.grey=true gives one channel: give normalize.mean and normalize.std one number each")
        return self

    @property
    def channels(self) -> Literal[1, 3]:
        """Of the network's input: 1 (grey) or 3 (RGB)."""
        return 1 if self.data.grey else 3

    @abc.abstractmethod
    def build_network(self, num_classes: int) -> nn.Module:
        """(B, ``channels``, S, S) normalised to logits (B, K), with fresh weights.

        Raises:
            ConfigError: If it does not take such images.
        """

    def build_task(self, val: ClassLabels) -> Classification:
        """The network with the truth that it is evaluated against."""
        return self._task(val.class_names, val)

    def _task(self, class_names: Sequence[str], labels: ClassLabels | None) -> Classification:
        network, size = self.build_network(len(class_names)), self.image_size
        refusal = refusal_of_shape(network, (1, self.channels, size, size))
        if refusal is not None:
            raise ConfigError(
                f"image_size={size}: the network does not take images of {size} x {size} pixels "
                f"({printable(refusal.partition(chr(10))[0])}). Take a larger image_size."
            )
        return Classification(
            network,
            class_names=class_names,
            mean=self.normalize.mean,
            std=self.normalize.std,
            label_smoothing=self.loss.label_smoothing,
            labels=labels,
        )

    def trained_model(self, class_names: Sequence[str]) -> ClassificationModel:
        """The network for use on pictures, with fresh weights."""
        return ClassificationModel(
            self._task(class_names, None),
            class_names,
            image_size=self.image_size,
            crop_ratio=self.crop_ratio,
            grey=self.data.grey,
        )

    def describe_model(self, task: Task) -> str:
        """Operations for one image."""
        network, size = cast(Classification, task).network, self.image_size
        operations = count_operations(network, network, (1, self.channels, size, size), is_compiled=bool(self.compile))
        return f"{operations / 1e9:.3g} GFLOPs at {size} x {size}"

    def statistics(self, split: ClassLabels) -> dict[str, Any]:
        """Counts of images."""
        return {
            "source": str(split.source),
            "num_images": len(split),
            "class_counts": split.images_per_class.tolist(),
            "content_key": class_content_key(split),
        }

    def review_data(self, *, decode: bool = True, tell: Callable[[str], None] = lambda text: None) -> DataReview:
        """Classes and images of all splits, the size of the input, and what caches take."""
        from sightline.recipes.classification_review import ClassReview

        return ClassReview(self, tell).run(decode=decode)

    def with_classes(self, class_names: tuple[str, ...]) -> ClassificationRun:
        """Files of MNIST's kind have no names."""
        if self.data.path is None or self.data.class_names is not None or self.open_data().format != "idx":
            return self
        return self.but(data=self.data.but(class_names=class_names))

    def evaluated_split(self, source: SplitSource[Any]) -> str:
        """``data.val_split``; ``test`` where that is ``val`` and there is none."""
        wanted = self.data.val_split
        return "test" if wanted == "val" and "val" not in source.splits and "test" in source.splits else wanted

    def open_data(self) -> ClassSource:
        """The data set, or objects of the built-in world where none is named."""
        data = self.data
        if data.path is None:
            return open_class_dataset(embedded_crops(data.world), format="class_folders")
        return open_class_dataset(
            data.path, class_names=data.class_names, format=data.format, val_fraction=data.val_fraction, seed=self.seed
        )

    def read_split(self, source: ClassSource, split: str, messages: list[str]) -> ClassLabels:
        """A split with its faults dealt with as ``data.on_fault`` says; what was found is added to ``messages``."""
        labels, said = enforce(source.read(split), self.data.on_fault)
        messages += said
        if len(labels) == 0:
            there = ", ".join(source.splits)
            raise DataError(f"{printable(source.path)}: the split {split!r} has no images. Splits: {there}.")
        return labels

    def open(self, *, training: bool = True, share: Share = WHOLE) -> Problem:
        """As that of all runs on images; refuses a last batch that batch norm cannot train on."""
        problem = super().open(training=training, share=share)
        if problem.train_loader is None:
            return problem
        network = cast(Classification, problem.task).network
        loader = problem.train_loader
        num_images = sum(loader.batch_length(index) for index in range(loader.batches_per_epoch))
        refusal = self.refusal_of_last_batch(network, num_images, share)
        if refusal is not None:
            loader.close()
            if problem.eval_loader is not None:
                problem.eval_loader.close()
            raise ConfigError(refusal)
        return problem

    def refusal_of_last_batch(self, network: nn.Module, num_images: int, share: Share = WHOLE) -> str | None:
        """What is wrong where one image is left for a process at the end of an epoch; None where nothing is."""
        full = self.samples_per_batch
        is_limited = self.limit_batches is not None and self.limit_batches * full < num_images
        is_left_out = is_limited or (self.data.drop_last and num_images >= full)
        images = full if is_left_out else num_images % full or full
        in_a_process = images if self.sync_batch_norm else max(1, images // share.count)  # of those that have any
        size = self.image_size
        if in_a_process != 1 or not needs_two_images(network, (self.channels, size, size)):
            return None
        return (
            f"batch_size={self.batch_size}: {num_images:,} images leave 1 for the last batch of an epoch"
            f"{'' if images == 1 else ' in a process'}, and batch norm of this network cannot train on one image of "
            f"{size} x {size} pixels. Choose a batch_size that leaves more, or leave it out (data.drop_last=true)."
        )

    def train_loader(self, train: ClassLabels, share: Share) -> BatchLoader:
        """Augmented squares, in the order of the seed."""
        mean = [255 * value for value in self.normalize.mean]
        source = ClassTrainSource(
            train,
            self.image_size,
            self.augment,
            seed=self.seed,
            channels=self.channels,
            mean_rgb=(mean[0], mean[len(mean) // 2], mean[-1]),
            cache=self.data.cache,
        )
        sampler = source.sampler(
            self.samples_per_batch, rank=share.rank, num_processes=share.count, drop_last=self.data.drop_last
        )
        return BatchLoader(source, sampler, workers=self.workers, kind=self.data.loader)

    def eval_loader(self, val: ClassLabels, task: Task, share: Share) -> BatchLoader:
        """The middle of every image once."""
        source = ClassEvalSource(
            val,
            self.image_size,
            crop_ratio=self.crop_ratio,
            channels=self.channels,
            cache=self.data.cache,
        )
        sampler = source.sampler(self.samples_per_evaluation_batch, rank=share.rank, num_processes=share.count)
        return BatchLoader(source, sampler, workers=self.workers, kind=self.data.loader)
