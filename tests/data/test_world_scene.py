"""The scene in 3D: a function of its names, true to scale, and solid."""

import numpy as np
import pytest
from pydantic import ValidationError

from sightline.data.world.camera import inverse_pose
from sightline.data.world.config import CLASS_NAMES, WorldConfig
from sightline.data.world.mesh import MAX_CORNERS, turn_about_z
from sightline.data.world.painter_order import order_of_boxes, order_of_footprints
from sightline.data.world.scene import Scene, Thing, make_scene
from tests.data.solid_triangles import solid_triangles

BACKGROUND = ("building", "tree", "lamp", "sign", "bin", "hedge")
SIZES = {
    "car": (4.4, 1.8, 1.5),
    "truck": (8.0, 2.4, 3.2),
    "pedestrian": (0.7, 0.55, 1.75),
    "cyclist": (1.7, 0.6, 1.7),
    "cone": (0.4, 0.4, 0.7),
    "building": (14.0, 10.0, 9.0),
    "tree": (3.0, 3.0, 6.0),
    "lamp": (0.2, 2.0, 6.0),
    "sign": (0.1, 0.7, 2.5),
    "bin": (0.5, 0.5, 0.9),
    "hedge": (4.0, 0.9, 1.2),
}


def thing(kind: str, seed: int = 0, size=None, x=0.0, y=0.0, yaw=0.0) -> Thing:
    dx, dy, dz = size or SIZES[kind]
    return Thing(kind, np.array([x, y, dz / 2, dx, dy, dz, yaw]), np.zeros(2), seed)


def velocities_xy(scene: Scene) -> np.ndarray:
    return np.array([thing.velocity_xy for thing in scene.objects])


def plain(scene: Scene) -> list[np.ndarray]:
    """Everything in a scene that can be compared as numbers."""
    things = (*scene.objects, *scene.background)
    return [
        scene.world_from_ego,
        scene.ego_velocity_xy,
        scene.boxes3d,
        velocities_xy(scene),
        scene.light.sun_direction,
        scene.light.ambient,
        np.array([t.appearance_seed for t in things]),
        np.array([t.box3d for t in things]),
        *(c.camera_from_ego for c in scene.calibration.cameras),
        *(c.intrinsics for c in scene.calibration.cameras),
    ]


