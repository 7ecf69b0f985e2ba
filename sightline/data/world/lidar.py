"""The LiDAR on the roof: one turn of it as points, from the same scene that the cameras see.

Every beam at every azimuth step is followed to the first surface. What comes back is

    signal = ((1 - gloss) * albedo * cos + gloss * cos^20) * exp(-2 range / visibility)

with the angle between ray and surface, and the air of the scene. The signal fades with the square of the range; that of
a tenth of the light, straight, from ``half_range`` in clear air is lost every second time. Range noise is along the
ray. Points of one frame are a function of the scene's seed and index and of the config.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sightline.data.world.camera import Array, inverse_pose, transform
from sightline.data.world.config import LidarConfig
from sightline.data.world.ground import ground_albedo
from sightline.data.world.mesh import MAX_CORNERS, face_normals
from sightline.data.world.ray_cast import RayGrid, first_hits
from sightline.data.world.scene import Scene, Thing, generator

_STREAM = 32
"""Of the scene's random numbers; those of the cameras lie below."""
_MIRROR_LOBE = 20
_DARK = 0.1
"""Share of light that the surfaces scatter by which the range of a LiDAR is told."""
_INTENSITY_NOISE = 0.02
_INTENSITY_STEP = 0.01


@dataclass(frozen=True)
class Sweep:
    """What one turn of the LiDAR gives, beam by beam from the lowest, each from right to left. P points."""

    points: Array
    """(P, 4) float32: x, y, z in the frame of ``Calibration.lidar``, metres; intensity in [0, 1]."""
    beam: Array
    """(P,) int64, 0 is the lowest."""
    owner: Array
    """(P,) int64: index in ``Scene.objects``, or -1 for the background and the ground."""


class _Surfaces(NamedTuple):
    """Faces in the frame of the LiDAR. F faces."""

    corners: Array
    """(F, K, 3)."""
    is_decal: Array
    albedo: Array
    """(F,) grey."""
    gloss: Array
    owner: Array


def sweep_scene(scene: Scene, config: LidarConfig | None = None) -> Sweep:
    """One turn of the LiDAR, taken at once.

    Args:
        scene: From ``make_scene``, possibly moved in time.
        config: The sensor; the defaults without it.
    """
    config = config or LidarConfig()
    rng = generator(scene.seed, scene.index, _STREAM)
    grid = ray_grid(config, float(rng.random()))
    shape = len(grid.tangents), grid.num_steps
    noise, luck, flicker = rng.standard_normal(shape), rng.random(shape), rng.standard_normal(shape)

    world_from_lidar = scene.world_from_ego @ scene.calibration.lidar.ego_from_sensor
    surfaces = _surfaces(scene, world_from_lidar, config)
    hits = first_hits(surfaces.corners, surfaces.is_decal, grid)
    height = world_from_lidar[2, 3]
    to_ground = np.where(grid.tangents < 0, -height / np.minimum(grid.tangents, -1e-9), np.inf)[:, None]  # (B, 1)
    on_ground = to_ground < hits.ground_distance
    distance = np.where(on_ground, to_ground, hits.ground_distance)
    stretch = np.sqrt(1 + grid.tangents**2)[:, None]
    beam, step = np.nonzero(distance * stretch <= config.max_range)

    directions = np.stack(
        [np.cos(grid.azimuths)[step], np.sin(grid.azimuths)[step], grid.tangents[beam]], axis=1
    )  # (P, 3), 1 long over ground
    reach, long = distance[beam, step], stretch[beam, 0]
    face = np.where(on_ground[beam, step], -1, hits.face[beam, step])
    albedo, gloss, facing = _material(scene, surfaces, world_from_lidar, face, directions, reach, long)
    signal = ((1 - gloss) * albedo * facing + gloss * facing**_MIRROR_LOBE) * np.exp(
        -2 * reach * long / scene.light.visibility
    )
    half = _DARK * (reach * long / config.half_range) ** 2
    kept = np.flatnonzero(luck[beam, step] < (1 - config.dropout) * signal / (signal + half + 1e-12))
    beam, step = beam[kept], step[kept]
    shift = np.clip(noise[beam, step], -4, 4) * config.range_noise / long[kept]
    xyz = directions[kept] * (reach[kept] + shift)[:, None]
    intensity = np.clip(signal[kept] + _INTENSITY_NOISE * flicker[beam, step], 0, 1)
    intensity = np.round(intensity / _INTENSITY_STEP) * _INTENSITY_STEP
    owner = np.append(surfaces.owner, -1)[face[kept]]  # the ground is face -1
    points = np.concatenate([xyz, intensity[:, None]], axis=1).astype(np.float32)
    return Sweep(points, beam, owner)


