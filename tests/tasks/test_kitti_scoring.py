import json

import numpy as np
import pytest
import torch

from sightline.api import score_kitti as score_as_a_user
from sightline.config.errors import ConfigError, DataError
from sightline.data.formats.kitti import KittiSource
from sightline.data.sample import Box3DPrediction
from sightline.tasks.kitti_scoring import Lidar3DMetric, score_kitti
from tests.data.kitti_zoo import LABELS, write_kitti

CLASSES = ("Car", "Pedestrian", "Cyclist")
FRAMES = tuple(f"{number:06d}" for number in range(6))


def annotations_of(folder, class_names=None):
    """Six equal frames with the car, the pedestrian and the van so near that they are high enough to count."""
    write_kitti(folder, FRAMES, lists={"val": "".join(f"{frame}\n" for frame in FRAMES)}, images=False)
    for frame in FRAMES:
        near = LABELS.replace("0.00 1.50 10.00", "0.00 1.50 5.00").replace("4.00 1.50 12.00", "2.00 1.50 5.00")
        near = near.replace("-5.00 1.50 20.00", "-4.00 1.50 6.00").replace("40.00 35.00", "40.00 36.00")
        (folder / "training" / "label_2" / f"{frame}.txt").write_text(near)
    return KittiSource(folder, folder, class_names).read("val")


def predictions_for(annotations, seed=0, *, classes=3):
    """Boxes near the true ones and far from them, of every class."""
    random = np.random.default_rng(seed)
    found = []
    for index in range(len(annotations)):
        true = annotations.boxes3d[annotations.rows_of(index)]
        true = true[true[:, 3] > 0]  # DontCare has no size
        near = true[random.integers(len(true), size=8)] + random.normal(0, 0.05, (8, 7))
        far = random.uniform((8, -4, -1, 1, 1, 1, -9), (40, 4, 0, 4, 2, 2, 9), (4, 7))
        boxes3d = np.concatenate((near, far))[random.permutation(12)]
        scores = torch.from_numpy(random.random(12).astype(np.float32)).sort(descending=True).values
        labels = torch.from_numpy(random.integers(classes, size=12))
        found.append(Box3DPrediction(index, torch.from_numpy(boxes3d).float(), scores, labels))
    return found


def seen(annotations, predictions):
    metric = Lidar3DMetric(annotations)
    metric.update(predictions, None)
    return metric


def test_saved_predictions_score_to_the_same_figures(tmp_path):
    annotations = annotations_of(tmp_path / "kitti")
    metric = seen(annotations, predictions_for(annotations))
    metric.save(tmp_path / "found")
    assert sorted(path.stem for path in (tmp_path / "found").iterdir()) == list(FRAMES)
    labels = tmp_path / "kitti" / "training" / "label_2"
    scored = score_kitti(labels, tmp_path / "found")
    mine = metric.compute()
    assert mine["Car/3d/moderate_R40"] > 0
    assert {name: value for name, value in mine.items() if not name.startswith("Cyclist")} == {
        name: value for name, value in scored.figures.items() if not name.startswith("Cyclist")
    }
    assert score_kitti(labels, tmp_path / "found", class_names=CLASSES).figures == mine


def test_exact_boxes_are_found_everywhere(tmp_path):
    # The zoo's boxes in the picture are not those of its boxes in space, so only the latter are compared.
    annotations = annotations_of(tmp_path)
    rows = [annotations.rows_of(index) for index in range(len(annotations))]
    found = [
        Box3DPrediction(
            index,
            torch.from_numpy(annotations.boxes3d[row][annotations.labels[row] >= 0]).float(),
            torch.full((2,), 0.5),
            torch.from_numpy(annotations.labels[row][annotations.labels[row] >= 0]).long(),
        )
        for index, row in enumerate(rows)
    ]
    figures = seen(annotations, found).compute()
    for name in ("Car/3d", "Car/bev", "Pedestrian/3d", "Pedestrian/bev"):
        assert figures[f"{name}/moderate_R40"] == pytest.approx(100 * 5 / 40), name  # of 6 objects: (6 - 1) / 40
    assert figures["recall/0.7"] == 100


