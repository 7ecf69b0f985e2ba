"""What every recipe of a LiDAR 3D detector has in common: where point clouds come from and how they are prepared."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import Field, model_validator
from torch import nn

from sightline.config.errors import DataError
from sightline.config.printable import counted, printable
from sightline.data.faults import enforce
from sightline.data.formats.find_lidar import open_lidar_dataset
from sightline.data.formats.source import SplitSource
from sightline.data.ground_truth_database import ground_truth_database
from sightline.data.lidar_annotations import LidarAnnotations, lidar_content_key
from sightline.data.lidar_source import LidarEvalSource, LidarTrainSource
from sightline.data.loader import BatchLoader
from sightline.data.transforms.point_augment import PointAugmentConfig
from sightline.data.whole_clouds import WholeClouds
from sightline.data.world.config import EmbeddedLidarConfig
from sightline.data.world.embedded import embedded_lidar_world
from sightline.engine.distributed.processes import WHOLE, Share
from sightline.engine.finding import DataReview
from sightline.engine.run_config import PathText, Problem, RunConfig
from sightline.engine.task import Task
from sightline.recipes.data_run import DataRun, SplitDataConfig
from sightline.tasks.lidar3d import Lidar3D
from sightline.tasks.lidar3d_model import Lidar3DModel


class LidarDataConfig(SplitDataConfig):
    """Where point clouds and boxes come from, and what happens to faulty ones."""

    path: PathText | None = None
    """Data set: a folder in KITTI's layout. None: the built-in world."""
    format: Literal["kitti"] | None = None
    """Which format; found by looking when left out."""
    class_names: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Classes to train, in their order; Car, Pedestrian and Cyclist, or what the world has of them, when left out."""
    on_fault: Literal["refuse", "skip"] = "refuse"
    """What to do with frames whose files are broken: stop and list them, or leave them out and say how many."""
    in_view: bool = True
    """Use only the points that the camera sees: KITTI's labels end where its picture does."""
    one_long_epoch: bool = False
    """Shuffle the samples of all epochs together, so that batches run over the borders of epochs and all are full. An
    epoch is then a share of the run's batches, and not every sample once."""
    world: EmbeddedLidarConfig = EmbeddedLidarConfig()
    """The built-in world, used when there is no path."""


