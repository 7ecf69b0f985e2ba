"""What augmentation does to the training images of a classifier: its settings, and the numbers drawn for one view.

Drawing and doing are apart, as for detectors: ``draw_view`` turns a generator and the size of an image into plain
numbers; ``render_view`` is the same for the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self

import cv2
import numpy as np
from pydantic import Field, FiniteFloat, NonNegativeInt, model_validator

from sightline.config.base import Config
from sightline.data.memory import Scratch
from sightline.data.transforms.crop import Box, centre_view, draw_part, middle_part, resized_part, shift
from sightline.data.transforms.image import Image
from sightline.data.transforms.randaugment import MAX_MAGNITUDE, Change, apply_changes, draw_changes

Share = Annotated[float, Field(ge=0, le=1)]
Concentration = Annotated[FiniteFloat, Field(ge=0)]


class ClassAugmentConfig(Config):
    """Random changes of training images. The defaults are those of ImageNet's common recipe."""

    crop: Literal["resized", "padded", "middle"] = "resized"
    """``resized`` takes a part of random area and aspect; ``padded`` moves the image by up to ``pad`` pixels, black
    behind it (CIFAR's usual way); ``middle`` takes the middle square, where nothing is random."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Of ``resized``: smallest and largest share of the image's area."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Of ``resized``: smallest and largest width over height of the part."""
    pad: NonNegativeInt = 4
    """Of ``padded``: pixels of the input."""
    flip_lr: Share = 0.5
    """Probability of mirroring left and right."""
    flip_ud: Share = 0.0
    """Probability of mirroring up and down."""
    randaugment_ops: Annotated[int, Field(ge=0, le=10)] = 0
    """RandAugment: operations in a row; 0 turns it off, 2 is usual."""
    randaugment_magnitude: Annotated[float, Field(ge=0, le=MAX_MAGNITUDE)] = 9.0
    """RandAugment: strength of all operations, 0 to 30."""
    erase: Share = 0.0
    """Random erasing: probability that a rectangle is covered."""
    erase_scale: tuple[float, float] = (0.02, 0.33)
    """Random erasing: smallest and largest share of the area."""
    erase_ratio: tuple[float, float] = (0.3, 3.3)
    """Random erasing: smallest and largest width over height."""
    erase_fill: Literal["mean", "noise"] = "mean"
    """Random erasing: cover with the mean colour, which is 0 after normalising, or with noise."""
    mix: Share = 1.0
    """Probability that a sample is mixed with another one, where mix-up or cut-mix is on."""
    mixup_alpha: Concentration = 0.0
    """Mix-up: the share of an image is drawn from Beta(alpha, alpha); 0 turns it off, 0.2 is usual."""
    cutmix_alpha: Concentration = 0.0
    """Cut-mix: the same; 1 is usual."""
    cutmix_share: Share = 0.5
    """Share of the mixed samples that are cut-mixed, where both are on."""
    repeats: Annotated[int, Field(ge=1, le=16)] = 1
    """Repeated augmentation: views of every image in a batch. An epoch keeps its length and sees fewer images."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, largest in (("crop_scale", 1.0), ("erase_scale", 1.0), ("crop_ratio", 100.0), ("erase_ratio", 100.0)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= largest:
                wanted = f"(smallest, largest) with 0 < smallest <= largest <= {largest:g}"
                raise ValueError(f"{name} must be {wanted}, got {(low, high)}.")
        return self

    def without_effect(self) -> dict[str, str]:
        """What belongs to ways that are not taken."""
        idle: dict[str, str] = {}
        if self.crop != "resized":
            idle |= dict.fromkeys(("crop_scale", "crop_ratio"), f"it belongs to augment.crop=resized, not {self.crop}")
        if self.crop != "padded":
            idle["pad"] = f"it belongs to augment.crop=padded, not {self.crop}"
        if self.randaugment_ops == 0:
            idle["randaugment_magnitude"] = "RandAugment is off (augment.randaugment_ops=0)"
        if self.erase == 0:
            keys = ("erase_scale", "erase_ratio", "erase_fill")
            idle |= dict.fromkeys(keys, "random erasing is off (augment.erase=0)")
        if not (self.mixup_alpha or self.cutmix_alpha):
            idle["mix"] = "mix-up and cut-mix are off (augment.mixup_alpha=0, augment.cutmix_alpha=0)"
        if not (self.mixup_alpha and self.cutmix_alpha):
            idle["cutmix_share"] = "it chooses between mix-up and cut-mix, and not both are on"
        return idle


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """All numbers drawn for one view of one image."""

    part: Box | None
    """Part of the image that fills the view; None: the middle."""
    shift_xy: tuple[int, int]
    """Pixels of the view that the picture moves right and down."""
    flip_lr: bool
    flip_ud: bool
    changes: tuple[Change, ...]
    """Of RandAugment."""
    erased: Box | None
    """Part of the view that is covered."""
    noise_seed: int | None
    """What the noise in it is drawn from; None for the mean colour."""


def draw_view(
    generator: np.random.Generator, config: ClassAugmentConfig, image_hw: tuple[int, int], size: int
) -> ViewPlan:
    """Decide everything about one view.

    Args:
        generator: Of this sample.
        config: Probabilities and ranges.
        image_hw: Height and width of the image.
        size: Side of the view.
    """
    part, shift_xy = None, (0, 0)
    if config.crop == "resized":
        drawn = draw_part(generator, image_hw, config.crop_scale, config.crop_ratio)
        part = middle_part(image_hw, config.crop_ratio) if drawn is None else drawn
    elif config.crop == "padded":
        right, down = generator.integers(-config.pad, config.pad + 1, 2).tolist()
        shift_xy = (right, down)
    flip_lr, flip_ud = generator.random() < config.flip_lr, generator.random() < config.flip_ud
    changes = draw_changes(generator, config.randaugment_ops, config.randaugment_magnitude)
    erased = None
    if generator.random() < config.erase:
        erased = draw_part(generator, (size, size), config.erase_scale, config.erase_ratio)
    has_noise = erased is not None and config.erase_fill == "noise"
    noise_seed = int(generator.integers(2**63)) if has_noise else None
    return ViewPlan(part, shift_xy, bool(flip_lr), bool(flip_ud), changes, erased, noise_seed)


def render_view(
    image: Image, plan: ViewPlan, size: int, scratch: Scratch, name: str, *, mean_rgb: tuple[int, int, int]
) -> Image:
    """Make a view.

    Args:
        image: (H, W, 3), RGB; not written to.
        plan: The drawn numbers.
        size: Side of the view.
        scratch: Memory of the calling thread.
        name: Of the view's memory; what is in it stays until the same name is asked for again.
        mean_rgb: What covers erased parts.

    Returns:
        (size, size, 3) that may be written to.
    """
    view = scratch.array(name, (size, size, 3))
    if plan.part is not None:
        resized_part(image, plan.part, size, view)
    elif plan.shift_xy == (0, 0):
        centre_view(image, size, 1.0, scratch, view)
    else:
        still = centre_view(image, size, 1.0, scratch, scratch.array("still", (size, size, 3)))
        shift(still, *plan.shift_xy, view)
    if plan.flip_lr or plan.flip_ud:
        code = {(True, False): 1, (False, True): 0, (True, True): -1}[plan.flip_lr, plan.flip_ud]
        flipped = scratch.array(f"flipped {name}", view.shape)
        cv2.flip(view, code, dst=flipped)
        view = flipped
    changed = apply_changes(view, plan.changes)
    if changed is not view:
        np.copyto(view, changed)
    if plan.erased is not None:
        x0, y0, x1, y1 = plan.erased
        if plan.noise_seed is None:
            view[y0:y1, x0:x1] = mean_rgb
        else:
            noise = np.random.Generator(np.random.Philox(key=plan.noise_seed))
            view[y0:y1, x0:x1] = noise.integers(0, 256, (y1 - y0, x1 - x0, 3), np.uint8)
    return view
