"""From light to a picture file's bytes: blur of lens and motion, vignette, sensor noise."""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist

import cv2
import numpy as np

from sightline.data.world.camera import Array
from sightline.data.world.config import WorldConfig
from sightline.data.world.light import Light


@lru_cache(maxsize=1)
def _normal_quantiles() -> Array:
    """(256,) float64: byte values to a standard normal distribution."""
    return np.array([NormalDist().inv_cdf((byte + 0.5) / 256) for byte in range(256)])


@lru_cache(maxsize=8)
def _vignette(height: int, width: int) -> Array:
    """(H, W) float32 in [0, 1]: squared distance from the middle."""
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    return (x * x + y * y) / 2


def expose(image: Array, light: Light, config: WorldConfig, rng: np.random.Generator) -> Array:
    """(H, W, 3) uint8 -> the same as a camera in this light records it."""
    height, width = image.shape[:2]
    sharpness, shake, corner = rng.random(), rng.random(), rng.uniform(0.0, 0.22)
    sigma = config.blur * (0.25 + 0.5 * sharpness**2) * width / 640
    if sigma > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    taps = round(config.blur * 5 * width / 640 * (shake - 0.7) / 0.3)
    if taps >= 2:
        image = cv2.filter2D(image, -1, np.full((1, taps), 1 / taps, dtype=np.float32))
    gain = np.round(255 - (255 * corner) * _vignette(height, width)).astype(np.uint8)
    image = cv2.multiply(image, cv2.cvtColor(gain, cv2.COLOR_GRAY2RGB), scale=1 / 255)
    sigma = config.noise * light.noise_sigma
    if sigma > 0:
        table = np.round(_normal_quantiles() * sigma).clip(-127, 127).astype(np.int8)
        grain = np.frombuffer(rng.bytes(3 * height * width), dtype=np.uint8).reshape(height, width, 3)
        noise = cv2.LUT(grain, table)
        image = cv2.add(image, noise, dtype=cv2.CV_8U)
    return np.asarray(image)