class LidarRun(DataRun, abc.ABC):
    """A run of a LiDAR 3D detector."""

    unit: ClassVar[str] = "frame"
    evaluation_keys: ClassVar[tuple[str, ...]] = (*RunConfig.evaluation_keys, "eval_batch_size", "data", "model")
    headline: ClassVar[tuple[str, ...]] = ("3d_moderate_R40", "bev_moderate_R40", "recall/0.5")
    kept_for_world: ClassVar[tuple[str, ...]] = ("format",)
    saves_folder: ClassVar[bool] = True

    data: LidarDataConfig = LidarDataConfig()
    augment: PointAugmentConfig = PointAugmentConfig()

    @model_validator(mode="after")
    def _counts_of_epochs_need_epochs(self) -> Self:
        if self.augment.close_epochs and self.epochs is None:
            raise ValueError("augment.close_epochs counts epochs from the end: give epochs, or augment.close_epochs=0")
        if self.data.one_long_epoch and self.epochs is None:
            raise ValueError("data.one_long_epoch puts all epochs together: give epochs, or data.one_long_epoch=false")
        return self

    def without_effect(self) -> dict[str, str]:
        """Batches that are all full, and what all runs say."""
        idle = super().without_effect()
        if self.data.one_long_epoch:
            idle["data.drop_last"] = "all batches are full (data.one_long_epoch=true)"
        return idle

    @property
    @abc.abstractmethod
    def point_range(self) -> tuple[float, float, float, float, float, float]:
        """x, y, z of the least and the greatest corner of the space that the detector sees, metres."""

    @abc.abstractmethod
    def build_detector(self, class_names: Sequence[str]) -> nn.Module:
        """The model, a ``LidarDetector``, with fresh weights."""

    def build_task(self, val: LidarAnnotations) -> Lidar3D:
        """The detector with the truth that it is evaluated against."""
        return Lidar3D(
            self.build_detector(val.class_names),
            class_names=val.class_names,
            point_range=self.point_range,
            annotations=val,
        )

    def trained_model(self, class_names: Sequence[str]) -> Lidar3DModel:
        """The detector for use on point clouds, with fresh weights."""
        return Lidar3DModel(
            Lidar3D(self.build_detector(class_names), class_names=class_names, point_range=self.point_range),
            class_names,
            point_range=self.point_range,
            in_view=self.data.in_view,
        )

    def describe_model(self, task: Task) -> str:
        """The space that it sees."""
        x0, y0, z0, x1, y1, z1 = self.point_range
        return f"x {x0:g} to {x1:g} m, y {y0:g} to {y1:g} m, z {z0:g} to {z1:g} m"

    def statistics(self, split: LidarAnnotations) -> dict[str, Any]:
        """Counts of frames and of boxes of each class."""
        per_frame = [int((split.labels[split.rows_of(i)] >= 0).sum()) for i in range(len(split))]
        return {
            "source": str(split.source),
            "unit": split.unit,
            "num_images": len(split),
            "num_boxes": int((split.labels >= 0).sum()),
            "num_empty_images": per_frame.count(0),
            "num_crowds": int((split.labels < 0).sum()),
            "class_counts": split.boxes_per_class.tolist(),
            "content_key": lidar_content_key(split),
        }

    def review_data(self, *, decode: bool = True, tell: Callable[[str], None] = lambda text: None) -> DataReview:
        """Labels, calibrations and clouds of all splits, classes, and what the database of objects takes."""
        from sightline.recipes.lidar3d_review import LidarReview

        return LidarReview(self, tell).run(decode=decode)

    def with_classes(self, class_names: tuple[str, ...]) -> LidarRun:
        """A folder of KITTI's has no list of classes."""
        if self.data.path is None or self.data.class_names is not None:
            return self
        return self.but(data=self.data.but(class_names=class_names))

    def open_data(self) -> SplitSource[LidarAnnotations]:
        """The data set, or the built-in world where none is named."""
        data = self.data
        path = embedded_lidar_world(data.world) if data.path is None else data.path
        return open_lidar_dataset(path, class_names=data.class_names, format=data.format)

    def read_split(self, source: SplitSource[Any], split: str, messages: list[str]) -> LidarAnnotations:
        """A split with its faults dealt with as ``data.on_fault`` says; what was found is added to ``messages``."""
        annotations: LidarAnnotations
        annotations, said = enforce(source.read(split), self.data.on_fault)
        messages += said
        if len(annotations) == 0:
            there = ", ".join(source.splits)
            raise DataError(f"{printable(source.path)}: the split {split!r} has no frames. Splits: {there}.")
        if not (annotations.labels >= 0).any():
            raise DataError(
                f"{printable(source.path)}: none of {counted(len(annotations), 'frame')} of {split!r} has a box of "
                f"{', '.join(annotations.class_names)}."
            )
        return annotations

    def open(self, *, training: bool = True, share: Share = WHOLE) -> Problem:
        """As that of all runs; the clouds of a data set of the user's are looked into, once."""
        source = self.open_data()
        return self.open_source(
            source if self.data.path is None else WholeClouds(source), training=training, share=share
        )

    def open_source(self, source: SplitSource[Any], *, training: bool = True, share: Share = WHOLE) -> Problem:
        """As that of all runs; says what there is nothing of to be pasted."""
        problem = super().open_source(source, training=training, share=share)
        loader = cast(BatchLoader | None, problem.train_loader)
        if loader is None:
            return problem
        return replace(problem, messages=(*problem.messages, *cast(LidarTrainSource, loader.source).messages))

    def train_loader(self, train: LidarAnnotations, share: Share) -> BatchLoader:
        """Augmented clouds, in the order of the seed."""
        database = None if self.augment.paste is None else ground_truth_database(train)
        source = LidarTrainSource(
            train,
            self.point_range,
            self.augment,
            seed=self.seed,
            epochs=self.epochs,
            in_view=self.data.in_view,
            database=database,
        )
        sampler = source.sampler(
            self.samples_per_batch,
            rank=share.rank,
            num_processes=share.count,
            drop_last=self.data.drop_last,
            one_long_epoch=self.data.one_long_epoch,
        )
        return BatchLoader(source, sampler, workers=self.workers, kind=self.data.loader)

    def eval_loader(self, val: LidarAnnotations, task: Task, share: Share) -> BatchLoader:
        """Every frame once, plain."""
        source = LidarEvalSource(val, self.point_range, in_view=self.data.in_view)
        sampler = source.sampler(self.samples_per_evaluation_batch, rank=share.rank, num_processes=share.count)
        return BatchLoader(source, sampler, workers=self.workers, kind=self.data.loader)
