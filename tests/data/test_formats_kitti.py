"""KITTI's folders: what is read, and that every fault has a file, a line and a name."""

import math
import os
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.config.errors import DataError
from sightline.data.annotations import Fault
from sightline.data.faults import FormatError, enforce
from sightline.data.formats.find_lidar import open_lidar_dataset
from sightline.data.formats.kitti_files import parse_calibration, parse_labels
from sightline.data.lidar_annotations import difficulty_levels
from tests.data.kitti_zoo import CALIBRATION, LABELS, cloud, write_kitti

CAR = LABELS.splitlines()[0]


@pytest.fixture
def kitti(tmp_path):
    return write_kitti(tmp_path / "kitti")


def fatal(annotations) -> list[Fault]:
    return [fault for fault in annotations.faults if fault.fatal]


def test_objects_stand_in_the_order_of_the_file_with_all_that_it_says(kitti):
    train = open_lidar_dataset(kitti).read("train")
    assert train.name == "kitti/train" and list(train.frame_ids) == ["000000", "000001"]
    assert train.class_names == ("Car", "Pedestrian", "Cyclist")
    rows = train.rows_of(1)
    assert [train.type_names[t] for t in train.types[rows]] == ["Car", "Van", "DontCare", "Pedestrian"]
    assert train.labels[rows].tolist() == [0, -1, -1, 1]
    np.testing.assert_array_equal(train.boxes_xyxy[rows][0], [40, 10, 80, 36])
    np.testing.assert_array_equal(train.boxes_camera[rows][1], [-5, 1.5, 20, 5, 2, 1.8, 0])
    assert train.truncations[rows].tolist() == [0, 0.2, -1, 0]
    assert train.occlusions[rows].tolist() == [0, 1, -1, 0]
    assert train.alphas[rows].tolist() == [-1.57, 0, -10, 0]
    assert train.sizes_hw.tolist() == [[40, 120]] * 2
    assert np.isnan(train.planes).all()
    assert not fatal(train)


def test_boxes_in_the_lidar_frame_follow_from_the_calibration_by_hand(kitti):
    # x_lidar = z_camera, y_lidar = -x_camera, z_lidar = -y_camera + height / 2, heading = -(rotation + pi / 2).
    train = open_lidar_dataset(kitti).read("train")
    np.testing.assert_allclose(train.boxes3d[0], [10, 0, -0.75, 4, 1.6, 1.5, 0], atol=1e-12)
    np.testing.assert_allclose(train.boxes3d[1], [20, 5, -0.5, 5, 1.8, 2, -math.pi / 2], atol=1e-12)


def test_levels_are_those_of_height_truncation_and_occlusion():
    boxes = np.array([[0, 0, 9, 39.0], [0, 0, 9, 38.9], [0, 0, 9, 24], [0, 0, 9, 23.9], [0, 0, 9, 50], [0, 0, 9, 50]])
    truncations = np.array([0.15, 0.0, 0.5, 0.0, 0.51, 0.3])
    occlusions = np.array([0, 0, 2, 0, 0, 1], np.int32)
    assert difficulty_levels(boxes, truncations, occlusions).tolist() == [0, 1, 2, -1, -1, 1]


@pytest.mark.parametrize("name", ["kitti", "kitti/training", "."])
def test_the_folder_its_parent_or_training_may_be_named(tmp_path, name):
    write_kitti(tmp_path / "kitti")
    assert len(open_lidar_dataset(tmp_path / name).read("val")) == 1


def test_without_lists_all_frames_are_one_split_and_that_is_said(tmp_path):
    source = open_lidar_dataset(write_kitti(tmp_path / "kitti", lists={}))
    assert source.splits == ("train",)
    train = source.read("train")
    assert len(train) == 3
    (fault,) = [fault for fault in train.faults if fault.kind == "no_split_lists"]
    assert "all 3 frames of training are the split train" in fault.message and not fault.fatal