def test_states_of_several_processes_are_those_of_one(tmp_path):
    annotations = annotations_of(tmp_path)
    predictions = predictions_for(annotations)
    whole = seen(annotations, predictions)
    first, second = seen(annotations, predictions[3:]), Lidar3DMetric(annotations)
    second.load_state(seen(annotations, predictions[:3]).state())
    first.merge([second])
    assert first.compute() == whole.compute()
    assert first.details() == whole.details()
    empty = Lidar3DMetric(annotations)
    empty.load_state(Lidar3DMetric(annotations).state())
    assert empty.compute()["3d_moderate_R40"] == 0


def test_detections_are_cut_to_the_picture_and_angles_wrapped(tmp_path):
    folder = write_kitti(tmp_path / "kitti")
    annotations = KittiSource(folder, folder).read("val")
    # 4 m ahead and 3 m to the left: its left edge lies outside of a picture that sees 60 pixels / 100 to each side.
    box = torch.tensor([[4.0, 3.0, 0, 4, 2, 2, 7]])
    seen(annotations, [Box3DPrediction(0, box, torch.tensor([0.5]), torch.tensor([0]))]).save(tmp_path / "found")
    _, *numbers = (tmp_path / "found" / "000002.txt").read_text().split()
    _, _, alpha, left, top, right, bottom, height, width, length, x, y, z, rotation, score = map(float, numbers)
    assert (left, top) == (0, 0)
    assert (right, bottom) <= (119, 39)
    assert (height, width, length) == (2, 2, 4)
    assert (x, y, z) == (-3, 1, 4)  # the camera stands where the LiDAR does; y is the bottom, downwards
    assert rotation == pytest.approx(-7 - np.pi / 2 + 2 * np.pi, abs=1e-4)
    assert alpha == pytest.approx(rotation + np.arctan2(3, 4), abs=1e-4)
    assert score == 0.5


def test_what_is_not_finite_is_left_out_and_told(tmp_path):
    annotations = annotations_of(tmp_path)
    boxes = torch.tensor([[10.0, 0, 0, 4, 2, 2, 0], [float("nan"), 0, 0, 4, 2, 2, 0]])
    metric = seen(annotations, [Box3DPrediction(0, boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 0]))])
    details = metric.details()
    assert details["classes"][0]["num_detections"] == 1
    assert details["kitti"]["notes"][-1].startswith("1 detection left out")


def test_velocities_are_no_part_of_the_figures(tmp_path):
    annotations = annotations_of(tmp_path)
    predictions = predictions_for(annotations)
    moving = [
        Box3DPrediction(one.sample_id, torch.cat((one.boxes3d, torch.ones(12, 2)), 1), one.scores, one.labels)
        for one in predictions
    ]
    assert seen(annotations, moving).compute() == seen(annotations, predictions).compute()
    assert seen(annotations, moving).state()["boxes3d"].shape == (72, 7)


def test_other_classes_are_scored_too(tmp_path):
    annotations = annotations_of(tmp_path / "kitti", ("Van", "Pedestrian"))
    metric = seen(annotations, predictions_for(annotations, classes=2))
    metric.save(tmp_path / "found")
    scored = score_kitti(
        tmp_path / "kitti" / "training" / "label_2", tmp_path / "found", class_names=["Van", "Pedestrian"]
    )
    assert scored.figures == metric.compute()
    assert scored.figures["Van/bev/moderate_R40"] > 0


# Any tool's files.


def folders(tmp_path, labels, found):
    for name, files in (("labels", labels), ("found", found)):
        (tmp_path / name).mkdir()
        for frame, text in files.items():
            (tmp_path / name / f"{frame}.txt").write_text(text)
    return tmp_path / "labels", tmp_path / "found"


CAR, VAN, REGION, PEDESTRIAN = LABELS.splitlines(keepends=True)


def with_score(text, score=0.5):
    return "".join(f"{line} {score}\n" for line in text.splitlines())


