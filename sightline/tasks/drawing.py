"""Boxes drawn into pictures. Pictures are (H, W, 3) uint8 RGB."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

PALETTE = (
    (230, 57, 70), (29, 131, 210), (42, 157, 87), (244, 162, 28), (142, 68, 173), (0, 168, 168), (214, 93, 177),
    (121, 85, 72), (96, 125, 139), (165, 190, 0), (255, 112, 67), (63, 81, 181),
)  # fmt: skip
"""Colours by label, used again from the start after the last."""


def draw_boxes(
    pixels: Pixels,
    boxes_xyxy: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    class_names: Sequence[str],
    *,
    scores: np.ndarray[Any, Any] | None = None,
) -> Pixels:
    """A copy of the picture with boxes and their class names (and scores) drawn in.

    Args:
        pixels: (H, W, 3) RGB.
        boxes_xyxy: (N, 4) pixels.
        labels: (N,).
        class_names: Names by label.
        scores: (N,), written behind the names.
    """
    out = np.ascontiguousarray(pixels).copy()
    thickness = max(1, round(min(out.shape[:2]) / 320))
    scale = max(0.35, min(out.shape[:2]) / 1000)
    for place, (box, label) in enumerate(zip(boxes_xyxy, labels, strict=True)):
        colour = PALETTE[int(label) % len(PALETTE)]
        x1, y1, x2, y2 = (round(float(v)) for v in np.clip(box, -10_000, 10_000))
        cv2.rectangle(out, (x1, y1), (x2, y2), colour, thickness, cv2.LINE_AA)
        text = class_names[int(label)] + (f" {scores[place]:.2f}" if scores is not None else "")
        top = y1 - text_size(text, scale)[1]
        draw_text(out, text, (x1, top if top >= 0 else y1), colour, scale)
    return out


def text_size(text: str, scale: float) -> tuple[int, int]:
    """Width and height in pixels that ``draw_text`` takes, band included."""
    (width, height), baseline = cv2.getTextSize(_ascii(text), cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    return width + 2, height + baseline


def draw_text(
    pixels: Pixels,
    text: str,
    place: tuple[float, float],
    band: tuple[int, int, int] | None,
    scale: float,
    colour: tuple[int, int, int] = (255, 255, 255),
) -> None:
    """Write a line of text into the picture.

    Args:
        pixels: (H, W, 3) RGB; changed.
        text: What to write.
        place: Left and upper end, pixels.
        band: Colour behind the text; None leaves the picture there.
        scale: Factor of the font.
        colour: Of the letters.
    """
    left, top = (round(min(max(float(value), -10_000), 10_000)) for value in place)
    (_, height), baseline = cv2.getTextSize(_ascii(text), cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    if band is not None:
        cv2.rectangle(pixels, (left, top), (left + text_size(text, scale)[0], top + height + baseline), band, -1)
    foot = (left + 1, top + height + baseline // 2)
    cv2.putText(pixels, _ascii(text), foot, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)


def side_by_side(left: Pixels, right: Pixels) -> Pixels:
    """Two pictures of one height with a thin white line between them."""
    line = np.full((left.shape[0], 4, 3), 255, np.uint8)
    return np.concatenate((left, line, right), axis=1)


def _ascii(text: str) -> str:
    """The font has only ASCII; other letters become question marks."""
    return text.encode("ascii", "replace").decode()


SHOWN_SIDE = 192
"""Least height and width at which small pictures are shown, pixels, ..."""
MOST_SIDE = 2048
"""... unless the other side would become longer than this."""
HIGHEST_BAND = 256
"""Pixels."""
SMALLEST_TEXT = 0.2
"""Text is not written smaller than by this factor of the font; then it is cut off."""
GREEN, RED, GREY = (42, 157, 87), (230, 57, 70), (60, 60, 60)


def captioned(pixels: Pixels, lines: Sequence[tuple[str, tuple[int, int, int]]]) -> Pixels:
    """The picture, enlarged by a whole factor where it is small, with lines of text on bands of their colours below.

    Args:
        pixels: (H, W, 3) RGB.
        lines: Texts and colours.
    """
    short, long = max(1, min(pixels.shape[:2])), max(pixels.shape[:2])
    factor = max(1, min(math.ceil(SHOWN_SIDE / short), MOST_SIDE // long))
    large = np.repeat(np.repeat(pixels, factor, axis=0), factor, axis=1)
    width = large.shape[1]
    height = min(max(16, width // 12), HIGHEST_BAND)
    bands = [large]
    for text, colour in lines:
        band = np.full((height, width, 3), colour, np.uint8)
        words, scale = _ascii(text), height / 34
        while words and cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0] > width - 6:
            if scale > SMALLEST_TEXT:
                scale *= 0.9
            else:
                words = words[:-1]
        place = (3, round(height * 0.72))
        cv2.putText(band, words, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)
        bands.append(band)
    return np.concatenate(bands)
