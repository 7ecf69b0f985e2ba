"""Rotation, scale, shear, shift and perspective about the centre of a picture, and what becomes of its boxes.

A matrix is (3, 3) float64 and takes homogeneous pixel coordinates (x, y, 1) of the canvas to those of the output.
Boxes are (N, 4) float64 xyxy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sightline.data.transforms.image import Boxes

Matrix = np.ndarray[Any, np.dtype[np.float64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class Affine:
    """The drawn numbers of one geometric change. The defaults change nothing."""

    perspective_xy: tuple[float, float] = (0.0, 0.0)
    """Third row of the perspective matrix, per pixel from the centre."""
    angle_degrees: float = 0.0
    """Counter-clockwise, as seen."""
    scale: float = 1.0
    shear_degrees_xy: tuple[float, float] = (0.0, 0.0)
    shift_xy: tuple[float, float] = (0.5, 0.5)
    """Where the canvas's centre goes, as a share of the output's width and height."""

    @property
    def is_scale_and_shift(self) -> bool:
        """Whether upright rectangles stay upright rectangles of the same aspect."""
        return not any((*self.perspective_xy, *self.shear_degrees_xy, self.angle_degrees))


def affine_matrix(affine: Affine, canvas_hw: tuple[int, int], output_hw: tuple[int, int]) -> Matrix:
    """(3, 3): move the canvas's centre to the origin, perspective, rotate and scale, shear, then shift."""
    center_x, center_y = canvas_hw[1] / 2, canvas_hw[0] / 2
    shift_x, shift_y = affine.shift_xy[0] * output_hw[1], affine.shift_xy[1] * output_hw[0]
    if affine.is_scale_and_shift:  # the same numbers as the product below, in a tenth of its time
        scale = affine.scale
        return np.array([[scale, 0, shift_x - scale * center_x], [0, scale, shift_y - scale * center_y], [0, 0, 1]])
    angle = math.radians(affine.angle_degrees)
    cos, sin = affine.scale * math.cos(angle), affine.scale * math.sin(angle)
    shear_x, shear_y = (math.tan(math.radians(degrees)) for degrees in affine.shear_degrees_xy)
    tilt_x, tilt_y = affine.perspective_xy

    center = np.array([[1, 0, -center_x], [0, 1, -center_y], [0, 0, 1]])
    perspective = np.array([[1, 0, 0], [0, 1, 0], [tilt_x, tilt_y, 1]])
    rotate = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    shear = np.array([[1, shear_x, 0], [shear_y, 1, 0], [0, 0, 1]])
    shift = np.array([[1, 0, shift_x], [0, 1, shift_y], [0, 0, 1]])
    matrix: Matrix = shift @ shear @ rotate @ perspective @ center
    return matrix


def transform_boxes(boxes_xyxy: Boxes, matrix: Matrix) -> Boxes:
    """(N, 4): the smallest upright boxes round the moved corners, not clipped."""
    if matrix[0, 1] == 0 == matrix[1, 0] and matrix[0, 0] > 0 and matrix[1, 1] > 0 and not matrix[2, :2].any():
        scale = np.array([matrix[0, 0], matrix[1, 1]] * 2) / matrix[2, 2]
        shift = np.array([matrix[0, 2], matrix[1, 2]] * 2) / matrix[2, 2]
        return np.asarray(boxes_xyxy * scale + shift)
    x, y = boxes_xyxy[:, [0, 2, 0, 2]], boxes_xyxy[:, [1, 1, 3, 3]]  # (N, 4 corners)
    moved = np.stack((x, y, np.ones_like(x)), axis=-1) @ matrix.T  # (N, 4 corners, 3)
    corners = moved[..., :2] / moved[..., 2:]
    return np.concatenate((corners.min(axis=1), corners.max(axis=1)), axis=1)


def clip_boxes(boxes_xyxy: Boxes, hw: tuple[int, int]) -> Boxes:
    """(N, 4): the part of every box inside a picture of this height and width."""
    limit = np.array((hw[1], hw[0], hw[1], hw[0]), np.float64)
    return np.minimum(np.maximum(boxes_xyxy, 0), limit)


def boxes_worth_keeping(
    before_xyxy: Boxes, after_xyxy: Boxes, *, min_side: float = 2.0, min_area_share: float = 0.1, max_aspect: float = 20
) -> Mask:
    """(N,) bool: boxes of which enough is left to be seen.

    Args:
        before_xyxy: (N, 4) boxes scaled to the output, not cut by its border.
        after_xyxy: (N, 4) the same boxes, cut.
        min_side: Both sides must be longer than this, pixels.
        min_area_share: More than this share of the area must be left.
        max_aspect: The longer side must be less than this many times the shorter.
    """
    width_before, height_before = (before_xyxy[:, 2:] - before_xyxy[:, :2]).T
    width, height = (after_xyxy[:, 2:] - after_xyxy[:, :2]).T
    tiny = 1e-16
    aspect = np.maximum(width / (height + tiny), height / (width + tiny))
    area_share = width * height / (width_before * height_before + tiny)
    keep: Mask = (width > min_side) & (height > min_side) & (area_share > min_area_share) & (aspect < max_aspect)
    return keep


def flip_boxes(boxes_xyxy: Boxes, hw: tuple[int, int], *, left_right: bool, up_down: bool) -> Boxes:
    """(N, 4): boxes of the mirrored picture of this height and width."""
    flipped = boxes_xyxy.copy()
    if left_right:
        flipped[:, 0::2] = hw[1] - boxes_xyxy[:, 2::-2]
    if up_down:
        flipped[:, 1::2] = hw[0] - boxes_xyxy[:, 3::-2]
    return flipped
