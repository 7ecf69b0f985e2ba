"""Pictures and their truth."""

import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from sightline.data.world.camera import inverse_pose, transform
from sightline.data.world.config import CLASS_NAMES, WorldConfig
from sightline.data.world.render import render_sample, render_scene
from sightline.data.world.scene import Scene, Thing, make_scene
from sightline.data.world.view import NEAR, SHIFT, View
from tests.data.solid_triangles import first_triangles, solid_triangles

CONFIG = WorldConfig()


def stage(*props: tuple[str, tuple[float, float, float], float, float, float]) -> Scene:
    """A scene with nothing in it but the given things: (kind, size, x, y, yaw) in the ego frame."""
    scene = make_scene(0, 0)
    ego_yaw = float(np.arctan2(scene.world_from_ego[1, 0], scene.world_from_ego[0, 0]))
    objects = []
    for kind, size, x, y, yaw in props:
        centre = transform(np.array([x, y, size[2] / 2]), scene.world_from_ego)
        objects.append(Thing(kind, np.array([*centre, *size, yaw + ego_yaw]), np.zeros(2), 5))
    return replace(scene, objects=tuple(objects), background=())


TRUCK, PEDESTRIAN, CAR = (8.0, 2.5, 3.4), (0.7, 0.55, 1.75), (4.4, 1.8, 1.5)


