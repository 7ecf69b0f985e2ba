"""The LiDAR of the city: nearest surfaces, true to scale, with losses and noise as its config says."""

import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from sightline.data.world.camera import inverse_pose, transform
from sightline.data.world.config import LidarConfig, WorldConfig
from sightline.data.world.lidar import ray_grid, sweep_scene
from sightline.data.world.mesh import turn_about_z
from sightline.data.world.ray_cast import RayGrid, first_hits
from sightline.data.world.scene import Scene, Thing, make_scene
from tests.data.solid_triangles import first_triangles, solid_triangles

EXACT = LidarConfig(beams=24, steps_per_turn=360, range_noise=0, dropout=0, half_range=1e9)
"""Sees everything, and says exactly where."""
HEIGHT = 1.84


def stage(*props: tuple[str, tuple[float, float, float], float, float, float]) -> Scene:
    """Nothing but these things, in clear air: (kind, size, x, y, yaw) in the ego frame."""
    scene = make_scene(0, 0)
    ego_yaw = float(np.arctan2(scene.world_from_ego[1, 0], scene.world_from_ego[0, 0]))
    objects = []
    for kind, size, x, y, yaw in props:
        centre = transform(np.array([x, y, size[2] / 2]), scene.world_from_ego)
        objects.append(Thing(kind, np.array([*centre, *size, yaw + ego_yaw]), np.zeros(2), 5))
    light = replace(scene.light, visibility=1e12)
    return replace(scene, objects=tuple(objects), background=(), light=light)


def world_from_lidar(scene: Scene) -> np.ndarray:
    return scene.world_from_ego @ scene.calibration.lidar.ego_from_sensor


@pytest.mark.parametrize("index", range(4))
def test_every_ray_ends_where_ray_casting_through_single_triangles_says(index):
    scene = make_scene(7, index)
    sweep = sweep_scene(scene, EXACT)
    pose = world_from_lidar(scene)
    chosen = np.random.default_rng(index).choice(len(sweep.points), 300, replace=False)
    in_world = transform(sweep.points[chosen, :3].astype(float), pose)
    rays = in_world - pose[:3, 3]
    parameter, owner = first_triangles(solid_triangles(scene), pose[:3, 3], rays)
    distance = np.linalg.norm(rays, axis=1)
    agrees = np.abs(parameter - 1) * distance < 1e-3  # float32 points; a decal lies 1e-6 of the distance nearer
    assert agrees.mean() > 0.99  # a ray through an edge may go either way
    assert (owner == sweep.owner[chosen])[agrees].mean() > 0.99
    assert (sweep.owner[chosen] >= 0).any()


def test_rays_without_a_point_meet_nothing_within_the_range():
    scene = make_scene(7, 1)
    config = EXACT.but(max_range=30.0)
    sweep = sweep_scene(scene, config)
    grid = ray_grid(config, 0.0)
    assert (np.linalg.norm(sweep.points[:, :3], axis=1) <= 30.001).all()
    # The top beams look above the horizon: where they return nothing, the triangles have nothing nearer than 30 m.
    pose = world_from_lidar(scene)
    above = sweep.points[sweep.beam == config.beams - 1]
    azimuth = np.arctan2(above[:, 1], above[:, 0])
    phase = (azimuth[0] - grid.first_azimuth) / (2 * np.pi / 360) % 1
    steps = np.round((azimuth - grid.first_azimuth) / (2 * np.pi / 360) - phase).astype(int)
    silent = np.setdiff1d(np.arange(360), steps % 360)
    angles = grid.first_azimuth + (silent + phase) * (2 * np.pi / 360)
    rays = np.stack([np.cos(angles), np.sin(angles), np.full(len(angles), grid.tangents[-1])], axis=1)
    found, _ = first_triangles(solid_triangles(scene), pose[:3, 3], transform(rays, pose, turn_only=True))
    assert len(silent) > 50
    assert ((found * np.sqrt(1 + grid.tangents[-1] ** 2) > 29.99).mean()) > 0.99


