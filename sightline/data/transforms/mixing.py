"""Two training images in one: mix-up and cut-mix, with the share that each label gets.

The second image is drawn from the whole data set by the sample's own generator, as the partners of mosaics are. So a
mixed sample depends on (seed, epoch, index) alone, not on who else is in the batch, and a resumed run, or one of more
processes, mixes the same.

References:
    Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
    Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sightline.data.transforms.image import Image, mix_up


@dataclass(frozen=True, slots=True)
class MixPlan:
    """What one sample is mixed with."""

    partner: int
    """Index of the second image in the data set."""
    share: float
    """Wanted share of the first image, in [0, 1]."""
    centre_xy: tuple[float, float] | None
    """Cut-mix: middle of the part that the second image takes, in [0, 1) of width and height. None: mix-up."""


def draw_mix(
    generator: np.random.Generator,
    num_images: int,
    *,
    probability: float,
    mixup_alpha: float,
    cutmix_alpha: float,
    cutmix_share: float,
) -> MixPlan | None:
    """Decide whether, how and with whom a sample is mixed; None where it is not.

    Args:
        generator: Of this sample.
        num_images: Of the data set.
        probability: Of mixing at all.
        mixup_alpha: The share of the first image is drawn from Beta(alpha, alpha); 0: no mix-up.
        cutmix_alpha: The same for cut-mix.
        cutmix_share: Where both are on: share of the mixed samples that are cut-mixed.
    """
    if generator.random() >= probability or not (mixup_alpha or cutmix_alpha):
        return None
    cuts = cutmix_alpha > 0 and (mixup_alpha == 0 or generator.random() < cutmix_share)
    alpha = cutmix_alpha if cuts else mixup_alpha
    partner = int(generator.integers(num_images))
    share = float(generator.beta(alpha, alpha))
    return MixPlan(partner, share, (generator.random(), generator.random()) if cuts else None)


def mix(first: Image, second: Image, plan: MixPlan) -> float:
    """Mix the second image into the first, in place.

    Args:
        first: (H, W, 3).
        second: (H, W, 3).
        plan: How.

    Returns:
        The share that the first label gets: the wanted one for mix-up; for cut-mix the share of pixels that are left,
        because the part that is cut out may reach over the edge.
    """
    if plan.centre_xy is None:
        mix_up(first, second, plan.share, out=first)
        return plan.share
    height, width = int(first.shape[0]), int(first.shape[1])
    x0, y0, x1, y1 = cut_box((height, width), plan.share, plan.centre_xy)
    first[y0:y1, x0:x1] = second[y0:y1, x0:x1]
    return 1 - (x1 - x0) * (y1 - y0) / (height * width)


def cut_box(hw: tuple[int, int], share: float, centre_xy: tuple[float, float]) -> tuple[int, int, int, int]:
    """The part (x0, y0, x1, y1) that the second image takes: the aspect of the image, an area of ``1 - share``.

    Its middle is any pixel, and what reaches over the edge is lost (Yun et al., section 3.1).
    """
    height, width = hw
    side = math.sqrt(1 - share)
    wide, tall = int(width * side), int(height * side)
    x, y = int(centre_xy[0] * width), int(centre_xy[1] * height)
    x0, y0 = max(x - wide // 2, 0), max(y - tall // 2, 0)
    return x0, y0, min(x + wide // 2, width), min(y + tall // 2, height)
