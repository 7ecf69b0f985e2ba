"""Random changes of a point cloud and its boxes: the numbers drawn, and what they do.

Letters: P points of F numbers, M boxes of C numbers (7, or 9 with velocity); LiDAR frame, boxes as in ``ops.boxes3d``.

Drawing and doing are apart: ``draw_...`` turns a generator into plain numbers without looking at a point, everything
else is the same for the same numbers. Nothing is written into what is handed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from sightline.ops.point_pairs import inside_pairs
from sightline.ops.points import points_in_range
from sightline.ops.rotated_overlap import rotated_overlaps

Array = np.ndarray[Any, Any]
Rows = np.ndarray[Any, np.dtype[np.intp]]
Range = tuple[float, float]
"""Smallest and largest value of a uniform draw."""
Side = Literal["top", "bottom", "left", "right"]
"""Up and down, or left and right as seen along the heading: of the sensor for a scene, of a box for an object."""


@dataclass(frozen=True, slots=True)
class PointScene:
    """One cloud with its boxes."""

    points: Array
    """(P, F) float32: x, y, z in metres, intensity, and what else the data has."""
    boxes3d: Array
    """(M, C) float32."""
    labels: Array
    """(M,) int64 in 0..K-1; -1 for objects that are there but not trained."""

    def keep_boxes(self, rows: Array) -> PointScene:
        """The same points with these boxes: a mask or indices."""
        return replace(self, boxes3d=self.boxes3d[rows], labels=self.labels[rows])

    def keep_points(self, mask: Array) -> PointScene:
        """The same boxes with the points of a (P,) mask."""
        return replace(self, points=self.points.take(np.flatnonzero(mask), axis=0))


# The whole scene


class WorldMove(NamedTuple):
    """What happens to a whole scene: mirrored, then turned, then scaled, then moved."""

    flip_x: bool = False
    """Mirrored at the x axis: left and right change places."""
    flip_y: bool = False
    """Mirrored at the y axis: front and back change places."""
    angle: float = 0.0
    """Radians around z, from x to y."""
    scale: float = 1.0
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Metres."""

    @property
    def matrix(self) -> Array:
        """(4, 4) float64: takes a point (x, y, z, 1) of the scene as it was to where it is now."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        matrix = np.eye(4)
        matrix[:3, :3] = self.scale * turn @ np.diag([-1 if self.flip_y else 1, -1 if self.flip_x else 1, 1])
        matrix[:3, 3] = self.shift
        return matrix


def draw_world_move(
    generator: np.random.Generator,
    *,
    flip_x: float = 0.0,
    flip_y: float = 0.0,
    rotate: Range = (0.0, 0.0),
    scale: Range = (1.0, 1.0),
    translate_std: Sequence[float] = (0.0, 0.0, 0.0),
) -> WorldMove:
    """Mirrored with these probabilities; angle and scale uniform in their ranges; shift normal of these deviations."""
    mirrored_x, mirrored_y = generator.random(2) < (flip_x, flip_y)
    angle, factor = generator.uniform(*rotate), generator.uniform(*scale)
    x, y, z = (generator.standard_normal(3) * translate_std).tolist()
    return WorldMove(bool(mirrored_x), bool(mirrored_y), angle, factor, (x, y, z))


def move_world(scene: PointScene, move: WorldMove) -> PointScene:
    """Points and boxes after a move; yaws are not wrapped."""
    matrix = move.matrix
    boxes = scene.boxes3d.copy()
    boxes[:, :3] = _moved(scene.boxes3d, matrix)[:, :3]
    boxes[:, 3:6] *= move.scale
    yaw = boxes[:, 6]
    if move.flip_x:
        yaw *= -1
    if move.flip_y:
        yaw += np.float32(math.pi)
        yaw *= -1
    yaw += move.angle
    if boxes.shape[1] > 7:
        boxes[:, 7:9] = scene.boxes3d[:, 7:9] @ matrix[:2, :2].T.astype(np.float32)
    return replace(scene, points=_moved(scene.points, matrix), boxes3d=boxes)


def _moved(rows: Array, matrix: Array) -> Array:
    """A copy of (N, >= 3) rows whose first three columns have gone through a (4, 4) matrix that keeps z upright."""
    moved = rows.copy()
    x, y, z = rows.T[:3]
    for axis in (0, 1):
        column = x * float(matrix[axis, 0])
        column += y * float(matrix[axis, 1])
        column += float(matrix[axis, 3])
        moved[:, axis] = column
    moved[:, 2] = z * float(matrix[2, 2]) + float(matrix[2, 3])
    return moved


# Single objects


class ObjectMoves(NamedTuple):
    """What happens to each object: turned and scaled around its centre, then moved."""

    angles: Array
    """(M,) radians around z."""
    scales: Array
    """(M,)."""
    shifts: Array
    """(M, 3) metres."""


def draw_object_moves(
    generator: np.random.Generator,
    is_moved: Array,
    *,
    rotate: Range = (0.0, 0.0),
    scale: Range = (1.0, 1.0),
    translate: Range = (0.0, 0.0),
    axes: str = "xyz",
) -> ObjectMoves:
    """Angle, scale and shift along each of ``axes``, uniform, for each object by itself; others may be in the way.

    Args:
        generator: Of this sample.
        is_moved: (M,) the objects that move; the others stay.
        rotate: Radians.
        scale: Factors.
        translate: Metres.
        axes: Letters out of x, y, z.
    """
    count = len(is_moved)
    angles = generator.uniform(*rotate, count) * is_moved
    scales = np.where(is_moved, generator.uniform(*scale, count), 1.0)
    shifts = generator.uniform(*translate, (count, 3)) * is_moved[:, None] * [axis in axes for axis in "xyz"]
    return ObjectMoves(angles, scales, shifts)


def draw_object_noise(
    generator: np.random.Generator,
    boxes3d: Array,
    is_moved: Array,
    *,
    rotate: float,
    translate_std: Sequence[float],
    tries: int,
) -> ObjectMoves:
    """Angle and shift for each object so that it runs into no other: the noise of SECOND.

    One object after the other: the first of its tries that overlaps no other box, as the boxes stand by then, seen from
    above. Where all do, it stays. Yan et al., "SECOND: sparsely embedded convolutional detection", Sensors 2018,
    section 3.2.

    Args:
        generator: Of this sample.
        boxes3d: (M, C).
        is_moved: (M,) the objects that move; the others stay, and are in the way.
        rotate: Angles are uniform within +- this, radians.
        translate_std: Standard deviations along x, y, z, metres.
        tries: Draws for each object.
    """
    count = len(boxes3d)
    angles = generator.uniform(-rotate, rotate, (count, tries))
    shifts = generator.standard_normal((count, tries, 3)) * translate_std
    moves = ObjectMoves(np.zeros(count), np.ones(count), np.zeros((count, 3)))
    boxes = boxes3d[:, :7].astype(np.float64)
    for i in np.flatnonzero(is_moved):
        tried = np.repeat(boxes[i : i + 1], tries, axis=0)
        tried[:, :3] += shifts[i]
        tried[:, 6] += angles[i]
        is_free = ~rotated_overlaps(tried, np.delete(boxes, i, axis=0)).any(axis=1)
        if is_free.any():
            first = int(is_free.argmax())
            moves.angles[i], moves.shifts[i], boxes[i] = angles[i, first], shifts[i, first], tried[first]
    return moves


def move_objects(scene: PointScene, moves: ObjectMoves) -> PointScene:
    """Each object with the points in its box; a point in several boxes goes with the first. Yaws are not wrapped."""
    boxes = scene.boxes3d.copy()
    boxes[:, :3] += moves.shifts.astype(np.float32)
    boxes[:, 3:6] *= moves.scales[:, None].astype(np.float32)
    boxes[:, 6] += moves.angles.astype(np.float32)
    if boxes.shape[1] > 7:
        cos, sin = np.cos(moves.angles) * moves.scales, np.sin(moves.angles) * moves.scales
        x, y = scene.boxes3d[:, 7], scene.boxes3d[:, 8]
        boxes[:, 7], boxes[:, 8] = x * cos - y * sin, x * sin + y * cos
    rows, owners = owned_points(scene)
    is_moving = (moves.angles != 0) | (moves.scales != 1) | (moves.shifts != 0).any(axis=1)
    rows, owners = rows[is_moving[owners]], owners[is_moving[owners]]
    points = scene.points.copy()
    cos, sin = (np.cos(moves.angles) * moves.scales)[owners], (np.sin(moves.angles) * moves.scales)[owners]
    x, y, z = (points[rows, :3] - scene.boxes3d[owners, :3].astype(np.float64)).T
    turned = np.stack((x * cos - y * sin, x * sin + y * cos, z * moves.scales[owners]), axis=1)
    points[rows, :3] = turned + scene.boxes3d[owners, :3] + moves.shifts[owners]
    return replace(scene, points=points, boxes3d=boxes)


def owned_points(scene: PointScene) -> tuple[Rows, Rows]:
    """Points that lie in boxes, and the first box of each."""
    rows, owners = inside_pairs(scene.points, scene.boxes3d)
    is_first = np.ones(len(rows), np.bool_)
    is_first[1:] = rows[1:] != rows[:-1]
    return rows[is_first], owners[is_first]


# Parts that a sensor misses


def draw_shares(generator: np.random.Generator, sides: Sequence[Side], share: Range, count: int) -> Array:
    """(count, sides) how much is missing at each side, uniform in ``share``."""
    return generator.uniform(*share, (count, len(sides)))


def drop_from_world(scene: PointScene, sides: Sequence[Side], shares: Sequence[float]) -> PointScene:
    """Leave out a part of the scene at each side: points, and boxes whose centre lies there.

    Args:
        scene: Points and boxes.
        sides: One after the other.
        shares: Of the height or width of the cloud as the sides before have left it, in [0, 1].
    """
    for side, share in zip(sides, shares, strict=True):
        if not len(scene.points):
            break
        axis, sign = _axis_of(side)
        outward = sign * scene.points[:, axis]
        low, high = float(outward.min()), float(outward.max())
        limit = high - share * (high - low)
        scene = scene.keep_points(outward <= limit).keep_boxes(sign * scene.boxes3d[:, axis] <= limit)
    return scene


def drop_from_objects(scene: PointScene, sides: Sequence[Side], shares: Array) -> PointScene:
    """Leave out a part of the points of each object; boxes stay.

    Args:
        scene: Points and boxes.
        sides: Of the boxes.
        shares: (M, sides) of the height or width of a box, in [0, 1].
    """
    rows, owners = owned_points(scene)
    boxes = scene.boxes3d[owners].astype(np.float64)
    x, y, z = (scene.points[rows, :3] - boxes[:, :3]).T
    local = {1: y * np.cos(boxes[:, 6]) - x * np.sin(boxes[:, 6]), 2: z}
    is_left = np.ones(len(scene.points), np.bool_)
    for number, side in enumerate(sides):
        axis, sign = _axis_of(side)
        limit = (0.5 - shares[owners, number]) * boxes[:, 3 + axis]
        is_left[rows[(sign * local[axis] > limit) & (shares[owners, number] > 0)]] = False
    return scene.keep_points(is_left)


def _axis_of(side: Side) -> tuple[int, int]:
    """Column of a point, and whether the side is where its numbers are large."""
    return {"top": (2, 1), "bottom": (2, -1), "left": (1, 1), "right": (1, -1)}[side]


# What goes to the network


def cropped(scene: PointScene, point_range: Sequence[float]) -> PointScene:
    """Points that are inside of the range in x and y, and boxes whose centre is inside of it; its faces included.

    Points above and below stay: they are left out where points become voxels.

    Args:
        scene: Points and boxes.
        point_range: x, y, z of the lowest corner, then of the highest one, metres.
    """
    low, high = np.array(point_range[:3], np.float32), np.array(point_range[3:], np.float32)
    centres = scene.boxes3d[:, :3]
    kept = scene.keep_points(points_in_range(scene.points, point_range))
    is_inside = np.all((centres >= low) & (centres <= high), axis=1)
    return kept.keep_boxes(is_inside)


def shuffled(scene: PointScene, generator: np.random.Generator) -> PointScene:
    """The points in random order: what a voxel keeps of many points should not depend on the order of the scan."""
    return replace(scene, points=scene.points.take(generator.permutation(len(scene.points)), axis=0))