def test_on_an_empty_street_every_beam_draws_a_circle_of_known_radius():
    sweep = sweep_scene(stage(), EXACT)
    elevations = np.radians(np.linspace(-24.8, 2.0, 24))
    for beam in range(24):
        mine = sweep.points[sweep.beam == beam].astype(float)
        radius = HEIGHT / np.tan(-elevations[beam]) if elevations[beam] < 0 else np.inf
        if radius / np.cos(elevations[beam]) > EXACT.max_range:
            assert len(mine) == 0
            continue
        assert len(mine) == 360
        np.testing.assert_allclose(np.hypot(mine[:, 0], mine[:, 1]), radius, rtol=1e-5)
        np.testing.assert_allclose(mine[:, 2], -HEIGHT, atol=1e-4)


def test_the_points_of_an_object_lie_in_its_box_and_no_others_do():
    for index in range(12):
        scene = make_scene(1, index)
        sweep = sweep_scene(scene)
        in_world = transform(sweep.points[:, :3].astype(float), world_from_lidar(scene))
        for number, box in enumerate(scene.boxes3d):
            local = np.abs(turn_about_z(in_world - box[:3], -box[6]))
            mine = sweep.owner == number
            assert (local[mine] <= box[3:6] / 2 + 4 * 0.02 + 1e-3).all()
            inside = (local < box[3:6] / 2 - 0.1).all(axis=1)
            assert (sweep.owner[inside] == number).all()


def test_what_stands_behind_a_truck_gets_no_points():
    truck, person = ("truck", (8.0, 2.5, 3.4), 12.0, 0.0, np.pi / 2), ("pedestrian", (0.7, 0.6, 1.7), 18.0, 0.0, 0.0)
    alone = sweep_scene(stage(person), EXACT.but(steps_per_turn=3600))
    hidden = sweep_scene(stage(truck, person), EXACT.but(steps_per_turn=3600))
    assert (alone.owner == 0).sum() > 50
    assert (hidden.owner == 1).sum() == 0
    assert (hidden.owner == 0).sum() > 50


def test_half_hidden_means_about_half_the_points():
    def wall_of_four(y: float) -> Scene:
        hedge, truck = ("hedge", (0.5, 4.0, 3.0), 10.0, y, 0.0), ("truck", (8.0, 2.4, 3.0), 16.0, 0.0, np.pi / 2)
        return stage(hedge, truck)

    config = LidarConfig(range_noise=0, dropout=0, half_range=1e9, beams=64)
    far_away, half = (int((sweep_scene(wall_of_four(y), config).owner == 1).sum()) for y in (-30.0, -2.0))
    assert far_away > 500
    assert 0.4 < half / far_away < 0.6


def test_the_number_of_points_falls_with_the_square_of_the_distance():
    config = LidarConfig(range_noise=0, dropout=0, half_range=1e9, beams=256, elevation_degrees=(-20, 20))
    near, far = (
        int((sweep_scene(stage(("truck", (8.0, 2.4, 3.0), x + 1.2 + 0.94, 0.0, np.pi / 2)), config).owner == 0).sum())
        for x in (14.0, 28.0)
    )
    assert near / far == pytest.approx(4, rel=0.1)


def test_noise_moves_points_along_their_rays_only():
    scene = make_scene(0, 5)
    exact, noisy = (sweep_scene(scene, EXACT.but(range_noise=sigma)).points[:, :3].astype(float) for sigma in (0, 0.05))
    assert len(exact) == len(noisy)
    reach = np.linalg.norm(exact, axis=1)
    along = (noisy * exact).sum(axis=1) / reach
    np.testing.assert_allclose(noisy, exact / reach[:, None] * along[:, None], atol=1e-4)
    assert (along - reach).std() == pytest.approx(0.05, rel=0.05)
    assert abs((along - reach).mean()) < 0.003
    assert np.abs(along - reach).max() <= 4 * 0.05 + 1e-4


def test_the_share_of_lost_rays_is_that_of_the_config():
    scene = stage()
    whole, most = (len(sweep_scene(scene, EXACT.but(dropout=share)).points) for share in (0.0, 0.25))
    assert most / whole == pytest.approx(0.75, abs=0.02)
    assert len(sweep_scene(scene, EXACT.but(dropout=1.0)).points) == 0


