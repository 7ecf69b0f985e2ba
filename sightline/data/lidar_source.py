"""Point clouds with boxes, as the loader's workers make them: augmented for training, plain for evaluation.

Clouds have any number of points, so nothing is written to the slab: points and boxes travel as what ``fill`` gives
back, float32, and are joined when the batch is. Letters: P points of F numbers, M boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sightline.config.errors import ConfigError
from sightline.data.draws import sample_generator
from sightline.data.ground_truth_database import GroundTruthDatabase
from sightline.data.lidar_annotations import LidarAnnotations, points_in_view
from sightline.data.memory import keep_freed_memory
from sightline.data.point_files import NUM_FEATURES, read_points
from sightline.data.sampler import BatchRequest, LongEpochSampler, Sampler
from sightline.data.transforms.ground_truth_paste import PasteObjects
from sightline.data.transforms.point_augment import PointAugmentConfig, augment_scene
from sightline.data.transforms.points import PointScene
from sightline.ops.points import points_in_range

if TYPE_CHECKING:  # torch is not needed to fill a batch, and takes a worker process a second to import
    from sightline.data.sample import PointBatch
    from sightline.data.workers import Arrays, Layout

Array = np.ndarray[Any, Any]


class _Filled(NamedTuple):
    """One sample."""

    points: Array
    """(P, F) float32."""
    boxes3d: Array
    """(M, 7) float32."""
    labels: Array
    """(M,) int64 in 0..K-1."""


class _LidarSource:
    """What training and evaluation share: clouds read and cut, and batches of them."""

    def __init__(
        self, annotations: LidarAnnotations, point_range: Sequence[float], *, in_view: bool, num_features: int
    ) -> None:
        numbers = np.array(point_range, np.float64)
        if numbers.shape != (6,) or not np.isfinite(numbers).all() or not (numbers[:3] < numbers[3:]).all():
            raise ConfigError(f"point_range: expected x, y, z from low to high, got {tuple(point_range)}.")
        self.annotations = annotations
        self.point_range = tuple(numbers.tolist())
        self.in_view = in_view
        self.num_features = num_features

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.annotations)

    def describe(self, index: int) -> str:
        """Path of a frame's points."""
        return self.annotations.point_paths[index]

    def prepare_worker(self) -> None:
        """An allocator that keeps memory, for the whole process."""
        keep_freed_memory()

    def layout(self, num_samples: int, input_hw: tuple[int, int] | None) -> Layout:
        """No arrays of a fixed size."""
        return {}

    def fill(self, request: BatchRequest, slot: int, arrays: Arrays) -> _Filled:
        """One sample.

        Raises:
            DataError: If its file of points cannot be used.
        """
        repeat = 0 if request.repeats is None else request.repeats[slot]
        return self.make(request.epoch, request.sample_ids[slot], repeat=repeat)

    def make(self, epoch: int, index: int, *, repeat: int = 0) -> _Filled:
        """Sample ``index`` of ``epoch``; raises as ``fill``."""
        raise NotImplementedError

    def collate(self, request: BatchRequest, arrays: Arrays, extras: Sequence[_Filled]) -> PointBatch:
        """The batch, in memory of its own."""
        import torch

        from sightline.data.sample import PointBatch

        empty = _Filled(
            np.zeros((0, self.num_features), np.float32), np.zeros((0, 7), np.float32), np.zeros(0, np.int64)
        )
        points, boxes3d, labels = (
            torch.from_numpy(np.concatenate(parts)) for parts in zip(empty, *extras, strict=True)
        )
        return PointBatch(
            points=points,
            point_counts=tuple(len(extra.points) for extra in extras),
            boxes3d=boxes3d,
            labels=labels,
            box_counts=tuple(len(extra.labels) for extra in extras),
            sample_ids=request.sample_ids,
        )

    def _read(self, index: int) -> Array:
        """Points (P, F) of a frame, where asked for only those that its camera sees."""
        points = read_points(self.annotations.point_paths[index], num_features=self.num_features)
        return points_in_view(self.annotations, index, points) if self.in_view else points

    def _scene(self, index: int) -> PointScene:
        """A frame with all of its objects but DontCare, in order."""
        rows = self.annotations.rows_of(index)
        is_object = self.annotations.is_object[rows]
        return PointScene(
            points=self._read(index),
            boxes3d=self.annotations.boxes3d[rows][is_object].astype(np.float32),
            labels=self.annotations.labels[rows][is_object].astype(np.int64),
        )