def test_a_scene_depends_on_seed_and_index_alone():
    alone = make_scene(3, 7)
    after_others = [make_scene(3, index) for index in (9, 8, 7)][-1]
    for a, b in zip(plain(alone), plain(after_others), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(make_scene(4, 7).world_from_ego, alone.world_from_ego)
    assert not np.array_equal(make_scene(3, 8).world_from_ego, alone.world_from_ego)


def test_objects_ahead_do_not_depend_on_how_many_stand_behind():
    few = make_scene(0, 5, WorldConfig(objects_behind=(0, 0)))
    many = make_scene(0, 5, WorldConfig(objects_behind=(8, 8)))
    np.testing.assert_array_equal(few.boxes3d, many.boxes3d[: len(few.objects)])


@pytest.mark.parametrize("kind", [*CLASS_NAMES, *BACKGROUND])
@pytest.mark.parametrize("seed", range(8))
def test_a_mesh_fills_its_box_and_consists_of_closed_solids(kind, seed):
    mesh = thing(kind, seed).mesh
    low, high = mesh.polygons.reshape(-1, 3).min(axis=0), mesh.polygons.reshape(-1, 3).max(axis=0)
    dx, dy, dz = SIZES[kind]
    np.testing.assert_allclose(low, (-dx / 2, -dy / 2, 0), atol=1e-9)
    np.testing.assert_allclose(high, (dx / 2, dy / 2, dz), atol=1e-9)

    # The area vectors of a closed surface add up to zero, and by Gauss its faces enclose a positive volume if they
    # look outwards.
    polygons, part = mesh.polygons[~mesh.is_decal], mesh.part[~mesh.is_decal]
    area = sum(
        np.cross(polygons[:, k] - polygons[:, 0], polygons[:, k + 1] - polygons[:, 0]) / 2
        for k in range(1, MAX_CORNERS - 1)
    )
    for number in range(len(mesh.part_boxes)):
        of_part = part == number
        np.testing.assert_allclose(area[of_part].sum(axis=0), 0, atol=1e-9)
        assert (area[of_part] * polygons[of_part][:, 0]).sum() / 3 > 0


@pytest.mark.parametrize("kind", [*CLASS_NAMES, *BACKGROUND])
@pytest.mark.parametrize("seed", range(8))
def test_decals_lie_on_their_part_and_parts_keep_apart(kind, seed):
    mesh = thing(kind, seed).mesh
    boxes = mesh.part_boxes
    for polygon, part in zip(mesh.polygons[mesh.is_decal], mesh.part[mesh.is_decal], strict=True):
        assert (polygon >= boxes[part, :3] - 1e-9).all() and (polygon <= boxes[part, 3:] + 1e-9).all()
    shared = np.minimum(boxes[:, None, 3:], boxes[None, :, 3:]) - np.maximum(boxes[:, None, :3], boxes[None, :, :3])
    depth = shared.min(axis=2)
    np.fill_diagonal(depth, -1)
    assert depth.max() < 1e-9


def test_nothing_stands_inside_something_else():
    for index in range(20):
        scene = make_scene(1, index)
        boxes = np.array([t.box3d for t in (*scene.objects, *scene.background)])
        share = np.linspace(-0.5, 0.5, 9)
        grid = np.stack(np.meshgrid(share, share), axis=-1).reshape(-1, 2)  # points of a footprint
        cosine, sine = np.cos(boxes[:, 6]), np.sin(boxes[:, 6])
        turn = np.stack([np.stack([cosine, sine], -1), np.stack([-sine, cosine], -1)], axis=1)
        points = boxes[:, None, :2] + (grid * boxes[:, None, 3:5]) @ turn  # (N, P, 2)
        for number, box in enumerate(boxes):
            local = (points - box[:2]) @ turn[number].T
            inside = (np.abs(local) < box[3:5] / 2 - 1e-9).all(axis=2).any(axis=1)
            assert np.flatnonzero(inside).tolist() == [number]


def test_later_everything_has_moved_by_its_velocity():
    scene = next(s for s in (make_scene(0, i) for i in range(20)) if np.abs(velocities_xy(s)).max() > 1)
    later = scene.moved(0.5)
    np.testing.assert_allclose(later.boxes3d[:, :2] - scene.boxes3d[:, :2], 0.5 * velocities_xy(scene), atol=1e-9)
    np.testing.assert_array_equal(later.boxes3d[:, 2:], scene.boxes3d[:, 2:])
    moved_ego = later.world_from_ego[:2, 3] - scene.world_from_ego[:2, 3]
    np.testing.assert_allclose(moved_ego, 0.5 * scene.ego_velocity_xy)
    assert later.timestamp == scene.timestamp + 0.5
    assert [thing.kind for thing in later.objects] == [thing.kind for thing in scene.objects]


def test_moving_objects_drive_forwards():
    for index in range(20):
        scene = make_scene(0, index)
        forward = np.stack([np.cos(scene.boxes3d[:, 6]), np.sin(scene.boxes3d[:, 6])], -1)
        speed = (forward * velocities_xy(scene)).sum(axis=1)
        np.testing.assert_allclose(speed, np.linalg.norm(velocities_xy(scene), axis=1), atol=1e-9)


def test_triangles_of_an_object_fill_its_box_and_nothing_more():
    scene = make_scene(0, 2)
    triangles = solid_triangles(scene)
    assert len(triangles.corners) == len(triangles.owner)
    for number, box in enumerate(scene.boxes3d):
        corners = triangles.corners[triangles.owner == number].reshape(-1, 3) - box[:3]
        local = turn_about_z(corners, -box[6])
        np.testing.assert_allclose(local.max(axis=0), box[3:6] / 2, atol=1e-9)
        np.testing.assert_allclose(local.min(axis=0), -box[3:6] / 2, atol=1e-9)


def test_the_rig_looks_where_its_names_say():
    rig = make_scene(0, 0).calibration
    yaw_of = {}
    for camera in rig.cameras:
        forward = inverse_pose(camera.camera_from_ego)[:3, 2]
        yaw_of[camera.name] = np.degrees(np.arctan2(forward[1], forward[0]))
        assert np.linalg.det(camera.camera_from_ego[:3, :3]) == pytest.approx(1)
        assert forward[2] < 0  # a little down
    assert yaw_of["CAM_FRONT"] == pytest.approx(0)
    assert abs(yaw_of["CAM_BACK"]) == pytest.approx(180)
    assert 0 < yaw_of["CAM_FRONT_LEFT"] < 90 < yaw_of["CAM_BACK_LEFT"] < 180
    assert 0 > yaw_of["CAM_FRONT_RIGHT"] > -90 > yaw_of["CAM_BACK_RIGHT"] > -180
    assert rig.lidar.ego_from_sensor[2, 3] > 1.5 and len(rig.radars) == 5


def test_a_point_ahead_and_left_is_left_of_the_middle_of_the_picture():
    # Pinhole by hand: at depth 10 and 2 to the left, u = W / 2 - f * 2 / 10.
    camera = make_scene(0, 0, WorldConfig(field_of_view_degrees=90)).calibration.camera("CAM_FRONT")
    height, width = camera.image_hw
    u, v = camera.project(np.array([-2.0, 0.0, 10.0]))
    assert u == pytest.approx(width / 2 - (width / 2) * 0.2) and v == pytest.approx(height / 2)
    with pytest.raises(ValueError, match="no camera 'CAM_TOP'"):
        make_scene(0, 0).calibration.camera("CAM_TOP")


def test_painting_order_of_boxes_in_a_row():
    boxes = np.array([[x, 0, 0, x + 1, 1, 1] for x in (4.0, 0.0, 2.0)])
    assert order_of_boxes(boxes, np.array([-5.0, 0.5, 0.5])) == [0, 2, 1]
    assert order_of_boxes(boxes, np.array([9.0, 0.5, 0.5])) == [1, 2, 0]


def test_a_long_truck_beside_a_pedestrian_is_painted_by_the_plane_between_them():
    # The middle of the truck is nearer to the viewer than the pedestrian, who yet stands on the viewer's side.
    centres = np.array([[10.0, 3.0], [13.0, 1.0]])
    half_sizes = np.array([[6.0, 1.2], [0.3, 0.3]])
    viewpoint = np.array([0.0, 0.0])
    assert np.linalg.norm(centres[0]) < np.linalg.norm(centres[1])
    assert order_of_footprints(centres, half_sizes, np.zeros(2), viewpoint) == [0, 1]
    assert order_of_footprints(centres, half_sizes, np.zeros(2), np.array([10.0, 9.0])) == [1, 0]


def test_no_boxes_have_an_empty_order():
    assert order_of_boxes(np.zeros((0, 6)), np.zeros(3)) == []
    assert order_of_footprints(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0), np.zeros(2)) == []


@pytest.mark.parametrize(
    "values",
    [
        {"objects_ahead": (5, 3)},
        {"objects_behind": (0, 101)},
        {"class_weights": (0, 0, 0, 0, 0)},
        {"image_hw": (16, 416)},
        {"noise": -1.0},
        {"min_visible_fraction": 1.5},
        {"fog": True},
    ],
)
def test_impossible_worlds_are_refused(values):
    with pytest.raises(ValidationError):
        WorldConfig(**values)
