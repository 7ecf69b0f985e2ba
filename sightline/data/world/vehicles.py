"""Cars and trucks out of flat faces. Frame: x forward, y left, z up, metres; random choices from one generator."""

from __future__ import annotations

import numpy as np

from sightline.data.world.mesh import Colour, Mesh, MeshBuilder, Point, Solid, profile, rectangle, upright_circle

RUBBER: Colour = (0.05, 0.05, 0.055)
RIM: Colour = (0.55, 0.56, 0.58)
GLASS: Colour = (0.06, 0.08, 0.10)
DARK: Colour = (0.09, 0.09, 0.10)
HEADLIGHT: Colour = (0.95, 0.95, 0.86)
TAIL_LIGHT: Colour = (0.75, 0.04, 0.04)
AMBER: Colour = (0.95, 0.55, 0.08)
PLATE: Colour = (0.85, 0.85, 0.80)

PAINTS: tuple[Colour, ...] = (
    (0.86, 0.87, 0.88),
    (0.62, 0.64, 0.66),
    (0.30, 0.31, 0.33),
    (0.10, 0.10, 0.12),
    (0.10, 0.18, 0.42),
    (0.16, 0.38, 0.62),
    (0.55, 0.07, 0.08),
    (0.72, 0.14, 0.10),
    (0.10, 0.30, 0.18),
    (0.78, 0.66, 0.18),
    (0.46, 0.36, 0.26),
    (0.42, 0.60, 0.66),
)


def shade_of(colour: Colour, factor: float) -> Colour:
    """The same colour, lighter or darker, within [0, 1]."""
    red, green, blue = (min(1.0, channel * factor) for channel in colour)
    return red, green, blue


def pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    """One of the colours, slightly changed."""
    base = colours[int(rng.integers(len(colours)))]
    return shade_of(base, float(rng.uniform(0.85, 1.15)))


def _wheel(builder: MeshBuilder, x: float, side: float, half_width: float, radius: float, floor: float) -> None:
    """A wheel disc outside the body, and the part of the tyre below the body. ``side`` is 1 for left, -1 for right."""
    outer, inner = side * half_width, side * (half_width - 0.025)
    disc = builder.loft(upright_circle(x, inner, radius, radius), upright_circle(x, outer, radius, radius), RUBBER)
    builder.decal(disc, upright_circle(x, outer, radius, radius * 0.62, 8), RIM, gloss=0.2)
    builder.decal(disc, upright_circle(x, outer, radius, radius * 0.22, 6), DARK)
    y_min, y_max = sorted((side * (half_width - 0.22), side * (half_width - 0.03)))
    builder.box((x - radius * 0.7, y_min, 0.0), (x + radius * 0.7, y_max, floor - 0.005), RUBBER)


def _on_side(solid: Solid, x: tuple[float, float], z: tuple[float, float], y: float) -> list[Point]:
    return [(x[0], y, z[0]), (x[1], y, z[0]), (x[1], y, z[1]), (x[0], y, z[1])]


def car(size: tuple[float, float, float], rng: np.random.Generator) -> Mesh:
    """A saloon, hatchback or estate: body, cabin with windows, wheels, lights."""
    length, width, height = size
    paint = pick(rng, PAINTS)
    builder = MeshBuilder()
    back, front = -length / 2, length / 2
    half = width / 2
    body_half = half - 0.03
    radius = 0.215 * height if height < 1.6 else 0.2 * height
    floor = 0.15 * height
    belt = float(rng.uniform(0.56, 0.61)) * height
    nose = float(rng.uniform(0.42, 0.49)) * height
    kind = int(rng.integers(3))  # 0 saloon, 1 hatchback, 2 estate
    hood = front - float(rng.uniform(0.23, 0.28)) * length
    tail = back + (0.17, 0.05, 0.02)[kind] * length

    outline = [(back, floor), (front, floor), (front, nose), (hood, belt), (back + 0.02, belt)]
    body = builder.loft(profile(outline, -body_half), profile(outline, body_half), paint, gloss=0.12)
    rear_side, nose_side = body.end(0, 4), body.end(1, 2)
    wheels_x = (back + 0.19 * length, front - 0.18 * length)
    for side in (-1.0, 1.0):
        y = side * body_half
        for x in wheels_x:
            arch = [(x + px, y, floor + pz) for px, pz in _arch(radius * 1.16, radius - floor)]
            builder.decal(body, arch, DARK)
        sill = (floor, floor + 0.06 * height)
        builder.decal(body, _on_side(body, (wheels_x[0] + radius, wheels_x[1] - radius), sill, y), DARK)
        for x in (hood - 0.02 * length, (hood + tail) / 2 + 0.02 * length):
            seam = (floor + 0.08 * height, belt - 0.02 * height)
            builder.decal(body, _on_side(body, (x - 0.012, x + 0.012), seam, y), shade_of(paint, 0.55))
        for x in wheels_x:
            _wheel(builder, x, side, half, radius, floor)

    for across in ((0.03, 0.22), (0.78, 0.97)):
        builder.patch(body, rear_side, across, (0.30, 0.52), TAIL_LIGHT, glow=1.0)
        builder.patch(body, nose_side, across, (0.55, 0.88), HEADLIGHT, glow=1.4)
    builder.patch(body, rear_side, (0.36, 0.64), (0.40, 0.60), PLATE)
    builder.patch(body, rear_side, (0.0, 1.0), (0.80, 1.0), DARK)
    builder.patch(body, nose_side, (0.28, 0.72), (0.50, 0.85), DARK)
    builder.patch(body, nose_side, (0.0, 1.0), (0.0, 0.22), DARK)
    builder.patch(body, nose_side, (0.36, 0.64), (0.14, 0.34), PLATE)

    lean = (0.30, 0.20, 0.10)[kind] * (height - belt)
    lower = rectangle(tail, hood, -body_half * 0.97, body_half * 0.97, belt)
    upper = rectangle(
        tail + lean * 1.2, hood - float(rng.uniform(0.75, 1.05)) * (height - belt), -half * 0.76, half * 0.76, height
    )
    roof = shade_of(paint, 0.35) if rng.random() < 0.2 else paint
    cabin = builder.loft(lower, upper, paint, cap=roof, gloss=0.12)
    right, windscreen, left, rear_window = cabin.sides
    for side_windows in (right, left):
        split = float(rng.uniform(0.45, 0.55))
        builder.patch(cabin, side_windows, (0.07, split - 0.02), (0.10, 0.86), GLASS, gloss=0.35)
        builder.patch(cabin, side_windows, (split + 0.02, 0.95), (0.10, 0.86), GLASS, gloss=0.35)
    builder.patch(cabin, windscreen, (0.05, 0.95), (0.06, 0.90), GLASS, gloss=0.4)
    builder.patch(cabin, rear_window, (0.08, 0.92), (0.12, 0.88), GLASS, gloss=0.4)
    return builder.mesh(size)


