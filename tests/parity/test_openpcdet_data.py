"""Labels, levels, boxes, counts of points and cut-out objects of real frames, against OpenPCDet 0.6.0."""

import json

import numpy as np
import pytest

from sightline.data.formats.find_lidar import open_lidar_dataset
from sightline.data.ground_truth_database import cut_out
from sightline.data.lidar_annotations import points_in_view, points_per_object
from sightline.data.point_files import read_points
from tests.conftest import dataset, oracle

COORDINATES = {"rtol": 1e-6, "atol": 2e-5}
"""What the recording's README states for coordinates, metres."""


@pytest.fixture(scope="module")
def recorded():
    by_frame = json.loads(oracle("openpcdet", "data_labels_infos.json").read_text())
    assert any(frame["objects"] for frame in by_frame.values())
    return by_frame


@pytest.fixture(scope="module")
def frames(recorded):
    source = open_lidar_dataset(dataset("kitti_mini"))
    held = [source.read(split) for split in source.splits]
    whole = max(held, key=len)
    number = {frame: index for index, frame in enumerate(whole.frame_ids)}
    return whole.select(number[frame] for frame in recorded)


def test_objects_are_those_of_the_original_in_its_order(frames, recorded):
    for index, objects in enumerate(frame["objects"] for frame in recorded.values()):
        rows = frames.rows_of(index)
        assert [frames.type_names[t] for t in frames.types[rows]] == [one["cls_type"] for one in objects]
        # Theirs count from 1, and have numbers for classes that nobody trains, Van's being 4.
        numbers = [one["cls_id"] if one["cls_type"] in frames.class_names else 0 for one in objects]
        assert (frames.labels[rows] + 1).tolist() == numbers
        assert frames.levels[rows].tolist() == [one["level"] for one in objects]
        for name, ours in (
            ("truncation", frames.truncations[rows]),
            ("occlusion", frames.occlusions[rows]),
            ("alpha", frames.alphas[rows]),
            ("ry", frames.boxes_camera[rows, 6]),
            ("l", frames.boxes_camera[rows, 3]),
            ("h", frames.boxes_camera[rows, 4]),
            ("w", frames.boxes_camera[rows, 5]),
        ):
            np.testing.assert_array_equal(ours, [one[name] for one in objects])
        # These two are float32 there; the files' numbers are exact in float64.
        for name, ours in (("box2d", frames.boxes_xyxy[rows]), ("loc", frames.boxes_camera[rows, :3])):
            np.testing.assert_array_equal(ours.astype(np.float32), np.array([one[name] for one in objects], np.float32))


def test_records_of_frames_are_those_of_the_original(frames, recorded):
    for index, annos in enumerate(frame["annos"] for frame in recorded.values()):
        rows = frames.rows_of(index)
        assert [frames.type_names[t] for t in frames.types[rows]] == annos["name"]
        assert frames.levels[rows].tolist() == annos["difficulty"]
        np.testing.assert_array_equal(frames.boxes_camera[rows, 3:6], annos["dimensions"])
        is_object = frames.is_object[rows]
        order = np.where(is_object, np.cumsum(is_object) - 1, -1)
        assert order.tolist() == annos["index"]
        boxes3d = np.reshape(annos["gt_boxes_lidar"], (-1, 7))  # of a frame without objects there are none
        np.testing.assert_allclose(frames.boxes3d[rows][is_object], boxes3d, **COORDINATES)


def test_points_inside_of_objects_are_counted_as_in_the_original(frames, recorded):
    for index, annos in enumerate(frame["annos"] for frame in recorded.values()):
        points = points_in_view(frames, index, read_points(frames.point_paths[index]))
        assert points_per_object(frames, index, points).tolist() == annos["num_points_in_gt"]


def test_cut_out_objects_are_those_of_the_original(frames):
    entries = json.loads(oracle("openpcdet", "data_gt_database.json").read_text())
    arrays = np.load(oracle("openpcdet", "data_gt_database_points.npz"))
    assert entries
    database = cut_out(frames)
    assert len(database) == sum(map(len, entries.values()))
    for name, of_type in entries.items():
        ours = database.of_type(name)
        assert [frames.frame_ids[f] for f in database.frames[ours]] == [entry["image_idx"] for entry in of_type]
        assert database.num_points[ours].tolist() == [entry["num_points_in_gt"] for entry in of_type]
        assert database.levels[ours].tolist() == [entry["difficulty"] for entry in of_type]
        boxes = [entry["box3d_lidar"] for entry in of_type]
        np.testing.assert_allclose(database.boxes3d[ours], boxes, **COORDINATES)
        for place, number in enumerate(ours):
            expected = arrays[f"{name}/{place}/points_relative"]
            np.testing.assert_allclose(database.points_of(number), expected, **COORDINATES)