def test_dark_and_distant_surfaces_lose_more_rays_and_so_does_fog():
    scene = stage()
    config = EXACT.but(half_range=20.0)
    points = sweep_scene(scene, config).points
    distance = np.linalg.norm(points[:, :3], axis=1)
    num_near, num_far = (distance < 8).sum(), ((distance > 20) & (distance < 60)).sum()
    all_points = np.linalg.norm(sweep_scene(scene, EXACT).points[:, :3], axis=1)
    share_near = num_near / (all_points < 8).sum()
    share_far = num_far / ((all_points > 20) & (all_points < 60)).sum()
    assert share_near > 0.8 > 0.4 > share_far
    dark = replace(scene, street=replace(scene.street, asphalt=(0.02,) * 3, paving=(0.02,) * 3, grass=(0.02,) * 3))
    assert len(sweep_scene(dark, config).points) < 0.75 * len(points)
    foggy = replace(scene, light=replace(scene.light, visibility=20.0))
    assert len(sweep_scene(foggy, config).points) < 0.9 * len(points)


def test_half_of_the_rays_on_a_dark_wall_at_the_half_range_come_back():
    # A hedge 20 m wide, straight ahead, of albedo 0.1 exactly: the nominal target.
    scene = stage(("hedge", (1.0, 1.0, 4.0), 40.0 + 0.94 + 0.5, 0.0, 0.0))
    mesh = scene.objects[0].mesh
    scene.objects[0].__dict__["mesh"] = replace(mesh, colours=np.full_like(mesh.colours, 0.1))
    config = LidarConfig(
        beams=256, elevation_degrees=(-2.0, 2.0), steps_per_turn=20_000, range_noise=0, dropout=0, half_range=40.0
    )
    found = (sweep_scene(scene, config).owner == 0).sum()
    possible = (sweep_scene(scene, config.but(half_range=1e9)).owner == 0).sum()
    assert possible > 2000
    assert found / possible == pytest.approx(0.5, abs=0.04)


def test_markings_are_brighter_than_asphalt():
    scene = stage()
    points = sweep_scene(scene, EXACT.but(beams=256, steps_per_turn=1800)).points
    in_world = transform(points[:, :3].astype(float), world_from_lidar(scene))
    in_street = transform(in_world, inverse_pose(scene.street.world_from_street))
    edge = scene.street.half_road - 0.15  # a line 0.12 m wide along each side of the road
    near = np.hypot(points[:, 0], points[:, 1]) < 12
    line = near & (np.abs(np.abs(in_street[:, 1]) - edge) < 0.05)
    road = near & (np.abs(np.abs(in_street[:, 1]) - edge + 0.4) < 0.05)
    assert line.sum() > 50 and road.sum() > 50
    assert points[line, 3].mean() > 1.3 * points[road, 3].mean()


def test_numbers_are_finite_and_intensities_lie_between_nothing_and_all():
    for index in range(6):
        points = sweep_scene(make_scene(2, index)).points
        assert points.dtype == np.float32 and points.shape[1] == 4
        assert np.isfinite(points).all()
        assert points[:, 3].min() >= 0 and points[:, 3].max() <= 1
        assert points[:, 3].std() > 0.03


def test_a_part_of_the_turn_is_the_middle_of_the_whole_turn_and_nothing_else():
    sweep = sweep_scene(make_scene(0, 3), EXACT.but(sweep_degrees=60.0))
    azimuth = np.degrees(np.arctan2(sweep.points[:, 1], sweep.points[:, 0]))
    assert -30.01 <= azimuth.min() < -28 and 28 < azimuth.max() <= 30.01


def test_rays_are_ordered_by_beam_and_then_from_right_to_left():
    config = EXACT.but(sweep_degrees=180.0)
    sweep = sweep_scene(make_scene(0, 3), config)
    assert (np.diff(sweep.beam) >= 0).all()
    azimuth = np.arctan2(sweep.points[:, 1], sweep.points[:, 0])
    assert (np.diff(azimuth)[np.diff(sweep.beam) == 0] > 0).all()


