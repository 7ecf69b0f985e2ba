"""RandAugment: a few changes in a row, drawn from fourteen, all of one strength. (H, W, 3) uint8 RGB.

Strengths are those of torchvision's documentation, 31 steps: shear up to 0.3, shift up to 150/331 of the side, rotation
up to 30 degrees, brightness, colour, contrast and sharpness by factors of 1 +- 0.9, posterize down to 4 bits, solarize
from 255 down to 0. Shear, shift, rotation and the four factors go either way. Geometry takes the nearest pixel and
leaves black behind.

Reference:
    Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", NeurIPS 2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import cv2
import numpy as np

from sightline.data.transforms.image import Image

MAX_MAGNITUDE = 30

Change = tuple[str, float]
"""Name of an operation and its strength, sign included, in the units of its function."""

Matrix = np.ndarray[Any, np.dtype[np.float64]]


def _blend(image: Image, other: Any, factor: float) -> Image:
    """``factor`` of the image and the rest of another one, cut to 0..255 and rounded down; factors may be above 1."""
    mixed = factor * image.astype(np.float32) + (1 - factor) * np.asarray(other, np.float32)
    return mixed.clip(0, 255).astype(np.uint8)


def _look_up(image: Image, table: Any) -> Image:
    """Levels by a table, (256,) or (256, 3)."""
    result: Any = cv2.LUT(image, np.asarray(table, np.uint8).reshape(256, 1, -1))
    return cast(Image, result)


def _grey(image: Image) -> Any:
    """(H, W) float32 luma of ITU-R 601-2, rounded down."""
    weights = np.array((0.2989, 0.587, 0.114), np.float32)
    return np.floor(image.astype(np.float32) @ weights)


_LEVELS = np.arange(256, dtype=np.float64)


def brightness(image: Image, change: float) -> Image:
    """Levels times ``1 + change``."""
    return _look_up(image, (_LEVELS * (1 + change)).clip(0, 255))


def contrast(image: Image, change: float) -> Image:
    """Distances from the mean grey times ``1 + change``."""
    mean = float(_grey(image).mean())
    return _look_up(image, ((1 + change) * _LEVELS - change * mean).clip(0, 255))


def colour(image: Image, change: float) -> Image:
    """Distances from the pixel's own grey times ``1 + change``."""
    return _blend(image, _grey(image)[..., None], 1 + change)


_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


def sharpness(image: Image, change: float) -> Image:
    """Distances from a smoothed image times ``1 + change``; the outermost pixels stay."""
    if min(image.shape[:2]) < 3:
        return image
    smooth = image.astype(np.float32)
    inner = cv2.filter2D(smooth, -1, _SMOOTH)[1:-1, 1:-1]
    smooth[1:-1, 1:-1] = np.rint(inner)
    return _blend(image, smooth, 1 + change)


def posterize(image: Image, bits: float) -> Image:
    """Only the upper ``bits`` of each level."""
    mask = 256 - 2 ** (8 - int(bits))
    return _look_up(image, np.arange(256) & mask)


def solarize(image: Image, threshold: float) -> Image:
    """Levels from ``threshold`` on are inverted."""
    return _look_up(image, np.where(threshold <= _LEVELS, 255 - _LEVELS, _LEVELS))


def autocontrast(image: Image, _: float = 0.0) -> Image:
    """Each channel is stretched to the whole range; one of a single level stays."""
    flat = image.reshape(-1, 3)
    low, high = flat.min(axis=0).astype(np.float64), flat.max(axis=0).astype(np.float64)
    span = high - low
    stretched = (_LEVELS[:, None] - low) * (255 / np.where(span == 0, 1, span))
    return _look_up(image, np.where(span == 0, _LEVELS[:, None], stretched).clip(0, 255))


