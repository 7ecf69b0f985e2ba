"""Who and what is on the street: labelled objects, buildings and furniture, never one inside another.

Everything here is in the street frame (see ``street``); a place is (x, y, heading, speed).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sightline.data.world.config import CLASS_NAMES, WorldConfig
from sightline.data.world.street import CROSS_HALF, Street

Place = tuple[float, float, float, float]

REACH: dict[str, tuple[float, float]] = {
    "car": (7.0, 28.0),
    "truck": (11.0, 38.0),
    "pedestrian": (5.5, 16.0),
    "cyclist": (5.5, 17.0),
    "cone": (4.5, 9.5),
}
"""Nearest and farthest distance ahead of the camera, metres."""

HALF_TURN, QUARTER_TURN = math.pi, math.pi / 2
NUM_TRIES = 40


@dataclass(frozen=True)
class Placed:
    """Something in its place on the street."""

    kind: str
    size: tuple[float, float, float]
    x: float
    y: float
    heading: float
    speed: float
    seed: int


@dataclass(frozen=True)
class EgoPlace:
    """Where the ego vehicle stands in the street, and how it moves."""

    x: float
    y: float
    heading: float
    speed: float

    def bearing_of(self, x: float, y: float, camera_x: float = 1.7) -> tuple[float, float]:
        """Distance (metres) and angle (radians, left positive) of a point, seen from the front camera."""
        dx, dy = x - self.x, y - self.y
        cosine, sine = math.cos(self.heading), math.sin(self.heading)
        ahead, left = dx * cosine + dy * sine - camera_x, dy * cosine - dx * sine
        return math.hypot(ahead, left), math.atan2(left, ahead)


def draw_size(kind: str, rng: np.random.Generator) -> tuple[float, float, float]:
    """Length, width and height in metres."""
    u, v, w = rng.random(3).tolist()
    if kind == "car":
        return 3.8 + 0.95 * u, 1.68 + 0.2 * v, 1.42 + 0.3 * w
    if kind == "truck":
        return 5.8 + 3.4 * u, 2.25 + 0.3 * v, 2.7 + 0.9 * w
    if kind == "pedestrian":
        return 0.62 + 0.24 * u, 0.52 + 0.14 * v, 1.55 + 0.35 * w
    if kind == "cyclist":
        return 1.66 + 0.14 * u, 0.56 + 0.1 * v, 1.64 + 0.18 * w
    if kind == "cone":
        wide = 0.38 + 0.12 * u
        return wide, wide, 0.62 + 0.3 * v
    if kind == "tree":
        wide = 2.4 + 1.8 * u
        return wide, wide, 4.5 + 3.5 * v
    if kind == "lamp":
        return 0.2, 1.6 + 0.6 * u, 5.5 + 1.5 * v
    if kind == "sign":
        return 0.1, 0.6 + 0.2 * u, 2.3 + 0.5 * v
    if kind == "bin":
        return 0.5 + 0.1 * u, 0.5 + 0.1 * u, 0.85 + 0.2 * v
    if kind == "hedge":
        return 3.0 + 4.0 * u, 0.7 + 0.4 * v, 0.8 + 0.7 * w
    raise ValueError(f"no size for {kind!r}")


class Plan:
    """Places that are taken already."""

    def __init__(self) -> None:
        self._taken: list[tuple[float, float, float, float, float, float, float]] = []

    def take(self, x: float, y: float, length: float, width: float, heading: float, margin: float) -> bool:
        """Takes a rectangle if nothing overlaps it; says whether it did. ``margin`` is added on all sides."""
        half_l, half_w = length / 2 + margin, width / 2 + margin
        radius = math.hypot(half_l, half_w)
        mine = (x, y, half_l, half_w, math.cos(heading), math.sin(heading), radius)
        for other in self._taken:
            reach = radius + other[6]
            if (x - other[0]) ** 2 + (y - other[1]) ** 2 < reach * reach and _overlap(mine, other):
                return False
        self._taken.append((x, y, length / 2, width / 2, mine[4], mine[5], math.hypot(length, width) / 2))
        return True


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether two rectangles (x, y, half length, half width, cos, sin, radius) overlap: no axis separates them."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    cosine, sine = abs(a[4] * b[4] + a[5] * b[5]), abs(a[4] * b[5] - a[5] * b[4])
    for one, two in ((a, b), (b, a)):
        along = abs(dx * one[4] + dy * one[5])
        across = abs(dy * one[4] - dx * one[5])
        if along > one[2] + two[2] * cosine + two[3] * sine or across > one[3] + two[2] * sine + two[3] * cosine:
            return False
    return True


def draw_ego(street: Street, rng: np.random.Generator) -> EgoPlace:
    """The ego vehicle in one of the forward lanes, sometimes turning."""
    lanes = [y for y, heading in street.lane_centres() if heading == 0.0]
    y = lanes[int(rng.integers(len(lanes)))] + float(rng.normal(0, 0.2))
    heading = float(rng.uniform(-0.35, 0.35)) if rng.random() < 0.25 else float(rng.normal(0, 0.03))
    return EgoPlace(0.0, y, heading, float(rng.uniform(0, 12)))


def place_objects(
    street: Street, ego: EgoPlace, plan: Plan, config: WorldConfig, rng: np.random.Generator
) -> Iterator[Placed]:
    """Labelled objects, first those ahead, then those around."""
    half_view = math.radians(config.field_of_view_degrees) / 2
    for is_ahead, (fewest, most) in ((True, config.objects_ahead), (False, config.objects_behind)):
        weights = np.array(config.class_weights)
        kinds = rng.choice(len(CLASS_NAMES), size=int(rng.integers(fewest, most + 1)), p=weights / weights.sum())
        for kind in (CLASS_NAMES[k] for k in kinds):
            size = draw_size(kind, rng)
            near, far = REACH[kind]
            far = max(far * config.reach, near + 1)
            for _ in range(NUM_TRIES):
                distance = math.exp(rng.uniform(math.log(near), math.log(far)))
                x, y, heading, speed = _candidate(kind, street, distance + 1.7 if is_ahead else -distance, rng)
                seen_at, bearing = ego.bearing_of(x, y)
                if is_ahead:
                    fits = near <= seen_at <= far * 1.1 and abs(bearing) < 0.97 * half_view
                else:
                    fits = abs(bearing) > half_view + 0.35
                if fits and plan.take(x, y, size[0], size[1], heading, 0.25):
                    yield Placed(kind, size, x, y, heading, speed, int(rng.integers(2**31)))
                    break


def _candidate(kind: str, street: Street, x: float, rng: np.random.Generator) -> Place:
    """A place for an object at about x along the street."""
    u, v, w = rng.random(3).tolist()
    if kind in ("car", "truck"):
        return _vehicle(kind, street, x, rng, u, v, w)
    side = 1.0 if v < 0.5 else -1.0
    road = rng.uniform(street.curb_right + 0.4, street.curb_left - 0.4)
    curb = street.curb_left if side > 0 else -street.curb_right
    pavement = side * (curb + 0.45 + w * (street.sidewalk - 0.9))
    if kind == "cone":
        return x, (road if u < 0.7 else pavement), float(rng.uniform(-HALF_TURN, HALF_TURN)), 0.0
    if kind == "cyclist":
        speed = float(rng.uniform(2.0, 6.5))
        if u < 0.35:
            return x, road, side * QUARTER_TURN + float(rng.normal(0, 0.25)), speed
        if u < 0.5:
            return x, pavement, (0.0 if w < 0.5 else HALF_TURN) + float(rng.normal(0, 0.1)), speed * 0.6
        y = side * (street.half_road - 0.3 - 1.2 * w)
        return x, y, (HALF_TURN if side > 0 else 0.0) + float(rng.normal(0, 0.12)), speed
    speed = float(rng.uniform(0.6, 1.7)) if rng.random() < 0.85 else 0.0
    if u < 0.45:
        if street.crosswalk_x is not None and w < 0.6 and abs(street.crosswalk_x - x) < 12:
            x = street.crosswalk_x + float(rng.uniform(-1.3, 1.3))
        return x, road, side * QUARTER_TURN + float(rng.normal(0, 0.2)), speed
    return x, pavement, (0.0 if u < 0.72 else HALF_TURN) + float(rng.normal(0, 0.35)), speed


def _vehicle(kind: str, street: Street, x: float, rng: np.random.Generator, u: float, v: float, w: float) -> Place:
    speed = 0.0 if v < 0.3 else float(rng.uniform(2, 13))
    if street.cross_x is not None and u < 0.4 and x > 0:
        direction = 1.0 if w < 0.5 else -1.0
        y = float(rng.uniform(-15, 15))
        return (
            street.cross_x + direction * CROSS_HALF / 2,
            y,
            direction * QUARTER_TURN + float(rng.normal(0, 0.1)),
            speed,
        )
    strips = [(street.parking_right, -1.0), (street.parking_left, 1.0)]
    parking = [side for width, side in strips if width > 0]
    if kind == "car" and parking and u < 0.65 and not street.is_crossing(x, 4.0):
        side = parking[int(rng.integers(len(parking)))]
        return x, side * (street.half_road + 1.15), (0.0 if w < 0.7 else HALF_TURN) + float(rng.normal(0, 0.02)), 0.0
    y, heading = street.lane_centres()[int(rng.integers(2 * street.lanes_each_way))]
    turn = float(rng.uniform(-0.7, 0.7)) if w < 0.2 else float(rng.normal(0, 0.03))
    return x, y + float(rng.normal(0, 0.15)), heading + turn, speed


def place_background(street: Street, plan: Plan, rng: np.random.Generator) -> Iterator[Placed]:
    """Buildings along both sides, then trees, lamps, hedges, signs and bins where there is room."""
    for side in (1.0, -1.0):
        curb = street.curb_left if side > 0 else -street.curb_right
        front = curb + street.sidewalk + street.verge
        heading = 0.0 if side > 0 else HALF_TURN  # the right side (-y) of the block faces the road
        x = -60.0 + float(rng.uniform(0, 10))
        while x < 115.0:
            length, depth = rng.uniform(9, 22), rng.uniform(9, 14)
            height = float(rng.uniform(5.5, 19))
            middle = x + length / 2
            x += length + (rng.uniform(0.4, 1.0) if rng.random() < 0.6 else rng.uniform(3, 9))
            if street.is_crossing(middle, length / 2 + 3.0):
                continue
            setback = front + depth / 2 + float(rng.uniform(0, 1.2))
            if plan.take(middle, side * setback, length, depth, heading, 0.0):
                size = (float(length), float(depth), height)
                yield Placed("building", size, float(middle), side * setback, heading, 0.0, int(rng.integers(2**31)))
    count = int(rng.integers(10, 22))
    kinds = rng.choice(("tree", "tree", "lamp", "lamp", "sign", "bin", "hedge"), size=count)
    for kind in map(str, kinds):
        size = draw_size(kind, rng)
        for _ in range(6):
            side = 1.0 if rng.random() < 0.5 else -1.0
            curb = street.curb_left if side > 0 else -street.curb_right
            x = float(rng.uniform(-30, 55))
            heading = 0.0
            if kind == "hedge" and street.verge < 3:
                break
            if kind in ("tree", "hedge") and street.verge > 3:
                offset = street.sidewalk + street.verge / 2
            elif kind == "lamp":
                offset = 0.7 - size[1] / 2
                heading = HALF_TURN if side > 0 else 0.0  # its arm (+y) reaches over the road
            elif kind == "sign":
                offset = 0.45
                heading = HALF_TURN if side > 0 else 0.0  # its face (-x) is turned to those who drive beside it
            else:
                offset = street.sidewalk - size[1] / 2 - 0.1
            if street.is_crossing(x, 2.5 + size[0] / 2):
                continue
            if plan.take(x, side * (curb + offset), size[0], size[1], heading, 0.15):
                yield Placed(kind, size, x, side * (curb + offset), heading, 0.0, int(rng.integers(2**31)))
                break
