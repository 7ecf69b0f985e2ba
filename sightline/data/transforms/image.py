"""Resizing, padding and mixing of images: (H, W, 3) uint8; the order of the channels does not matter.

Boxes are float64 (N, 4) xyxy in pixels: a box around the top-left pixel is (0, 0, 1, 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from sightline.data.memory import Scratch

Image = np.ndarray[Any, np.dtype[np.uint8]]
Boxes = np.ndarray[Any, np.dtype[np.float64]]

PAD_VALUE = 114
"""Grey of everything that no image covers."""


def resized_hw(image_hw: tuple[int, int], image_size: int) -> tuple[int, int]:
    """Height and width after resizing the long side to ``image_size``; the short side is cut to whole pixels."""
    ratio = image_size / max(image_hw)
    if ratio == 1:
        return image_hw
    return max(1, int(image_hw[0] * ratio)), max(1, int(image_hw[1] * ratio))


def resize(image: Image, hw: tuple[int, int], *, area: bool = False, out: Image | None = None) -> Image:
    """The image in another size.

    Args:
        image: (H, W, 3).
        hw: New height and width.
        area: Average the pixels that fall together when both sides shrink, else interpolate bilinearly.
        out: (h, w, 3) memory to write to; rows may be apart.

    Returns:
        (h, w, 3): ``out`` where given. The image itself where there is nothing to do and no ``out``.
    """
    if image.shape[:2] == hw:
        if out is None:
            return image
        np.copyto(out, image)
        return out
    shrinks = hw[0] <= image.shape[0] and hw[1] <= image.shape[1]
    interpolation = cv2.INTER_AREA if area and shrinks else cv2.INTER_LINEAR
    return _same_memory(cv2.resize(image, hw[::-1], dst=out, interpolation=interpolation), out)


@dataclass(frozen=True, slots=True)
class Letterbox:
    """How an image is fitted into an input: resized, then padded on all sides."""

    resized_hw: tuple[int, int]
    left_top: tuple[int, int]
    """Pixels of padding before the image, x and y."""
    right_bottom: tuple[int, int]
    scale_xy: tuple[float, float]
    """Wanted ratio of resized to original width and height, before rounding to whole pixels."""
    half_pad_xy: tuple[float, float]
    """Half of the whole padding, before rounding."""

    @property
    def input_hw(self) -> tuple[int, int]:
        """Height and width of the padded image."""
        return (
            self.resized_hw[0] + self.left_top[1] + self.right_bottom[1],
            self.resized_hw[1] + self.left_top[0] + self.right_bottom[0],
        )


def plan_letterbox(
    image_hw: tuple[int, int],
    input_hw: tuple[int, int],
    *,
    stride: int | None = None,
    stretch: bool = False,
    upscale: bool = True,
) -> Letterbox:
    """Fit an image of ``image_hw`` into ``input_hw`` with equal padding on opposite sides.

    Args:
        image_hw: Height and width of the image, pixels.
        input_hw: Height and width to fit into.
        stride: Where given, pad only to the next multiple of it: the result may be smaller than ``input_hw``.
        stretch: Fill the input, changing the aspect, without padding.
        upscale: Whether an image smaller than the input grows.
    """
    height, width = image_hw
    ratio = min(input_hw[0] / height, input_hw[1] / width)
    if not upscale:
        ratio = min(ratio, 1.0)
    scale_xy = (ratio, ratio)
    new_hw = (round(height * ratio), round(width * ratio))
    pad_x, pad_y = input_hw[1] - new_hw[1], input_hw[0] - new_hw[0]
    if stride is not None and not stretch:
        pad_x, pad_y = pad_x % stride, pad_y % stride
    if stretch:
        new_hw, pad_x, pad_y = input_hw, 0, 0
        scale_xy = (input_hw[1] / width, input_hw[0] / height)
    return Letterbox(
        resized_hw=new_hw,
        left_top=(pad_x // 2, pad_y // 2),
        right_bottom=(pad_x - pad_x // 2, pad_y - pad_y // 2),
        scale_xy=scale_xy,
        half_pad_xy=(pad_x / 2, pad_y / 2),
    )


def mix_up(first: Image, second: Image, ratio: float, *, out: Image | None = None) -> Image:
    """``first * ratio + second * (1 - ratio)``, rounded down; same shapes.

    Where the exact value is a whole number up to 1e-3 below, that number is taken: rounding errors of the
    weights do not darken equal pixels.

    Reference:
        Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
    """
    # The kernel rounds to the nearest number, so half a level less rounds down.
    return _same_memory(cv2.addWeighted(first, ratio, second, 1 - ratio, -0.499, dst=out), out)


def write_planes(
    image: Image, planes: Image, scratch: Scratch, *, left_top: tuple[int, int] = (0, 0), background: int = 0
) -> None:
    """Write an (h, w, 3) image into the (3, H, W) ``planes``, and ``background`` all round it.

    OpenCV separates channels five times faster where neither side has gaps between its rows, so others go through
    ``scratch``.
    """
    height, width = image.shape[:2]
    x, y = left_top
    for border in _border(planes, left_top, (height, width)):
        border.fill(background)
    if height == 0 or width == 0:
        return
    if not image.flags.c_contiguous:
        whole = scratch.array("image without gaps", image.shape)
        np.copyto(whole, image)
        image = whole
    inside = planes[:, y : y + height, x : x + width]
    parts = inside if width == planes.shape[2] else scratch.array("planes without gaps", inside.shape)
    cv2.split(image, list(parts))
    if parts is not inside:
        np.copyto(inside, parts)


def _border(planes: Image, left_top: tuple[int, int], hw: tuple[int, int]) -> Iterator[Image]:
    """The parts of (3, H, W) planes above, below, left and right of a rectangle; only those that have pixels."""
    x, y = left_top
    bottom, right = y + hw[0], x + hw[1]
    if y:
        yield planes[:, :y]
    if bottom < planes.shape[1]:
        yield planes[:, bottom:]
    if x:
        yield planes[:, y:bottom, :x]
    if right < planes.shape[2]:
        yield planes[:, y:bottom, right:]


def whole_number(value: float) -> int:
    """The nearest integer; halves go up, so that neighbouring edges meet."""
    return math.floor(value + 0.5)


def is_same_memory(result: Any, out: Image) -> bool:
    """Whether OpenCV wrote to the output it was given; then it mostly gives back the very object."""
    return result is out or bool(result.ctypes.data == out.ctypes.data)


def _same_memory(result: Any, out: Image | None) -> Image:
    assert out is None or is_same_memory(result, out), "OpenCV made a copy of the output"
    image: Image = result
    return image
