"""Hue, saturation and value of an image, multiplied as if by tables of 256 numbers."""

from __future__ import annotations

import cv2
import numpy as np

from sightline.data.memory import Scratch
from sightline.data.transforms.image import Image

Gains = tuple[float, float, float]
"""Factors of hue, saturation and value."""

_LEVELS = np.arange(256, dtype=np.uint8)
_FEW_PIXELS = 96 * 96
"""Up to so many, the number of calls costs more than the pixels do."""
_CUT_FRACTION = -0.5 + 2.0**-14
"""Added before rounding to the nearest whole number, it makes that rounding down."""


def hsv_tables(gains: Gains) -> Image:
    """(3, 256) uint8: what hue, saturation and value become.

    Hue counts half degrees and goes round at 180; saturation and value stop at 255. Fractions are cut.
    """
    levels = np.arange(256, dtype=np.float64)
    products = np.multiply.outer(gains, levels)  # (3, 256)
    products[0] %= 180
    return np.minimum(products, 255).astype(np.uint8)


def changed_grey(level: int, gains: Gains) -> int:
    """What becomes of a grey pixel: it has no hue and no saturation."""
    return int(min(level * gains[2], 255))


def apply_hsv(image: Image, gains: Gains, scratch: Scratch) -> Image:
    """The image with other colours.

    Single tables on planes cost less than one triple table on interleaved pixels, unless there are few of these, and
    memory without gaps less than a part of a larger image.

    Args:
        image: (H, W, 3) RGB; rows may be apart.
        gains: Factors of hue, saturation and value.
        scratch: Keeps the memory of the result, which is good until the next call.

    Returns:
        (H, W, 3) RGB.
    """
    pixels = scratch.array("hsv", image.shape)
    tables = hsv_tables(gains)
    cv2.cvtColor(image, cv2.COLOR_RGB2HSV, dst=pixels)
    if image.shape[0] * image.shape[1] <= _FEW_PIXELS:
        cv2.LUT(pixels, np.ascontiguousarray(tables.T)[:, None], dst=pixels)
    else:
        hue, saturation, value = parts = list(scratch.array("hsv planes", (3, *image.shape[:2])))
        cv2.split(pixels, parts)
        _multiply(hue, gains[0], tables[0], num_levels=180)
        _multiply(saturation, gains[1], tables[1], num_levels=256)
        _multiply(value, gains[2], tables[2], num_levels=256)
        cv2.merge(parts, dst=pixels)
    cv2.cvtColor(pixels, cv2.COLOR_HSV2RGB, dst=pixels)
    return pixels


def _multiply(plane: Image, gain: float, table: Image, *, num_levels: int) -> None:
    """``plane = table[plane]``, by arithmetic where that gives the same for all levels: a third of the cost."""
    products = cv2.convertScaleAbs(_LEVELS[:num_levels], alpha=gain, beta=_CUT_FRACTION)
    if np.array_equal(products, table[:num_levels]):
        cv2.convertScaleAbs(plane, dst=plane, alpha=gain, beta=_CUT_FRACTION)
    else:
        cv2.LUT(plane, table, dst=plane)
