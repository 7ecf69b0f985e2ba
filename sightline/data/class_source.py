"""Images with a class, as the loader's workers make them: augmented for training, the middle for evaluation.

Everything stays uint8 in three channels until it is written to the planes of the batch's slab; of grey inputs one
channel is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from sightline.config.errors import ConfigError
from sightline.data.cache import CacheKind, Images, open_images
from sightline.data.class_labels import ClassLabels
from sightline.data.decode import decode_image
from sightline.data.draws import sample_generator
from sightline.data.image_reader import WholeImageReader
from sightline.data.memory import Scratch, keep_freed_memory
from sightline.data.sampler import BatchRequest, RepeatedSampler, Sampler
from sightline.data.transforms.class_augment import ClassAugmentConfig, draw_view, render_view
from sightline.data.transforms.crop import centre_view
from sightline.data.transforms.image import Image, write_planes
from sightline.data.transforms.mixing import MixPlan, draw_mix, mix

if TYPE_CHECKING:  # torch is not needed to fill a batch, and takes a worker process a second to import
    from sightline.data.sample import ClassBatch
    from sightline.data.workers import Arrays, Layout

Channels = Literal[1, 3]


class _ClassImageSource:
    """What training and evaluation share: batches of planes and labels."""

    def __init__(
        self,
        labels: ClassLabels,
        image_size: int,
        *,
        channels: Channels | None,
        cache: CacheKind,
        cache_dir: Path | None,
    ) -> None:
        if image_size < 1:
            raise ConfigError(f"image_size must be at least 1, got {image_size}.")
        self.labels = labels
        self.image_size = image_size
        self.channels: int = labels.channels if channels is None else channels
        self._scratch = Scratch()
        self._images: Images | None = None
        if cache != "none" and labels.packed is None:
            if (labels.sizes_hw < 1).any():
                raise ConfigError(
                    f"data.cache={cache} needs the sizes of all images, but their headers were not read. "
                    "Use data.cache=none, or let the headers be read."
                )
            self._images = open_images(WholeImageReader(labels), cache=cache, recent_bytes=0, folder=cache_dir)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def describe(self, index: int) -> str:
        """Path of an image, and its number in it where a file holds many."""
        return self.labels.describe(index)

    def prepare_worker(self) -> None:
        """One thread per worker inside OpenCV, and an allocator that keeps memory; both for the whole process."""
        cv2.setNumThreads(1)
        keep_freed_memory()

    def layout(self, num_samples: int, input_hw: tuple[int, int] | None) -> Layout:
        """``images`` (B, C, S, S) uint8, ``labels`` and ``labels_b`` (B,) int64, ``shares`` (B,) float32."""
        height, width = input_hw or (self.image_size, self.image_size)
        return {
            "images": ((num_samples, self.channels, height, width), np.uint8),
            "labels": ((num_samples,), np.int64),
            "labels_b": ((num_samples,), np.int64),
            "shares": ((num_samples,), np.float32),
        }

    def fill(self, request: BatchRequest, slot: int, arrays: Arrays) -> None:
        """Write the pixels, labels and share of one sample."""
        index = request.sample_ids[slot]
        repeat = 0 if request.repeats is None else request.repeats[slot]
        other, share = self.write(request.epoch, index, arrays["images"][slot], repeat=repeat)
        arrays["labels"][slot] = self.labels.labels[index]
        arrays["labels_b"][slot] = self.labels.labels[other]
        arrays["shares"][slot] = share

    def write(self, epoch: int, index: int, planes: Image, *, repeat: int = 0) -> tuple[int, float]:
        """Write sample ``index`` of ``epoch`` to (C, S, S) ``planes``.

        Returns:
            Index of the image that was mixed in, ``index`` itself where there is none; and the share of the first.
        """
        raise NotImplementedError

    def collate(self, request: BatchRequest, arrays: Arrays, extras: Sequence[Any]) -> ClassBatch:
        """The batch; its tensors are views of the slab."""
        import torch

        from sightline.data.sample import ClassBatch

        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return ClassBatch(**tensors, sample_ids=request.sample_ids)

    def _borrow(self, index: int) -> AbstractContextManager[list[Image]]:
        """Context in which one image (H, W, 3) may be read, not written to."""
        if self._images is not None:
            borrowed: AbstractContextManager[list[Image]] = self._images.borrow([index])
            return borrowed
        packed = self.labels.packed
        if packed is None:
            return nullcontext([decode_image(self.labels.paths[index])])
        image = packed.pixels[packed.rows[index]]
        return nullcontext([image if image.shape[2] == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)])

    def _finish(self, view: Image, planes: Image) -> None:
        """Write a view to the planes; as its luma (ITU-R 601) where there is one plane."""
        if self.channels == 1:
            np.copyto(planes[0], cv2.cvtColor(view, cv2.COLOR_RGB2GRAY))
        else:
            write_planes(view, planes, self._scratch)


class ClassTrainSource(_ClassImageSource):
    """Augmented square training samples. Sample ``i`` of epoch ``e`` depends on (seed, e, i, view) only.

    Args:
        labels: Images and their classes.
        image_size: Side of the samples, pixels.
        augment: Random changes.
        seed: Seed of the run.
        channels: 3 for RGB, 1 for grey; as the images are by their format where left out.
        mean_rgb: Mean colour, 0 to 255: what covers erased parts.
        cache: Where decoded images are kept, at their own size; packed images need none. See ``open_images``.
        cache_dir: Folder of the ``disk`` cache.

    Raises:
        ConfigError: If the settings make no sense or the cache does not fit.
    """

    def __init__(
        self,
        labels: ClassLabels,
        image_size: int,
        augment: ClassAugmentConfig,
        *,
        seed: int = 0,
        channels: Channels | None = None,
        mean_rgb: tuple[float, float, float] = (123.675, 116.28, 103.53),
        cache: CacheKind = "none",
        cache_dir: Path | None = None,
    ) -> None:
        super().__init__(labels, image_size, channels=channels, cache=cache, cache_dir=cache_dir)
        self.augment = augment
        self.seed = seed
        red, green, blue = (round(value) for value in mean_rgb)
        self._mean_rgb = (red, green, blue)

    def sampler(self, batch_size: int, *, rank: int = 0, num_processes: int = 1, drop_last: bool = False) -> Sampler:
        """Shuffled batches with the seed of this source; with several views of each image where that is on."""
        if self.augment.repeats == 1:
            return Sampler(
                len(self), batch_size, seed=self.seed, rank=rank, num_processes=num_processes, drop_last=drop_last
            )
        return RepeatedSampler(
            len(self),
            batch_size,
            repeats=self.augment.repeats,
            seed=self.seed,
            rank=rank,
            num_processes=num_processes,
            drop_last=drop_last,
        )

    def write(self, epoch: int, index: int, planes: Image, *, repeat: int = 0) -> tuple[int, float]:
        """Write view ``repeat`` of sample ``index`` of ``epoch`` to (C, S, S) ``planes``; see the base."""
        generator = sample_generator(self.seed, epoch, index, repeat)
        plan = self._draw_mix(generator)
        view = self._render(generator, index, "view")
        share = 1.0
        if plan is not None:
            share = mix(view, self._render(generator, plan.partner, "other view"), plan)
        self._finish(view, planes)
        return index if plan is None else plan.partner, share

    def _draw_mix(self, generator: np.random.Generator) -> MixPlan | None:
        config = self.augment
        return draw_mix(
            generator,
            len(self),
            probability=config.mix,
            mixup_alpha=config.mixup_alpha,
            cutmix_alpha=config.cutmix_alpha,
            cutmix_share=config.cutmix_share,
        )

    def _render(self, generator: np.random.Generator, index: int, name: str) -> Image:
        with self._borrow(index) as (image,):
            plan = draw_view(generator, self.augment, image.shape[:2], self.image_size)
            return render_view(image, plan, self.image_size, self._scratch, name, mean_rgb=self._mean_rgb)


class ClassEvalSource(_ClassImageSource):
    """The middle of every image; the same in every epoch.

    Args:
        labels: Images and their classes.
        image_size: Side of the inputs, pixels.
        crop_ratio: The short side is resized to ``image_size / crop_ratio``, and the middle is taken; in (0, 1].
        channels: As for training.
        cache: As for training.
        cache_dir: As for training.

    Raises:
        ConfigError: If the settings make no sense or the cache does not fit.
    """

    def __init__(
        self,
        labels: ClassLabels,
        image_size: int,
        *,
        crop_ratio: float = 0.875,
        channels: Channels | None = None,
        cache: CacheKind = "none",
        cache_dir: Path | None = None,
    ) -> None:
        super().__init__(labels, image_size, channels=channels, cache=cache, cache_dir=cache_dir)
        if not 0 < crop_ratio <= 1:
            raise ConfigError(f"crop_ratio must be above 0 and at most 1, got {crop_ratio}.")
        self.crop_ratio = crop_ratio

    def sampler(self, batch_size: int, *, rank: int = 0, num_processes: int = 1) -> Sampler:
        """Batches in one order that mixes the classes, so that any part of them is like the whole."""
        return Sampler(len(self), batch_size, rank=rank, num_processes=num_processes)

    def write(self, epoch: int, index: int, planes: Image, *, repeat: int = 0) -> tuple[int, float]:
        """Write the middle of image ``index`` to (C, S, S) ``planes``; see the base."""
        size = self.image_size
        with self._borrow(index) as (image,):
            view = self._scratch.array("view", (size, size, 3))
            centre_view(image, size, self.crop_ratio, self._scratch, view)
        self._finish(view, planes)
        return index, 1.0