def _arch(radius: float, drop: float) -> list[tuple[float, float]]:
    """Outline of a wheel arch above the floor of the body: the part of a circle that lies above z = 0."""
    points = [(x, z) for x, _, z in upright_circle(0.0, 0.0, drop, radius) if z > 0]
    edge = float(np.sqrt(max(radius**2 - drop**2, 0.0)))
    return [(edge, 0.0), *points, (-edge, 0.0)]


def truck(size: tuple[float, float, float], rng: np.random.Generator) -> Mesh:
    """A lorry: cab, chassis, wheels, and a box, a tank or a tipper."""
    length, width, height = size
    builder = MeshBuilder()
    back, front = -length / 2, length / 2
    half = width / 2
    body_half = half - 0.03
    radius = min(0.52, 0.075 * length)
    floor = 0.55 * radius
    deck = 2.15 * radius
    cab_length = float(rng.uniform(0.24, 0.30)) * length
    cab_back = front - cab_length
    cab_top = height * float(rng.uniform(0.78, 0.97))
    cab_paint = pick(rng, PAINTS)

    wheels_x = [front - 0.13 * length, back + 0.16 * length]
    if length > 7.2:
        wheels_x.append(back + 0.16 * length + 2.2 * radius)
    builder.box((back + 0.02, -body_half * 0.9, floor), (cab_back - 0.02, body_half * 0.9, deck - 0.02), DARK)
    for x in wheels_x:
        for side in (-1.0, 1.0):
            _wheel(builder, x, side, half, radius, floor)

    shoulder = deck + 0.45 * (cab_top - deck)
    outline = [
        (cab_back, floor),
        (front, floor),
        (front, shoulder),
        (front - 0.12 * cab_length, cab_top),
        (cab_back, cab_top),
    ]
    cab = builder.loft(profile(outline, -body_half), profile(outline, body_half), cab_paint, gloss=0.08)
    grille, windscreen = cab.end(1, 2), cab.end(2, 3)
    builder.patch(cab, windscreen, (0.06, 0.94), (0.06, 0.82), GLASS, gloss=0.4)
    builder.patch(cab, grille, (0.25, 0.75), (0.38, 0.80), DARK)
    builder.patch(cab, grille, (0.0, 1.0), (0.0, 0.20), DARK)
    builder.patch(cab, grille, (0.38, 0.62), (0.06, 0.18), PLATE)
    for across in ((0.04, 0.20), (0.80, 0.96)):
        builder.patch(cab, grille, across, (0.24, 0.40), HEADLIGHT, glow=1.4)
    for side in (-1.0, 1.0):
        y = side * body_half
        window = (cab_back + 0.35 * cab_length, front - 0.16 * cab_length)
        builder.decal(cab, _on_side(cab, window, (shoulder, cab_top - 0.08 * height), y), GLASS, gloss=0.35)
        door = (cab_back + 0.28 * cab_length, cab_back + 0.28 * cab_length + 0.04)
        builder.decal(cab, _on_side(cab, door, (deck, cab_top - 0.06 * height), y), shade_of(cab_paint, 0.5))
        arch = [(wheels_x[0] + px, y, floor + pz) for px, pz in _arch(radius * 1.12, radius - floor)]
        builder.decal(cab, arch, DARK)

    _cargo(builder, rng, back, cab_back - 0.12, half, deck, height)
    return builder.mesh(size)


