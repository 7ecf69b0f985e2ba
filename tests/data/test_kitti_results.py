import numpy as np
import pytest

from sightline.config.errors import DataError
from sightline.data.formats.kitti_results import (
    detection_text,
    listed_frames,
    read_kitti_objects,
    refuse_strange_types,
    text_frames,
    write_kitti_detections,
)

LABEL = "Car 0.10 1 -1.57 40.00 10.00 80.00 36.00 1.50 1.60 4.00 0.50 1.50 10.00 -1.25\n"
REGION = "DontCare -1 -1 -10 1.00 2.00 30.00 20.00 -1 -1 -1 -1000 -1000 -1000 -10\n"
FOUND = LABEL.strip() + " 0.75\n"


def folder(path, **files):
    path.mkdir(exist_ok=True)
    for name, text in files.items():
        (path / f"{name}.txt").write_text(text)
    return path


def test_labels_are_read_as_they_stand(tmp_path):
    objects = read_kitti_objects(folder(tmp_path, a="", b=REGION + LABEL), ["a", "b"], has_scores=False)
    assert objects.frames.tolist() == [1, 1]
    assert [objects.type_names[number] for number in objects.types] == ["DontCare", "Car"]
    assert (objects.truncations[1], objects.occlusions[1], objects.alphas[1]) == (0.1, 1, -1.57)
    assert objects.boxes_xyxy[1].tolist() == [40, 10, 80, 36]
    assert objects.boxes_camera[1].tolist() == [0.5, 1.5, 10, 4, 1.5, 1.6, -1.25]  # x y z, length height width, angle
    assert np.isnan(objects.scores).all()


def test_no_objects_at_all(tmp_path):
    objects = read_kitti_objects(folder(tmp_path, a="", b="\n \n"), ["a", "b"], has_scores=True)
    assert objects.boxes_camera.shape == (0, 7)
    assert objects.type_names == ()


def test_what_is_written_is_read_back(tmp_path):
    boxes_xyxy = np.array([[1.25, 2, 3.5, 4.0625], [0, 0, 10, 20]])
    boxes_camera = np.array([[1, 2, 3, 4, 5, 6, -0.5], [7, 8, 9, 1, 1, 1, 3.1416]])
    scores, alphas = np.array([0.123456789012345678, 0.5]), np.array([-1.5, 2])
    text = detection_text(["Car", "Cyclist"], boxes_xyxy, boxes_camera, scores, alphas)
    assert text.splitlines() == [
        "Car -1 -1 -1.5000 1.2500 2.0000 3.5000 4.0625 5.0000 6.0000 4.0000 1.0000 2.0000 3.0000 -0.5000 "
        "0.12345678901234568",
        "Cyclist -1 -1 2.0000 0.0000 0.0000 10.0000 20.0000 1.0000 1.0000 1.0000 7.0000 8.0000 9.0000 3.1416 0.5000",
    ]
    write_kitti_detections(tmp_path / "new" / "found", {"000007": text, "000009": ""})
    back = read_kitti_objects(tmp_path / "new" / "found", ["000007", "000009"], has_scores=True)
    assert back.boxes_xyxy.tolist() == boxes_xyxy.tolist()
    assert back.boxes_camera.tolist() == boxes_camera.tolist()
    assert back.scores.tolist() == scores.tolist()
    assert back.alphas.tolist() == alphas.tolist()


def test_no_file_of_another_frame_is_left_among_those_written(tmp_path):
    folder(tmp_path, old="")
    with pytest.raises(FileExistsError, match=r"old\.txt"):
        write_kitti_detections(tmp_path, {"new": ""})
    write_kitti_detections(tmp_path, {"new": "", "old": ""})  # such a file is written over


MISTAKES = {
    "a word for a number": (FOUND.replace("80.00", "eighty"), r"a\.txt:2: column 7 is 'eighty', not a number"),
    "not a number": (FOUND.replace("80.00", "nan"), r"a\.txt:2: column 7 is 'nan', not a finite number"),
    "too few columns": ("Car 1 2 3\n", r"a\.txt:2: expected 15 columns .*, got 4"),
    "no score": (LABEL, r"a\.txt:2: 15 columns; a detection has a 16th"),
    "right is left of left": (FOUND.replace("80.00", "30.00"), r"a\.txt:2: left top right bottom are 40 10 30 36"),
    "negative size": (FOUND.replace("1.60", "-1.60"), r"a\.txt:2: a size in space is below 0"),
    "a region without labels": (REGION.strip() + " 0.5\n", r"a\.txt:2: DontCare marks regions"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_broken_line_is_named(tmp_path, name):
    text, words = MISTAKES[name]
    with pytest.raises(DataError, match=words):
        read_kitti_objects(folder(tmp_path, a=FOUND + text), ["a"], has_scores=True)


def test_detections_are_no_labels(tmp_path):
    with pytest.raises(DataError, match=r"a\.txt:1: 16 columns, so this is a detection.*labels come first"):
        read_kitti_objects(folder(tmp_path, a=FOUND), ["a"], has_scores=False)


def test_sizes_of_minus_one_mean_no_box_in_space(tmp_path):
    text = FOUND.replace("1.50 1.60 4.00", "-1 -1 -1")
    assert (
        read_kitti_objects(folder(tmp_path, a=text), ["a"], has_scores=True).boxes_camera[0, 3:6].tolist() == [-1] * 3
    )


def test_unknown_types_are_refused_with_the_nearest_known_one(tmp_path):
    objects = read_kitti_objects(
        folder(tmp_path, a=FOUND, b=FOUND.replace("Car", "Pedestrain")), ["a", "b"], has_scores=True
    )
    with pytest.raises(DataError, match=r"b\.txt: no label has the type 'Pedestrain'.*Did you mean 'Pedestrian'\?"):
        refuse_strange_types(objects, ["car", "Pedestrian"], ["a", "b"])


def test_a_folder_without_files_says_where_they_are(tmp_path):
    folder(tmp_path / "label_2", a=LABEL)
    with pytest.raises(DataError, match=rf"LABEL_DIR has no \.txt files.*Give {tmp_path}/label_2"):
        text_frames(tmp_path, "LABEL_DIR")
    with pytest.raises(DataError, match="must be a folder of text files"):
        text_frames(tmp_path / "nothing", "LABEL_DIR")
    with pytest.raises(DataError, match=rf"give {tmp_path}/label_2\."):
        text_frames(tmp_path / "label_2" / "a.txt", "LABEL_DIR")


def test_hidden_files_are_no_frames(tmp_path):
    (folder(tmp_path, b="", a="") / "._a.txt").write_bytes(b"\0")
    assert text_frames(tmp_path, "") == ["a", "b"]


def test_lists_of_frames(tmp_path):
    path = tmp_path / "val.txt"
    path.write_text("000003\n\n000001\n")
    assert listed_frames(path) == ["000003", "000001"]
    for text, words in (
        ("", "is empty"),
        ("a\na\n", "val.txt:2: a is already in line 1"),
        ("../a\n", ":1: '../a' is no"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=words):
            listed_frames(path)