def test_lists_that_begin_with_test_take_frames_without_labels(tmp_path):
    root = write_kitti(tmp_path / "kitti", lists={"train": "000000\n", "test": "000007\n"})
    assert open_lidar_dataset(root).splits == ("train",)
    assert [fault.kind for fault in open_lidar_dataset(root).faults] == ["split_without_frames"]
    for folder, name, text in (("velodyne", "000007.bin", None), ("calib", "000007.txt", CALIBRATION)):
        (root / "testing" / folder).mkdir(parents=True)
        path = root / "testing" / folder / name
        cloud().tofile(path) if text is None else path.write_text(text)
    test = open_lidar_dataset(root).read("test")
    assert list(test.frame_ids) == ["000007"] and len(test.labels) == 0 and not fatal(test)


def test_without_pictures_there_are_no_sizes_and_that_is_said(tmp_path):
    train = open_lidar_dataset(write_kitti(tmp_path / "kitti", images=False)).read("train")
    assert list(train.image_paths) == ["", ""] and train.sizes_hw.tolist() == [[0, 0]] * 2
    assert [fault.kind for fault in train.faults if "image" in fault.kind] == ["frame_without_image"]


def test_planes_point_upwards_and_have_unit_length(tmp_path):
    root = write_kitti(tmp_path / "kitti", planes=True)
    (root / "training/planes/000001.txt").unlink()
    train = open_lidar_dataset(root).read("train")
    np.testing.assert_array_equal(train.planes[0], [0, -1, 0, 1.5])  # y = 1.5, below the camera
    assert np.isnan(train.planes[1]).all() and not fatal(train)
    assert [fault.kind for fault in train.faults if "plane" in fault.kind] == ["frame_without_plane"]


def test_classes_are_those_asked_for_in_their_order(kitti):
    train = open_lidar_dataset(kitti, class_names=["Van", "Car"]).read("train")
    assert train.labels[:4].tolist() == [1, 0, -1, -1]
    assert train.boxes_per_class.tolist() == [2, 2]


def test_a_class_that_no_label_has_is_refused_with_those_that_are_there(kitti):
    with pytest.raises(FormatError) as error:
        open_lidar_dataset(kitti, class_names=["Car", "Pedestrain"]).read("train")
    assert "'Pedestrain' is in no label file" in str(error.value)
    assert "Car (3), Van (3), Pedestrian (3)" in str(error.value)
    assert "Did you mean 'Pedestrian'?" in str(error.value)


def test_a_class_of_kitti_without_an_object_is_noted(kitti):
    train = open_lidar_dataset(kitti).read("train")
    assert [fault.message for fault in train.faults] == ["the class 'Cyclist' has no object in kitti/train"]


def test_own_types_are_trained_or_named_as_others(kitti):
    path = kitti / "training/label_2/000000.txt"
    path.write_text(LABELS.replace("Van", "Digger"))
    assert [fault.kind for fault in fatal(open_lidar_dataset(kitti).read("train"))] == ["unknown_class"]
    trained = open_lidar_dataset(kitti, class_names=["Car", "Digger"]).read("train")
    assert trained.labels[:4].tolist() == [0, 1, -1, -1] and not fatal(trained)
    named = open_lidar_dataset(kitti, other_types=["Digger"]).read("train")
    assert named.labels[:4].tolist() == [0, -1, -1, 1] and not fatal(named)