def equalize(image: Image, _: float = 0.0) -> Image:
    """Each channel's levels become about equally common, as Pillow does it."""
    tables = np.empty((256, 3), np.uint8)
    for channel in range(3):
        counts = np.bincount(image[..., channel].reshape(-1), minlength=256)
        used = np.flatnonzero(counts)
        step = int(counts.sum() - counts[used[-1]]) // 255
        before = np.concatenate(([0], np.cumsum(counts)[:-1] + step // 2))
        tables[:, channel] = np.arange(256) if step == 0 else (before // max(step, 1)).clip(0, 255)
    return _look_up(image, tables)


def _warp(image: Image, matrix: Matrix) -> Image:
    """The image moved by a (2, 3) matrix on pixel indices."""
    height, width = image.shape[:2]
    result: Any = cv2.warpAffine(
        image, matrix, (width, height), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT
    )
    return cast(Image, result)


def shear_x(image: Image, slope: float) -> Image:
    """Rows move right by ``slope`` times their distance from the upper edge."""
    return _warp(image, np.array(((1, slope, slope / 2), (0, 1, 0)), np.float64))


def shear_y(image: Image, slope: float) -> Image:
    """Columns move down by ``slope`` times their distance from the left edge."""
    return _warp(image, np.array(((1, 0, 0), (slope, 1, slope / 2)), np.float64))


def translate_x(image: Image, share: float) -> Image:
    """Move right by a share of the width, cut to whole pixels."""
    return _warp(image, np.array(((1, 0, int(share * image.shape[1])), (0, 1, 0)), np.float64))


def translate_y(image: Image, share: float) -> Image:
    """Move down by a share of the height, cut to whole pixels."""
    return _warp(image, np.array(((1, 0, 0), (0, 1, int(share * image.shape[0]))), np.float64))


def rotate(image: Image, degrees: float) -> Image:
    """Turn against the clock about the middle."""
    height, width = image.shape[:2]
    matrix: Any = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return _warp(image, matrix)


def identity(image: Image, _: float = 0.0) -> Image:
    """Nothing."""
    return image


def _bits(share: float) -> float:
    return 8 - math.floor(share * 4 + 0.5)


OPERATIONS: Mapping[str, tuple[Callable[[Image, float], Image], Callable[[float], float], bool]] = {
    "identity": (identity, lambda share: 0.0, False),
    "shear_x": (shear_x, lambda share: 0.3 * share, True),
    "shear_y": (shear_y, lambda share: 0.3 * share, True),
    "translate_x": (translate_x, lambda share: 150 / 331 * share, True),
    "translate_y": (translate_y, lambda share: 150 / 331 * share, True),
    "rotate": (rotate, lambda share: 30 * share, True),
    "brightness": (brightness, lambda share: 0.9 * share, True),
    "colour": (colour, lambda share: 0.9 * share, True),
    "contrast": (contrast, lambda share: 0.9 * share, True),
    "sharpness": (sharpness, lambda share: 0.9 * share, True),
    "posterize": (posterize, _bits, False),
    "solarize": (solarize, lambda share: 255 * (1 - share), False),
    "autocontrast": (autocontrast, lambda share: 0.0, False),
    "equalize": (equalize, lambda share: 0.0, False),
}
"""Name -> function, strength from the share of the largest magnitude, and whether it goes either way."""

NAMES = tuple(OPERATIONS)


def draw_changes(generator: np.random.Generator, count: int, magnitude: float) -> tuple[Change, ...]:
    """Which operations, in which order, how strong.

    Args:
        generator: Of this sample.
        count: How many; the same one may come twice.
        magnitude: 0 to ``MAX_MAGNITUDE``, the same for all.
    """
    changes = []
    for number, goes_back in zip(generator.integers(0, len(NAMES), count), generator.random(count) < 0.5, strict=True):
        name = NAMES[number]
        _, strength, either_way = OPERATIONS[name]
        amount = strength(magnitude / MAX_MAGNITUDE)
        changes.append((name, -amount if either_way and goes_back else amount))
    return tuple(changes)


def apply_changes(image: Image, changes: tuple[Change, ...]) -> Image:
    """The image after all operations; the image itself where none changes it."""
    for name, amount in changes:
        image = OPERATIONS[name][0](image, amount)
    return image
