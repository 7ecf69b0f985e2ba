"""Pedestrians and cyclists out of flat faces. Frame: x forward, y left, z up, metres."""

from __future__ import annotations

import numpy as np

from sightline.data.world.mesh import (
    Colour,
    Mesh,
    MeshBuilder,
    Point,
    level_circle,
    rectangle,
    upright_circle,
)
from sightline.data.world.vehicles import DARK, HEADLIGHT, RIM, RUBBER, TAIL_LIGHT, pick, shade_of

SKIN: tuple[Colour, ...] = ((0.87, 0.68, 0.55), (0.78, 0.57, 0.44), (0.55, 0.38, 0.28), (0.36, 0.24, 0.18))
HAIR: tuple[Colour, ...] = ((0.10, 0.08, 0.07), (0.30, 0.19, 0.11), (0.62, 0.48, 0.26), (0.55, 0.53, 0.52))
TOPS: tuple[Colour, ...] = (
    (0.70, 0.12, 0.14),
    (0.14, 0.28, 0.58),
    (0.16, 0.45, 0.28),
    (0.85, 0.75, 0.25),
    (0.88, 0.87, 0.84),
    (0.20, 0.20, 0.24),
    (0.48, 0.24, 0.50),
    (0.80, 0.48, 0.54),
    (0.35, 0.60, 0.68),
    (0.45, 0.36, 0.26),
)
TROUSERS: tuple[Colour, ...] = ((0.13, 0.17, 0.30), (0.10, 0.10, 0.12), (0.45, 0.40, 0.30), (0.30, 0.31, 0.34))


def _limb(
    builder: MeshBuilder,
    start: Point,
    end: Point,
    thick: float,
    wide: float,
    colour: Colour,
    *,
    part: int | None = None,
) -> int:
    """A straight limb between two points of different height, ``thick`` along x and ``wide`` along y; its part."""
    low, high = sorted((start, end), key=lambda point: point[2])
    outlines = [rectangle(x - thick / 2, x + thick / 2, y - wide / 2, y + wide / 2, z) for x, y, z in (low, high)]
    return builder.loft(outlines[0], outlines[1], colour, part=part).part


def pedestrian(size: tuple[float, float, float], rng: np.random.Generator) -> Mesh:
    """A walking person: legs in a stride, torso, swinging arms, head, hair, sometimes a coat or a rucksack."""
    length, width, height = size
    builder = MeshBuilder()
    top, trousers = pick(rng, TOPS), pick(rng, TROUSERS)
    skin, hair = pick(rng, SKIN), pick(rng, HAIR)
    hip, shoulder, chin = 0.49 * height, 0.82 * height, 0.855 * height
    stride = 0.36 * length * (1 if rng.random() < 0.5 else -1)
    coat = rng.random() < 0.25
    knee = 0.28 * height

    for side in (-1.0, 1.0):
        foot_x = side * stride
        y = side * 0.165 * width
        leg = skin if coat and rng.random() < 0.3 else trousers
        _limb(builder, (foot_x * 0.55, y, knee), (0.0, y, hip), 0.16 * height / 1.75, 0.25 * width, trousers)
        _limb(builder, (foot_x, y, 0.05), (foot_x * 0.55, y, knee), 0.13 * height / 1.75, 0.24 * width, leg)
        builder.box((foot_x - 0.10, y - 0.05, 0.0), (foot_x + 0.16, y + 0.05, 0.05), DARK)

        arm_y = side * (0.5 * width - 0.055)
        hand_x = -side * stride * 0.75
        elbow = 0.62 * height
        _limb(builder, (hand_x * 0.4, arm_y, elbow), (0.0, arm_y, shoulder - 0.02), 0.12, 0.10, shade_of(top, 0.9))
        _limb(builder, (hand_x, arm_y, 0.48 * height), (hand_x * 0.4, arm_y, elbow), 0.10, 0.09, shade_of(top, 0.85))
        builder.box((hand_x - 0.05, arm_y - 0.04, 0.44 * height), (hand_x + 0.05, arm_y + 0.04, 0.48 * height), skin)

    torso_half = (0.5 * width - 0.107) / 0.924  # of an octagon, whose flat sides touch the arms
    hem = hip + 0.001
    torso = builder.loft(
        level_circle(0.0, 0.0, hem, 0.125, torso_half * 0.92),
        level_circle(0.0, 0.0, shoulder, 0.135, torso_half),
        top,
    )
    if coat:
        for side in (0, 2, 4, 6):
            builder.patch(torso, torso.sides[side], (0.1, 0.9), (0.30, 0.36), shade_of(top, 0.5))
    else:
        mark = pick(rng, TOPS)
        for side in (7, 0, 6, 1) if rng.random() < 0.5 else ():
            builder.patch(torso, torso.sides[side], (0.0, 1.0), (0.55, 0.75), mark)
    if rng.random() < 0.3:
        pack = pick(rng, TOPS)
        builder.box((-0.30, -torso_half * 0.8, hip + 0.12), (-0.14, torso_half * 0.8, shoulder - 0.02), pack)
    builder.loft(level_circle(0, 0, shoulder + 0.001, 0.06, 0.06, 6), level_circle(0, 0, chin, 0.06, 0.06, 6), skin)
    temple = chin + 0.62 * (height - chin)
    builder.loft(level_circle(0.01, 0, chin + 0.001, 0.075, 0.06), level_circle(0.0, 0, temple, 0.105, 0.085), skin)
    builder.loft(
        level_circle(-0.005, 0, temple + 0.001, 0.115, 0.095), level_circle(-0.01, 0, height, 0.07, 0.055), hair
    )
    return builder.mesh(size)


