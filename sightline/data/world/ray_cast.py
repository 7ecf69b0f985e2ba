"""Rays from one point against flat convex faces: what a spinning LiDAR hits first.

Frame: that of the sensor, x forward, y left, z up, metres; all rays start at its origin. Shapes: B beams, A azimuth
steps, F faces, K corners of a face (a face with fewer repeats its last corner), Q pairs of a face and a ray.

A ray is (cos a, sin a, t) with its azimuth a and the tangent t of its elevation, so that its parameter is the distance
over ground. A ray can only meet a face whose window of azimuths and elevations it lies in; those pairs are listed, and
tested all at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sightline.data.world.camera import Array
from sightline.ops.frames import wrapped

_PAIRS_AT_ONCE = 1 << 17
"""So many are worked on together that their numbers stay in the processor's cache."""
_DECAL_LEAD = 1e-6
"""A decal lies in the plane of another face and is taken for nearer by this share."""


@dataclass(frozen=True)
class RayGrid:
    """The rays of one turn, or of a part of it."""

    tangents: Array
    """(B,) of the elevations, ascending."""
    first_azimuth: float
    """Radians."""
    steps_per_turn: int
    num_steps: int
    """A, at most ``steps_per_turn``; azimuths rise (counter-clockwise seen from above)."""

    @property
    def azimuths(self) -> Array:
        """(A,) radians."""
        return self.first_azimuth + np.arange(self.num_steps) * (2 * np.pi / self.steps_per_turn)


class FirstHits(NamedTuple):
    """What every ray meets first."""

    ground_distance: Array
    """(B, A) metres over ground; infinite where nothing is met."""
    face: Array
    """(B, A) int64; -1 where nothing is met."""


class _Windows(NamedTuple):
    """Ranges of rays, one row each; a face that lies across the seam of the turn has two."""

    face: Array
    first_row: Array
    num_rows: Array
    first_column: Array
    num_columns: Array


def first_hits(corners: Array, is_decal: Array, grid: RayGrid) -> FirstHits:
    """The nearest face on every ray, seen from outside; inner sides are not met.

    Args:
        corners: (F, K, 3), counter-clockwise seen from outside.
        is_decal: (F,) bool: lies in the plane of another face and covers it.
        grid: The rays.
    """
    planes = _Planes.of(corners)
    distance = np.full(len(grid.tangents) * grid.num_steps, np.inf)
    nearest = np.full(len(distance), -1)
    cosines, sines = np.cos(grid.azimuths), np.sin(grid.azimuths)
    lead = np.where(is_decal, 1 - _DECAL_LEAD, 1.0)
    for pairs in _pairs(_windows(corners, grid, planes.offsets < 0)):
        rays = np.stack([cosines[pairs.column], sines[pairs.column], grid.tangents[pairs.row]])  # (3, Q)
        meets, found = _meetings(planes, pairs.face, rays)
        face, ray = pairs.face[meets], pairs.row[meets] * grid.num_steps + pairs.column[meets]
        found = found * lead[face]
        nearer = np.flatnonzero(found < distance[ray])
        order = nearer[np.argsort(-found[nearer], kind="stable")]  # of several of one ray the nearest is written last
        distance[ray[order]] = found[order]
        nearest[ray[order]] = face[order]
    shape = len(grid.tangents), grid.num_steps
    return FirstHits(distance.reshape(shape), nearest.reshape(shape))


class _Planes(NamedTuple):
    """What decides whether a ray meets a face."""

    edges: Array
    """(K, 3, F) normals of the planes through the sensor and each edge; they point out of a face seen from outside."""
    normals: Array
    """(3, F) outwards, twice the area long."""
    offsets: Array
    """(F,) of the face's plane; below 0 where the sensor is outside."""

    @classmethod
    def of(cls, corners: Array) -> _Planes:
        """Those of (F, K, 3) corners."""
        edges = np.cross(corners, np.roll(corners, -1, axis=1))  # exactly opposite for two faces that share an edge
        normals = edges.sum(axis=1)
        offsets = (normals * corners[:, 0]).sum(axis=1)
        return cls(np.ascontiguousarray(edges.transpose(1, 2, 0)), np.ascontiguousarray(normals.T), offsets)


def _meetings(planes: _Planes, faces: Array, rays: Array) -> tuple[Array, Array]:
    """Which of Q pairs meet, and the ray parameter where they do.

    Args:
        planes: Of all faces.
        faces: (Q,) the face of each pair.
        rays: (3, Q) its ray.
    """
    left = np.arange(len(faces))
    for edge in planes.edges:  # (3, F)
        inside = np.flatnonzero(_dot(edge, faces[left], rays[:, left]) <= 0)
        if len(inside) < len(left):
            left = left[inside]
    towards = _dot(planes.normals, faces[left], rays[:, left])
    meets = np.flatnonzero(towards < 0)
    left = left[meets]
    return left, planes.offsets[faces[left]] / towards[meets]


