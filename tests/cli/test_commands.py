"""Every command as a user would type it."""

import json
import os
import resource
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import yaml

from sightline import __version__
from sightline.data.formats.find import open_dataset
from sightline.recipes import RECIPES
from tests.cli.tool import RECIPE, TINY, files_in, sightline, typed, without_report

RUN = f"runs/{RECIPE}/1"
COCO_FIGURES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_1", "AR_10", "AR_100")


def trained(cwd, *arguments):
    """Train, without the report, and give what was printed."""
    with without_report():
        outcome = sightline("train", *arguments, cwd=cwd)
    assert outcome.code == 0, outcome.err
    return outcome.out


def rows_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# train


def test_training_sums_up_what_it_is_going_to_do(workplace):
    log = (workplace / "train.log").read_text()
    assert "yolov7-tiny, 100,662 parameters" in log and "GFLOPs at 64 x 64" in log
    assert "city, 2 classes: disc, square\n        train: 8 images, 16 boxes\n        val: 3 images, 6 boxes\n" in log
    assert "cpu with 1 thread, fp32, channels last, no loader workers" in log
    assert "2 epochs, 4 steps, batches of 4, up to 16 of them a step" in log
    assert RUN in log


def test_the_table_of_groups_holds_every_parameter_once(workplace):
    lines = (workplace / "train.log").read_text().splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("group"))
    rows = [line.split() for line in lines[head + 1 : head + 4]]
    assert [row[0] for row in rows] == ["no_decay", "decay", "biases"]
    assert sum(int(row[2].replace(",", "")) for row in rows) == 100_662


def test_piped_progress_is_plain_lines_with_losses_rate_and_speed(workplace):
    log = (workplace / "train.log").read_text()
    assert not any(ord(sign) < 32 and sign != "\n" for sign in log)
    steps = [line for line in log.splitlines() if line.startswith("epoch") and "box" in line]
    assert len(steps) == 4
    assert all(word in steps[0] for word in ("epoch 1/2 step 1/4", "box", "objectness", "class", "lr", "images/s"))
    assert "done: 4 steps" in log
    assert f"report: {RUN}/report/index.html" in log


def test_a_run_logs_every_step_and_evaluation_and_has_a_report(workplace):
    run = workplace / RUN
    assert [row["step"] for row in rows_of(run) if row["kind"] == "train"] == [1, 2, 3, 4]
    assert [row["step"] for row in rows_of(run) if row["kind"] == "eval"] == [2, 4]
    assert (run / "report" / "index.html").stat().st_size > 10_000


def test_the_data_folder_stays_as_it_was(workplace):
    names = {path for path in files_in(workplace / "city") if not path.endswith("/")}
    images = {f"images/train/{n}.png" for n in range(8)} | {f"images/val/{n}.png" for n in range(3)}
    assert names == images | {name.replace("images", "labels").replace("png", "txt") for name in images} | {"data.yaml"}


def test_repeating_a_run_gives_the_same_losses_bit_for_bit(workplace, tmp_path):
    trained(workplace, "--from", RUN, "--out", tmp_path / "again")
    assert rows_of(tmp_path / "again") == rows_of(workplace / RUN)
    first = (workplace / RUN / "config.yaml").read_text().partition("\n")[2]
    assert (tmp_path / "again" / "config.yaml").read_text().partition("\n")[2] == first