CARGO_PAINTS: tuple[Colour, ...] = (
    (0.88, 0.88, 0.87),
    (0.80, 0.80, 0.76),
    (0.20, 0.32, 0.55),
    (0.62, 0.14, 0.12),
    (0.85, 0.72, 0.30),
    (0.25, 0.45, 0.30),
    (0.55, 0.56, 0.58),
)


def _cargo(
    builder: MeshBuilder, rng: np.random.Generator, back: float, front: float, half: float, deck: float, height: float
) -> None:
    """A box, a tank or a tipper behind the cab, and the tail lights."""
    kind = float(rng.random())
    load: Solid | None = None
    if kind < 0.65:
        load = _box_load(builder, rng, (back, -half, deck), (front, half, height))
    elif kind < 0.85:
        _tank_load(builder, rng, (back, -half, deck), (front, half, height))
    else:
        load = _tipper_load(builder, rng, (back, -half, deck), (front, half, height))
    up = (0.02, 0.07)
    if load is None:  # a tank has no flat edge for them: a bar under its end
        load = builder.box((back, -half * 0.9, deck - 0.18), (back + 0.02, half * 0.9, deck - 0.02), DARK)
        up = (0.1, 0.9)
    for across in ((0.02, 0.16), (0.84, 0.98)):
        builder.patch(load, load.sides[3], across, up, TAIL_LIGHT, glow=1.0)


def _box_load(builder: MeshBuilder, rng: np.random.Generator, low: Point, high: Point) -> Solid:
    paint, mark = pick(rng, CARGO_PAINTS), pick(rng, PAINTS)
    load = builder.box(low, high, paint)
    bottom, top = sorted(rng.uniform(0.15, 0.85, 2).tolist())
    for side in (load.sides[0], load.sides[2]):
        builder.patch(load, side, (0.0, 1.0), (0.0, 0.05), shade_of(paint, 0.5))
        if rng.random() < 0.6:
            builder.patch(load, side, (0.12, 0.88), (bottom, top), mark)
            builder.patch(load, side, (0.3, 0.7), (0.8 * bottom + 0.2 * top, 0.2 * bottom + 0.8 * top), paint)
        else:
            for share in np.linspace(0.1, 0.9, 7).tolist():
                builder.patch(load, side, (share - 0.006, share + 0.006), (0.05, 1.0), shade_of(paint, 0.72))
    tail = load.sides[3]
    for across in ((0.06, 0.485), (0.515, 0.94)):
        builder.patch(load, tail, across, (0.12, 0.95), shade_of(paint, 0.93))
    builder.patch(load, tail, (0.49, 0.51), (0.08, 0.97), shade_of(paint, 0.5))
    builder.patch(load, tail, (0.42, 0.58), (0.0, 0.05), PLATE)
    return load


def _tank_load(builder: MeshBuilder, rng: np.random.Generator, low: Point, high: Point) -> None:
    paint, mark = pick(rng, CARGO_PAINTS), pick(rng, PAINTS)
    middle, tall, wide = (low[2] + high[2]) / 2, (high[2] - low[2]) / 2, high[1]
    octagon = ((1, 0.45), (0.55, 1), (-0.55, 1), (-1, 0.45), (-1, -0.45), (-0.55, -1), (0.55, -1), (1, -0.45))
    ring = [(wide * y, tall * z) for y, z in octagon]
    load = builder.loft(
        [(low[0], y, middle + z) for y, z in ring], [(high[0], y, middle + z) for y, z in ring], paint, gloss=0.3
    )
    for side in (load.sides[7], load.sides[3]):
        builder.patch(load, side, (0.0, 1.0), (0.25, 0.75), mark)
    builder.decal(load, [(low[0], 0.7 * y, middle + 0.7 * z) for y, z in ring], shade_of(paint, 0.8))


def _tipper_load(builder: MeshBuilder, rng: np.random.Generator, low: Point, high: Point) -> Solid:
    paint = pick(rng, CARGO_PAINTS)
    lower = rectangle(low[0] + 0.1, high[0], low[1] * 0.86, high[1] * 0.86, low[2])
    load = builder.loft(lower, rectangle(low[0], high[0], low[1], high[1], high[2]), paint, cap=(0.34, 0.26, 0.18))
    for side in (load.sides[0], load.sides[2]):
        for share in np.linspace(0.08, 0.92, 6).tolist():
            builder.patch(load, side, (share - 0.012, share + 0.012), (0.0, 1.0), shade_of(paint, 0.65))
        builder.patch(load, side, (0.0, 1.0), (0.90, 1.0), shade_of(paint, 0.7))
    return load