def _bicycle(builder: MeshBuilder, length: float, paint: Colour) -> tuple[float, float]:
    """Wheels and frame as one thin part in the plane y = 0; returns where the saddle and the handlebar stand (x)."""
    radius = 0.335
    rear, front = -length / 2 + radius, length / 2 - radius
    axle = radius
    crank: Point = (rear + 0.44, 0.0, axle - 0.04)
    saddle_x, bar_x = rear + 0.26, front - 0.14
    part: int | None = None
    for x in (rear, front):
        outer, inner = upright_circle(x, 0.0, axle, radius), upright_circle(x, 0.0, axle, radius * 0.82)
        for i in range(12):
            j = (i + 1) % 12
            lower = [(p[0], -0.025, p[2]) for p in (outer[i], outer[j], inner[j], inner[i])]
            upper = [(p[0], 0.025, p[2]) for p in lower]
            part = builder.loft(lower, upper, RUBBER, part=part).part
        hub = upright_circle(x, -0.02, axle, 0.05, 6)
        builder.loft(hub, [(p[0], 0.02, p[2]) for p in hub], RIM, part=part)
    tubes = (
        ((rear, 0.0, axle), (saddle_x, 0.0, 0.78)),
        ((rear, 0.0, axle - 0.01), crank),
        (crank, (saddle_x, 0.0, 0.90)),
        (crank, (bar_x - 0.02, 0.0, 0.80)),
        ((saddle_x + 0.03, 0.0, 0.80), (bar_x - 0.02, 0.0, 0.86)),
        ((front, 0.0, axle), (bar_x, 0.0, 0.93)),
    )
    for start, end in tubes:
        _tube(builder, start, end, paint, part)
    return saddle_x, bar_x


def _tube(builder: MeshBuilder, start: Point, end: Point, colour: Colour, part: int | None) -> None:
    """A flat bar between two points of the plane y = 0."""
    dx, dz = end[0] - start[0], end[2] - start[2]
    across = 0.026 / float(np.hypot(dx, dz))
    nx, nz = -dz * across, dx * across
    outline = [
        (start[0] + nx, start[2] + nz),
        (start[0] - nx, start[2] - nz),
        (end[0] - nx, end[2] - nz),
        (end[0] + nx, end[2] + nz),
    ]
    builder.loft([(x, -0.022, z) for x, z in outline], [(x, 0.022, z) for x, z in outline], colour, part=part)


