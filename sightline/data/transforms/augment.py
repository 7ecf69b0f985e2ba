"""What augmentation does to a training image: its settings, and the numbers drawn for one sample.

Drawing and doing are apart: ``draw_plan`` turns a generator into a ``SamplePlan`` of plain numbers without looking
at a pixel; everything after it is the same for the same plan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from sightline.config.base import Config
from sightline.data.transforms.affine import Affine
from sightline.data.transforms.mosaic import Tile, mosaic4_tiles, mosaic9_tiles

Share = Annotated[float, Field(ge=0, le=1)]
DrawPartners = Callable[[np.random.Generator, int], tuple[int, ...]]
"""Generator and count -> indices of other images of the data set."""


class ImageAugmentConfig(Config):
    """Random changes of training images. The defaults suit a detector trained from scratch."""

    mosaic: Share = 1.0
    """Probability that a sample is put together from several images."""
    mosaic9: Share = 0.0
    """Share of the mosaics that have nine images in place of four."""
    mixup: Share = 0.0
    """Probability that a mosaic is mixed with a second one."""
    mixup_beta: Annotated[float, Field(gt=0)] = 8.0
    """The share of the first image is drawn from Beta(b, b)."""
    close_mosaic: NonNegativeInt = 0
    """Without mosaic (and mix-up) in this many last epochs."""
    partners: Literal["uniform", "nearby"] = "uniform"
    """Other images of a mosaic: ``uniform`` draws from the whole data set; ``nearby`` from those that came shortly
    before in the shuffled order of the epoch, so that a data set larger than memory is read once per epoch, not
    four times. Both are uniform for a single sample; nearby, the samples of a batch share images more often."""
    partner_window: PositiveInt = 100
    """How far back ``nearby`` looks, in samples."""
    hsv_h: Share = 0.015
    """Hue is multiplied by 1 +- this."""
    hsv_s: Share = 0.7
    """Saturation is multiplied by 1 +- this."""
    hsv_v: Share = 0.4
    """Value is multiplied by 1 +- this."""
    degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Rotation by +- this angle."""
    translate: Share = 0.1
    """Shift by +- this share of the image."""
    scale: tuple[float, float] = (0.5, 1.5)
    """Smallest and largest factor of size."""
    shear: Annotated[float, Field(ge=0, lt=90)] = 0.0
    """Shear by +- this angle in degrees, along both axes."""
    perspective: Annotated[float, Field(ge=0, le=0.001)] = 0.0
    """Perspective of +- this much per pixel, along both axes."""
    flip_lr: Share = 0.5
    """Probability of mirroring left and right."""
    flip_ud: Share = 0.0
    """Probability of mirroring up and down."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.scale
        if not 0 < low <= high <= 10:
            raise ValueError(f"scale must be (smallest, largest) with 0 < smallest <= largest <= 10, got {self.scale}.")
        return self

    def without_effect(self) -> dict[str, str]:
        """What belongs to mosaics that are never made."""
        idle = {}
        if self.mixup == 0:
            idle["mixup_beta"] = "nothing is mixed (augment.mixup=0)"
        if self.partners == "uniform":
            idle["partner_window"] = "it belongs to augment.partners=nearby"
        if self.mosaic == 0:
            keys = ("mosaic9", "mixup", "mixup_beta", "close_mosaic", "partners", "partner_window")
            idle |= dict.fromkeys(keys, "there are no mosaics (augment.mosaic=0)")
        return idle


@dataclass(frozen=True, slots=True)
class CanvasPlan:
    """One image or mosaic: which images, where, and how the canvas comes to the output."""

    sample_ids: tuple[int, ...]
    """One image, four, or nine, in the order of the tiles."""
    corner_xy: tuple[float, float]
    """Drawn numbers in [0, 1): of the centre of four, or of the crop of nine."""
    affine: Affine

    def canvas_hw(self, image_size: int) -> tuple[int, int]:
        """A mosaic's canvas is twice as large as the output."""
        side = image_size if len(self.sample_ids) == 1 else 2 * image_size
        return side, side

    def tiles(self, sizes_hw: list[tuple[int, int]], image_size: int) -> list[Tile]:
        """Places of the images, which have their long side resized to ``image_size``."""
        u, v = self.corner_xy
        if len(sizes_hw) == 1:
            height, width = sizes_hw[0]
            return [Tile(((image_size - width) // 2, (image_size - height) // 2), sizes_hw[0])]
        if len(sizes_hw) == 4:
            return mosaic4_tiles(sizes_hw, (int((0.5 + u) * image_size), int((0.5 + v) * image_size)))
        return mosaic9_tiles(sizes_hw, image_size, (int(u * image_size), int(v * image_size)))


@dataclass(frozen=True, slots=True)
class SamplePlan:
    """All numbers drawn for one training sample."""

    canvas: CanvasPlan
    mixed_with: CanvasPlan | None
    mix_ratio: float
    """Share of the first canvas; 1 without a second."""
    hsv_gains: tuple[float, float, float] | None
    """Factors of hue, saturation and value; None where colours stay."""
    flip_lr: bool
    flip_ud: bool


def draw_affine(generator: np.random.Generator, config: ImageAugmentConfig) -> Affine:
    """Perspective, angle, scale, shear and shift, each uniform in its range."""

    def both(limit: float) -> tuple[float, float]:
        return generator.uniform(-limit, limit), generator.uniform(-limit, limit)

    perspective_xy = both(config.perspective)
    angle_degrees = generator.uniform(-config.degrees, config.degrees)
    scale = generator.uniform(*config.scale)
    shear_degrees_xy = both(config.shear)
    shift_x, shift_y = both(config.translate)
    return Affine(perspective_xy, angle_degrees, scale, shear_degrees_xy, (0.5 + shift_x, 0.5 + shift_y))


def draw_plan(
    generator: np.random.Generator,
    config: ImageAugmentConfig,
    sample_id: int,
    draw_partners: DrawPartners,
    *,
    mosaic: bool = True,
) -> SamplePlan:
    """Decide everything about a training sample.

    Args:
        generator: Of this sample.
        config: Probabilities and ranges.
        sample_id: The image that the sample is about.
        draw_partners: Where the other images of a mosaic come from.
        mosaic: False in the epochs without mosaic.
    """
    is_mosaic = generator.random() < config.mosaic and mosaic
    canvas = _draw_canvas(generator, config, sample_id, draw_partners, is_mosaic)
    mixed_with, mix_ratio = None, 1.0
    if is_mosaic and generator.random() < config.mixup:
        (other,) = draw_partners(generator, 1)
        mixed_with = _draw_canvas(generator, config, other, draw_partners, is_mosaic)
        mix_ratio = generator.beta(config.mixup_beta, config.mixup_beta)
    ranges = (config.hsv_h, config.hsv_s, config.hsv_v)
    hue, saturation, value = (1 + generator.uniform(-limit, limit) for limit in ranges)
    return SamplePlan(
        canvas=canvas,
        mixed_with=mixed_with,
        mix_ratio=mix_ratio,
        hsv_gains=(hue, saturation, value) if any(ranges) else None,
        flip_lr=generator.random() < config.flip_lr,
        flip_ud=generator.random() < config.flip_ud,
    )


def _draw_canvas(
    generator: np.random.Generator,
    config: ImageAugmentConfig,
    sample_id: int,
    draw_partners: DrawPartners,
    is_mosaic: bool,
) -> CanvasPlan:
    sample_ids: tuple[int, ...] = (sample_id,)
    if is_mosaic:
        sample_ids += draw_partners(generator, 8 if generator.random() < config.mosaic9 else 3)
    return CanvasPlan(sample_ids, (generator.random(), generator.random()), draw_affine(generator, config))
