"""A scene of the synthetic city: everything in 3D, a function of (seed, index, config) alone.

Frames: see ``camera``. Boxes are (x, y, z, dx, dy, dz, yaw): centre and full size in metres, yaw about z in
radians, 0 along x. What a sensor sees is rendered from a scene later, from the meshes of its things.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sightline.data.world import people, street_things, vehicles
from sightline.data.world.camera import Array, Calibration, pose_matrix, standard_rig, transform
from sightline.data.world.config import CLASS_NAMES, WorldConfig
from sightline.data.world.light import Light, draw_light
from sightline.data.world.mesh import Mesh
from sightline.data.world.street import Street, draw_street
from sightline.data.world.traffic import Placed, Plan, draw_ego, place_background, place_objects

_BUILDERS: dict[str, Callable[[tuple[float, float, float], np.random.Generator], Mesh]] = {
    "car": vehicles.car,
    "truck": vehicles.truck,
    "pedestrian": people.pedestrian,
    "cyclist": people.cyclist,
    "cone": street_things.cone,
    "building": street_things.building,
    "tree": street_things.tree,
    "lamp": street_things.lamp,
    "sign": street_things.sign,
    "bin": street_things.bin_,
    "hedge": street_things.hedge,
}

SECONDS_BETWEEN_SCENES = 20.0


def generator(seed: int, index: int, stream: int) -> np.random.Generator:
    """Random numbers that depend on nothing but their name."""
    return np.random.Generator(np.random.Philox(key=[seed, index], counter=[0, 0, 0, stream]))


@dataclass(frozen=True)
class Thing:
    """An object, or a piece of the background, in the world frame."""

    kind: str
    """One of ``CLASS_NAMES`` for an object; ``building``, ``tree``, ... else."""
    box3d: Array
    """(7,) float64, world frame."""
    velocity_xy: Array
    """(2,) metres per second, world frame."""
    appearance_seed: int

    @cached_property
    def mesh(self) -> Mesh:
        """Its surface, in its own frame; fills ``box3d`` exactly."""
        length, width, height = self.box3d[3:6].tolist()
        return _BUILDERS[self.kind](
            (length, width, height), np.random.Generator(np.random.Philox(self.appearance_seed))
        )

    @property
    def yaw(self) -> float:
        """Heading about z, radians, world frame."""
        return float(self.box3d[6])

    @property
    def ground_position(self) -> Array:
        """(3,) the middle of the underside of its box: the origin of its mesh."""
        return np.asarray(self.box3d[:3] - np.array([0, 0, self.box3d[5] / 2]))

    def moved(self, seconds: float) -> Thing:
        """The same thing after ``seconds`` at its velocity."""
        box3d = self.box3d.copy()
        box3d[:2] += seconds * self.velocity_xy
        moved = replace(self, box3d=box3d)
        if "mesh" in self.__dict__:  # the surface does not depend on the place
            moved.__dict__["mesh"] = self.mesh
        return moved


@dataclass(frozen=True)
class Scene:
    """One moment in the city."""

    seed: int
    index: int
    timestamp: float
    """Seconds; scenes are 20 s apart."""
    world_from_ego: Array
    """(4, 4) pose of the ego vehicle."""
    ego_velocity_xy: Array
    """(2,) metres per second, world frame."""
    calibration: Calibration
    street: Street
    light: Light
    objects: tuple[Thing, ...]
    """What is labelled: cars, trucks, pedestrians, cyclists, cones; hidden ones and those behind included."""
    background: tuple[Thing, ...]
    """Buildings, trees, lamps, signs, bins, hedges."""

    @property
    def boxes3d(self) -> Array:
        """(N, 7) boxes of the objects, world frame."""
        return np.array([thing.box3d for thing in self.objects]).reshape(-1, 7)

    @property
    def labels(self) -> Array:
        """(N,) int64 index into ``CLASS_NAMES`` of every object."""
        return np.array([CLASS_NAMES.index(thing.kind) for thing in self.objects], dtype=np.int64)

    def moved(self, seconds: float) -> Scene:
        """The same scene later: everything that moves, the ego vehicle too, goes on at its velocity."""
        world_from_ego = self.world_from_ego.copy()
        world_from_ego[:2, 3] += seconds * self.ego_velocity_xy
        return replace(
            self,
            timestamp=self.timestamp + seconds,
            world_from_ego=world_from_ego,
            objects=tuple(thing.moved(seconds) for thing in self.objects),
        )


def make_scene(seed: int, index: int, config: WorldConfig | None = None) -> Scene:
    """The scene number ``index`` of the world ``seed``.

    Args:
        seed: >= 0; another seed is another world.
        index: >= 0. No scene depends on any other.
        config: How the world looks; the defaults without it.
    """
    config = config or WorldConfig()
    rng = generator(seed, index, 0)
    street = draw_street(rng)
    ego = draw_ego(street, rng)
    light = draw_light(generator(seed, index, 1))
    plan = Plan()
    plan.take(ego.x + 1.5, ego.y, 6.0, 2.2, ego.heading, 0.3)
    placed = list(place_objects(street, ego, plan, config, generator(seed, index, 2)))
    furniture = list(place_background(street, plan, generator(seed, index, 3)))
    street_heading = float(np.arctan2(street.world_from_street[1, 0], street.world_from_street[0, 0]))
    world_from_ego = street.world_from_street @ pose_matrix((ego.x, ego.y, 0.0), ego.heading)
    ego_heading = street_heading + ego.heading
    rig = generator(seed, index, 4)
    things = [_thing(item, street.world_from_street, street_heading) for item in (*placed, *furniture)]
    return Scene(
        seed=seed,
        index=index,
        timestamp=SECONDS_BETWEEN_SCENES * index,
        world_from_ego=world_from_ego,
        ego_velocity_xy=ego.speed * np.array([np.cos(ego_heading), np.sin(ego_heading)]),
        calibration=standard_rig(
            config.image_hw,
            field_of_view=float(np.radians(config.field_of_view_degrees)),
            camera_height=float(rig.uniform(1.4, 2.3)),
            pitch=float(np.radians(rig.uniform(1.5, 6.0))),
        ),
        street=street,
        light=light,
        objects=tuple(things[: len(placed)]),
        background=tuple(things[len(placed) :]),
    )


def _thing(item: Placed, world_from_street: Array, street_heading: float) -> Thing:
    centre = transform(np.array([item.x, item.y, item.size[2] / 2]), world_from_street)
    yaw = (item.heading + street_heading + np.pi) % (2 * np.pi) - np.pi
    return Thing(
        kind=item.kind,
        box3d=np.array([*centre, *item.size, yaw]),
        velocity_xy=item.speed * np.array([np.cos(yaw), np.sin(yaw)]),
        appearance_seed=item.seed,
    )