def test_equal_names_give_equal_bytes_in_any_process_and_order():
    code = (
        "import hashlib; from sightline.data.world.render import render_sample;"
        "print(hashlib.sha256(b''.join(render_sample(5, i)[0].tobytes() for i in (2, 1))).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    pictures = {index: render_sample(5, index)[0] for index in (0, 1, 2)}
    assert hashlib.sha256(pictures[2].tobytes() + pictures[1].tobytes()).hexdigest() == other
    assert not np.array_equal(pictures[0], pictures[1])


@pytest.mark.parametrize("image_hw", [(256, 416), (384, 640), (97, 131), (64, 200)])
def test_pictures_have_the_size_asked_for(image_hw):
    image, boxes, labels, rendering = render_sample(0, 3, CONFIG.but(image_hw=image_hw))
    assert image.shape == (*image_hw, 3) and image.dtype == np.uint8
    assert rendering.instances.shape == image_hw
    assert boxes.shape == (len(labels), 4) and labels.dtype == np.int64


def test_boxes_are_tight_around_the_pixels_of_their_objects():
    for index in range(25):
        rendering = render_sample(0, index)[3]
        truth = rendering.truth
        assert set(np.unique(rendering.instances)) - {0} == set(truth.object_index + 1)
        for row, number in enumerate(truth.object_index):
            ys, xs = np.nonzero(rendering.instances == number + 1)
            assert truth.boxes_xyxy[row].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert truth.visible_pixels[row] == len(xs)
            assert truth.labels[row] == CLASS_NAMES.index(rendering.scene.objects[number].kind)
        enough = truth.visible_pixels >= CONFIG.min_visible_pixels
        assert (truth.is_labelled == enough & (truth.visible_fraction >= CONFIG.min_visible_fraction)).all()


def test_projected_3d_boxes_hold_the_2d_boxes():
    for index in range(25):
        rendering = render_sample(1, index)[3]
        truth, camera = rendering.truth, rendering.camera
        camera_from_world = camera.camera_from_ego @ inverse_pose(rendering.scene.world_from_ego)
        signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / 2
        for row, number in enumerate(truth.object_index):
            box = rendering.scene.boxes3d[number]
            corners = signs * box[3:6]
            turn = np.array([[np.cos(box[6]), -np.sin(box[6]), 0], [np.sin(box[6]), np.cos(box[6]), 0], [0, 0, 1]])
            in_camera = transform(corners @ turn.T + box[:3], camera_from_world)
            if in_camera[:, 2].min() < NEAR:
                continue
            pixels = camera.project(in_camera)
            hull = np.concatenate([pixels.min(axis=0), pixels.max(axis=0)])
            for inner in (truth.boxes_xyxy[row], truth.full_boxes_xyxy[row]):
                # One pixel of slack: a polygon covers every sample that it touches.
                assert (inner[:2] >= hull[:2] - 1).all() and (inner[2:] <= hull[2:] + 1).all()


def hit_by_rays(scene: Scene, view: View, pixels: np.ndarray) -> np.ndarray:
    """1 + index of the first object on the ray through every pixel centre, 0 for others."""
    intrinsics = view.camera.intrinsics
    rays = np.concatenate([pixels + 0.5, np.ones((len(pixels), 1))], axis=1) @ np.linalg.inv(intrinsics).T
    rays = transform(rays, inverse_pose(view.camera_from_world), turn_only=True)
    return first_triangles(solid_triangles(scene), view.position, rays, NEAR)[1] + 1


def test_painting_agrees_with_ray_casting_through_the_triangles():
    agreed = looked = 0
    for index in range(12):
        scene = make_scene(0, index)
        rendering = render_scene(scene, CONFIG)
        instances = rendering.instances
        around = np.pad(instances, 1, mode="edge")
        shifted = [around[y : y + instances.shape[0], x : x + instances.shape[1]] for y in range(3) for x in range(3)]
        inner = np.logical_and.reduce([s == instances for s in shifted])  # rays through edges may go either way
        ys, xs = np.nonzero(inner & (instances > 0))
        rng = np.random.default_rng(index)
        chosen = rng.integers(0, len(xs), 60)
        anywhere = np.stack([rng.integers(0, instances.shape[1], 30), rng.integers(0, instances.shape[0], 30)], axis=1)
        pixels = np.concatenate(
            [np.stack([xs[chosen], ys[chosen]], axis=1), anywhere[inner[anywhere[:, 1], anywhere[:, 0]]]]
        )
        hits = hit_by_rays(scene, View(rendering.camera, scene.world_from_ego), pixels)
        agreed += (hits == instances[pixels[:, 1], pixels[:, 0]]).sum()
        looked += len(pixels)
    # Polygons cover every sample that they touch, so slits narrower than a pixel (between spokes, arms) may close.
    assert agreed / looked > 0.99


def test_who_stands_behind_a_truck_is_not_labelled():
    hidden = render_scene(stage(("truck", TRUCK, 15, 0, 0), ("pedestrian", PEDESTRIAN, 25, 0, 0)), CONFIG)
    assert hidden.truth.object_index.tolist() == [0]
    beside = render_scene(stage(("truck", TRUCK, 15, 0, 0), ("pedestrian", PEDESTRIAN, 25, 5, 0)), CONFIG)
    assert beside.truth.object_index.tolist() == [0, 1]
    np.testing.assert_array_equal(beside.truth.visible_fraction, [1, 1])
    before = render_scene(stage(("truck", TRUCK, 15, 0, 0), ("pedestrian", PEDESTRIAN, 8, 0, 0)), CONFIG)
    assert before.truth.visible_fraction[1] == 1 and before.truth.visible_fraction[0] < 1


def test_who_is_hidden_by_half_is_labelled_until_too_little_is_left():
    # Seen along x, the truck covers y from -1.25 to 1.25 at its rear (x = 11); the car behind looks past it.
    rows = []
    for y in (2.0, 2.6, 3.4):
        scene = stage(("truck", TRUCK, 15, 0, 0), ("car", CAR, 24, y, 0))
        rows.append(render_scene(scene, CONFIG).truth)
    fractions = [truth.visible_fraction[1] for truth in rows]
    assert 0 < fractions[0] < fractions[1] < fractions[2] < 1
    strict = CONFIG.but(min_visible_fraction=float(fractions[1]))
    labelled = [render_scene(stage(("truck", TRUCK, 15, 0, 0), ("car", CAR, 24, y, 0)), strict) for y in (2.0, 3.4)]
    assert [r.truth.is_labelled[1] for r in labelled] == [False, True]


def test_an_object_that_reaches_out_of_the_picture_is_cut_at_its_edge():
    # At depth 10 the left edge of the picture is at y = 10 * tan(31 degrees) = 6.0; the car spans 4.8 to 7.2 or so.
    rendering = render_scene(stage(("car", CAR, 1.7 + 10, 6.0, 0)), CONFIG)
    truth = rendering.truth
    assert truth.boxes_xyxy[0, 0] == 0 and truth.full_boxes_xyxy[0, 0] < -20
    assert 0.3 < truth.truncation[0] < 0.7
    car = rendering.scene.objects[0]  # its full box goes around all corners, those outside of the picture too
    in_ego = transform(car.mesh.placed(car.ground_position, car.yaw), inverse_pose(rendering.scene.world_from_ego))
    corners = transform(in_ego, rendering.camera.camera_from_ego)
    pixels = rendering.camera.project(corners).reshape(-1, 2)
    np.testing.assert_allclose(truth.full_boxes_xyxy[0], [*pixels.min(axis=0), *pixels.max(axis=0)], atol=1e-6)
    assert truth.visible_fraction[0] == 1  # nothing stands before what is inside
    whole = render_scene(stage(("car", CAR, 1.7 + 10, 0.0, 0)), CONFIG).truth
    assert whole.truncation[0] == 0 and whole.distance[0] == pytest.approx(10, abs=0.3)
    np.testing.assert_allclose(whole.full_boxes_xyxy, whole.boxes_xyxy, atol=1)


def test_an_empty_street_has_no_boxes():
    truth = render_scene(stage(), CONFIG).truth
    assert truth.boxes_xyxy.shape == (0, 4) and truth.full_boxes_xyxy.shape == (0, 4) and len(truth.labels) == 0


def test_noise_and_blur_change_the_picture_but_not_the_truth():
    noisy, clean = render_sample(0, 4, CONFIG)[3], render_sample(0, 4, CONFIG.but(noise=0, blur=0))[3]
    np.testing.assert_array_equal(noisy.instances, clean.instances)
    np.testing.assert_array_equal(noisy.truth.boxes_xyxy, clean.truth.boxes_xyxy)
    difference = np.abs(noisy.image.astype(int) - clean.image)
    assert 0.3 < difference.mean() < 15
    again = render_sample(0, 4, CONFIG.but(noise=0, blur=0))[0]
    np.testing.assert_array_equal(again, clean.image)


def test_every_camera_sees_its_own_part_of_one_scene():
    scene = make_scene(0, 1, CONFIG.but(objects_behind=(8, 8)))
    seen_by: dict[int, list[str]] = {}
    for camera in scene.calibration.cameras:
        truth = render_scene(scene, CONFIG, camera.name).truth
        for number in truth.object_index:
            seen_by.setdefault(int(number), []).append(camera.name)
    ahead = [n for n, names in seen_by.items() if "CAM_FRONT" in names]
    assert len(ahead) >= 3
    assert not any("CAM_BACK" in seen_by[n] for n in ahead)
    in_ego = transform(scene.boxes3d[:, :3], inverse_pose(scene.world_from_ego))
    assert all(in_ego[n, 0] > 0 for n in ahead)
    assert any("CAM_BACK" in names for names in seen_by.values())


def test_an_object_nearer_later_looks_larger():
    scene = stage(("cone", (0.4, 0.4, 0.7), 12, 0, 0))
    scene = replace(scene, ego_velocity_xy=scene.world_from_ego[:2, 0] * 8.0)  # straight ahead, 8 m/s
    now, later = (render_scene(s, CONFIG).truth for s in (scene, scene.moved(0.5)))
    tall = [t.full_boxes_xyxy[0, 3] - t.full_boxes_xyxy[0, 1] for t in (now, later)]
    # Depth goes from about 10.3 to 6.3 metres.
    assert tall[1] / tall[0] == pytest.approx(10.3 / 6.3, rel=0.06)


def test_polygons_through_the_camera_are_cut_at_the_near_plane():
    view = View(make_scene(0, 0).calibration.camera("CAM_FRONT"), np.eye(4))
    # In the camera frame: from 1 m behind to 1 m before, 0.1 m below the axis.
    strip = np.array([[-0.1, 0.1, -1.0], [0.1, 0.1, -1.0], [0.1, 0.1, 1.0], [-0.1, 0.1, 1.0]])
    for hull in (False, True):
        (polygon,) = view.to_pixels(strip[None], hull=hull)
        pixels = (polygon / (1 << SHIFT) + 0.5) / view.samples
        focal, (cx, cy) = view.camera.intrinsics[0, 0], view.camera.intrinsics[:2, 2]
        expected = {(cx + s * focal * 0.1 / z, cy + focal * 0.1 / z) for s in (-1, 1) for z in (NEAR, 1.0)}
        found = {tuple(p) for p in pixels}
        assert len(found) == 4
        for corner in expected:
            assert min(np.hypot(corner[0] - x, corner[1] - y) for x, y in found) < 0.1
    assert view.to_pixels(strip[None] * [1, 1, -1] - [0, 0, 3]) == [None]
    assert view.to_pixels(np.zeros((0, 4, 3))) == []


def test_classes_are_balanced_and_boxes_neither_tiny_nor_huge():
    counts, widths, per_image = np.zeros(len(CLASS_NAMES)), [], []
    for index in range(80):
        _, boxes, labels, _ = render_sample(2, index)
        counts += np.bincount(labels, minlength=len(CLASS_NAMES))
        widths += (boxes[:, 2] - boxes[:, 0]).tolist()
        per_image.append(len(labels))
    assert counts.min() > 0.12 * counts.sum()
    assert np.percentile(widths, 5) >= 10 and np.percentile(widths, 95) <= 200
    assert 4 <= np.mean(per_image) <= 8