def test_a_run_may_have_a_name_and_the_built_in_world(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small = ("data.world.scenes=6", "data.world.world.image_hw=[64,96]", "steps=1")
    changes = [change for change in TINY if not change.startswith("epochs")]
    out = trained(tmp_path, RECIPE, "--name", "first", *changes, *small)
    assert "the built-in world, 5 classes: car, truck, pedestrian, cyclist, cone" in out
    assert (tmp_path / "runs" / RECIPE / "first" / "run.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "runs"]


def test_a_change_file_is_a_recipe_with_changes(workplace, tmp_path):
    tree = {"recipe": RECIPE, "data": {"path": str(workplace / "city")}, "model": {}, "log": {}}
    for change in TINY:
        key, _, text = change.partition("=")
        group, dot, name = key.rpartition(".")
        (tree[group] if dot else tree)[name] = yaml.safe_load(text)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    trained(tmp_path, "mine.yaml", "--out", "run")
    assert rows_of(tmp_path / "run") == rows_of(workplace / RUN)


# --print-config


def origins_of(text):
    """Value and origin of every key that was printed."""
    rows = (line.rpartition("  # ") for line in text.splitlines())
    return {value.partition(": ")[0]: (value.partition(": ")[2].strip(), origin) for value, _, origin in rows}


def test_every_value_says_where_it_came_from(workplace, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"recipe: {RECIPE}\nlr: 0.02\naugment:\n  scale: [0.8, 1.2]\n")
    outcome = typed(f"train {file} --data city epochs=3 optimizer.momentum=0.8 --print-config", cwd=workplace)
    found = origins_of(outcome.out)
    assert outcome.code == 0
    assert found["lr"] == ("0.02", f"{file}:2")
    assert found["augment.scale"] == ("[0.8, 1.2]", f"{file}:4")
    assert found["epochs"] == ("3", "command line")
    assert found["optimizer.momentum"] == ("0.8", "command line")
    assert found["data.path"] == ('"city"', "--data")
    assert found["seed"] == ("0", "recipe")


def test_steps_take_the_recipes_epochs_back(workplace):
    found = origins_of(typed(f"train {RECIPE} --data city steps=7 --print-config", cwd=workplace).out)
    assert found["steps"] == ("7", "command line")
    assert found["epochs"] == ("null", "command line")


@pytest.mark.parametrize("name", ["yolov7-tiny", "yolov7", "yolov7-tiny-small", "yolov7-tiny-world"])
def test_what_is_printed_is_a_change_file_that_gives_the_same_configuration(tmp_path, name):
    printed = typed(f"train {name} epochs=30 --print-config", cwd=tmp_path).out
    (tmp_path / "printed.yaml").write_text(printed)
    again = typed("train printed.yaml --print-config", cwd=tmp_path)
    assert again.code == 0, again.err
    values = {key: value for key, (value, _) in origins_of(printed).items()}
    assert {key: value for key, (value, _) in origins_of(again.out).items()} == values


def test_nothing_is_made_when_only_the_configuration_is_printed(workplace, tmp_path):
    assert typed(f"train {RECIPE} --data {workplace / 'city'} --print-config", cwd=tmp_path).code == 0
    assert list(tmp_path.iterdir()) == []


# trained models


def test_evaluation_prints_figures_and_writes_what_was_asked_for(workplace, tmp_path):
    json_file, detections = tmp_path / "new" / "figures.json", tmp_path / "new" / "detections.json"
    outcome = sightline("eval", RUN, "--checkpoint", "4", "--json", json_file, "--save", detections, cwd=workplace)
    assert outcome.code == 0, outcome.err
    written = json.loads(json_file.read_text())
    logged = [row for row in rows_of(workplace / RUN) if row["kind"] == "eval"][-1]["values"]
    assert {name: written["figures"][name] for name in COCO_FIGURES} == {name: logged[name] for name in COCO_FIGURES}
    assert [row["name"] for row in written["classes"]] == ["disc", "square"]
    assert f"step_00000004 (averaged weights) on {workplace / 'city'}, val" in outcome.out
    assert all(name in outcome.out for name in COCO_FIGURES)
    assert {entry["image_id"] for entry in json.loads(detections.read_text())} <= {0, 1, 2}


def test_other_data_and_splits_can_be_evaluated(workplace):
    train = sightline("eval", RUN, "--split", "train", cwd=workplace)
    assert train.code == 0 and f"on {workplace / 'city'}, train" in train.out
    other = sightline("eval", RUN, "--data", workplace / "city" / "data.yaml", "image_size=96", cwd=workplace)
    assert other.code == 0 and "data.yaml, val" in other.out


def test_a_run_finds_its_data_from_any_folder(workplace, tmp_path):
    elsewhere = sightline("eval", workplace / RUN, cwd=tmp_path)
    assert elsewhere.code == 0, elsewhere.err


def test_any_tools_result_files_are_scored(tmp_path):
    truth = {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 100}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0}
        ],
        "categories": [{"id": 3, "name": "disc"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text('[{"image_id": 1, "category_id": 3, "bbox": [10, 10, 40, 40], "score": 0.9}]')
    outcome = typed("score coco truth.json found.json --json figures.json", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert "1 image, 1 truth (0 of them crowds), 1 detection" in outcome.out
    assert json.loads((tmp_path / "figures.json").read_text())["figures"]["AP"] == pytest.approx(1.0)


def test_score_kitti_of_any_tool(tmp_path):
    car = "Car 0.00 0 -1.57 40 10 80 60 1.50 1.60 4.00 0.00 1.50 10.00 -1.57"
    for frame in range(41):
        for folder, line in (("labels", car), ("found", f"{car} 0.{10 + frame}")):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{frame:06d}.txt").write_text(f"{line}\n")
    outcome = typed("score kitti labels found --json figures.json", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert "41 frames, 41 truths, 41 detections" in outcome.out
    assert "note" not in outcome.out
    assert json.loads((tmp_path / "figures.json").read_text())["figures"]["Car/3d/moderate_R40"] == 100
    (tmp_path / "val.txt").write_text("000001\n")
    outcome = typed("score kitti labels found --frames val.txt --classes Car,Van", cwd=tmp_path)
    assert outcome.code == 2
    assert "neither labels nor detections have the class 'Van'" in outcome.err
    assert typed("score kitti labels found --frames val.txt --classes Car", cwd=tmp_path).code == 0
    assert typed("score kitti found labels", cwd=tmp_path).code == 2


def test_prediction_takes_images_folders_patterns_and_videos(workplace, tmp_path):
    video = cv2.VideoWriter(str(tmp_path / "drive.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (64, 48))
    for level in (40, 80, 120):
        video.write(np.full((48, 64, 3), level, np.uint8))
    video.release()
    city = workplace / "city" / "images"
    sources = [city / "val" / "0.png", city / "val", f"{city}/train/[0-2].png", tmp_path / "drive.avi"]
    outcome = sightline("predict", workplace / RUN, *sources, "--out", "found", "--score", "0", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    entries = json.loads((tmp_path / "found" / "predictions.json").read_text())
    files = [(os.path.relpath(entry["file"], city), entry.get("frame")) for entry in entries]
    images = [(f"val/{n}.png", None) for n in range(3)] + [(f"train/{n}.png", None) for n in range(3)]
    assert files[:6] == images
    assert [frame for _, frame in files[6:]] == [0, 1, 2]
    pictures = ["0.jpg", "1.jpg", "2.jpg", "0_2.jpg", "1_2.jpg", "2_2.jpg"]
    pictures += [f"drive_{n:06d}.jpg" for n in range(3)]
    assert [entry["picture"] for entry in entries] == pictures
    assert sorted([*pictures, "predictions.json"]) == sorted(path.name for path in (tmp_path / "found").iterdir())
    for entry in entries:
        for found in entry["detections"]:
            x1, y1, x2, y2 = found["box_xyxy"]
            assert 0 <= x1 <= x2 <= 64 and 0 <= y1 <= y2 <= 48
            assert found["class"] in ("disc", "square") and 0 <= found["score"] <= 1


def test_a_second_prediction_does_not_mix_with_the_first(workplace, tmp_path):
    image = workplace / "city" / "images" / "val" / "0.png"
    for name in ("predictions", "predictions-2"):
        outcome = sightline("predict", workplace / RUN, image, "--no-pictures", "image_size=96", cwd=tmp_path)
        assert outcome.out.splitlines()[-1] == f"1 picture: {name}/predictions.json"
        assert [path.name for path in (tmp_path / name).iterdir()] == ["predictions.json"]


def test_a_broken_picture_among_others_is_named_and_the_others_are_done(workplace, tmp_path):
    (tmp_path / "bad.png").write_text("no image")
    image = workplace / "city" / "images" / "val" / "0.png"
    outcome = sightline("predict", workplace / RUN, "bad.png", image, "--out", "found", cwd=tmp_path)
    assert outcome.code == 2
    assert "1 of 2 could not be read" in outcome.err and "bad.png" in outcome.err
    entries = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert ["error" in entry for entry in entries] == [True, False]


# runs and recipes


def test_recipes_and_their_keys_are_listed_with_help(tmp_path):
    recipes = typed("list", cwd=tmp_path).out
    assert all(name in recipes for name in ("yolov7-tiny", "yolov7-tiny-small"))
    keys = typed(f"list {RECIPE}", cwd=tmp_path).out
    assert "lr: 0.01\n    Learning rate" in keys and "augment.mosaic: 1.0\n    Probability" in keys
    group = typed(f"list {RECIPE} data.world", cwd=tmp_path).out
    assert group.startswith("data.world.seed: 0") and "augment" not in group


def test_runs_are_compared_reported_and_told(workplace, tmp_path):
    trained(workplace, RECIPE, "--data", "city", *TINY, "seed=5", "--out", tmp_path / "other")
    compared = sightline("compare", RUN, tmp_path / "other", "--out", tmp_path / "curves.png", cwd=workplace)
    assert compared.code == 0, compared.err
    assert [line.split() for line in compared.out.splitlines() if line.startswith("seed")] == [["seed", "0", "5"]]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [line.split() for line in compared.out.splitlines() if line.startswith("state")] == [
        ["state", "done", "done"]
    ]
    assert sightline("report", tmp_path / "other", cwd=workplace).out == f"report: {tmp_path}/other/report/index.html\n"
    assert sightline("status", tmp_path / "other", cwd=workplace).out.startswith(f"{tmp_path}/other: done\nstep 4/4")
    table = sightline("status", cwd=workplace).out.splitlines()
    assert table[1].split()[:4] == [RUN, "done", "4/4", "2/2"]


def test_a_comparison_is_written_as_json(workplace, tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, "toy", "tests.engine.toy:toy_run")
    trained(tmp_path, "toy", "--out", "toy", "evaluate.best.metric=accuracy")
    compared = sightline("compare", RUN, tmp_path / "toy", "--json", tmp_path / "both.json", cwd=workplace)
    assert compared.code == 0, compared.err
    detector, toy = json.loads((tmp_path / "both.json").read_text())["runs"]
    assert (detector["state"], detector["step"], detector["total_steps"]) == ("done", 4, 4)
    assert toy["step"] == 24 and toy["figures"].keys() == {"accuracy"} and toy["last_loss"] > 0
    assert toy["configuration"]["recipe"] == "toy" and "image_size" in detector["configuration"]
    refused = sightline("compare", RUN, tmp_path / "toy", "--json", tmp_path, cwd=workplace)
    assert refused.code == 2 and "compare" not in refused.out


def test_the_schedule_is_drawn_before_a_run_begins(workplace, tmp_path):
    city = workplace / "city"
    outcome = sightline("plot-lr", RECIPE, *TINY, "--data", city, "--out", "plots/lr.png", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    head, *rows = (tmp_path / "plots" / "lr.csv").read_text().splitlines()
    assert head.startswith("iteration,step,epoch,lr/no_decay,lr/decay,lr/biases,momentum/no_decay")
    assert len(rows) == 4
    assert (tmp_path / "plots" / "lr.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plots"]


# data


@pytest.mark.parametrize("format", ["yolo", "coco", "voc"])
def test_the_world_is_written_checked_and_found_without_fault(tmp_path, format):
    written = typed(f"world city --format {format} --scenes 3", cwd=tmp_path)
    assert written.code == 0 and "2 train, 1 val pictures" in written.out
    assert open_dataset(tmp_path / "city").format == format
    before = files_in(tmp_path)
    checked = typed("check city", cwd=tmp_path)
    assert checked.code == 0 and "no faults" in checked.out
    assert files_in(tmp_path) == before


def test_the_world_is_written_as_kitti_too_and_found_without_fault(tmp_path):
    written = typed("world city --format kitti --scenes 3", cwd=tmp_path)
    assert written.code == 0 and "2 train, 1 val frames" in written.out
    kinds = ("velodyne/000002.bin", "image_2/000002.png", "label_2/000002.txt", "calib/000002.txt", "planes/000002.txt")
    assert all((tmp_path / "city" / "training" / name).stat().st_size > 0 for name in kinds)
    checked = typed("check city", cwd=tmp_path)
    assert checked.code == 0 and "kitti" in checked.out and "(not trained)" in checked.out
    refused = typed("world city --format kitti --scenes 3", cwd=tmp_path)
    assert refused.code == 2 and "not an empty folder" in refused.err


def test_a_check_names_every_fault_and_ends_with_two(workplace, tmp_path):
    city = tmp_path / "city"
    shutil.copytree(workplace / "city", city)
    (city / "labels" / "train" / "5.txt").write_text("9 0.5 0.5 0.1 0.1\n")
    outcome = typed("check city --json faults.json", cwd=tmp_path)
    assert outcome.code == 2
    assert "city/labels/train/5.txt:1: class 9" in outcome.out
    faults = json.loads((tmp_path / "faults.json").read_text())["faults"]
    assert [(fault["kind"], fault["line"]) for fault in faults] == [("class_out_of_range", 1)]


# the program itself


def cpu_seconds(*command):
    """Of a process and its children, as the kernel counts them: other load does not matter."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "100"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def test_help_takes_less_than_a_third_of_a_second():
    times, texts = zip(
        *(cpu_seconds(sys.executable, "-m", "sightline.cli.main", "--help") for _ in range(3)), strict=True
    )
    assert all(command in texts[0] for command in ("train", "resume", "eval", "predict", "check", "score"))
    assert min(times) < 0.3


@pytest.mark.parametrize("arguments", ["--help", "train --help", "--version", "trian", "--show-completion bash"])
def test_nothing_heavy_is_loaded_to_answer_a_question(arguments):
    code = (
        "import sys; from unittest import mock\n"
        f"with mock.patch.object(sys, 'argv', ['sightline', *{arguments.split()!r}]):\n"
        "    from sightline.cli.main import main\n"
        "    try: main()\n"
        "    except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'cv2', 'yaml', 'matplotlib'} & set(sys.modules)\n"
        "print('heavy:', *sorted(heavy), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "heavy:"


def test_help_teaches_with_examples(tmp_path):
    outcome = typed("train --help", cwd=tmp_path)
    assert outcome.code == 0
    assert "sightline train yolov7-tiny-small --data my_data epochs=50 image_size=320" in outcome.out
    assert typed("--version", cwd=tmp_path).out == f"sightline {__version__}\n"


@pytest.mark.parametrize(
    "line, expected",
    [
        ("sightline train yolov7-t", {"yolov7-tiny", "yolov7-tiny-small", "yolov7-tiny-world"}),
        ("sightline check my_data --format c", {"coco", "class_folders", "cifar_python", "cifar_binary"}),
        ("sightline world city --format c", {"coco"}),
    ],
)
def test_completion_knows_recipes_and_formats(line, expected):
    command = "import sys; sys.argv = ['sightline']; from sightline.cli.main import app; app(prog_name='sightline')"
    env = {
        **os.environ,
        "_SIGHTLINE_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
    }
    done = subprocess.run([sys.executable, "-c", command], env=env, capture_output=True, text=True, check=False)
    assert set(done.stdout.split()) == expected
