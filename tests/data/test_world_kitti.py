"""The world in KITTI's layout: what its files say is true of the scene, the picture and the points."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from sightline.config.errors import UserError
from sightline.data.formats.kitti import KittiSource
from sightline.data.world.camera import transform
from sightline.data.world.config import EmbeddedLidarConfig, LidarConfig, WorldConfig
from sightline.data.world.embedded import embedded_lidar_world
from sightline.data.world.kitti_writer import KittiFrame, kitti_frame
from sightline.data.world.scene import Scene, Thing, make_scene
from sightline.data.world.writers import write_world

CONFIG = EmbeddedLidarConfig().world
LIDAR = LidarConfig(sweep_degrees=80.0)
SMALL, FEW_RAYS = WorldConfig(image_hw=(128, 256)), LidarConfig(beams=8, steps_per_turn=360, sweep_degrees=80.0)
ROUNDING = 1e-4


class Label(NamedTuple):
    """A line of a label file."""

    type: str
    truncation: float
    occlusion: int
    alpha: float
    box: np.ndarray
    hwl: np.ndarray
    bottom: np.ndarray
    rotation: float


def parse(line: str) -> Label:
    name, *fields = line.split()
    numbers = [float(field) for field in fields]
    assert len(numbers) == 14
    return Label(
        name, numbers[0], int(fields[1]), numbers[2], np.array(numbers[3:7]), np.array(numbers[7:10]),
        np.array(numbers[10:13]), numbers[13],
    )  # fmt: skip


def corners(label: Label) -> np.ndarray:
    """(8, 3) in the camera frame, as the development kit draws them."""
    height, width, length = label.hwl
    x = np.array([1, 1, -1, -1, 1, 1, -1, -1]) * length / 2
    y = np.array([0, 0, 0, 0, -1, -1, -1, -1]) * height
    z = np.array([1, -1, -1, 1, 1, -1, -1, 1]) * width / 2
    cosine, sine = np.cos(label.rotation), np.sin(label.rotation)
    return np.stack([cosine * x + sine * z, y, -sine * x + cosine * z], axis=1) + label.bottom


def in_box(label: Label, points_camera: np.ndarray) -> np.ndarray:
    """(P, 3) how far points are from the middle of the box along its length, height and width, as shares of a half."""
    x, y, z = (points_camera - label.bottom).T
    cosine, sine = np.cos(label.rotation), np.sin(label.rotation)
    height, width, length = label.hwl
    return np.stack([(cosine * x - sine * z) * 2 / length, 2 * y / height + 1, (sine * x + cosine * z) * 2 / width], 1)


class Frame:
    """A frame with its numbers as a reader of the files would have them."""

    def __init__(self, frame: KittiFrame) -> None:
        self.frame = frame
        matrices = [np.eye(4), np.eye(4), np.eye(4)]
        for matrix, part in zip(matrices, frame.calibration, strict=True):
            matrix[: part.shape[0], : part.shape[1]] = part
        self.p2, rect, velo_to_cam = matrices
        self.points_camera = transform(frame.sweep.points[:, :3].astype(float), rect @ velo_to_cam)
        self.labels = [parse(line) for line in frame.labels if not line.startswith("DontCare")]
        truth = frame.rendering.truth
        self.numbers = truth.object_index[truth.is_labelled].tolist()
        assert len(self.numbers) == len(self.labels)

    def project(self, points: np.ndarray) -> np.ndarray:
        u, v, depth = (np.c_[points, np.ones(len(points))] @ self.p2[:3].T).T
        return np.stack([u / depth, v / depth], axis=1)


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return [Frame(kitti_frame(make_scene(0, index, CONFIG), CONFIG, LIDAR)) for index in range(12)]


def stage(*props: tuple[str, tuple[float, float, float], float, float, float]) -> Frame:
    """A frame with nothing in it but the given things: (kind, size, x, y, yaw) in the ego frame."""
    scene: Scene = make_scene(0, 0, CONFIG)
    ego_yaw = float(np.arctan2(scene.world_from_ego[1, 0], scene.world_from_ego[0, 0]))
    objects = []
    for kind, size, x, y, yaw in props:
        centre = transform(np.array([x, y, size[2] / 2]), scene.world_from_ego)
        objects.append(Thing(kind, np.array([*centre, *size, yaw + ego_yaw]), np.zeros(2), 5))
    return Frame(kitti_frame(replace(scene, objects=tuple(objects), background=()), CONFIG, LIDAR))


CAR, TRUCK, PERSON = (4.4, 1.8, 1.5), (8.0, 2.5, 3.4), (0.7, 0.6, 1.75)


def test_a_car_ahead_has_the_numbers_that_one_reckons_by_hand():
    # The camera is 1.70 m before the origin of the ego frame and 1.65 m above the ground; the car's middle 15 m before.
    label = stage(("car", CAR, 15.0, 2.0, 0.0)).labels[0]
    assert label.type == "Car" and label.occlusion == 0 and label.truncation == 0
    np.testing.assert_allclose(label.bottom, (-2.0, 1.65, 13.3), atol=ROUNDING)
    np.testing.assert_allclose(label.hwl, (1.5, 1.8, 4.4), atol=ROUNDING)
    assert label.rotation == pytest.approx(-np.pi / 2, abs=ROUNDING)  # it drives where we look
    assert label.alpha == pytest.approx(-np.pi / 2 + np.arctan2(2.0, 13.3), abs=ROUNDING)


@pytest.mark.parametrize(
    "yaw, rotation", [(0.0, -np.pi / 2), (-np.pi / 2, 0.0), (np.pi / 2, -np.pi), (-2.0, 2 - np.pi / 2)]
)
def test_headings_turn_from_the_right_of_the_picture_clockwise_seen_from_above(yaw, rotation):
    found = stage(("car", CAR, 15.0, 0.0, yaw)).labels[0].rotation
    assert np.cos(found - rotation) == pytest.approx(1, abs=1e-7)


def test_every_kind_has_its_name_in_kitti():
    kinds = {"car": "Car", "truck": "Truck", "pedestrian": "Pedestrian", "cyclist": "Cyclist", "cone": "Misc"}
    sizes = (CAR, TRUCK, PERSON, (1.7, 0.6, 1.7), (0.4, 0.4, 0.7))
    for (kind, name), size in zip(kinds.items(), sizes, strict=True):
        assert [label.type for label in stage((kind, size, 12.0, 0.0, 0.3)).labels] == [name]


def test_matrices_are_those_of_the_mounts():
    frame = stage(("car", CAR, 15.0, 2.0, 0.0))
    # LiDAR at (0.94, 0, 1.84), camera at (1.70, 0, 1.65) of the ego frame; camera x right, y down, z forward.
    expected = [[0, -1, 0, 0], [0, 0, -1, 1.65 - 1.84], [1, 0, 0, 0.94 - 1.70]]
    np.testing.assert_allclose(frame.frame.calibration.camera_from_lidar, expected, atol=1e-6)
    focal = 320 / np.tan(np.radians(31))
    np.testing.assert_allclose(
        frame.frame.calibration.image_from_rect, [[focal, 0, 320, 0], [0, focal, 160, 0], [0, 0, 1, 0]], rtol=1e-6
    )


def test_all_points_of_an_object_and_no_others_lie_in_its_box(frames):
    num_points = 0
    for frame in frames:
        owner = frame.frame.sweep.owner
        for label, number in zip(frame.labels, frame.numbers, strict=True):
            share = in_box(label, frame.points_camera)
            half = label.hwl[[2, 0, 1]] / 2
            assert (np.abs(share[owner == number]) * half <= half + 4 * LIDAR.range_noise + 2e-3).all()
            assert (owner[(np.abs(share) * half < half - 0.1).all(axis=1)] == number).all()
            num_points += (owner == number).sum()
    assert num_points > 5000


def test_boxes_stand_on_the_ground(frames):
    for frame in frames:
        on_ground = frame.points_camera[frame.frame.sweep.owner == -1]
        road = on_ground[on_ground[:, 1] > 1.5]
        assert abs(np.median(road[:, 1]) - 1.65) < 0.01
        assert all(label.bottom[1] == pytest.approx(1.65, abs=ROUNDING) for label in frame.labels)


def test_projected_boxes_cover_the_pixels_in_which_the_object_is_seen(frames):
    num_pixels = 0
    for frame in frames:
        instances = frame.frame.rendering.instances
        for label, number in zip(frame.labels, frame.numbers, strict=True):
            if corners(label)[:, 2].min() < 0.3:
                continue
            hull = cv2.convexHull(frame.project(corners(label)).astype(np.float32))
            for y, x in np.argwhere(instances == number + 1):
                # A pixel of slack: a painted polygon covers every sample that it touches.
                assert cv2.pointPolygonTest(hull, (x + 0.5, y + 0.5), True) > -1.5
                num_pixels += 1
    assert num_pixels > 20_000


def test_boxes_in_the_picture_are_the_projected_ones_cut_off_at_its_last_pixel(frames):
    for frame in frames:
        for label in frame.labels:
            if corners(label)[:, 2].min() < 0.3:
                continue
            pixels = frame.project(corners(label))
            low, high = pixels.min(axis=0), pixels.max(axis=0)
            outer = np.clip([*low, *high], 0, (639, 319) * 2)
            # An object fills its box, but not the corners of it that happen to be nearest to the camera.
            assert (label.box[:2] >= outer[:2] - 0.01).all() and (label.box[2:] <= outer[2:] + 0.01).all()
            area, outer_area = ((b[2] - b[0]) * (b[3] - b[1]) for b in (label.box, outer))
            assert area > 0.55 * outer_area
            assert 0 <= label.box[0] < label.box[2] <= 639 and 0 <= label.box[1] < label.box[3] <= 319


def test_points_of_an_object_fall_into_its_box_in_the_picture_and_mostly_on_its_pixels(frames):
    hit = looked = 0
    for frame in frames:
        instances = frame.frame.rendering.instances
        for label, number in zip(frame.labels, frame.numbers, strict=True):
            mine = frame.points_camera[frame.frame.sweep.owner == number]
            pixels = frame.project(mine[mine[:, 2] > 0.3])
            pixels = pixels[((pixels >= 0) & (pixels < (639, 319))).all(axis=1)]
            assert (pixels >= label.box[:2] - 3).all() and (pixels <= label.box[2:] + 3).all()  # range noise
            columns, rows = pixels.astype(int).T
            hit += (instances[rows, columns] == number + 1).sum()
            looked += len(pixels)
    assert looked > 5000
    assert hit / looked > 0.93  # the LiDAR sees around other corners than the camera


def test_hidden_things_are_occluded_and_have_fewer_points():
    free = stage(("car", CAR, 22.0, 0.0, np.pi / 2))
    half = stage(("car", CAR, 22.0, 0.0, np.pi / 2), ("truck", TRUCK, 13.0, 1.75, 0.0))
    counts = [int((f.frame.sweep.owner == 0).sum()) for f in (free, half)]
    assert free.labels[0].occlusion == 0
    assert [label.type for label in half.labels] == ["Car", "Truck"]
    assert half.labels[0].occlusion in (1, 2) and half.labels[1].occlusion == 0
    assert 0 < counts[1] < 0.8 * counts[0]
    # What is hidden does not count for the box in the picture.
    np.testing.assert_allclose(half.labels[0].box, free.labels[0].box, atol=ROUNDING)


def test_what_is_hidden_altogether_has_no_label_and_no_points():
    frame = stage(("pedestrian", PERSON, 22.0, 0.0, 0.0), ("truck", TRUCK, 13.0, 0.0, np.pi / 2))
    assert [label.type for label in frame.labels] == ["Truck"]
    assert len(frame.frame.labels) == 1
    assert (frame.frame.sweep.owner == 0).sum() == 0


def test_what_reaches_out_of_the_picture_is_truncated():
    edge = 13.3 * np.tan(np.radians(31))
    label = stage(("pedestrian", (0.7, 0.7, 1.75), 15.0, edge, 0.0)).labels[0]
    assert 0.3 < label.truncation < 0.7
    assert label.box[0] == 0


def test_what_is_seen_too_little_of_is_dont_care_and_nobody_behind_us_is_labelled():
    nearly_hidden = stage(
        ("car", CAR, 22.0, 0.0, np.pi / 2), ("truck", TRUCK, 13.0, -3.07, np.pi / 2), ("car", CAR, -12.0, 0.0, 0.0)
    )
    assert [label.type for label in nearly_hidden.labels] == ["Truck"]
    region = nearly_hidden.frame.labels[1].split()
    assert region[0] == "DontCare" and region[1:4] == ["-1", "-1", "-10"]
    assert region[8:] == ["-1", "-1", "-1", "-1000", "-1000", "-1000", "-10"]
    box = np.array(region[4:8], dtype=float)
    assert (box[2:] > box[:2]).all()


def test_the_files_of_a_frame_say_what_the_frame_says(tmp_path: Path):
    summary = write_world(
        tmp_path / "world", format="kitti", scenes=3, seed=3, val_fraction=0.34, config=SMALL, lidar=FEW_RAYS
    )
    folder = tmp_path / "world" / "training"
    assert summary.images == {"train": 2, "val": 1}
    lists = {path.stem: path.read_text().split() for path in (tmp_path / "world" / "ImageSets").iterdir()}
    assert lists == {"train": ["000000", "000001"], "val": ["000002"], "trainval": ["000000", "000001", "000002"]}
    num_objects = 0
    for index in range(3):
        frame = kitti_frame(make_scene(3, index, SMALL), SMALL, FEW_RAYS)
        points = np.fromfile(folder / "velodyne" / f"{index:06d}.bin", "<f4").reshape(-1, 4)
        np.testing.assert_array_equal(points, frame.sweep.points)
        image = cv2.imread(str(folder / "image_2" / f"{index:06d}.png"))[:, :, ::-1]
        np.testing.assert_array_equal(image, frame.rendering.image)
        lines = (folder / "label_2" / f"{index:06d}.txt").read_text().splitlines()
        assert tuple(lines) == frame.labels
        num_objects += sum(not line.startswith("DontCare") for line in lines)
        rows = dict(line.split(": ") for line in (folder / "calib" / f"{index:06d}.txt").read_text().splitlines())
        assert list(rows) == ["P0", "P1", "P2", "P3", "R0_rect", "Tr_velo_to_cam", "Tr_imu_to_velo"]
        for name, matrix in zip(("P2", "R0_rect", "Tr_velo_to_cam"), frame.calibration, strict=True):
            np.testing.assert_array_equal(np.array(rows[name].split(), dtype=np.float32), matrix.ravel())
        plane = [float(x) for x in (folder / "planes" / f"{index:06d}.txt").read_text().splitlines()[3].split()]
        assert plane == [0, -1, 0, 1.65]
    assert sum(summary.boxes.values()) == num_objects


def test_the_reader_of_kitti_finds_the_boxes_of_the_scene_and_no_fault(tmp_path: Path):
    names = ("Car", "Truck", "Pedestrian", "Cyclist", "Misc")
    write_world(tmp_path, format="kitti", scenes=4, seed=2, val_fraction=0.5, config=CONFIG, lidar=FEW_RAYS)
    source = KittiSource(tmp_path, tmp_path, names)
    assert source.splits == ("train", "val", "trainval") and source.unused() == []
    num_boxes = 0
    for split, indices in (("train", (0, 1)), ("val", (2, 3))):
        annotations = source.read(split)
        assert annotations.frame_ids[0] == f"{indices[0]:06d}" and len(annotations) == 2
        assert all(fault.kind == "empty_class" for fault in annotations.faults)
        np.testing.assert_allclose(annotations.planes, [[0, -1, 0, 1.65]] * 2)
        for row, index in enumerate(indices):
            scene = make_scene(2, index, CONFIG)
            truth = kitti_frame(scene, CONFIG, FEW_RAYS).rendering.truth
            chosen = truth.object_index[truth.is_labelled]
            world_from_lidar = scene.world_from_ego @ scene.calibration.lidar.ego_from_sensor
            ego_yaw = np.arctan2(scene.world_from_ego[1, 0], scene.world_from_ego[0, 0])
            rows = annotations.rows_of(row)
            labelled = np.flatnonzero(annotations.labels[rows] >= 0) + rows.start
            found, expected = annotations.boxes3d[labelled], scene.boxes3d[chosen]
            np.testing.assert_array_equal(annotations.labels[labelled], scene.labels[chosen])
            np.testing.assert_allclose(transform(found[:, :3], world_from_lidar), expected[:, :3], atol=3e-4)
            np.testing.assert_allclose(found[:, 3:6], expected[:, 3:6], atol=ROUNDING)
            np.testing.assert_allclose(np.cos(found[:, 6] + ego_yaw - expected[:, 6]), 1, atol=1e-7)
            num_boxes += len(chosen)
    assert num_boxes > 10


def test_equal_names_give_equal_files_however_many_scenes_there_are(tmp_path: Path):
    for scenes in (2, 3):
        write_world(tmp_path / str(scenes), format="kitti", scenes=scenes, config=SMALL, lidar=FEW_RAYS)
    files = sorted(path.relative_to(tmp_path / "2") for path in (tmp_path / "2" / "training").rglob("00000*.*"))
    assert len(files) == 10
    for name in files:
        assert (tmp_path / "2" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()


def test_no_number_is_missing_or_infinite(frames):
    for frame in frames:
        assert np.isfinite(frame.frame.sweep.points).all()
        for line in frame.frame.labels:
            assert np.isfinite([float(field) for field in line.split()[1:]]).all()


def test_a_lidar_for_pictures_alone_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="lidar"):
        write_world(tmp_path / "world", format="coco", scenes=1, lidar=FEW_RAYS)


def test_the_embedded_lidar_world_is_rendered_once_and_kept_by_its_config(tmp_path: Path):
    config = EmbeddedLidarConfig(scenes=3, val_fraction=0.34, world=SMALL, lidar=FEW_RAYS)
    rendered: list[int] = []
    first = embedded_lidar_world(config, tmp_path, rendered.append)
    assert embedded_lidar_world(config, tmp_path, rendered.append) == first and rendered == [1, 2, 3]
    assert (first / "training" / "image_2" / "000000.jpg").exists()
    assert embedded_lidar_world(config.but(lidar=FEW_RAYS.but(beams=9)), tmp_path) != first
    assert len(list(tmp_path.iterdir())) == 2


def test_the_embedded_lidar_world_has_enough_to_learn_from(frames):
    # The default frames: an affordable number of points, and several objects that KITTI's rules count.
    counts = [len(f.frame.sweep.points) for f in frames]
    assert min(counts) > 10_000 and max(counts) < 25_000
    counted = [
        label for f in frames for label in f.labels if label.box[3] - label.box[1] >= 25 and label.truncation <= 0.5
    ]
    assert len(counted) > 4 * len(frames)