def test_frames_without_a_file_of_detections_are_told(tmp_path):
    paths = folders(tmp_path, {"a": LABELS, "b": LABELS}, {"a": with_score(CAR)})
    result = score_kitti(*paths)
    assert (result.num_frames, result.num_truths, result.num_detections) == (1, 3, 1)
    assert result.notes[0].startswith("1 frame of 2 with labels have no file") or "1 frame of 2" in result.notes[0]
    assert any("No detection is of: Pedestrian" in note for note in result.notes)
    assert json.loads(json.dumps(result.as_dict()))["num_frames"] == 1


def test_a_list_of_frames_asks_for_every_file(tmp_path):
    paths = folders(tmp_path, {"a": LABELS, "b": LABELS}, {"a": with_score(CAR), "c": ""})
    frame_list = tmp_path / "val.txt"
    frame_list.write_text("a\n")
    assert any(
        note.startswith("1 file of detections of frames that the list")
        for note in score_kitti(*paths, frame_list=frame_list).notes
    )
    frame_list.write_text("a\nb\n")
    with pytest.raises(DataError, match=r"found/b\.txt: no detections of this frame; .* write an empty file"):
        score_kitti(*paths, frame_list=frame_list)
    with pytest.raises(DataError, match=r"labels/c\.txt: no labels of this frame"):
        score_kitti(*paths)


def test_classes_to_score_are_the_benchmarks_and_what_else_was_found(tmp_path):
    paths = folders(tmp_path, {"a": LABELS}, {"a": with_score(CAR + VAN)})
    assert [row["name"] for row in score_kitti(*paths).details["classes"]] == ["Car", "Pedestrian", "Van"]
    assert [row["name"] for row in score_kitti(*paths, class_names=["van"]).details["classes"]] == ["van"]
    for names, words in (
        (["Vam"], "have the class 'Vam'.*Did you mean 'Van'"),
        ([], "names none"),
        (["DontCare"], "have the class"),
    ):
        with pytest.raises(ConfigError, match=words):
            score_kitti(*paths, class_names=names)


def test_low_detections_of_other_classes_are_there_when_one_class_is_scored(tmp_path):
    # The rule ignores what is lower than 40 pixels whatever it is called; the pedestrian's box takes the car for easy.
    car = "Car 0 0 0 0 0 90 41 1.5 1.6 4 0 1.5 10 0\n"
    low = "Pedestrian -1 -1 0 0 1 90 40 1.5 1.6 4 0 1.5 10 0 0.9\n"
    paths = folders(tmp_path, {"a": car}, {"a": low + car.strip() + " 0.5\n"})
    assert score_kitti(*paths, class_names=["Car"]).details["kitti"]["R40"] == {
        way: [table[0]] for way, table in score_kitti(*paths).details["kitti"]["R40"].items()
    }


def test_detections_of_the_picture_alone(tmp_path):
    flat = with_score(CAR).replace(
        "1.50 1.60 4.00 0.00 1.50 10.00 -1.5707963267948966", "-1 -1 -1 -1000 -1000 -1000 -10"
    )
    result = score_kitti(*folders(tmp_path, {"a": CAR}, {"a": flat}))
    assert any("no boxes in space" in note for note in result.notes)
    assert result.figures["Car/3d/moderate_R40"] == 0
    assert result.details["kitti"]["curves"]["image"][0][1][0][0] == 1


def test_some_detections_without_an_angle_are_told(tmp_path):
    found = with_score(CAR) + with_score(CAR.replace("-1.57 ", "-10 "))
    result = score_kitti(*folders(tmp_path, {"a": CAR}, {"a": found}))
    assert any("1 detection of 2 have no angle" in note for note in result.notes)


def test_the_python_face_gives_figures_tables_and_notes(tmp_path):
    paths = folders(tmp_path, {"a": LABELS}, {"a": with_score(CAR + PEDESTRIAN)})
    result = score_as_a_user(*map(str, paths))
    assert result["recall/0.5"] == 100
    assert "in space" in str(result)
    assert "from above" in str(result)
    assert "note: Fewer than 41 objects count" in str(result)
    result.write_json(tmp_path / "figures.json")
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["figures"] == dict(result)
    assert written["kitti"]["R11"]["3d"]