class LidarTrainSource(_LidarSource):
    """Augmented training samples. Sample ``i`` of epoch ``e`` depends on (seed, e, i, pass) only.

    Args:
        annotations: Frames and their boxes.
        point_range: x, y, z of the lowest corner, then of the highest one, metres. Points are cut in x and y, and boxes
            whose centre is outside leave.
        augment: Random changes.
        seed: Seed of the run.
        epochs: Length of the run; needed where something is off in the last epochs.
        in_view: Whether points that the camera does not see are left out; all stay in frames without a picture.
        database: Objects of the training split that may be pasted; None: nothing is.
        num_features: F, numbers of a point in the files.

    Raises:
        ConfigError: If the settings contradict each other, or paste classes that the data has not.
    """

    def __init__(
        self,
        annotations: LidarAnnotations,
        point_range: Sequence[float],
        augment: PointAugmentConfig,
        *,
        seed: int = 0,
        epochs: int | None = None,
        in_view: bool = True,
        database: GroundTruthDatabase | None = None,
        num_features: int = NUM_FEATURES,
    ) -> None:
        super().__init__(annotations, point_range, in_view=in_view, num_features=num_features)
        if augment.close_epochs and epochs is None:
            raise ConfigError(
                f"close_epochs={augment.close_epochs} counts epochs from the end, but the run has no number of epochs. "
                "Give epochs, or use augment.close_epochs=0."
            )
        self.augment = augment
        self.seed = seed
        self.epochs = epochs
        self._paste: PasteObjects | None = None
        if database is not None and augment.paste is not None:
            if database.points.shape[1] != num_features:
                has = database.points.shape[1]
                raise ConfigError(f"the database has {has} numbers per point, but the clouds have {num_features}.")
            self._paste = PasteObjects(database, augment.paste, annotations.class_names)
        self.messages: tuple[str, ...] = ()
        """What a run should tell once."""
        if self._paste is not None:
            self.messages = (*self._paste.messages, *self._paste.messages_about(annotations.planes))

    def sampler(
        self,
        batch_size: int,
        *,
        rank: int = 0,
        num_processes: int = 1,
        drop_last: bool = False,
        one_long_epoch: bool = False,
    ) -> Sampler:
        """Shuffled batches with the seed of this source.

        Raises:
            ConfigError: If all epochs are asked for as one, but the run has no number of epochs.
        """
        if not one_long_epoch:
            return Sampler(
                len(self), batch_size, seed=self.seed, rank=rank, num_processes=num_processes, drop_last=drop_last
            )
        if self.epochs is None:
            raise ConfigError("one_long_epoch puts all epochs together, but the run has no number of epochs.")
        return LongEpochSampler(
            len(self), batch_size, epochs=self.epochs, seed=self.seed, rank=rank, num_processes=num_processes
        )

    def make(self, epoch: int, index: int, *, repeat: int = 0) -> _Filled:
        """Augmented sample ``index`` of ``epoch``."""
        scene = augment_scene(
            self._scene(index),
            self.augment,
            sample_generator(self.seed, epoch, index, repeat),
            closing=self.epochs is not None and epoch >= self.epochs - self.augment.close_epochs,
            database=self._paste,
            calibration=self.annotations.calibration(index),
            plane=self.annotations.planes[index],
            point_range=self.point_range,
        )
        return _Filled(scene.points, scene.boxes3d, scene.labels)


class LidarEvalSource(_LidarSource):
    """Every frame as it is, cut to the range, in the order of the file; with all its boxes of trained classes.

    Args:
        annotations: Frames and their boxes.
        point_range: As for training; boxes outside stay.
        in_view: As for training.
        num_features: As for training.

    Raises:
        ConfigError: If the range makes no sense.
    """

    def __init__(
        self,
        annotations: LidarAnnotations,
        point_range: Sequence[float],
        *,
        in_view: bool = True,
        num_features: int = NUM_FEATURES,
    ) -> None:
        super().__init__(annotations, point_range, in_view=in_view, num_features=num_features)

    def sampler(self, batch_size: int, *, rank: int = 0, num_processes: int = 1) -> Sampler:
        """Batches in the order of the frames."""
        return Sampler(len(self), batch_size, order="sequential", rank=rank, num_processes=num_processes)

    def make(self, epoch: int, index: int, *, repeat: int = 0) -> _Filled:
        """Frame ``index``; the same in every epoch."""
        scene = self._scene(index)
        scene = scene.keep_boxes(scene.labels >= 0)
        inside = np.flatnonzero(points_in_range(scene.points, self.point_range))
        points = scene.points.take(inside, axis=0)
        return _Filled(points, scene.boxes3d, scene.labels)