@pytest.mark.parametrize(
    "text, kind, message",
    [
        ("", "bad_plane", "must have 4 numbers, got 0"),
        ("# Plane\n0 -1 0\n", "bad_plane", "must have 4 numbers, got 3"),
        ("0 -1 x 1.6\n", "bad_number", "column 3 is 'x', not a number"),
        ("0 -1 0 nan\n", "non_finite", "column 4 is 'nan'"),
        ("1 0 0 2\n", "bad_plane", "(1, 0, 0, 2) is no ground: its normal must point up or down"),
        ("0 0 0 2\n", "bad_plane", "(0, 0, 0, 2) is no ground: its normal must point up or down"),
        ("0 -1 0 1e30\n", "bad_plane", "(0, -1, 0, 1e+30) is no ground: it is more than 100,000 m from the camera"),
        ("0 -1e-320 0 1\n", "bad_plane", "is no ground: it is more than 100,000 m from the camera"),
    ],
)
def test_a_plane_that_is_no_ground_is_a_fault_of_its_frame(tmp_path, text, kind, message):
    root = write_kitti(tmp_path / "kitti", planes=True)
    (root / "training/planes/000001.txt").write_text(text)
    train = open_lidar_dataset(root).read("train")
    (fault,) = fatal(train)
    assert (fault.kind, fault.image, fault.path.name) == (kind, 1, "000001.txt") and message in fault.message
    assert np.isnan(train.planes[1]).all()


def test_the_numbers_of_a_plane_may_be_of_any_size_as_only_their_ratios_count(tmp_path):
    root = write_kitti(tmp_path / "kitti", planes=True)
    (root / "training/planes/000001.txt").write_text("0 -6e307 8e307 1e308\n")
    train = open_lidar_dataset(root).read("train")
    assert not fatal(train)
    np.testing.assert_allclose(train.planes[1], [0, -0.6, 0.8, 1], rtol=1e-12)


@pytest.mark.parametrize("names", [["DontCare"], ["Car", "Car"], ["Car\x1b"], []])
def test_names_that_cannot_be_trained_are_refused(kitti, names):
    with pytest.raises(FormatError):
        _ = open_lidar_dataset(kitti, class_names=names).class_names


def changed(name, old, new):
    def change(root):
        path = root / "training" / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def removed(name):
    return lambda root: (root / "training" / name).unlink()


def written(name, data):
    return lambda root: (root / "training" / name).write_bytes(data)


def listed(text):
    return lambda root: (root / "ImageSets/train.txt").write_text(text)


