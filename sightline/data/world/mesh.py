"""Solids out of flat convex faces, the stuff that everything in the world is built from.

Frame of a mesh: x forward, y left, z up, metres; the origin lies on the ground below the middle of its box.
Shapes: F faces, Q parts, K = ``MAX_CORNERS`` corners of a face (a face with fewer repeats its last corner).

A mesh is a list of *parts* whose axis-aligned boxes do not overlap, so that a plane lies between any two of
them and a painter's order exists from every viewpoint. A part is convex (or a thin open frame), so that its front
faces never hide each other. Decals are flat patches drawn right after the faces of their part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sightline.data.world.camera import Array

MAX_CORNERS = 12

Point = tuple[float, float, float]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Mesh:
    """Faces, corners counter-clockwise seen from outside, sorted by part, decals after the faces they lie on."""

    polygons: Array
    """(F, K, 3) float64, metres."""
    corner_counts: Array
    """(F,) int64, 3 to K: how many of the K corners are real."""
    colours: Array
    """(F, 3) float64 in [0, 1], RGB albedo."""
    gloss: Array
    """(F,) float64: share of the sky that the face mirrors."""
    glow: Array
    """(F,) float64: light of its own, relative to ``colours``."""
    is_decal: Array
    """(F,) bool: a patch on another face of the same part; no surface of its own."""
    part: Array
    """(F,) int64, ascending."""
    part_boxes: Array
    """(Q, 6) float64: x_min, y_min, z_min, x_max, y_max, z_max of every part."""

    def fitted(self, size: tuple[float, float, float]) -> Mesh:
        """The same mesh stretched so that its box is ``size`` (dx, dy, dz), standing on the ground at the origin."""
        low, high = self.part_boxes[:, :3].min(axis=0), self.part_boxes[:, 3:].max(axis=0)
        scale = np.asarray(size) / (high - low)
        origin = np.array([*(low + high)[:2] / 2, low[2]])
        boxes = ((self.part_boxes.reshape(-1, 2, 3) - origin) * scale).reshape(-1, 6)
        return Mesh(
            (self.polygons - origin) * scale,
            self.corner_counts,
            self.colours,
            self.gloss,
            self.glow,
            self.is_decal,
            self.part,
            boxes,
        )

    def placed(self, position: Array, yaw: float) -> Array:
        """(F, K, 3) polygons after a turn by ``yaw`` radians about z and a move of the origin to ``position`` (3,)."""
        return turn_about_z(self.polygons, yaw) + position


def turn_about_z(points: Array, yaw: float) -> Array:
    """(..., 3) points turned counter-clockwise, seen from above, by ``yaw`` radians."""
    cosine, sine = np.cos(yaw), np.sin(yaw)
    turned = points.copy()
    turned[..., 0] = points[..., 0] * cosine - points[..., 1] * sine
    turned[..., 1] = points[..., 0] * sine + points[..., 1] * cosine
    return turned


def face_normals(polygons: Array) -> Array:
    """(F, 3) unit normals of flat (F, K, 3) polygons; they point to where the corners run counter-clockwise.

    The sum over all corners (Newell), so that corners that coincide or lie on a line do no harm.
    """
    x, y, z = (polygons[..., axis] - polygons[:, :1, axis] for axis in range(3))  # (F, K) each
    normals = np.stack(
        [
            (y[:, :-1] * z[:, 1:] - z[:, :-1] * y[:, 1:]).sum(axis=1),
            (z[:, :-1] * x[:, 1:] - x[:, :-1] * z[:, 1:]).sum(axis=1),
            (x[:, :-1] * y[:, 1:] - y[:, :-1] * x[:, 1:]).sum(axis=1),
        ],
        axis=1,
    )
    return np.asarray(normals / np.maximum(np.sqrt((normals**2).sum(axis=1, keepdims=True)), 1e-12))


@dataclass(frozen=True)
class Solid:
    """Handle on a part made by ``MeshBuilder.loft``: where decals can be put.

    ``sides[i]`` runs along edge i of the lower outline: (lower i, lower i+1, upper i+1, upper i).
    """

    part: int
    centre: Point
    lower: tuple[Point, ...]
    upper: tuple[Point, ...]

    @property
    def sides(self) -> list[tuple[Point, Point, Point, Point]]:
        """The quadrilaterals between the outlines."""
        count = len(self.lower)
        return [
            (self.lower[i], self.lower[(i + 1) % count], self.upper[(i + 1) % count], self.upper[i])
            for i in range(count)
        ]

    def end(self, bottom: int, top: int) -> tuple[Point, Point, Point, Point]:
        """Of a solid between two upright profiles, the face from corner ``bottom`` to corner ``top``, for ``patch``."""
        return self.lower[bottom], self.upper[bottom], self.upper[top], self.lower[top]


_CORNER_U, _CORNER_V = np.array([0, 1, 1, 0]), np.array([2, 2, 3, 3])


def _mean(points: Sequence[Point]) -> Point:
    count = len(points)
    x, y, z = (sum(values) / count for values in zip(*points, strict=True))
    return x, y, z


class MeshBuilder:
    """Collects faces; ``mesh()`` turns them outwards and packs them. Plain lists: many small meshes are built."""

    def __init__(self) -> None:
        self._corners: list[Point] = []
        self._counts: list[int] = []
        self._hints: list[Point] = []
        self._paint: list[tuple[float, float, float, float, float, float, int]] = []
        self._patches: list[tuple[Array, Array]] = []  # corners (N, 4, 3) and hint with paint (N, 10) of many at once
        self._num_parts = 0

    def _add(
        self, part: int, inside: Point, corners: Sequence[Point], colour: Colour, gloss: float, glow: float, decal: bool
    ) -> None:
        self._corners.extend(corners)
        self._counts.append(len(corners))
        self._hints.append(inside)
        self._paint.append((*colour, gloss, glow, float(decal), part))

    def loft(
        self,
        lower: Sequence[Point],
        upper: Sequence[Point],
        colour: Colour,
        *,
        cap: Colour | None = None,
        gloss: float = 0.0,
        part: int | None = None,
    ) -> Solid:
        """A convex solid between two outlines with equal corner counts.

        Args:
            lower: Outline of one end; 3 to K corners.
            upper: Outline of the other end, corner by corner beside ``lower``.
            colour: Albedo of the sides.
            cap: Albedo of the end at ``upper``; without it that of the sides.
            gloss: Mirror share of all faces.
            part: Adds to an existing part (of a thin frame) instead of starting one.
        """
        centre = _mean([*lower, *upper])
        if part is None:
            part = self._num_parts
            self._num_parts += 1
        solid = Solid(part, centre, tuple(lower), tuple(upper))
        for side in solid.sides:
            self._add(part, centre, side, colour, gloss, 0.0, False)
        self._add(part, centre, solid.lower, colour, gloss, 0.0, False)
        self._add(part, centre, solid.upper, cap or colour, gloss, 0.0, False)
        return solid

    def box(self, low: Point, high: Point, colour: Colour, *, cap: Colour | None = None, gloss: float = 0.0) -> Solid:
        """An upright box. Its ``sides`` are right (-y), front (+x), left (+y), rear (-x)."""
        lower = rectangle(low[0], high[0], low[1], high[1], low[2])
        upper = rectangle(low[0], high[0], low[1], high[1], high[2])
        return self.loft(lower, upper, colour, cap=cap, gloss=gloss)

    def decal(
        self, solid: Solid, corners: Sequence[Point], colour: Colour, *, gloss: float = 0.0, glow: float = 0.0
    ) -> None:
        """A flat patch with the given corners, which lie on a face of ``solid``."""
        self._add(solid.part, solid.centre, corners, colour, gloss, glow, True)

    def patch(
        self,
        solid: Solid,
        side: Sequence[Point],
        across: tuple[float, float],
        up: tuple[float, float],
        colour: Colour,
        *,
        gloss: float = 0.0,
        glow: float = 0.0,
    ) -> None:
        """A decal on a quadrilateral side, from share ``across`` of its width and share ``up`` of its height."""
        corners = [
            blend(side, u, v) for u, v in zip((*across, *across[::-1]), (up[0],) * 2 + (up[1],) * 2, strict=True)
        ]
        self._add(solid.part, solid.centre, corners, colour, gloss, glow, True)

    def patches(
        self,
        solid: Solid,
        sides: Array,
        spans: Array,
        colours: Array,
        *,
        gloss: float = 0.0,
        glow: Array | float = 0.0,
    ) -> None:
        """Many decals at once.

        Args:
            solid: What they lie on.
            sides: (N, 4, 3) or (1, 4, 3): the side of each, as for ``patch``.
            spans: (N, 4) shares: across from, across to, up from, up to.
            colours: (N, 3) or (3,).
            gloss: Mirror share of all.
            glow: (N,) or one for all.
        """
        u, v = spans[:, _CORNER_U], spans[:, _CORNER_V]  # (N, 4)
        weights = np.stack([(1 - u) * (1 - v), u * (1 - v), u * v, (1 - u) * v], axis=2)  # (N, 4 corners, 4)
        corners = weights @ sides
        paint = np.empty((len(spans), 10))
        paint[:, :3] = solid.centre
        paint[:, 3:6] = colours
        paint[:, 6] = gloss
        paint[:, 7] = glow
        paint[:, 8:] = 1.0, solid.part
        self._patches.append((corners, paint))

    def mesh(self, size: tuple[float, float, float]) -> Mesh:
        """Everything collected, stretched to fill the box ``size`` (dx, dy, dz)."""
        corners = np.array(self._corners)
        counts = np.array(self._counts)
        paint = np.concatenate([np.array(self._hints), np.array(self._paint)], axis=1)
        if self._patches:
            blocks = [block for block, _ in self._patches]
            corners = np.concatenate([corners, *(block.reshape(-1, 3) for block in blocks)])
            counts = np.concatenate([counts, *(np.full(len(block), 4) for block in blocks)])
            paint = np.concatenate([paint, *(block for _, block in self._patches)])
        order = np.lexsort((paint[:, 8], paint[:, 9]))  # stable: by part, faces before decals, then as added
        starts = (np.cumsum(counts) - counts)[order, None]
        counts, paint = counts[order], paint[order]
        steps = np.minimum(np.arange(MAX_CORNERS), counts[:, None] - 1)  # (F, K)
        polygons = corners[starts + steps]
        is_inside_out = (face_normals(polygons) * (polygons[:, 0] - paint[:, :3])).sum(axis=1) < 0
        backwards = np.maximum(counts[is_inside_out, None] - 1 - np.arange(MAX_CORNERS), 0)
        polygons[is_inside_out] = corners[starts[is_inside_out] + backwards]
        part = paint[:, 9].astype(np.int64)
        firsts = np.searchsorted(part, np.arange(self._num_parts)) * MAX_CORNERS
        flat = polygons.reshape(-1, 3)
        boxes = np.concatenate([np.minimum.reduceat(flat, firsts), np.maximum.reduceat(flat, firsts)], axis=1)
        mesh = Mesh(polygons, counts, paint[:, 3:6], paint[:, 6], paint[:, 7], paint[:, 8] > 0, part, boxes)
        return mesh.fitted(size)


def blend(side: Sequence[Point], u: float, v: float) -> Point:
    """The point at share ``u`` across and ``v`` up of a quadrilateral, whose corners start at the lower left."""
    a, b, c, d = (1 - u) * (1 - v), u * (1 - v), u * v, (1 - u) * v
    p, q, r, s = side
    return (
        p[0] * a + q[0] * b + r[0] * c + s[0] * d,
        p[1] * a + q[1] * b + r[1] * c + s[1] * d,
        p[2] * a + q[2] * b + r[2] * c + s[2] * d,
    )


def rectangle(x_min: float, x_max: float, y_min: float, y_max: float, z: float) -> list[Point]:
    """A level rectangle, counter-clockwise from its rear right corner."""
    return [(x_min, y_min, z), (x_max, y_min, z), (x_max, y_max, z), (x_min, y_max, z)]


_CIRCLES: dict[int, list[tuple[float, float]]] = {
    corners: [
        (float(np.cos(2 * np.pi * (i + 0.5) / corners)), float(np.sin(2 * np.pi * (i + 0.5) / corners)))
        for i in range(corners)
    ]
    for corners in (6, 8, 10, 12)
}


def level_circle(x: float, y: float, z: float, radius_x: float, radius_y: float, corners: int = 8) -> list[Point]:
    """A level ellipse of 6, 8, 10 or 12 corners."""
    return [(x + radius_x * c, y + radius_y * s, z) for c, s in _CIRCLES[corners]]


def upright_circle(x: float, y: float, z: float, radius: float, corners: int = 12) -> list[Point]:
    """A circle in a plane of constant y, as wheels are."""
    return [(x + radius * c, y, z + radius * s) for c, s in _CIRCLES[corners]]


def profile(outline: Iterable[tuple[float, float]], y: float) -> list[Point]:
    """A convex outline of (x, z) in a plane of constant y."""
    return [(x, y, z) for x, z in outline]
