"""Parts of images for classifiers: which one, and how it comes to the size of the input. (H, W, 3) uint8.

Boxes are whole pixels (x0, y0, x1, y1).
"""

from __future__ import annotations

import math

import numpy as np

from sightline.data.memory import Scratch
from sightline.data.transforms.image import Image, resize

Box = tuple[int, int, int, int]

ATTEMPTS = 10
MOST_ASPECT = 16
"""Of an image that is longer for its width, only the middle of this aspect is resized."""


def draw_part(
    generator: np.random.Generator,
    hw: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    *,
    attempts: int = ATTEMPTS,
) -> Box | None:
    """A part of random area and aspect, anywhere in an image; None where no draw fits.

    Args:
        generator: Of this sample.
        hw: Height and width of the image.
        scale: Smallest and largest share of the area, drawn uniformly.
        ratio: Smallest and largest width over height; its logarithm is drawn uniformly.
        attempts: Draws at most.

    Reference:
        Szegedy et al., "Going deeper with convolutions", CVPR 2015, section 6, as torchvision documents it.
    """
    height, width = hw
    for _ in range(attempts):
        area = height * width * generator.uniform(*scale)
        aspect = math.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1])))
        wide, tall = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            x, y = int(generator.integers(width - wide + 1)), int(generator.integers(height - tall + 1))
            return x, y, x + wide, y + tall
    return None


def middle_part(hw: tuple[int, int], ratio: tuple[float, float]) -> Box:
    """The largest part in the middle whose width over height is within ``ratio``."""
    height, width = hw
    wide, tall = width, height
    if width / height < ratio[0]:
        tall = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        wide = max(1, round(height * ratio[1]))
    x, y = (width - wide) // 2, (height - tall) // 2
    return x, y, x + wide, y + tall


def resized_part(image: Image, box: Box, size: int, out: Image) -> Image:
    """A part of an image at (size, size), averaging where it shrinks; written to ``out``."""
    x0, y0, x1, y1 = box
    return resize(image[y0:y1, x0:x1], (size, size), area=True, out=out)


def centre_view(image: Image, size: int, crop_ratio: float, scratch: Scratch, out: Image) -> Image:
    """What evaluation looks at: the short side resized to ``size / crop_ratio``, then the middle (size, size).

    Args:
        image: (H, W, 3).
        size: Side of the result.
        crop_ratio: Share of the short side that is seen, in (0, 1].
        scratch: Memory of the calling thread.
        out: (size, size, 3) to write to.
    """
    image = _without_ends(image)
    height, width = image.shape[:2]
    short = max(size, math.floor(size / crop_ratio))
    if height <= width:
        hw = (short, max(size, int(short * width / height)))
    else:
        hw = (max(size, int(short * height / width)), short)
    resized = image
    if hw != (height, width):
        resized = resize(image, hw, area=True, out=scratch.array("resized", (*hw, 3)))
    top, left = round((hw[0] - size) / 2), round((hw[1] - size) / 2)
    np.copyto(out, resized[top : top + size, left : left + size])
    return out


def _without_ends(image: Image) -> Image:
    """The image without what no view of its middle shows; a thin one, resized as a whole, would take gigabytes."""
    longest = MOST_ASPECT * min(image.shape[:2])
    y, x = (max(0, side - longest) // 2 for side in image.shape[:2])
    return image[y : image.shape[0] - y, x : image.shape[1] - x]


def shift(image: Image, right: int, down: int, out: Image) -> Image:
    """The image moved by whole pixels, black behind it: what padding and cropping does. Written to ``out``."""
    height, width = image.shape[:2]
    out.fill(0)
    to_x, to_y = max(right, 0), max(down, 0)
    from_x, from_y = max(-right, 0), max(-down, 0)
    wide, tall = width - abs(right), height - abs(down)
    if wide > 0 and tall > 0:
        out[to_y : to_y + tall, to_x : to_x + wide] = image[from_y : from_y + tall, from_x : from_x + wide]
    return out