def _dot(vectors: Array, faces: Array, rays: Array) -> Array:
    """(Q,) products of the faces' vectors (3, F) with rays (3, Q)."""
    x, y, z = (component[faces] for component in vectors)
    return np.asarray(x * rays[0] + y * rays[1] + z * rays[2])


def _windows(corners: Array, grid: RayGrid, is_seen: Array) -> _Windows:
    """Which rays can meet which face: never too few, sometimes too many."""
    low, high = _tangent_bounds(corners)
    first_row = np.searchsorted(grid.tangents, low, side="left")
    num_rows = np.searchsorted(grid.tangents, high, side="right") - first_row
    step = 2 * np.pi / grid.steps_per_turn
    right, left = _azimuth_bounds(corners)
    first = np.ceil((right - grid.first_azimuth) / step - 1e-6).astype(np.int64)
    last = np.floor((left - grid.first_azimuth) / step + 1e-6).astype(np.int64)
    count = np.clip(last - first + 1, 0, grid.steps_per_turn)
    first %= grid.steps_per_turn
    beyond = first + count - grid.steps_per_turn  # columns on the other side of the seam
    num_faces = len(corners)
    starts = np.concatenate([first, np.zeros(num_faces, dtype=np.int64)])
    ends = np.minimum(np.concatenate([first + count, beyond]), grid.num_steps)
    keep = np.flatnonzero((ends > starts) & np.tile(is_seen & (num_rows > 0), 2))
    face = keep % num_faces
    return _Windows(face, first_row[face], num_rows[face], starts[keep], (ends - starts)[keep])


def _tangent_bounds(corners: Array) -> tuple[Array, Array]:
    """(F,) least and largest tangent of elevation that a face can have anywhere."""
    height_low, height_high = corners[..., 2].min(axis=1), corners[..., 2].max(axis=1)
    flat = corners[..., :2]
    far = np.sqrt((flat**2).sum(axis=2).max(axis=1))
    along = np.roll(flat, -1, axis=1) - flat  # (F, K, 2)
    length = np.maximum((along**2).sum(axis=2), 1e-12)
    share = np.clip(-(flat * along).sum(axis=2) / length, 0, 1)
    near = np.sqrt((((flat + share[..., None] * along) ** 2).sum(axis=2)).min(axis=1))
    near = np.where(_turns_around(flat), 0.0, near)
    near, far = np.maximum(near, 1e-9), np.maximum(far, 1e-9)
    low = height_low / np.where(height_low < 0, near, far)
    high = height_high / np.where(height_high > 0, near, far)
    return low - 1e-9, high + 1e-9


def _azimuth_bounds(corners: Array) -> tuple[Array, Array]:
    """(F,) right and left end of every face, radians; the left end is not below the right one."""
    azimuth = np.arctan2(corners[..., 1], corners[..., 0])
    steps = wrapped(np.roll(azimuth, -1, axis=1) - azimuth)
    turned = np.concatenate([np.zeros((len(corners), 1)), np.cumsum(steps[:, :-1], axis=1)], axis=1)
    right, left = azimuth[:, 0] + turned.min(axis=1), azimuth[:, 0] + turned.max(axis=1)
    around = _turns_around(corners[..., :2])
    return np.where(around, -np.pi, right), np.where(around, np.pi, left)


def _turns_around(flat: Array) -> Array:
    """(F,) bool: the face (F, K, 2) lies above or below the sensor."""
    azimuth = np.arctan2(flat[..., 1], flat[..., 0])
    return np.asarray(np.abs(wrapped(np.roll(azimuth, -1, axis=1) - azimuth).sum(axis=1)) > np.pi)


class _Pairs(NamedTuple):
    """A face and a ray each, (Q,)."""

    face: Array
    row: Array
    column: Array


def _pairs(windows: _Windows) -> Iterator[_Pairs]:
    """All pairs, in portions."""
    sizes = windows.num_rows * windows.num_columns
    portion = np.cumsum(sizes) // _PAIRS_AT_ONCE
    bounds = np.flatnonzero(np.diff(portion, prepend=-1, append=-1))
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        mine = slice(start, end)
        counts = sizes[mine]
        window = np.repeat(np.arange(start, end), counts)
        place = np.arange(len(window)) - np.repeat(np.cumsum(counts) - counts, counts)
        row, column = np.divmod(place, windows.num_columns[window])
        yield _Pairs(windows.face[window], windows.first_row[window] + row, windows.first_column[window] + column)