LABEL, CALIB, BIN, IMAGE = "label_2/000001.txt", "calib/000001.txt", "velodyne/000001.bin", "image_2/000001.png"
FAULTS = {
    "no point file": (removed(BIN), "missing_points", "train.txt", 2, "000001.bin does not exist"),
    "cut point file": (written(BIN, bytes(33)), "truncated_points", BIN, None, "33 bytes"),
    "empty point file": (written(BIN, b""), "empty_points", BIN, None, "0 bytes"),
    "point file of another kind": (
        lambda root: ((root / "training" / BIN).unlink(), (root / "training" / BIN).mkdir()),
        "unreadable_points",
        BIN,
        None,
        "not a file",
    ),
    "too many points": (
        lambda root: os.truncate(root / "training" / BIN, 16 * 20_000_001),
        "too_large_points",
        BIN,
        None,
        "20,000,001 points; at most 20,000,000",
    ),
    "no calibration": (removed(CALIB), "missing_calibration", CALIB, None, "does not exist"),
    "calibration without a row": (changed(CALIB, "R0_rect", "R1_rect"), "bad_calibration", CALIB, None, "'R0_rect'"),
    "empty calibration": (written(CALIB, b""), "bad_calibration", CALIB, None, "none of them"),
    "row too short": (
        changed(CALIB, "Tr_velo_to_cam: 0 ", "Tr_velo_to_cam: "),
        "bad_calibration",
        CALIB,
        4,
        "11 numbers, expected 12",
    ),
    "row twice": (changed(CALIB, "P0", "P2"), "bad_calibration", CALIB, 2, "given twice (first in line 1)"),
    "not a number": (changed(CALIB, "P2: 100.0", "P2: 1_0"), "bad_number", CALIB, 2, "P2, column 1 is '1_0'"),
    "nan": (changed(CALIB, "P2: 100.0", "P2: nan"), "non_finite", CALIB, 2, "P2, column 1 is 'nan'"),
    "overflow": (changed(CALIB, "P2: 100.0", "P2: 1e999"), "non_finite", CALIB, 2, "'1e999'"),
    "singular": (
        changed(CALIB, "R0_rect: 1 0 0 0 1 0 0 0 1", "R0_rect: 1 0 0 0 1 0 0 1 0"),
        "bad_calibration",
        CALIB,
        3,
        "no rotation",
    ),
    "huge": (
        changed(CALIB, "R0_rect: 1 0 0 0 1 0 0 0 1", "R0_rect: 1e300 0 0 0 1e300 0 0 0 1e300"),
        "bad_calibration",
        CALIB,
        3,
        "numbers up to 1e+300",
    ),
    "far away": (
        changed(CALIB, "Tr_velo_to_cam: 0 -1 0 0", "Tr_velo_to_cam: 0 -1 0 1e39"),
        "bad_calibration",
        CALIB,
        4,
        "Tr_velo_to_cam has numbers up to 1e+39; at most 100,000",
    ),
    "focal length beyond float32": (
        changed(CALIB, "P2: 100.0", "P2: 1e39"),
        "bad_calibration",
        CALIB,
        2,
        "P2 has numbers up to 1e+39",
    ),
    "mirrored": (
        changed(CALIB, "R0_rect: 1 0 0 0 1 0 0 0 1", "R0_rect: -1 0 0 0 1 0 0 0 1"),
        "bad_calibration",
        CALIB,
        3,
        "reflection",
    ),
    "focal length": (changed(CALIB, "P2: 100.0", "P2: -100"), "bad_calibration", CALIB, 2, "focal lengths -100"),
    "calibration of bytes": (written(CALIB, b"\0\1"), "not_text", CALIB, None, "null bytes"),
    "no label": (removed(LABEL), "missing_label", LABEL, None, "does not exist"),
    "a column too few": (changed(LABEL, " 0.00 0 -1.57", " 0.00 0"), "wrong_columns", LABEL, 1, "got 14"),
    "letters": (changed(LABEL, "-1.57 ", "x "), "bad_number", LABEL, 1, "column 4 is 'x'"),
    "nan in a label": (changed(LABEL, " 20.00 0.00", " NaN 0.00"), "non_finite", LABEL, 2, "column 14 is 'NaN'"),
    "label of bytes": (written(LABEL, b"Car\0"), "not_text", LABEL, None, "null bytes"),
    "unknown type": (changed(LABEL, "Pedestrian", "Pedestrain"), "unknown_class", LABEL, 4, "'Pedestrian'?"),
    "terminal codes": (changed(LABEL, "Car", "C\x1b[2J"), "unknown_class", LABEL, 1, r"'C\x1b[2J'"),
    "no size": (changed(LABEL, "1.50 1.60 4.00", "1.50 0 4.00"), "bad_size", LABEL, 1, "(1.5, 0, 4)"),
    "turned round": (changed(LABEL, "40.00 10.00 80.00", "80.00 10.00 40.00"), "negative_size", LABEL, 1, "left"),
    "angle beyond float32": (changed(LABEL, " 20.00 0.00", " 20.00 1e39"), "bad_value", LABEL, 2, "as large as 1e+39"),
    "size beyond float32": (changed(LABEL, "1.50 1.60 4.00", "1.50 1.60 4e38"), "bad_value", LABEL, 1, "4e+38; at"),
    "place beyond all maps": (changed(LABEL, "1.50 10.00", "1.50 100001"), "bad_value", LABEL, 1, "100001; at most"),
    "occlusion": (changed(LABEL, "Car 0.00 0", "Car 0.00 0.5"), "bad_value", LABEL, 1, "occluded is 0.5"),
    "outside": (changed(LABEL, "80.00 36.00", "80.00 46.00"), "outside_box", LABEL, 1, "6 pixels out"),
    "picture missing": (removed(IMAGE), "missing_image", "train.txt", 2, "000001.png does not exist"),
    "no picture": (written(IMAGE, b"hello"), "not_an_image", IMAGE, None, "no image"),
    "other camera": (changed(CALIB, " 60.0 ", " 600.0 "), "size_mismatch", CALIB, None, "120x40"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_name_file_line_and_cure_and_spoil_their_frame(kitti, name):
    change, kind, path, line, words = FAULTS[name]
    change(kitti)
    train = open_lidar_dataset(kitti).read("train")
    (fault,) = fatal(train)
    assert (fault.kind, fault.line, fault.image) == (kind, line, 1)
    assert str(fault.path).endswith(path) and words in str(fault)
    with pytest.raises(DataError, match=r"1 fault in 1 of 2 frames"):
        enforce(train, "refuse")
    kept, _ = enforce(train, "skip")
    assert list(kept.frame_ids) == ["000000"] and len(kept.labels) == 4


@pytest.mark.parametrize("text", ["../000000", "/etc/passwd", "a/b", "..", "a\\b", "a\0b"])
def test_lists_that_lead_out_of_the_data_set_are_refused(kitti, text):
    listed(f"000000\n{text}\n")(kitti)
    with pytest.raises(FormatError) as error:
        open_lidar_dataset(kitti).read("train")
    assert error.value.fault.kind in ("unsafe_path", "not_text")
    assert "train.txt" in str(error.value)


def test_a_frame_listed_twice_is_kept_once(kitti):
    listed("000000\n\n000001\n000000\n")(kitti)
    train = open_lidar_dataset(kitti).read("train")
    assert list(train.frame_ids) == ["000000", "000001"]
    assert [(f.kind, f.line) for f in train.faults if f.kind != "empty_class"] == [("duplicate_frame", 4)]


def test_an_empty_list_is_refused(kitti):
    listed("\n\n")(kitti)
    with pytest.raises(FormatError, match="has no frames"):
        open_lidar_dataset(kitti).read("train")


def test_an_empty_label_file_is_a_frame_without_objects(kitti):
    written(LABEL, b"")(kitti)
    train = open_lidar_dataset(kitti).read("train")
    assert train.objects_per_frame.tolist() == [4, 0] and not fatal(train)


def test_frames_that_no_list_names_are_told(kitti):
    listed("000000\n")(kitti)
    assert [f"{fault.kind} {fault.path.name}" for fault in open_lidar_dataset(kitti).unused()] == [
        "frame_not_listed 000001.bin"
    ]


def test_paths_without_point_clouds_say_what_is_there(tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(FormatError, match="it holds pictures"):
        open_lidar_dataset(tmp_path)
    with pytest.raises(FormatError, match="no such file"):
        open_lidar_dataset(tmp_path / "gone")
    with pytest.raises(FormatError, match="there are kitti"):
        open_lidar_dataset(tmp_path, format="waymo")


def test_labels_may_have_a_score_blank_lines_tabs_and_windows_line_ends():
    plain = parse_labels(CAR.encode())
    for text in (CAR + " 0.97", f"\n{CAR}\n\n", CAR.replace(" ", "\t") + "\r\n", "\ufeff" + CAR):
        file = parse_labels(text.encode())
        assert (file.types, file.numbers, file.problems) == (plain.types, plain.numbers, [])
    assert parse_labels(f"\n\n{CAR}".encode()).lines == [3]


@given(st.binary(max_size=200) | st.text("Car 0.1-eE+nainf\r\n\t", max_size=200).map(str.encode))
def test_any_bytes_give_objects_or_problems(data):
    labels = parse_labels(data)
    assert len(labels.numbers) == 14 * len(labels.types) == 14 * len(labels.lines)
    assert all(map(math.isfinite, labels.numbers))
    calibration = parse_calibration(data)
    assert calibration.problems or len(calibration.matrices) == 3


def test_hostile_labels_take_no_time():
    began = time.perf_counter()
    for piece in (b"1", b"1.", b"1e", b"Car ", b"- ", b"\t", b"\r"):
        parse_labels(piece * (1_000_000 // len(piece)))
    assert time.perf_counter() - began < 5
