"""A LiDAR detector on the command line, as a user would type it; and the mistakes that only LiDAR detectors have."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.class_pictures import write_shapes
from tests.cli.tool import RECIPE as IMAGE_RECIPE
from tests.cli.tool import files_in, sightline, without_report, write_city
from tests.conftest import ROOT
from tests.faults.tiny import assert_same_bits
from tests.faults.tiny_lidar import RECIPE, TINY_PILLARS, TINY_WORLD, changes_with

RUN = "runs/pointpillars-world/1"
STILL = (
    "augment.flip_x=0", "augment.rotate=[0,0]", "augment.scale=[1,1]", "augment.translate_std=[0,0,0]",
    "augment.object_noise=null", "augment.close_epochs=0", "augment.paste.counts=[0,0,0]",
)  # fmt: skip
LEARNING = (
    *STILL, "epochs=40", "batch_size=1", "lr=0.01", "evaluate.every_epochs=20", "checkpoint.every_steps=140",
    "model.head.score_threshold=0.02", "log.every_steps=20", "log.trackers=[]", "data.val_split=train",
    "log.train_pictures=1", "log.eval_pictures=1",
)  # fmt: skip
"""What makes the tiny detector know its 7 frames by heart."""


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """A user's folder: ``runs/pointpillars-world/1``, a run on the built-in world, ``world``, a copy of that as KITTI's
    folders, and ``clouds``, one cloud in every format. Do not write here."""
    folder = tmp_path_factory.mktemp("street")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        done = sightline("train", RECIPE, *changes_with(*LEARNING), cwd=folder)
        assert done.code == 0, done.err
        (folder / "train.log").write_text(done.out)
        (world,) = (folder / "cache" / "sightline" / "world").glob("*/ImageSets")
        shutil.copytree(world.parent, folder / "world")
        write_clouds(folder / "clouds", np.fromfile(velodyne(folder / "world", 0), "<f4").reshape(-1, 4))
        yield folder


def velodyne(world: Path, frame: int) -> Path:
    return world / "training" / "velodyne" / f"{frame:06d}.bin"


def write_clouds(folder, points):
    folder.mkdir()
    points.tofile(folder / "a.bin")
    np.save(folder / "b.npy", points)
    names = "x y z intensity"
    head = f"VERSION 0.7\nFIELDS {names}\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\nWIDTH {len(points)}\nHEIGHT 1\n"
    (folder / "c.pcd").write_bytes(f"{head}POINTS {len(points)}\nDATA binary\n".encode() + points.tobytes())
    fields = "".join(f"property float {name}\n" for name in names.split())
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n{fields}end_header\n"
    (folder / "d.ply").write_bytes(head.encode() + points.tobytes())


def trained(cwd, *arguments):
    with without_report():
        done = sightline("train", *arguments, cwd=cwd)
    assert done.code == 0, done.err
    return done.out


def rows_of(run, kind):
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row["values"] for row in rows if row["kind"] == kind]


# train, resume, report


def test_training_tells_space_data_losses_and_average_precision(street):
    log = (street / "train.log").read_text()
    assert "x 0 to 20.48 m, y -10.24 to 10.24 m, z -3 to 1 m" in log
    assert "3 classes: Car, Pedestrian, Cyclist" in log and "train: 7 frames, 27 boxes" in log
    steps = [line for line in log.splitlines() if line.startswith("epoch") and "direction" in line]
    assert len(steps) == 14 and all("class " in line and "box " in line and "frames/s" in line for line in steps)
    assert len(re.findall(r"evaluated: 3d_moderate_R40 [\d.]+  bev_moderate_R40 [\d.]+  recall/0.5 ", log)) == 2


def test_frames_are_learned_by_heart_in_seconds(street):
    first, last = (rows_of(street / RUN, "train")[place] for place in (0, -1))
    assert last["loss"] < first["loss"] / 5
    assert rows_of(street / RUN, "eval")[-1]["recall/0.5"] > 50


def test_the_report_shows_average_precision_and_pictures(street):
    page = (street / RUN / "report" / "index.html").read_text()
    for words in ("Car", "Pedestrian", "Cyclist", "in space", "from above", "Predictions", "Training batches"):
        assert words in page, words
    pictures = {path.name: cv2.imread(str(path)) for path in (street / RUN / "pictures").glob("*.jpg")}
    assert {name.split("_")[0] for name in pictures} == {"train", "eval"}
    assert all(min(picture.shape[:2]) > 200 and picture.std() > 5 for picture in pictures.values())


def test_a_stopped_run_goes_on_to_the_bits_of_an_unbroken_one(street, tmp_path):
    changes = changes_with("epochs=4", "batch_size=4", "ema.decay=0.9")
    trained(street, RECIPE, *changes, "--out", tmp_path / "unbroken")
    with without_report():
        begun = sightline("train", RECIPE, *changes, "stop_at_epoch=2", "--out", tmp_path / "broken", cwd=street)
        assert begun.code == 3
        assert sightline("resume", tmp_path / "broken", "stop_at_epoch=null", cwd=street).code == 0
    assert_same_bits(tmp_path / "broken", tmp_path / "unbroken")


def test_a_run_on_a_folder_of_kittis_has_the_losses_of_the_world_that_it_is_a_copy_of(street, tmp_path):
    on_folder = [change for change in changes_with("epochs=1", "batch_size=4") if not change.startswith("data.world")]
    trained(street, RECIPE, *changes_with("epochs=1", "batch_size=4"), "--out", tmp_path / "a")
    trained(street, RECIPE, "--data", "world", *on_folder, "--out", tmp_path / "b")
    assert rows_of(tmp_path / "a", "train") == rows_of(tmp_path / "b", "train")


@pytest.mark.parametrize(
    "change", ["precision=bf16", "precision=fp16", "compile=try", "data.one_long_epoch=true", "workers=1"]
)
def test_a_run_works_with(street, tmp_path, change):
    trained(street, RECIPE, *changes_with("epochs=2", "batch_size=4", change), "--out", tmp_path / "run")
    assert all(math.isfinite(values["loss"]) for values in rows_of(tmp_path / "run", "train"))


def test_a_detector_trains_where_no_compiler_can_be_found(street, tmp_path):
    environment = {**os.environ, "PATH": "", "CC": "none", "CXX": "none", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sightline.cli.main", "train", RECIPE, *changes_with("epochs=1")]
    subprocess.run([*command, "--out", tmp_path / "run"], check=True, env=environment, cwd=street)
    assert len(rows_of(tmp_path / "run", "train")) == 3


# eval and score


def test_saved_results_score_to_the_figures_of_the_evaluation(street, tmp_path):
    json_file, results = tmp_path / "figures.json", tmp_path / "results"
    for _ in range(2):  # a second evaluation replaces the files of the first
        outcome = sightline("eval", RUN, "--save", results, "--json", json_file, cwd=street)
        assert outcome.code == 0, outcome.err
    scored = sightline("score", "kitti", "world/training/label_2", results, "--json", tmp_path / "s.json", cwd=street)
    assert scored.code == 0, scored.err
    figures, again = (json.loads(path.read_text())["figures"] for path in (json_file, tmp_path / "s.json"))
    assert figures == again and figures["recall/0.5"] > 50
    names = (street / "world" / "ImageSets" / "train.txt").read_text().split()
    assert sorted(path.stem for path in results.iterdir()) == sorted(names)


def test_results_do_not_mix_with_those_of_other_frames(street, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "999999.txt").write_text("")
    outcome = sightline("eval", RUN, "--save", tmp_path / "results", cwd=street)
    assert outcome.code == 2 and "999999.txt, which is of none of the frames" in outcome.err
    (tmp_path / "file").write_text("")
    outcome = sightline("eval", RUN, "--save", tmp_path / "file", cwd=street)
    assert outcome.code == 2 and "is no folder" in outcome.err


def test_a_released_file_evaluates_and_predicts_as_its_run_does(street, tmp_path):
    assert sightline("release", RUN, "--out", tmp_path / "p.safetensors", cwd=street).code == 0
    for model, out in ((street / RUN, "of_run"), ("p.safetensors", "of_file")):
        outcome = sightline("predict", model, street / "clouds", "--out", out, cwd=tmp_path)
        assert outcome.code == 0, outcome.err
    found = [(tmp_path / out / "predictions.json").read_text() for out in ("of_run", "of_file")]
    assert found[0] == found[1]
    outcome = sightline("eval", "p.safetensors", "--data", street / "world", cwd=tmp_path)
    assert outcome.code == 0 and "3d_moderate_R40" in outcome.out


# predict


def test_files_of_every_format_give_the_same_boxes_and_pictures(street, tmp_path):
    outcome = sightline("predict", RUN, "clouds", "--out", tmp_path, "--score", "0.1", cwd=street)
    assert outcome.code == 0 and outcome.out.splitlines()[-1] == f"4 point clouds: {tmp_path / 'predictions.json'}"
    entries = json.loads((tmp_path / "predictions.json").read_text())
    assert [Path(entry["file"]).suffix for entry in entries] == [".bin", ".npy", ".pcd", ".ply"]
    assert all(entry["detections"] == entries[0]["detections"] for entry in entries) and entries[0]["detections"]
    pictures = [cv2.imread(str(tmp_path / entry["picture"])) for entry in entries]
    assert all((picture == pictures[0]).all() for picture in pictures)
    for box in entries[0]["detections"]:
        assert 0 <= box["center"][0] <= 20.48 + 4 and min(box["size"]) > 0 and -math.pi <= box["yaw"] <= math.pi
    assert not list(tmp_path.glob("*.txt")), "without a calibration there is no camera to write boxes for"


def test_a_cloud_of_kittis_gives_the_boxes_of_the_evaluation_and_kittis_file(street, tmp_path):
    evaluation = sightline("eval", RUN, "eval_batch_size=1", "--save", tmp_path / "results", cwd=street)
    assert evaluation.code == 0, evaluation.err
    frame = (street / "world" / "ImageSets" / "train.txt").read_text().split()[0]
    cloud = Path("world/training/velodyne") / f"{frame}.bin"
    outcome = sightline("predict", RUN, cloud, "--out", tmp_path, "--score", "0", cwd=street)
    assert outcome.code == 0, outcome.err
    found, wanted = ((folder / f"{frame}.txt").read_text() for folder in (tmp_path, tmp_path / "results"))
    assert found == wanted and len(found.splitlines()) > 0
    height, width = cv2.imread(str(tmp_path / f"{frame}.jpg")).shape[:2]
    assert height > width, "the camera's picture stands above the one from above"


def test_patterns_thresholds_and_empty_answers(street, tmp_path):
    outcome = sightline("predict", RUN, "clouds/*.n*", "--out", tmp_path, "--score", "1", cwd=street)
    assert outcome.code == 0 and "clouds/b.npy: nothing" in outcome.out and "1 point cloud:" in outcome.out
    assert json.loads((tmp_path / "predictions.json").read_text())[0]["detections"] == []
    cloud = "world/training/velodyne/000000.bin"
    outcome = sightline("predict", RUN, cloud, "--out", tmp_path, "--score", "1", "--no-pictures", cwd=street)
    assert outcome.code == 0 and (tmp_path / "000000.txt").read_text() == ""


def test_broken_clouds_among_good_ones_are_named(street, tmp_path):
    shutil.copytree(street / "clouds", tmp_path / "clouds")
    (tmp_path / "clouds" / "e.bin").write_bytes(bytes(37))
    np.full((5, 4), np.nan, "<f4").tofile(tmp_path / "clouds" / "f.bin")
    (tmp_path / "clouds" / "g.bin").write_bytes(b"")
    outcome = sightline("predict", street / RUN, "clouds", "--out", "out", cwd=tmp_path)
    assert outcome.code == 2 and "3 of 7 could not be read" in outcome.err
    errors = [entry["error"] for entry in json.loads((tmp_path / "out" / "predictions.json").read_text())[4:]]
    for error, words in zip(errors, ("37 bytes", "NaN", "empty"), strict=True):
        assert words in error
    alone = sightline("predict", street / RUN, "clouds/e.bin", "--out", "out", cwd=tmp_path)
    assert alone.code == 2 and "e.bin: 37 bytes are no whole number of points" in alone.err
    picture = sightline("predict", street / RUN, street / "world/training/image_2/000000.jpg", cwd=tmp_path)
    assert picture.code == 2 and "'.jpg' is none of .bin" in picture.err


def test_five_million_points_and_clouds_far_away_are_clouds_too(street, tmp_path):
    rng = np.random.default_rng(0)
    rng.uniform((0, -10, -2, 0), (20, 10, 0, 1), (5_000_000, 4)).astype("<f4").tofile(tmp_path / "many.bin")
    np.full((10, 4), 1e30, "<f4").tofile(tmp_path / "far.bin")
    outcome = sightline("predict", street / RUN, "far.bin", "many.bin", "--out", "out", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[-1].startswith("2 point clouds")


# check, list


def test_a_run_is_checked_before_it_begins(street):
    before = files_in(street)
    outcome = sightline("check", RECIPE, *changes_with(), cwd=street)
    assert outcome.code == 0, outcome.out
    assert "all 10 frames were read" in outcome.out and "lie in model.point_range" in outcome.out
    assert "judged: 3d_moderate_R40" in outcome.out and "the run can start" in outcome.out
    assert files_in(street) == before


def test_a_folder_of_kittis_is_counted(street):
    outcome = sightline("check", "world", cwd=street)
    assert outcome.code == 0 and "no faults" in outcome.out and "Pedestrian" in outcome.out


def test_keys_are_listed_with_help(street):
    outcome = sightline("list", RECIPE, cwd=street)
    assert outcome.code == 0
    for key in ("model.point_range: ", "augment.paste.counts: ", "data.one_long_epoch: ", "data.world.lidar.beams: "):
        assert key in outcome.out


# mistakes


def in_world(folder: Path, name: str, street: Path) -> Path:
    """A copy of the world without pictures' weight that a test may break."""
    target = folder / name
    shutil.copytree(street / "world", target)
    return target


