"""Hue, saturation and value of an image, changed through tables of 256 numbers."""

from __future__ import annotations

import cv2
import numpy as np

from sightline.data.transforms.image import Image

_LEVELS = np.arange(256, dtype=np.float64)


def hsv_tables(gains: tuple[float, float, float]) -> Image:
    """(3, 256) uint8: what hue, saturation and value become when multiplied by ``gains``.

    Hue counts half degrees and goes round at 180; saturation and value stop at 255. Fractions are cut.
    """
    hue, saturation, value = gains
    tables = np.stack(((_LEVELS * hue) % 180, np.clip(_LEVELS * saturation, 0, 255), np.clip(_LEVELS * value, 0, 255)))
    return tables.astype(np.uint8)


def apply_hsv(image: Image, tables: Image, planes: Image) -> None:
    """Change the colours of ``image`` in place.

    Three single tables on planes cost less than one triple table on interleaved pixels.

    Args:
        image: (H, W, 3) RGB; rows may be apart.
        tables: (3, 256) of ``hsv_tables``.
        planes: (3, H, W) memory to work in.
    """
    cv2.cvtColor(image, cv2.COLOR_RGB2HSV, dst=image)
    parts = list(planes)
    cv2.split(image, parts)
    for part, table in zip(parts, tables, strict=True):
        cv2.LUT(part, table, dst=part)
    cv2.merge(parts, dst=image)
    cv2.cvtColor(image, cv2.COLOR_HSV2RGB, dst=image)
