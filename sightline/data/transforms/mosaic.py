"""Several images on one canvas, and the canvas brought to the output.

A canvas is never painted when it is only scaled and shifted: every tile is cropped and resized straight into the
output, at a fraction of a warp's cost. The edges of a tile then lie within half an output pixel of their exact
place; boxes are moved exactly. A rotated, sheared or tilted canvas is painted and warped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2

from sightline.data.transforms.affine import Affine, Matrix, affine_matrix
from sightline.data.transforms.image import PAD_VALUE, Image, is_same_memory, resize, whole_number

Rectangle = tuple[int, int, int, int]
"""x_min, y_min, x_max, y_max in whole pixels."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Where an image lies on a canvas. Parts outside of the canvas are not seen; later tiles cover earlier ones."""

    left_top: tuple[int, int]
    """x and y of the image's corner; may be negative."""
    hw: tuple[int, int]

    def visible(self, canvas_hw: tuple[int, int]) -> Rectangle:
        """The part on the canvas; empty where x_max <= x_min or y_max <= y_min."""
        x, y = self.left_top
        return max(x, 0), max(y, 0), min(x + self.hw[1], canvas_hw[1]), min(y + self.hw[0], canvas_hw[0])


def mosaic4_tiles(sizes_hw: Sequence[tuple[int, int]], center_xy: tuple[int, int]) -> list[Tile]:
    """Four images whose corners meet at ``center_xy``: top-left, top-right, bottom-left, bottom-right."""
    x, y = center_xy
    (h0, w0), (h1, _), (_, w2), _ = sizes_hw
    corners = [(x - w0, y - h0), (x, y - h1), (x - w2, y), (x, y)]
    return [Tile(corner, hw) for corner, hw in zip(corners, sizes_hw, strict=True)]


def mosaic9_tiles(sizes_hw: Sequence[tuple[int, int]], image_size: int, crop_xy: tuple[int, int]) -> list[Tile]:
    """One image in the middle and eight round it, clockwise from the top, each against its neighbour.

    Args:
        sizes_hw: Nine sizes: middle, top, top-right, right, bottom-right, bottom, bottom-left, left, top-left.
        image_size: Long side of the images; the middle one's corner lies this far from the canvas's.
        crop_xy: Corner of the part of the canvas that is used; the tiles are relative to it.
    """
    s = image_size
    (h0, w0), (h1, w1), (h2, _), (h3, w3), (h4, w4), (h5, w5), (_, w6), (h7, w7), (h8, w8) = sizes_hw
    right, bottom = s + w0, s + h0  # of the middle image
    corners = [
        (s, s),
        (s, s - h1),
        (s + w1, s - h2),
        (right, s),
        (right, s + h3),
        (right - w5, bottom),
        (right - w5 - w6, bottom),
        (s - w7, bottom - h7),
        (s - w8, bottom - h7 - h8),
    ]
    assert h4 and w3 and w4 and h5, "images have pixels"
    dx, dy = crop_xy
    return [Tile((x - dx, y - dy), hw) for (x, y), hw in zip(corners, sizes_hw, strict=True)]


def paint(images: Sequence[Image], tiles: Sequence[Tile], canvas: Image) -> None:
    """Put the images on the (H, W, 3) ``canvas``; grey where there is none."""
    canvas.fill(PAD_VALUE)
    for image, tile in zip(images, tiles, strict=True):
        x_min, y_min, x_max, y_max = tile.visible(canvas.shape[:2])
        if x_max > x_min and y_max > y_min:
            x, y = tile.left_top
            canvas[y_min:y_max, x_min:x_max] = image[y_min - y : y_max - y, x_min - x : x_max - x]


def warp(canvas: Image, affine: Affine, out: Image) -> None:
    """Bring a painted canvas to the (h, w, 3) ``out``, whatever the change is."""
    matrix = affine_matrix(affine, canvas.shape[:2], out.shape[:2])
    size, border = out.shape[1::-1], (PAD_VALUE,) * 3
    if any(affine.perspective_xy):
        result = cv2.warpPerspective(canvas, matrix, size, dst=out, borderValue=border)
    else:
        result = cv2.warpAffine(canvas, matrix[:2], size, dst=out, borderValue=border)
    assert is_same_memory(result, out), "OpenCV made a copy of the output"


def border_of(affine: Affine) -> int:
    """Pixels that ``place`` needs round its output: tiles end on whole source pixels, a little outside of it."""
    return math.ceil(affine.scale) + 1


def place(
    images: Sequence[Image],
    tiles: Sequence[Tile],
    canvas_hw: tuple[int, int],
    matrix: Matrix,
    framed: Image,
    border: int,
) -> tuple[int, int]:
    """Crop and resize every tile straight into the output, for a matrix that only scales and shifts.

    Args:
        images: RGB, of the sizes that the tiles tell.
        tiles: Their places on the canvas.
        canvas_hw: What lies outside of the canvas is not seen.
        matrix: (3, 3) from canvas to output.
        framed: (h + 2 * border, w + 2 * border, 3): the output and ``border`` pixels round it, written to.
        border: See ``border_of``.

    Returns:
        The first row of the output that holds a tile, and the one after the last; all others are grey.
    """
    out_h, out_w = framed.shape[0] - 2 * border, framed.shape[1] - 2 * border
    scale, shift_x, shift_y = float(matrix[0, 0]), float(matrix[0, 2]), float(matrix[1, 2])
    framed.fill(PAD_VALUE)
    # The part of the canvas that the output shows, in whole canvas pixels.
    seen_x_min, seen_x_max = math.floor(-shift_x / scale), math.ceil((out_w - shift_x) / scale)
    seen_y_min, seen_y_max = math.floor(-shift_y / scale), math.ceil((out_h - shift_y) / scale)
    first_row, end_row = out_h, 0
    for image, tile in zip(images, tiles, strict=True):
        x_min, y_min, x_max, y_max = tile.visible(canvas_hw)
        x_min, x_max = max(x_min, seen_x_min), min(x_max, seen_x_max)
        y_min, y_max = max(y_min, seen_y_min), min(y_max, seen_y_max)
        left, right = whole_number(x_min * scale + shift_x), whole_number(x_max * scale + shift_x)
        top, bottom = whole_number(y_min * scale + shift_y), whole_number(y_max * scale + shift_y)
        if x_max <= x_min or y_max <= y_min or right <= left or bottom <= top:
            continue
        x, y = tile.left_top
        resize(
            image[y_min - y : y_max - y, x_min - x : x_max - x],
            (bottom - top, right - left),
            out=framed[border + top : border + bottom, border + left : border + right],
        )
        if right > 0 and left < out_w:
            first_row, end_row = min(first_row, max(top, 0)), max(end_row, min(bottom, out_h))
    return (first_row, end_row) if end_row > first_row else (0, 0)
