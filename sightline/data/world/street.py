"""The ground plan of a scene: one street, its lanes and pavements, perhaps a crossing street.

Street frame: x along the street, y left, z up, metres; z = 0 is the ground. Traffic keeps to the right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sightline.data.world.camera import Array, pose_matrix
from sightline.data.world.mesh import Colour

NEAR_END, FAR_END = -80.0, 220.0
"""Where the street ends behind and ahead, metres."""

CROSS_HALF = 3.6
"""Half the width of a crossing street, metres."""


@dataclass(frozen=True)
class Street:
    """A straight street, seen from the middle of its road."""

    world_from_street: Array
    """(4, 4)."""
    lane_width: float
    lanes_each_way: int
    parking_left: float
    """Width of the parking strip on the left, 0 without one."""
    parking_right: float
    sidewalk: float
    """Width of each pavement."""
    verge: float
    """Width of the strip of grass between a pavement and the buildings."""
    cross_x: float | None
    """Middle of the crossing street."""
    crosswalk_x: float | None
    """Middle of the zebra crossing."""
    asphalt: Colour
    paving: Colour
    grass: Colour
    marking: Colour
    texture_seed: int

    @property
    def half_road(self) -> float:
        """From the middle to the edge of the outer lane."""
        return self.lane_width * self.lanes_each_way

    @property
    def curb_left(self) -> float:
        """Where the left kerb is (y > 0)."""
        return self.half_road + self.parking_left

    @property
    def curb_right(self) -> float:
        """Where the right kerb is (y < 0)."""
        return -self.half_road - self.parking_right

    def lane_centres(self) -> list[tuple[float, float]]:
        """(y, heading) of all lanes; heading 0 is forward, pi is oncoming."""
        lanes = []
        for k in range(self.lanes_each_way):
            offset = (k + 0.5) * self.lane_width
            lanes += [(-offset, 0.0), (offset, float(np.pi))]
        return lanes

    def is_crossing(self, x: float, margin: float = 0.0) -> bool:
        """Whether x lies in the crossing street, widened by ``margin``."""
        return self.cross_x is not None and abs(x - self.cross_x) < CROSS_HALF + margin


def draw_street(rng: np.random.Generator) -> Street:
    """A street somewhere in the world."""
    heading = float(rng.uniform(-np.pi, np.pi))
    position = (*rng.uniform(-1000, 1000, 2).tolist(), 0.0)
    has_cross = rng.random() < 0.5
    cross_x = float(rng.uniform(13, 34)) if has_cross else None
    crosswalk_x: float | None = None
    if rng.random() < 0.5:
        crosswalk_x = cross_x - CROSS_HALF - 3.2 if cross_x is not None else float(rng.uniform(8, 24))
    grey = float(rng.uniform(0.30, 0.46))
    warm = float(rng.uniform(-0.02, 0.02))
    paving = float(rng.uniform(0.52, 0.68))
    dry = float(rng.uniform(0, 1))
    return Street(
        world_from_street=pose_matrix((position[0], position[1], 0.0), heading),
        lane_width=float(rng.uniform(3.0, 3.6)),
        lanes_each_way=int(rng.choice((1, 2), p=(0.65, 0.35))),
        parking_left=2.2 if rng.random() < 0.5 else 0.0,
        parking_right=2.2 if rng.random() < 0.5 else 0.0,
        sidewalk=float(rng.uniform(2.2, 4.2)),
        verge=float(rng.choice((0.3, 4.0, 7.0))),
        cross_x=cross_x,
        crosswalk_x=crosswalk_x,
        asphalt=(grey + warm, grey, grey - warm),
        paving=(paving * 1.02, paving, paving * 0.95),
        grass=(0.30 + 0.16 * dry, 0.44 + 0.02 * dry, 0.18 + 0.04 * dry),
        marking=(0.90, 0.90, 0.87) if rng.random() < 0.8 else (0.92, 0.80, 0.35),
        texture_seed=int(rng.integers(2**31)),
    )
