"""``sightline check`` of point clouds: its table, and faults that only the points show."""

import json

import numpy as np
import pytest

from sightline.data.check import check_dataset
from sightline.data.faults import FormatError
from sightline.data.formats import open_class_dataset, open_dataset
from tests.cli.tool import sightline
from tests.conftest import dataset
from tests.data.kitti_zoo import LABELS, cloud, write_kitti


@pytest.fixture
def kitti(tmp_path):
    return write_kitti(tmp_path / "kitti")


def test_objects_are_counted_by_class_type_and_level(kitti):
    (kitti / "training/label_2/000002.txt").write_text("")
    report = check_dataset(kitti)
    assert report.is_usable and report.format == "kitti" and report.num_decoded == 0
    assert report.lines()[2:18] == [
        "                     train  val",
        "frames                   2    1",
        "  unusable               0    0",
        "  without objects        0    1",
        "objects                  6    0",
        "  Car                    2    0",
        "  Pedestrian             2    0",
        "  Cyclist                0    0",
        "  Van (not trained)      2    0",
        "  level easy             0    0",  # 36 - 10 + 1 = 27 and 39 - 5 + 1 = 35 pixels high
        "  level moderate         4    0",
        "  level hard             0    0",
        "DontCare                 2    0",
        "",
        "note: 4 places with empty_class: class without a sample in this split",
        f"  {kitti}: the class 'Cyclist' has no object in kitti/train",
    ]


def test_points_are_read_once_for_all_splits_and_boxes_without_points_are_noted(kitti):
    (kitti / "ImageSets/trainval.txt").write_text("000000\n000001\n000002\n")
    calls = []
    report = check_dataset(kitti, decode=True, progress=lambda *call: calls.append(call))
    assert report.num_decoded == 3 and calls[-1] == (3, 3)
    notes = [fault for fault in report.faults if fault.kind == "box_without_points"]
    assert all("object 2 of its label, a Van at (20.0, 5.0, -0.5) m" in fault.message for fault in notes)
    assert 1 <= len(notes) <= 3 and report.is_usable


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_points_that_are_not_finite_spoil_their_frame(kitti, value):
    points = cloud(1)
    points[5, 0] = value
    points.tofile(kitti / "training/velodyne/000001.bin")
    assert check_dataset(kitti).is_usable  # the headers do not show it
    report = check_dataset(kitti, decode=True)
    (fault,) = [fault for fault in report.faults if fault.fatal]
    assert fault.kind == "non_finite_points" and "number 5" in str(fault)
    assert [split.num_unusable for split in report.splits] == [1, 0]
    assert "leaves the frames out with" in report.lines()[-2]


def test_a_cloud_that_the_camera_does_not_see_is_told(kitti):
    np.full((5, 4), -3, "<f4").tofile(kitti / "training/velodyne/000001.bin")
    faults = [fault.kind for fault in check_dataset(kitti, decode=True).faults if fault.fatal]
    assert faults == ["cloud_out_of_view"]


def test_clouds_that_are_copies_are_found_on_request(kitti):
    cloud(0).tofile(kitti / "training/velodyne/000002.bin")
    (fault,) = [f for f in check_dataset(kitti, same_content=True).faults if f.kind == "same_content"]
    assert fault.path.name == "000002.bin" and "000000.bin" in fault.message


def test_the_command_writes_json_and_ends_with_2_where_training_would_refuse(kitti, tmp_path):
    out = tmp_path / "found.json"
    outcome = sightline("check", kitti, "--json", out, cwd=tmp_path)
    assert outcome.code == 0 and "Van (not trained)" in outcome.out
    found = json.loads(out.read_text())
    assert found["format"] == "kitti" and found["class_names"] == ["Car", "Pedestrian", "Cyclist"]
    assert found["splits"][0]["objects_per_class"] == [2, 2, 0]
    assert found["splits"][0]["objects_per_other_type"] == {"Van": 2}
    label = kitti / "training/label_2/000000.txt"
    label.write_text(LABELS.replace("Pedestrian", "Pedestrain"))
    (kitti / "training/velodyne/000001.bin").write_bytes(bytes(17))
    outcome = sightline("check", kitti, "--quick", "--format", "kitti", cwd=tmp_path)
    text = " ".join(outcome.out.split())
    assert outcome.code == 2
    assert "000000.txt:4: type 'Pedestrain' is none of" in text and "Did you mean 'Pedestrian'?" in text
    assert "17 bytes are no whole number of points" in text


def test_recipes_of_images_say_who_reads_point_clouds(kitti):
    for opener in (open_dataset, open_class_dataset):
        with pytest.raises(FormatError, match="which the recipes of LiDAR detectors read"):
            opener(kitti)


def test_real_frames_are_sound():
    report = check_dataset(dataset("kitti_mini"), decode=True)
    assert report.is_usable and report.num_decoded == 3
    assert not any(fault.kind == "box_without_points" for fault in report.faults)