@pytest.fixture(scope="module")
def messy(street, tmp_path_factory):
    """A folder with all that a user may have got wrong."""
    folder = tmp_path_factory.mktemp("messy")
    write_city(folder / "city")
    write_shapes(folder / "shapes", train=1, val=1)
    shutil.copytree(street / RUN, folder / RUN)
    (folder / "empty").mkdir()
    for name in (
        "cut",
        "nan",
        "no_points",
        "no_cloud",
        "no_calib",
        "short_calib",
        "unknown",
        "broken_label",
        "no_val",
        "good",
    ):
        in_world(folder, name, street)
    cloud = velodyne(folder / "cut", 2)
    cloud.write_bytes(cloud.read_bytes()[:-7])
    points = np.fromfile(velodyne(folder / "nan", 2), "<f4").reshape(-1, 4)
    points[11, 1] = np.nan
    points.tofile(velodyne(folder / "nan", 2))
    velodyne(folder / "no_points", 2).write_bytes(b"")
    velodyne(folder / "no_cloud", 2).unlink()
    (folder / "no_calib/training/calib/000002.txt").unlink()
    calib = folder / "short_calib/training/calib/000002.txt"
    calib.write_text("".join(line for line in calib.read_text().splitlines(True) if not line.startswith("Tr_velo")))
    label = folder / "unknown/training/label_2/000002.txt"
    label.write_text(label.read_text() + "Spaceship 0.00 0 0.00 10 10 40 35 2 1.8 5 -5 1.5 15 0\n")
    label = folder / "broken_label/training/label_2/000002.txt"
    label.write_text(label.read_text() + "Car 0.00 0 0.00 10 10 40\n")
    (folder / "no_val/ImageSets/val.txt").unlink()
    return folder