def ray_grid(config: LidarConfig, phase: float) -> RayGrid:
    """The rays of a sweep around straight ahead; ``phase`` in [0, 1) of a step is where the first one stands."""
    low, high = np.radians(config.elevation_degrees)
    num_steps = max(1, round(config.steps_per_turn * config.sweep_degrees / 360))
    step = 2 * np.pi / config.steps_per_turn
    return RayGrid(
        np.tan(np.linspace(low, high, config.beams)),
        (phase - num_steps / 2) * step,
        config.steps_per_turn,
        num_steps,
    )


def _surfaces(scene: Scene, world_from_lidar: Array, config: LidarConfig) -> _Surfaces:
    """All faces of the things that the sweep can reach."""
    things = [*scene.objects, *scene.background]
    corners, is_decal, colours, gloss, owner = [np.zeros((0, MAX_CORNERS, 3))], [], [], [], []
    for number in _within_reach(things, world_from_lidar, config):
        mesh = things[number].mesh
        corners.append(mesh.placed(things[number].ground_position, things[number].yaw))
        is_decal.append(mesh.is_decal)
        colours.append(mesh.colours)
        gloss.append(mesh.gloss)
        owner.append(np.full(len(mesh.gloss), number if number < len(scene.objects) else -1))
    return _Surfaces(
        transform(np.concatenate(corners), inverse_pose(world_from_lidar)),
        np.concatenate([np.zeros(0, dtype=bool), *is_decal]),
        np.concatenate([np.zeros((0, 3)), *colours]).mean(axis=1),
        np.concatenate([np.zeros(0), *gloss]),
        np.concatenate([np.zeros(0, dtype=np.int64), *owner]),
    )


def _within_reach(things: list[Thing], world_from_lidar: Array, config: LidarConfig) -> list[int]:
    """Indices of the things whose bounding circle reaches into the sector of the sweep."""
    boxes = np.array([thing.box3d for thing in things]).reshape(-1, 7)
    centres = transform(boxes[:, :3], inverse_pose(world_from_lidar))
    distance = np.hypot(centres[:, 0], centres[:, 1])
    radius = np.hypot(boxes[:, 3], boxes[:, 4]) / 2
    half_angle = np.arcsin(np.clip(radius / np.maximum(distance, 1e-9), 0, 1))
    beside = np.abs(np.arctan2(centres[:, 1], centres[:, 0])) - half_angle > np.radians(config.sweep_degrees / 2 + 1)
    return np.flatnonzero((distance - radius < config.max_range) & ((distance < radius) | ~beside)).tolist()


def _material(
    scene: Scene,
    surfaces: _Surfaces,
    world_from_lidar: Array,
    face: Array,
    directions: Array,
    reach: Array,
    long: Array,
) -> tuple[Array, Array, Array]:
    """(P,) grey albedo, gloss, and cosine between ray and surface, of what every ray has met."""
    normals = np.append(face_normals(surfaces.corners), [[0.0, 0.0, 1.0]], axis=0)[face]  # the ground is face -1
    facing = np.abs((normals * directions).sum(axis=1)) / long
    albedo, gloss = np.append(surfaces.albedo, 0.0)[face], np.append(surfaces.gloss, 0.0)[face]
    ground = np.flatnonzero(face < 0)
    street_from_lidar = inverse_pose(scene.street.world_from_street) @ world_from_lidar
    on_street = transform(directions[ground] * reach[ground, None], street_from_lidar)
    albedo[ground] = ground_albedo(scene.street, on_street[:, :2]).mean(axis=1)
    return albedo, gloss, facing