def cyclist(size: tuple[float, float, float], rng: np.random.Generator) -> Mesh:
    """A person on a bicycle, one leg up and one down."""
    length, width, height = size
    builder = MeshBuilder()
    top, trousers, skin = pick(rng, TOPS), pick(rng, TROUSERS), pick(rng, SKIN)
    helmet = pick(rng, TOPS)
    saddle_x, bar_x = _bicycle(builder, length, pick(rng, TOPS))
    seat, shoulder_x, shoulder = 1.0, saddle_x + 0.30, 0.80 * height
    phase = 1.0 if rng.random() < 0.5 else -1.0
    builder.box((saddle_x - 0.14, -0.045, 0.95), (saddle_x + 0.12, 0.045, seat - 0.005), DARK)
    builder.box((bar_x - 0.03, -width / 2, 0.99), (bar_x + 0.05, width / 2, 1.03), DARK)
    lamp = builder.box((bar_x + 0.06, -0.05, 0.95), (bar_x + 0.10, 0.05, 1.03), DARK)
    builder.patch(lamp, lamp.sides[1], (0.0, 1.0), (0.0, 1.0), HEADLIGHT, glow=1.4)
    tail = builder.box((saddle_x - 0.19, -0.05, 0.95), (saddle_x - 0.15, 0.05, 1.02), DARK)
    builder.patch(tail, tail.sides[3], (0.0, 1.0), (0.0, 1.0), TAIL_LIGHT, glow=1.2)

    for side in (-1.0, 1.0):
        y = side * 0.12
        lift = side * phase
        foot: Point = (saddle_x + 0.18 + 0.10 * lift, y, 0.30 + 0.15 * (1 + lift) / 2 * 1.6)
        knee: Point = (saddle_x + 0.38 + 0.04 * lift, y, 0.66 + 0.10 * lift)
        _limb(builder, knee, (saddle_x, y, seat + 0.02), 0.17, 0.15, trousers)
        _limb(builder, foot, knee, 0.12, 0.12, trousers if rng.random() < 0.7 else skin)
        builder.box((foot[0] - 0.08, y - 0.05, foot[2] - 0.07), (foot[0] + 0.18, y + 0.05, foot[2] - 0.002), DARK)

        arm_y = side * (width / 2 - 0.06)
        elbow: Point = ((shoulder_x + bar_x) / 2 - 0.02, arm_y, 0.5 * (shoulder + 1.03) - 0.06)
        _limb(builder, elbow, (shoulder_x, arm_y, shoulder - 0.03), 0.12, 0.10, shade_of(top, 0.9))
        _limb(builder, (bar_x, arm_y, 1.04), elbow, 0.10, 0.09, skin if rng.random() < 0.5 else shade_of(top, 0.85))

    torso_half = (width / 2 - 0.112) / 0.924
    torso = builder.loft(
        level_circle(saddle_x, 0.0, seat + 0.025, 0.14, torso_half * 0.8),
        level_circle(shoulder_x, 0.0, shoulder, 0.15, torso_half),
        top,
    )
    if rng.random() < 0.5:
        mark = pick(rng, TOPS)
        for side_index in range(8):
            builder.patch(torso, torso.sides[side_index], (0.0, 1.0), (0.5, 0.7), mark)
    chin = shoulder + 0.04
    temple = chin + 0.55 * (height - chin)
    head_x = shoulder_x + 0.07
    builder.loft(
        level_circle(head_x, 0, shoulder + 0.005, 0.075, 0.065),
        level_circle(head_x + 0.01, 0, temple, 0.10, 0.085),
        skin,
    )
    builder.loft(
        level_circle(head_x - 0.01, 0, temple + 0.002, 0.145, 0.105),
        level_circle(head_x - 0.02, 0, height, 0.07, 0.05),
        helmet,
    )
    return builder.mesh(size)
