"""Changes of the sides of objects: lost, thinned out, or exchanged with those of another object.

The box of an object is six pyramids, whose tips meet in its centre and whose bases are its faces. Zheng et al.,
"SE-SSD: self-ensembling single-stage object detector from point cloud", CVPR 2021 (shape-aware data augmentation).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from sightline.config.base import Config
from sightline.data.transforms.points import PointScene, owned_points

Array = np.ndarray[Any, Any]
Share = Annotated[float, Field(ge=0, le=1)]

_LEAST_SIZE = 1e-6
"""Metres: the size of a box without size, where something is divided by it."""


class PyramidConfig(Config):
    """Changes of one of the six sides of an object, each side as likely as the others."""

    drop: Share = 0.25
    """Probability that an object loses a side."""
    thin: Share = 0.05
    """Probability that a side is thinned out."""
    thin_points: PositiveInt = 50
    """Points that are left of it, taken at random; sides with fewer stay."""
    swap: Share = 0.1
    """Probability that an object exchanges a side with another one of its class in the scene."""
    swap_points: NonNegativeInt = 50
    """Only sides with more points are exchanged."""


def change_pyramids(
    scene: PointScene, config: PyramidConfig, generator: np.random.Generator, is_changed: Array
) -> PointScene:
    """Sides lost, then thinned out, then exchanged; boxes stay, and so do points outside of them.

    Exchanged points keep their place relative to the size of the box, and their other numbers.

    Args:
        scene: Points and boxes.
        config: Probabilities.
        generator: Of this sample.
        is_changed: (M,) the objects that may change.
    """
    count = len(scene.labels)
    chances = np.array([[config.drop], [config.thin], [config.swap]])
    is_drawn = (generator.random((3, count)) < chances) & is_changed
    drawn = np.where(is_drawn, generator.integers(0, 6, (3, count)), -1)  # (3, M) a side, or -1
    rows, owners = owned_points(scene)
    places = _in_box(scene.points[rows, :3], scene.boxes3d[owners])  # (n, 3) in [-1, 1]
    axes = np.abs(places).argmax(axis=1)
    sides = 2 * axes + (np.take_along_axis(places, axes[:, None], axis=1)[:, 0] > 0)

    is_left = sides != drawn[0, owners]
    for i in np.flatnonzero(drawn[1] >= 0):
        mine = np.flatnonzero(is_left & (owners == i) & (sides == drawn[1, i]))
        is_left[generator.permutation(mine)[config.thin_points :]] = False
    is_kept = np.ones(len(scene.points), np.bool_)
    is_kept[rows[~is_left]] = False

    points = scene.points.copy()
    for i in np.flatnonzero(drawn[2] >= 0):
        is_of_side = is_left & (sides == drawn[2, i])
        is_dense = np.bincount(owners[is_of_side], minlength=count) > config.swap_points
        partners = np.flatnonzero(is_dense & is_changed & (scene.labels == scene.labels[i]) & (np.arange(count) != i))
        if not is_dense[i] or not len(partners):
            continue
        other = generator.choice(partners)
        mine, theirs = np.flatnonzero(is_of_side & (owners == i)), np.flatnonzero(is_of_side & (owners == other))
        for moved, owner in ((mine, other), (theirs, i)):
            points[rows[moved], :3] = _out_of_box(places[moved], scene.boxes3d[owner])
            owners[moved] = owner
    return replace(scene, points=points).keep_points(is_kept)


def _in_box(points: Array, boxes3d: Array) -> Array:
    """(n, 3) places relative to the centre, along the axes of the box, in half sizes."""
    boxes = boxes3d.astype(np.float64)
    x, y, z = (points - boxes[:, :3]).T
    cos, sin = np.cos(boxes[:, 6]), np.sin(boxes[:, 6])
    own = np.stack((x * cos + y * sin, y * cos - x * sin, z), axis=1)
    places: Array = own / np.maximum(boxes[:, 3:6] / 2, _LEAST_SIZE)
    return places


def _out_of_box(places: Array, box3d: Array) -> Array:
    """The inverse of ``_in_box`` for one box (C,)."""
    box = box3d.astype(np.float64)
    x, y, z = (places * np.maximum(box[3:6] / 2, _LEAST_SIZE)).T
    cos, sin = np.cos(box[6]), np.sin(box[6])
    points: Array = np.stack((x * cos - y * sin, x * sin + y * cos, z), axis=1) + box[:3]
    return points
