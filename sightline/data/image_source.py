"""Images with boxes, as the loader's workers make them: augmented for training, plain for evaluation.

Everything stays uint8 in arrays that OpenCV works on without the interpreter's lock, and ends in the planes of the
batch's slab. Boxes are computed in float64 and leave as float32.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from sightline.config.errors import ConfigError
from sightline.data.annotations import ImageAnnotations
from sightline.data.cache import RECENT_BYTES, CacheKind, open_images
from sightline.data.draws import IntArray, epoch_order, sample_generator
from sightline.data.image_reader import ImageReader
from sightline.data.memory import Scratch, keep_freed_memory
from sightline.data.sampler import BatchRequest, RectangularSampler, Sampler
from sightline.data.transforms.affine import (
    affine_matrix,
    boxes_worth_keeping,
    clip_boxes,
    flip_boxes,
    transform_boxes,
)
from sightline.data.transforms.augment import CanvasPlan, ImageAugmentConfig, SamplePlan, draw_plan
from sightline.data.transforms.colour import apply_hsv, changed_grey
from sightline.data.transforms.image import PAD_VALUE, Boxes, Image, mix_up, plan_letterbox, write_planes
from sightline.data.transforms.mosaic import Tile, border_of, paint, place, warp

if TYPE_CHECKING:  # torch is not needed to fill a batch, and takes a worker process a second to import
    from sightline.data.sample import ImageBatch, ImageGeometry, ImageSample
    from sightline.data.workers import Arrays, Layout

Labels = np.ndarray[Any, np.dtype[np.int64]]


class _Filled(NamedTuple):
    """What a worker gives back beside the pixels."""

    boxes_xyxy: np.ndarray[Any, np.dtype[np.float32]]
    labels: Labels
    image_hw: tuple[int, int] | None = None
    """Size of the image file, where the sample is one image that can be brought back to it."""
    scale_xy: tuple[float, float] = (1.0, 1.0)
    pad_xy: tuple[float, float] = (0.0, 0.0)

    @property
    def geometry(self) -> ImageGeometry | None:
        from sightline.data.sample import ImageGeometry

        return None if self.image_hw is None else ImageGeometry(self.image_hw, self.scale_xy, self.pad_xy)


def fitting_size(image_size: int, stride: int) -> int:
    """The multiple of the stride that is nearest to a size."""
    return max(1, round(image_size / stride)) * stride


class _ImageSource:
    """What training and evaluation share: batches of planes and boxes."""

    def __init__(self, annotations: ImageAnnotations, image_size: int) -> None:
        if image_size < 1:
            raise ConfigError(f"image_size must be at least 1, got {image_size}.")
        self.annotations = annotations
        self.image_size = image_size
        self._scratch = Scratch()
        self._has_crowds = bool(annotations.is_crowd.any())

    def __len__(self) -> int:
        """Number of images."""
        return len(self.annotations)

    def describe(self, index: int) -> str:
        """Path of an image."""
        return self.annotations.paths[index]

    def prepare_worker(self) -> None:
        """One thread per worker inside OpenCV, and an allocator that keeps memory; both for the whole process."""
        cv2.setNumThreads(1)
        keep_freed_memory()

    def layout(self, num_samples: int, input_hw: tuple[int, int] | None) -> Layout:
        """One array ``images``, (B, 3, H, W) uint8."""
        height, width = input_hw or (self.image_size, self.image_size)
        return {"images": ((num_samples, 3, height, width), np.uint8)}

    def fill(self, request: BatchRequest, slot: int, arrays: Arrays) -> _Filled:
        """Write the pixels of one sample and give back its boxes."""
        return self.write(request.epoch, request.sample_ids[slot], arrays["images"][slot])

    def write(self, epoch: int, index: int, planes: Image) -> _Filled:
        """Write sample ``index`` of ``epoch`` to (3, H, W) ``planes``."""
        raise NotImplementedError

    def collate(self, request: BatchRequest, arrays: Arrays, extras: Sequence[_Filled]) -> ImageBatch:
        """The batch; its images are a view of the slab."""
        import torch

        from sightline.data.sample import ImageBatch

        counts = np.array([len(extra.labels) for extra in extras], np.int64)
        boxes = np.concatenate([np.zeros((0, 4), np.float32), *(extra.boxes_xyxy for extra in extras)])
        labels = np.concatenate([np.zeros(0, np.int64), *(extra.labels for extra in extras)])
        return ImageBatch(
            images=torch.from_numpy(arrays["images"]),
            boxes_xyxy=torch.from_numpy(boxes),
            labels=torch.from_numpy(labels),
            image_index=torch.from_numpy(np.repeat(np.arange(len(extras), dtype=np.int64), counts)),
            sample_ids=request.sample_ids,
            geometries=tuple(extra.geometry for extra in extras),
        )

    def sample(self, epoch: int, index: int, input_hw: tuple[int, int] | None = None) -> ImageSample:
        """One sample alone, in memory of its own: to look at."""
        from sightline.data.sample import ImageSample

        ((shape, _),) = self.layout(1, input_hw).values()
        planes = np.empty(shape[1:], np.uint8)
        filled = self.write(epoch, index, planes)
        return ImageSample(index, planes, filled.boxes_xyxy, filled.labels, filled.geometry)

    def _true_boxes(self, index: int) -> tuple[Boxes, Labels]:
        """Boxes in pixels of the image file, and labels, without regions that stand for crowds of objects."""
        boxes, labels = self.annotations.boxes_of(index)
        if self._has_crowds:
            first, last = self.annotations.offsets[index : index + 2]
            is_object = ~self.annotations.is_crowd[first:last]
            boxes, labels = boxes[is_object], labels[is_object]
        return boxes, labels.astype(np.int64)


class ImageTrainSource(_ImageSource):
    """Augmented square training samples. Sample ``i`` of epoch ``e`` depends on (seed, e, i) only.

    Args:
        annotations: Images and their boxes.
        image_size: Side of the samples, pixels.
        augment: Random changes.
        seed: Seed of the run.
        epochs: Length of the run; needed where the last epochs are without mosaic.
        cache: Where resized images are kept; see ``open_images``.
        recent_bytes: Memory for recently read images where there is no other cache, in each worker process.
        cache_dir: Folder of the ``disk`` cache.

    Raises:
        ConfigError: If the settings contradict each other or the cache does not fit.
    """

    def __init__(
        self,
        annotations: ImageAnnotations,
        image_size: int,
        augment: ImageAugmentConfig,
        *,
        seed: int = 0,
        epochs: int | None = None,
        cache: CacheKind = "none",
        recent_bytes: int = RECENT_BYTES,
        cache_dir: Path | None = None,
    ) -> None:
        super().__init__(annotations, image_size)
        if augment.close_mosaic and epochs is None:
            raise ConfigError(
                f"close_mosaic={augment.close_mosaic} counts epochs from the end, but the run has no number of epochs. "
                "Set epochs, or close_mosaic=0."
            )
        self.augment = augment
        self.seed = seed
        self._first_epoch_without_mosaic = None if epochs is None else epochs - augment.close_mosaic
        self.reader = ImageReader(annotations, image_size)
        self._images = open_images(self.reader, cache=cache, recent_bytes=recent_bytes, folder=cache_dir)
        self._orders = _Orders(seed, len(annotations))

    def sampler(self, batch_size: int, *, rank: int = 0, num_processes: int = 1, drop_last: bool = False) -> Sampler:
        """Shuffled batches with the seed of this source."""
        return Sampler(
            len(self), batch_size, seed=self.seed, rank=rank, num_processes=num_processes, drop_last=drop_last
        )

    def plan(self, epoch: int, index: int) -> SamplePlan:
        """All random numbers of a sample."""

        def draw_partners(generator: np.random.Generator, count: int) -> tuple[int, ...]:
            if self.augment.partners == "uniform":
                return tuple(generator.integers(0, len(self), count).tolist())
            return self._orders.before(epoch, index, generator.integers(1, self._window + 1, count))

        last = self._first_epoch_without_mosaic
        return draw_plan(
            sample_generator(self.seed, epoch, index),
            self.augment,
            index,
            draw_partners,
            mosaic=last is None or epoch < last,
        )

    @property
    def _window(self) -> int:
        return min(self.augment.partner_window, len(self))

    def write(self, epoch: int, index: int, planes: Image) -> _Filled:
        """Write sample ``index`` of ``epoch`` to (3, S, S) ``planes``."""
        plan = self.plan(epoch, index)
        canvases = [plan.canvas] if plan.mixed_with is None else [plan.canvas, plan.mixed_with]
        with self._images.borrow([i for canvas in canvases for i in canvas.sample_ids]) as images:
            mine = images[: len(plan.canvas.sample_ids)]
            picture, rows, boxes, labels = self._render(plan.canvas, mine, "output")
            if plan.mixed_with is not None:
                rest = images[len(plan.canvas.sample_ids) :]
                other, _, other_boxes, other_labels = self._render(plan.mixed_with, rest, "mixed output")
                mix_up(picture, other, plan.mix_ratio, out=picture)
                rows = (0, self.image_size)
                boxes, labels = np.concatenate((boxes, other_boxes)), np.concatenate((labels, other_labels))
        boxes = self._finish(picture, rows, boxes, plan, planes)
        return _Filled(boxes.astype(np.float32), labels)

    def _render(
        self, plan: CanvasPlan, images: Sequence[Image], name: str
    ) -> tuple[Image, tuple[int, int], Boxes, Labels]:
        """The canvas brought to (S, S, 3), the range of its rows that are not grey, and the boxes left on it."""
        side = self.image_size
        canvas_hw = plan.canvas_hw(side)
        tiles = plan.tiles([image.shape[:2] for image in images], side)
        matrix = affine_matrix(plan.affine, canvas_hw, (side, side))
        if plan.affine.is_scale_and_shift:
            border = border_of(plan.affine)
            framed = self._scratch.array(name, (side + 2 * border, side + 2 * border, 3))
            rows = place(images, tiles, canvas_hw, matrix, framed, border)
            picture = framed[border : border + side, border : border + side]
        else:
            canvas = self._scratch.array("canvas", (*canvas_hw, 3))
            paint(images, tiles, canvas)
            picture = self._scratch.array(name, (side, side, 3))
            warp(canvas, plan.affine, picture)
            rows = (0, side)
        boxes, labels = self._boxes_on_canvas(plan.sample_ids, tiles)
        before = clip_boxes(boxes, canvas_hw)
        after = clip_boxes(transform_boxes(before, matrix), (side, side))
        keep = boxes_worth_keeping(before * plan.affine.scale, after)
        return picture, rows, after[keep], labels[keep]

    def _boxes_on_canvas(self, sample_ids: Sequence[int], tiles: Sequence[Tile]) -> tuple[Boxes, Labels]:
        """Boxes of all tiles, not cut by the canvas, and their labels; all at once, since most images have few."""
        all_boxes, all_labels = zip(*map(self._true_boxes, sample_ids), strict=True)
        moves = np.array([(*tile.hw[::-1] * 2, *tile.left_top * 2) for tile in tiles], np.float64)  # (tiles, 8)
        moves[:, :4] /= self.annotations.sizes_hw[list(sample_ids)][:, [1, 0, 1, 0]]
        moves = moves.repeat([len(labels) for labels in all_labels], axis=0)  # (N, 8)
        return np.concatenate(all_boxes) * moves[:, :4] + moves[:, 4:], np.concatenate(all_labels)

    def _finish(self, picture: Image, rows: tuple[int, int], boxes: Boxes, plan: SamplePlan, planes: Image) -> Boxes:
        """Colours, flips and planes. All rows but ``rows`` are grey: there only the level of grey is changed."""
        first, end = rows
        part = picture[first:end]
        background = PAD_VALUE
        if plan.hsv_gains is not None:
            background = changed_grey(PAD_VALUE, plan.hsv_gains)
            if part.size:
                part = apply_hsv(part, plan.hsv_gains, self._scratch)
        if plan.flip_lr or plan.flip_ud:
            if part.size:
                code = {(True, False): 1, (False, True): 0, (True, True): -1}[plan.flip_lr, plan.flip_ud]
                flipped = self._scratch.array("flipped", part.shape)
                cv2.flip(part, code, dst=flipped)
                part = flipped
            if plan.flip_ud:
                first = self.image_size - end
            boxes = flip_boxes(boxes, picture.shape[:2], left_right=plan.flip_lr, up_down=plan.flip_ud)
        write_planes(part, planes, self._scratch, left_top=(0, first), background=background)
        return boxes


class ImageEvalSource(_ImageSource):
    """Images as they are, resized with averaging and padded with grey; the same in every epoch.

    Args:
        annotations: Images and their boxes.
        image_size: Long side of the images after resizing, pixels.
        stride: Inputs are multiples of it.
        rectangular: Batches of similar shape with little padding, in place of squares.
        pad: Extra border of rectangular batches, in strides.
        upscale: Whether images smaller than ``image_size`` grow.
        cache: Where resized images are kept; see ``open_images``.
        cache_dir: Folder of the ``disk`` cache.

    Raises:
        ConfigError: If ``image_size`` is no multiple of ``stride`` or the cache does not fit.
    """

    def __init__(
        self,
        annotations: ImageAnnotations,
        image_size: int,
        *,
        stride: int = 32,
        rectangular: bool = True,
        pad: float = 0.5,
        upscale: bool = True,
        cache: CacheKind = "none",
        cache_dir: Path | None = None,
    ) -> None:
        super().__init__(annotations, image_size)
        if image_size % stride:
            raise ConfigError(
                f"image_size={image_size} is no multiple of the model's stride {stride}. "
                f"Use image_size={fitting_size(image_size, stride)}."
            )
        self.stride = stride
        self.rectangular = rectangular
        self.pad = pad
        reader = ImageReader(annotations, image_size, area=True, upscale=upscale)
        self._images = open_images(reader, cache=cache, recent_bytes=0, folder=cache_dir)

    def sampler(self, batch_size: int, *, rank: int = 0, num_processes: int = 1) -> Sampler:
        """Batches in a fixed order: by shape if rectangular, else as the data set has them."""
        if not self.rectangular:
            return Sampler(len(self), batch_size, order="sequential", rank=rank, num_processes=num_processes)
        return RectangularSampler(
            self.annotations.sizes_hw,
            batch_size,
            image_size=self.image_size,
            stride=self.stride,
            pad=self.pad,
            rank=rank,
            num_processes=num_processes,
        )

    def write(self, epoch: int, index: int, planes: Image) -> _Filled:
        """Write image ``index`` to (3, H, W) ``planes``, in the middle."""
        with self._images.borrow([index]) as (image,):
            fit = plan_letterbox(image.shape[:2], planes.shape[1:], upscale=False)
            assert fit.resized_hw == image.shape[:2], "inputs are at least as large as the resized images"
            write_planes(image, planes, self._scratch, left_top=fit.left_top, background=PAD_VALUE)
            height, width = image.shape[:2]
        boxes, labels = self._true_boxes(index)
        image_hw: tuple[int, int] = tuple(self.annotations.sizes_hw[index].tolist())
        scale_xy = (width / image_hw[1], height / image_hw[0])
        boxes = boxes * (scale_xy * 2) + fit.left_top * 2
        return _Filled(boxes.astype(np.float32), labels, image_hw, scale_xy, (float(fit.left_top[0]), fit.left_top[1]))


class _Orders:
    """Who came before whom in an epoch, for partners from the neighbourhood."""

    def __init__(self, seed: int, length: int) -> None:
        self._seed, self._length = seed, length
        self._known: dict[int, tuple[IntArray, IntArray]] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[_Orders], tuple[int, int]]:
        return _Orders, (self._seed, self._length)

    def before(self, epoch: int, index: int, distances: IntArray) -> tuple[int, ...]:
        """The samples that come ``distances`` before sample ``index``; an epoch's beginning follows its end."""
        with self._lock:
            if epoch not in self._known:
                order = epoch_order(self._seed, epoch, self._length)
                places = np.empty_like(order)
                places[order] = np.arange(self._length)
                kept = list(self._known.items())[-1:]  # prefetching crosses the end of an epoch
                self._known = dict([*kept, (epoch, (order, places))])
            order, places = self._known[epoch]
        return tuple(order[(places[index] - distances) % self._length].tolist())