def test_the_same_names_give_the_same_bits_in_another_process():
    program = (
        "import hashlib; from sightline.data.world.scene import make_scene; "
        "from sightline.data.world.lidar import sweep_scene; "
        "print(hashlib.sha256(sweep_scene(make_scene(3, 4)).points.tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    points = {index: sweep_scene(make_scene(3, index)).points for index in (5, 4)}
    assert hashlib.sha256(points[4].tobytes()).hexdigest() == other
    assert not np.array_equal(points[5][:100], points[4][:100])


def test_a_camera_of_another_size_sees_the_same_points():
    small, large = (make_scene(0, 2, WorldConfig(image_hw=hw)) for hw in ((128, 208), (320, 640)))
    np.testing.assert_array_equal(sweep_scene(small).points, sweep_scene(large).points)


FULL = RayGrid(np.tan(np.radians(np.linspace(-60, 45, 106))), -np.pi, 360, 360)
LEVEL = 60
"""The beam without elevation."""


def wall(x: float, half_width: float, half_height: float) -> np.ndarray:
    """(1, 4, 3) an upright rectangle across the x axis whose outside looks at the sensor."""
    y = -half_width if x > 0 else half_width  # on the right, seen from the sensor
    corners = [(x, y, -half_height), (x, y, half_height), (x, -y, half_height), (x, -y, -half_height)]
    return np.array([corners])


def met_by(faces: np.ndarray, *decals: int) -> np.ndarray:
    return first_hits(faces, np.isin(np.arange(len(faces)), decals), FULL).face


def test_a_roof_over_the_sensor_is_met_all_around():
    # A level square of 20 m, 3 m above the sensor, seen from below: ahead it ends where the tangent is 3 / 10.
    roof = np.array([[(-10.0, -10, 3), (-10, 10, 3), (10, 10, 3), (10, -10, 3)]])
    found = first_hits(roof, np.zeros(1, dtype=bool), FULL)
    np.testing.assert_array_equal(found.face[:, 180] == 0, FULL.tangents > 0.3)
    assert (found.face[-1] == 0).all()  # 45 degrees meets it everywhere
    np.testing.assert_allclose(found.ground_distance[-1], 3, rtol=1e-9)


def test_a_wall_across_the_seam_of_the_turn_is_met_on_both_sides():
    found = met_by(wall(-5, 2, 1))
    met = np.flatnonzero(found[LEVEL] == 0)
    half = int(np.degrees(np.arctan(2 / 5)))
    assert set(met) == {*range(half + 1), *range(360 - half, 360)}


def test_the_inside_of_a_wall_is_not_met():
    assert (met_by(wall(5, 2, 1)) == 0).any()
    assert (met_by(wall(5, 2, 1)[:, ::-1]) == -1).all()


def test_a_decal_covers_its_wall_and_nothing_before_it():
    found = met_by(np.concatenate([wall(5, 2, 2), wall(5, 1, 1), wall(4.9, 0.5, 0.5)]), 1)
    assert found[LEVEL, 180] == 2
    assert found[LEVEL, 180 + 8] == 1  # 8 degrees: 0.70 m beside the middle
    assert found[LEVEL, 180 + 16] == 0  # 16 degrees: 1.43 m


def test_walls_that_share_an_edge_let_no_ray_through():
    rng = np.random.default_rng(0)
    for _ in range(20):
        middle = rng.uniform(-1.5, 1.5)
        left, right = wall(5, 2, 1), wall(5, 2, 1)
        left[0, :2, 1] = right[0, 2:, 1] = middle
        found = met_by(np.concatenate([left, right]))
        np.testing.assert_array_equal(found >= 0, met_by(wall(5, 2, 1)) >= 0)


def test_no_faces_and_no_meetings_are_no_mistake():
    assert (first_hits(np.zeros((0, 4, 3)), np.zeros(0, dtype=bool), FULL).face == -1).all()
    empty = sweep_scene(stage(), EXACT.but(elevation_degrees=(1.0, 2.0)))
    assert empty.points.shape == (0, 4) and empty.beam.shape == empty.owner.shape == (0,)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"elevation_degrees": (3.0, -3.0)}, "is above the highest"),
        ({"beams": 0}, "beams"),
        ({"sweep_degrees": 0}, "sweep_degrees"),
        ({"dropout": 1.5}, "dropout"),
    ],
)
def test_impossible_sensors_are_refused(changes, words):
    with pytest.raises(ValidationError, match=words):
        LidarConfig(**changes)
