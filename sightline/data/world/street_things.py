"""What stands beside the road: traffic cones (labelled) and the unlabelled rest. Frame: x forward, y left, z up."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from sightline.data.world.camera import Array
from sightline.data.world.mesh import Colour, Mesh, MeshBuilder, Solid, level_circle, rectangle
from sightline.data.world.vehicles import DARK, GLASS, pick, shade_of

ORANGE: Colour = (0.95, 0.36, 0.06)
WHITE: Colour = (0.93, 0.93, 0.90)
METAL: Colour = (0.42, 0.44, 0.45)
TRUNK: Colour = (0.30, 0.22, 0.15)
LEAVES: tuple[Colour, ...] = ((0.20, 0.40, 0.14), (0.28, 0.46, 0.16), (0.16, 0.33, 0.17), (0.48, 0.45, 0.16))
FACADES: tuple[Colour, ...] = (
    (0.62, 0.36, 0.28),
    (0.72, 0.64, 0.52),
    (0.58, 0.58, 0.57),
    (0.80, 0.76, 0.68),
    (0.45, 0.42, 0.42),
    (0.66, 0.54, 0.40),
    (0.50, 0.58, 0.62),
)


def cone(size: tuple[float, float, float], rng: np.random.Generator) -> Mesh:
    """A traffic cone: dark base, orange body with one or two white sleeves."""
    length, width, height = size
    builder = MeshBuilder()
    orange = shade_of(ORANGE, float(rng.uniform(0.85, 1.1)))
    foot = 0.06 * height
    builder.box((-length / 2, -width / 2, 0), (length / 2, width / 2, foot), DARK if rng.random() < 0.6 else orange)
    cuts = [0.0, 0.38, 0.66, 1.0] if rng.random() < 0.5 else [0.0, 0.28, 0.46, 0.62, 0.80, 1.0]
    wide, narrow = 0.40 * width, 0.09 * width
    for index, (low, high) in enumerate(pairwise(cuts)):
        rings = [
            level_circle(0, 0, foot + 0.001 + share * (height - foot), r, r, 10)
            for share, r in ((low, wide + (narrow - wide) * low), (high, wide + (narrow - wide) * high))
        ]
        builder.loft(rings[0], rings[1], WHITE if index % 2 else orange)
    return builder.mesh(size)


def building(size: tuple[float, float, float], rng: np.random.Generator) -> Mesh:
    """A block with floors of windows, a ground floor with doors or shops, and a cornice; its left side is bare."""
    length, width, height = size
    builder = MeshBuilder()
    paint, trim = pick(rng, FACADES), pick(rng, FACADES)
    block = builder.box(
        (-length / 2, -width / 2, 0), (length / 2, width / 2, height * 0.975), paint, cap=(0.30, 0.30, 0.31)
    )
    builder.box(
        (-length / 2 - 0.2, -width / 2 - 0.2, height * 0.976), (length / 2 + 0.2, width / 2 + 0.2, height), trim
    )
    floors = max(1, round((height - 1.0) / 3.2))
    style = int(rng.integers(3))  # 0 single windows, 1 tall windows, 2 ribbons
    has_shops, has_ledges = rng.random(2) < 0.5
    lit_share = float(rng.uniform(0.1, 0.4))
    first = 1 / (floors + 0.3)
    low = [(floor + 0.32) * first for floor in range(1, floors)]
    tall = (0.42, 0.58, 0.45)[style] * first
    for side, span in ((block.sides[0], length), (block.sides[1], width), (block.sides[3], width)):
        columns = 1 if style == 2 else max(1, round(span / (3.0, 2.4)[style]))
        half = 0.47 if style == 2 else (0.26, 0.22)[style] / columns
        middle = [(column + 0.5) / columns for column in range(columns)]
        wall = np.array([side])
        windows = np.array([[x - half, x + half, y, y + tall] for y in low for x in middle]).reshape(-1, 4)
        if has_shops:
            builder.patch(block, side, (0.02, 0.98), (0.0, first * 0.9), shade_of(trim, 0.8))
            builder.patch(block, side, (0.06, 0.94), (first * 0.12, first * 0.68), GLASS, gloss=0.25, glow=0.8)
        else:
            door = middle[columns // 2]
            builder.patch(
                block, side, (door - 0.6 / span, door + 0.6 / span), (0.0, first * 0.72), shade_of(trim, 0.45)
            )
        if has_ledges:
            ledges = np.array([(0.0, 1.0, floor * first, (floor + 0.07) * first) for floor in range(1, floors + 1)])
            builder.patches(block, wall, ledges, np.array(shade_of(trim, 1.1)))
        if floors > 1:
            lit = np.where(rng.random(len(windows)) < lit_share, rng.uniform(0.6, 2.0, len(windows)), 0.0)
            builder.patches(block, wall, windows, np.array(GLASS), gloss=0.3, glow=lit)
    return builder.mesh(size)


def tree(size: tuple[float, float, float], rng: np.random.Generator) -> Mesh:
    """A trunk under two or three rounded crowns."""
    length, _, height = size
    builder = MeshBuilder()
    green = pick(rng, LEAVES)
    foot = float(rng.uniform(0.30, 0.42)) * height
    trunk = 0.035 * height
    builder.loft(level_circle(0, 0, 0, trunk, trunk, 6), level_circle(0, 0, foot, trunk * 0.7, trunk * 0.7, 6), TRUNK)
    widths = (0.62, 1.0, 0.88, 0.35) if rng.random() < 0.6 else (0.95, 0.8, 0.5, 0.12)
    levels = np.linspace(foot, height, 4).tolist()
    for layer in range(3):
        low, high = (0.5 * length * width for width in widths[layer : layer + 2])
        crown = builder.loft(
            level_circle(0, 0, levels[layer] + 0.001, low, low, 10),
            level_circle(0, 0, levels[layer + 1], high, high, 10),
            shade_of(green, 0.86 + 0.12 * layer),
        )
        _leaves(builder, crown, np.repeat(np.array(crown.sides), 3, axis=0), green, (0.32, 0.30), rng)
    return builder.mesh(size)


def _leaves(
    builder: MeshBuilder,
    solid: Solid,
    sides: Array,
    green: Colour,
    size: tuple[float, float],
    rng: np.random.Generator,
) -> None:
    """A lighter or darker patch on each of ``sides`` (N, 4, 3), ``size`` shares of the side wide and tall."""
    corner = rng.random((len(sides), 2)) * (1 - np.array(size))
    spans = np.concatenate([corner, corner + size], axis=1)[:, [0, 2, 1, 3]]
    builder.patches(solid, sides, spans, np.minimum(np.array(green) * rng.uniform(0.6, 1.25, (len(sides), 1)), 1.0))


def lamp(size: tuple[float, float, float], rng: np.random.Generator) -> Mesh:
    """A street lamp: a pole with a head that leans over the road (+y)."""
    _, width, height = size
    builder = MeshBuilder()
    colour = shade_of(METAL, float(rng.uniform(0.6, 1.2)))
    y = -width / 2 + 0.08
    builder.loft(level_circle(0, y, 0, 0.08, 0.08, 6), level_circle(0, y, height - 0.13, 0.05, 0.05, 6), colour)
    arm = builder.box((-0.08, y - 0.05, height - 0.12), (0.08, width / 2, height), colour)
    builder.decal(arm, rectangle(-0.07, 0.07, width / 2 - 0.45, width / 2 - 0.05, height - 0.12), WHITE, glow=1.2)
    return builder.mesh(size)


def sign(size: tuple[float, float, float], rng: np.random.Generator) -> Mesh:
    """A traffic sign on a pole, its face to the rear (-x): round, square or triangular."""
    _, width, height = size
    builder = MeshBuilder()
    half = width / 2
    low = height - width
    builder.loft(level_circle(0.04, 0, 0, 0.03, 0.03, 6), level_circle(0.04, 0, height - 0.1, 0.03, 0.03, 6), METAL)
    kind = int(rng.integers(3))
    if kind == 0:
        ring = [(half * c, half * s) for c, s in _OCTAGON]
        rim, face = ((0.75, 0.08, 0.08), WHITE) if rng.random() < 0.5 else ((0.10, 0.25, 0.60), (0.12, 0.30, 0.68))
    elif kind == 1:
        ring = [(-half, -half), (half, -half), (half, half), (-half, half)]
        rim, face = WHITE, (0.10, 0.28, 0.62)
    else:
        ring = [(-half, -half), (half, -half), (0.0, half)]
        rim, face = (0.75, 0.08, 0.08), WHITE
    middle = low + half
    plate = builder.loft([(-0.02, y, middle + z) for y, z in ring], [(0.0, y, middle + z) for y, z in ring], METAL)
    builder.decal(plate, [(-0.02, y, middle + z) for y, z in ring], rim)
    builder.decal(plate, [(-0.02, 0.72 * y, middle + 0.72 * z) for y, z in ring], face)
    return builder.mesh(size)


_OCTAGON = tuple((x, y) for x, y, _ in level_circle(0.0, 0.0, 0.0, 1.0, 1.0))


def bin_(size: tuple[float, float, float], rng: np.random.Generator) -> Mesh:
    """A litter bin."""
    length, _, height = size
    builder = MeshBuilder()
    colour = pick(rng, ((0.16, 0.30, 0.22), (0.28, 0.29, 0.31), (0.20, 0.24, 0.36), (0.40, 0.30, 0.22)))
    r = length / 2
    builder.loft(level_circle(0, 0, 0, r * 0.85, r * 0.85), level_circle(0, 0, height * 0.8, r, r), colour)
    builder.loft(
        level_circle(0, 0, height * 0.801, r, r), level_circle(0, 0, height, r * 0.7, r * 0.7), shade_of(colour, 0.6)
    )
    return builder.mesh(size)


def hedge(size: tuple[float, float, float], rng: np.random.Generator) -> Mesh:
    """A clipped hedge."""
    length, width, height = size
    builder = MeshBuilder()
    green = pick(rng, LEAVES)
    lower = rectangle(-length / 2, length / 2, -width / 2, width / 2, 0)
    upper = rectangle(-length / 2 + 0.1, length / 2 - 0.1, -width * 0.42, width * 0.42, height)
    block = builder.loft(lower, upper, green, cap=shade_of(green, 1.15))
    right, front, left, rear = np.array(block.sides)
    _leaves(builder, block, np.stack([right, left] * 20), green, (0.3 / length, 0.25), rng)
    _leaves(builder, block, np.stack([front, rear] * 4), green, (0.3, 0.25), rng)
    return builder.mesh(size)