def on(data, *changes, recipe=RECIPE):
    kept = [change for change in changes_with("epochs=1", *changes) if not change.startswith("data.world")]
    return ["train", recipe, "--data", data, *kept]


def in_the_world(*changes):
    return ["train", RECIPE, *changes_with("epochs=1", *changes)]


MISTAKES = {
    # data
    "truncated cloud": (on("cut"), "000002.bin", "no whole number of points", "data.on_fault=skip"),
    "NaN": (on("nan"), "000002.bin", "NaN", "data.on_fault=skip"),
    "empty cloud": (on("no_points"), "000002.bin", "empty", "data.on_fault=skip"),
    "missing cloud": (on("no_cloud"), "000002.bin", "data.on_fault=skip"),
    "missing calibration": (on("no_calib"), "calib/000002.txt", "data.on_fault=skip"),
    "calibration without rows": (on("short_calib"), "calib/000002.txt", "Tr_velo_to_cam", "data.on_fault=skip"),
    "short label": (on("broken_label"), "label_2/000002.txt:", "7", "data.on_fault=skip"),
    "no validation split": (on("no_val"), "no split 'val'", "train"),
    "wrong path": (on("ctu"), "no such file or folder", "did you mean"),
    "empty folder": (on("empty"), "empty"),
    "images with boxes": (on("city"), "city", "images with boxes", "recipes of image detectors"),
    "image classes": (on("shapes"), "shapes", "image classes", "recipes of classifiers"),
    "KITTI for an image recipe": (["train", IMAGE_RECIPE, "--data", "good"], "KITTI", "recipes of LiDAR detectors"),
    "KITTI for a classifier": (["train", "small-cnn", "--data", "good"], "KITTI", "recipes of LiDAR detectors"),
    "class that is not there": (on("good", "data.class_names=[Car,Tarm]"), "Tarm"),
    "classes without anchors": (on("good", "data.class_names=[Car,Truck]"), "no anchors", "Truck", "Car"),
    "images for an evaluation": (["eval", RUN, "--data", "city"], "images with boxes"),
    "object of an unknown type": (on("unknown"), "label_2/000002.txt:", "'Spaceship' is none of", "data.class_names"),
    # settings
    "range that cells do not divide": (
        in_the_world("model.point_range=[0,-10.24,-3,20.4,10.24,1]"), "x from 0 to 20.4 m", "pillars of 0.64 m",
    ),
    "pillars that strides do not divide": (
        in_the_world("model.point_range=[0,-10.24,-3,20.48,9.6,1]"), "31 pillars along y", "multiple of 2",
    ),
    "range inside out": (in_the_world("model.point_range=[20.48,-10.24,-3,0,10.24,1]"), "point_range"),
    "anchors of one class": (
        in_the_world(
            "model.head.anchors=[{class_name: Car, sizes: [[3.9,1.6,1.5]], bottom: -1.8, matched_iou: 0.6,"
            " unmatched_iou: 0.45}]"
        ),
        "no anchors for the class", "Pedestrian",
    ),
    "thresholds out of order": (
        in_the_world(
            "model.head.anchors=[{sizes: [[3.9,1.6,1.5]], bottom: -1.8, matched_iou: 0.4, unmatched_iou: 0.5}]"
        ),
        "unmatched_iou 0.5 is above matched_iou 0.4",
    ),
    "format of the world": (in_the_world("data.format=kitti"), "data.format", "built-in world", "--data"),
    "world beside data": (["train", RECIPE, "--data", "good", "data.world.scenes=3"], "data.world", "not used"),
    "objects of no class": (in_the_world("augment.paste.counts={Bus: 3}"), "Bus"),
    "last epochs without epochs": (
        ["train", RECIPE, *TINY_WORLD, *TINY_PILLARS, "epochs=null", "steps=5"], "augment.close_epochs", "give epochs",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_its_place_and_cure_before_anything_is_written(messy, name):
    command, *words = MISTAKES[name]
    before = files_in(messy)
    outcome = sightline(*command, cwd=messy)
    assert outcome.code == 2, outcome.out + outcome.err
    for word in words:
        assert word in " ".join(outcome.err.split()), outcome.err
    assert len(outcome.err.splitlines()) <= 6 and "Traceback" not in outcome.err
    assert {path for path in files_in(messy) if "cache" not in path} == {path for path in before if "cache" not in path}


BROKEN = ("cut", "nan", "no_points", "no_cloud", "no_calib", "short_calib", "broken_label", "unknown")


@pytest.mark.parametrize("name", BROKEN)
def test_broken_frames_are_left_out_where_that_is_asked_for_and_counted(messy, tmp_path, name):
    out = trained(messy, *on(name, "data.on_fault=skip")[1:], "--out", tmp_path / "run")
    assert "left out 1 of 7 frames (data.on_fault=skip)" in out, out
    assert len(rows_of(tmp_path / "run", "train")) == 2  # 6 frames in batches of 3
