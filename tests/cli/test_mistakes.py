"""Mistakes of users: each ends with exit code 2 and a few lines that name the cure, and leaves nothing behind."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from sightline.engine.run_folder.lock import RunLock
from tests.cli.tool import RECIPE, files_in, sightline, typed, without_report, write_city

RUN = f"runs/{RECIPE}/1"
TRAIN = f"train {RECIPE} --data city"
SMALL = "model.width=0.125 image_size=64 batch_size=4 epochs=1 device=cpu workers=0"


def on(data):
    """A training on one of the data sets that are broken."""
    return f"train {RECIPE} --data {data} {SMALL}"


def edited(folder, name, change):
    """Change the text of a file."""
    path = folder / name
    path.write_text(change(path.read_text()))


@pytest.fixture(scope="module")
def messy(workplace, tmp_path_factory):
    """The workplace with all that a user may have got wrong in it."""
    folder = tmp_path_factory.mktemp("messy")
    shutil.copytree(workplace, folder, dirs_exist_ok=True)
    (folder / "plain.txt").write_text("hello\n")
    (folder / "empty").mkdir()
    (folder / "taken").mkdir()
    (folder / "taken" / "file").write_text("mine")

    broken = {
        "class_high": lambda d: edited(d, "labels/train/3.txt", lambda text: text.replace("1 ", "7 ", 1)),
        "class_negative": lambda d: edited(d, "labels/val/1.txt", lambda text: "-3" + text[1:]),
        "not_a_number": lambda d: edited(d, "labels/train/0.txt", lambda text: "0 nan 0.5 0.1 0.1\n" + text),
        "few_columns": lambda d: edited(d, "labels/train/0.txt", lambda text: "0 0.5 0.5 0.1\n" + text),
        "zero_bytes": lambda d: (d / "images/train/2.png").write_bytes(b""),
        "cut_off": lambda d: (d / "images/train/2.png").write_bytes((d / "images/train/2.png").read_bytes()[:-90]),
        "no_image": lambda d: (d / "images/val/0.png").write_text("this is a text"),
        "no_labels": lambda d: shutil.rmtree(d / "labels"),
        "no_names": lambda d: edited(d, "data.yaml", lambda text: text.split("names")[0]),
        "one_name": lambda d: edited(d, "data.yaml", lambda text: text.replace("[disc, square]", "[disc]")),
        "other_nc": lambda d: edited(d, "data.yaml", lambda text: text + "nc: 3\n"),
        "no_val": lambda d: edited(d, "data.yaml", lambda text: text.replace("val: images/val\n", "")),
        "bad_syntax": lambda d: edited(d, "data.yaml", lambda text: text.replace("square]", "square")),
        "tagged": lambda d: edited(d, "data.yaml", lambda text: text + "extra: !!python/object:os.system x\n"),
        "other_classes": lambda d: edited(d, "data.yaml", lambda text: text.replace("disc, square", "cat, dog")),
    }
    for name, spoil in broken.items():
        shutil.copytree(folder / "city", folder / name)
        spoil(folder / name)

    for name in ("annotations", "train2017", "Annotations", "JPEGImages"):
        (folder / "mixed" / name).mkdir(parents=True)
    (folder / "mixed" / "annotations" / "instances_train2017.json").write_text("{}")
    files = {
        "twice.yaml": f"recipe: {RECIPE}\nlr: 0.1\nlr: 0.2\n",
        "tag.yaml": f"recipe: {RECIPE}\nlr: !!python/object:os.system x\n",
        "no_recipe.yaml": "lr: 0.1\n",
        "typo.yaml": f"recipe: {RECIPE}\nlr: 0.1\noptimizer:\n  momentun: 0.9\n",
        "wrong_recipe.yaml": "# mine\nrecipe: yolov7-tinny\n",
        "range.yaml": f"recipe: {RECIPE}\naugment:\n  mosaic: 1.5\n",
        "idle.yaml": f"recipe: {RECIPE}\ndata:\n  path: city\n  world:\n    scenes: 7\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "weights.pt").write_bytes(b"\x80\x04cos\nsystem\n")
    save_file({"backbone.weight": np.zeros((3, 3), np.float32)}, folder / "other.safetensors")
    bad = {"detector.network.layers.0.norm.bias": np.full(8, np.nan, np.float32)}
    save_file(bad, folder / "nan.safetensors")

    shutil.copytree(folder / RUN, folder / "damaged")
    for tensors in (folder / "damaged").rglob("model.safetensors"):
        tensors.write_bytes(tensors.read_bytes()[:1000])
    images = [{"id": 5, "file_name": "a.png", "width": 64, "height": 48}]
    boxes = [{"id": 1, "image_id": 5, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}]
    truth = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "disc"}]}
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "found.json").write_text('[{"image_id": 5, "category_id": 1, "bbox": [1, 1, 9, 9], "score": 0.9}]')
    (folder / "strange.json").write_text('[{"image_id": 6, "category_id": 1, "bbox": [1, 1, 9, 9], "score": 0.9}]')
    return folder


MISTAKES = {
    # recipes, keys and values
    "no recipe": ("train", "which recipe", "sightline list"),
    "typo in the command": ("trian", "'trian'", "'train'"),
    "typo in the recipe": ("train yolov7-tinny", "'yolov7-tinny'", "Did you mean 'yolov7-tiny'"),
    "typo in an option": (f"train {RECIPE} --dat city", "--dat", "--data"),
    "option without its value": (f"train {RECIPE} --data", "--data", "requires an argument"),
    "typo in a top key": (f"{TRAIN} epoch=3", "'epoch'", "Did you mean 'epochs'"),
    "typo in a group": (f"{TRAIN} optimiser.momentum=0.9", "'optimiser.momentum'", "'optimizer.momentum'"),
    "typo in a key of a group": (f"{TRAIN} optimizer.momentun=0.9", "'optimizer.momentum'"),
    "unknown way to compile": (f"{TRAIN} compile=maybe", "compile: must be true, false or try", "'maybe'"),
    "typo three levels down": (f"{TRAIN} model.loss.box_gian=1", "'model.loss.box_gain'"),
    "typo inside a list": (f"{TRAIN} 'checkpoint.keep=[{{rul: last}}]'", "checkpoint.keep[0]", "'rule'"),
    "typo in a key inside a list": (f"{TRAIN} 'checkpoint.keep=[{{rule: last, cont: 3}}]'", "[0].cont'", "'count'"),
    "unknown rule inside a list": (f"{TRAIN} 'checkpoint.keep=[{{rule: lst}}]'", "'lst'", "Did you mean 'last'"),
    "top key put into a group": (f"{TRAIN} optimizer.lr=0.1", "'optimizer.lr'", "Did you mean 'lr'"),
    "key of another tool": (f"{TRAIN} imgsz=640", "'imgsz'", "Did you mean 'image_size'"),
    "rate of another tool": (f"{TRAIN} learning_rate=0.1", "'learning_rate'", "Did you mean 'lr'"),
    "decay of another tool": (f"{TRAIN} wd=0.1", "'wd'", "Did you mean 'optimizer.weight_decay'"),
    "length of another tool": (f"{TRAIN} trainer.max_epochs=3", "'trainer.max_epochs'", "Did you mean 'epochs'"),
    "key as an option": (f"{TRAIN} --epochs 3", "--epochs", "without dashes: epochs=3"),
    "key of another tool as an option": (f"{TRAIN} --batch=16", "--batch", "without dashes: batch_size=16"),
    "resume as an option": ("train --resume", "--resume", "sightline resume RUN"),
    "resume as several options": (f"{TRAIN} --start-epoch 3", "--start-epoch", "sightline resume RUN"),
    "a dry run": (f"{TRAIN} --dry-run", "--dry-run", "sightline check RECIPE"),
    "option of another script": (f"{TRAIN} --interrupt-at 3", "--interrupt-at", "stop_at_epoch=3"),
    "key of no tool": (f"{TRAIN} zzzzz=640", "'zzzzz'", "sightline list"),
    "word for a number": (f"{TRAIN} lr=abc", "lr: must be a valid number", "'abc'"),
    "fraction of an epoch": (f"{TRAIN} epochs=2.5", "epochs", "integer", "2.5"),
    "no epochs": (f"{TRAIN} epochs=0", "epochs", "greater than 0"),
    "negative rate": (f"{TRAIN} lr=-0.1", "lr", "greater than 0"),
    "share above one": (f"{TRAIN} augment.mosaic=1.5", "augment.mosaic", "less than or equal to 1"),
    "unknown choice": (f"{TRAIN} optimizer.kind=sdg", "'sgd', 'adam', 'adamw'", "Did you mean 'sgd'"),
    "end of a curve that has none": (
        f"{TRAIN} schedule.kind=constant schedule.final=0.1",
        "schedule.final does nothing in a 'constant' policy",
        "Leave it out",
    ),
    "steps that nobody named": (
        f"{TRAIN} schedule.kind=step",
        "schedule: a 'step' policy needs",
        "milestones or every",
    ),
    "momentum ahead of Adam": (
        f"{TRAIN} optimizer.kind=adamw optimizer.nesterov=true",
        "optimizer.nesterov does nothing in 'adamw'",
        "Leave it out",
    ),
    "figure of another tool": (f"{TRAIN} {SMALL} evaluate.best.metric=mAP", "evaluate.best.metric=mAP", "'AP'", "AP50"),
    "figure that ends nothing": (f"{TRAIN} {SMALL} early_stopping.by.metric=recal", "early_stopping.by", "'recall'"),
    "group as a value": (f"{TRAIN} optimizer=adam", "'optimizer' is a group", "optimizer.kind"),
    "epochs and steps": (f"{TRAIN} epochs=3 steps=4", "one of epochs, steps and samples", "steps=4"),
    "steps and samples": (
        f"{TRAIN} samples=30 steps=4",
        "one of epochs, steps and samples",
        "epochs=None",
        "samples=30",
    ),
    "no samples": (f"{TRAIN} samples=0", "samples", "greater than 0"),
    "half a sample": (f"{TRAIN} samples=1.5", "samples", "integer"),
    "a key twice": (f"{TRAIN} lr=0.1 lr=0.2", "lr is given twice", "0.1 and 0.2"),
    "data twice": (f"{TRAIN} data.path=empty", "data.path is given twice", "--data"),
    "switched off and set": (f"{TRAIN} ema=null ema.decay=0.9", "ema=null", "ema.decay=0.9"),
    "average of nothing": (f"{TRAIN} ema=null evaluate.weights=ema", "evaluate.weights=ema has no effect"),
    "world beside data": (f"{TRAIN} data.world.scenes=9", "data.world.scenes=9 has no effect", "--data"),
    "loader without workers": (f"{TRAIN} workers=0 data.loader=processes", "data.loader=processes has no effect"),
    "mosaic that is off": (f"{TRAIN} augment.mosaic=0 augment.mixup=0.5", "augment.mixup=0.5 has no effect"),
    "shape of no warm-up": (
        "train yolov7-tiny-small schedule.warmup.kind=constant",
        "schedule.warmup.kind=constant has no effect",
        "epochs and iterations",
    ),
    "heads that the model has not": (
        f"{TRAIN} model.loss.aux_gain=1",
        "aux_gain=1 has no effect",
        "model.variant=tiny",
    ),
    "weights of other classes": (
        f"{TRAIN} {SMALL} model.loss.class_weights=[1,2,3]",
        "class_weights: 3 weights for 2 classes (disc, square)",
        "[[disc, 2]]",
    ),
    "weight of a class that is not there": (
        f"{TRAIN} {SMALL} model.loss.class_weights=[[dics,2]]",
        "no class 'dics'",
        "Did you mean 'disc'",
    ),
    "negative weight of a class": (f"{TRAIN} model.loss.class_weights=[1,-2]", "class_weights", "[[pedestrian, 2]]"),
    "two ways to accumulate": (f"{TRAIN} accumulation.every=2", "either every or nominal_batch_size"),
    "spaces around the sign": (f"{TRAIN} epochs = 3", "key=value", "no spaces"),
    "no sign": (f"{TRAIN} fast", "'fast' is not a change", "key=value"),
    "list without its end": (f"{TRAIN} 'augment.scale=[0.5, 1'", "[1, 2]", "quotes"),
    "unset variable": (f"train {RECIPE} 'data.path=$NO_SUCH_PLACE/x'", "'NO_SUCH_PLACE'", "not set"),
    "recipe as a key": (f"train {RECIPE} recipe=yolov7", "Name it first", "sightline train yolov7"),
    # change files
    "missing file": ("train nowhere.yaml", "nowhere.yaml", "does not exist"),
    "typo in a file's name": ("train twise.yaml", "twise.yaml", "Did you mean 'twice.yaml'"),
    "file without recipe": ("train no_recipe.yaml", "no_recipe.yaml", "recipe: NAME"),
    "key twice in a file": ("train twice.yaml", "twice.yaml:3", "'lr' is given twice"),
    "tag in a file": ("train tag.yaml", "tag.yaml:2", "refused"),
    "typo in a file": ("train typo.yaml", "typo.yaml:4", "'optimizer.momentum'"),
    "wrong recipe in a file": ("train wrong_recipe.yaml", "wrong_recipe.yaml:2", "'yolov7-tiny'"),
    "value out of range in a file": ("train range.yaml", "range.yaml:3", "augment.mosaic"),
    "key without effect in a file": ("train idle.yaml", "idle.yaml:5", "data.world.scenes=7 has no effect"),
    # devices and sizes
    "no GPU": (f"{TRAIN} device=cuda", "device=cuda", "finds no GPU", "device=cpu"),
    "GPU that is not there": (f"{TRAIN} device=cuda:7", "device=cuda:7", "device=cpu"),
    "number of a GPU": (f"{TRAIN} device=0", "device=cuda:0", "finds no GPU"),
    "numbers of GPUs": (f"{TRAIN} device=0,2", "device=cuda:0,2", "finds no GPU", "device=cpu"),
    "search for kernels of the same bits": (
        f"{TRAIN} deterministic=true cudnn_benchmark=true",
        "cudnn_benchmark=true",
        "deterministic=true",
        "leave one out",
    ),
    "a GPU twice": (f"{TRAIN} device=0,0", "names GPU 0 twice"),
    "numbers of GPUs and of processes": (f"{TRAIN} device=0,2 devices=2", "devices=2 has no effect", "device=cuda:0,2"),
    "evaluation on several GPUs": (f"eval {RUN} device=0,2", "several GPUs", "an evaluation uses one"),
    "unknown device": (f"{TRAIN} device=gpu", "'gpu'", "cuda"),
    "size between strides": (f"{TRAIN} image_size=100 device=cpu", "100", "stride 32", "image_size=96"),
    # data
    "wrong path": (f"train {RECIPE} --data ciyt", "ciyt", "did you mean city"),
    "folder without data": (f"train {RECIPE} --data empty", "empty", "data.yaml", "it holds nothing"),
    "file that is no data": (
        f"train {RECIPE} --data plain.txt",
        "plain.txt:1",
        "'hello' names no image",
        "a data.yaml",
    ),
    "class too high": (on("class_high"), "3.txt:2", "class 7", "0 to 1", "skip"),
    "class negative": (on("class_negative"), "1.txt:1", "class -3", "sightline check"),
    "NaN in a label": (on("not_a_number"), "0.txt:1", "the box is (nan", "skip"),
    "missing column": (on("few_columns"), "0.txt:1", "got 4 columns", "skip"),
    "zero-byte image": (on("zero_bytes"), "2.png", "skip"),
    "truncated image": (on("cut_off"), "2.png", "cut off", "skip"),
    "text as an image": (on("no_image"), "0.png", "no image", "skip"),
    "no labels at all": (on("no_labels"), "none of 3 images has a label file", "looked for in no_labels/labels"),
    "no names": (on("no_names"), "data.yaml", "names: [car, truck]"),
    "fewer names than classes": (on("one_name"), "0.txt:2", "class 1, but the only class is 0"),
    "nc against names": (on("other_nc"), "data.yaml:5", "'nc' is 3", "2 names"),
    "no validation split": (on("no_val"), "data.yaml", "'val'", "it has: train"),
    "syntax error in data.yaml": (on("bad_syntax"), "data.yaml:5", "expected ',' or ']'"),
    "tag in data.yaml": (on("tagged"), "data.yaml:5", "refused"),
    "format that is not there": (f"{TRAIN} data.format=voc {SMALL}", "'voc'"),
    "several formats": ("check mixed", "several formats: coco and voc", "data.format=coco", "--format coco"),
    "format that there is none of": ("check city --format yol", "'yol'", "Did you mean 'yolo'"),
    "format of a recipe": (f"check {RECIPE} --format yolo", "--format", "is for data sets"),
    "split that is not there": (f"{TRAIN} {SMALL} data.val_split=held_out", "'held_out'", "data.val_split=", "--split"),
    "check of nothing": ("check nowhere", "nowhere", "no such file or folder"),
    # run folders
    "folder with a run": (f"{TRAIN} {SMALL} --out {RUN}", "holds a run already", f"sightline resume {RUN}"),
    "folder with something": (f"{TRAIN} {SMALL} --out taken", "taken", "not empty", "--out"),
    "folder below a file": (f"{TRAIN} {SMALL} --out plain.txt/run", "plain.txt", "no folder", "--out"),
    "folder and name": (f"{TRAIN} {SMALL} --out a --name b", "either a folder (a) or a name (b)"),
    "name with a slash": (f"{TRAIN} {SMALL} --name a/b", "'a/b'", "slash"),
    "repeat of nothing": ("train --from runs/nowhere", "runs/nowhere", "no such run"),
    "repeat of many": (f"train --from runs/{RECIPE}", "holds a run", RUN),
    "recipe and repeat": (f"train {RECIPE} --from {RUN}", "either a recipe", "--from"),
    "resume of nothing": ("resume runs/nowhere", "no such run"),
    "resume of data": ("resume city", "city", "run.json"),
    "resume of a file": ("resume plain.txt", "plain.txt", "is a file"),
    "resume of the finished": (f"resume {RUN}", "is finished", "epochs=4"),
    "resume with weights": (
        f"resume {RUN} epochs=3 weights=other.safetensors",
        "weights has no effect",
        f"sightline train --from {RUN} weights=other.safetensors",
    ),
    "resume with other layers frozen": (
        f"resume {RUN} epochs=3 freeze=*.bias",
        "freeze has no effect",
        f"train --from {RUN} 'freeze=*.bias'",
    ),
    "resume of another model": (f"resume {RUN} epochs=3 model.width=0.25", "do not fit", "own configuration"),
    "run in use": (f"resume {RUN} epochs=3", "is being written by process", "--out"),
    # weights
    "weights of nowhere": (f"{TRAIN} {SMALL} weights=nowhere", "nowhere", "no such checkpoint"),
    "weights in a pickle": (f"{TRAIN} {SMALL} weights=weights.pt", "weights.pt", "pickle", "not opened"),
    "weights of another model": (f"{TRAIN} {SMALL} weights=other.safetensors", "none of its 1 tensors fits"),
    "weights in a text": (f"{TRAIN} {SMALL} weights=plain.txt", "plain.txt", "safetensors"),
    "weights with a NaN": (f"{TRAIN} {SMALL} weights=nan.safetensors", "nan.safetensors", "NaN or infinite"),
    "part of no weights": (f"{TRAIN} {SMALL} partial_weights=true", "partial_weights=True has no effect", "weights"),
    # freezing
    "layers that are not there": (f"{TRAIN} {SMALL} freeze=backbone.*", "'backbone.*'", "'detector.network.layers.*'"),
    "layers by half of their name": (f"{TRAIN} {SMALL} freeze=layers.0", "Did you mean 'detector.network.layers.0.*'"),
    "everything frozen": (f"{TRAIN} {SMALL} freeze=*", "nothing is left to train"),
    # trained models
    "unknown split": (f"eval {RUN} --split tset", "'tset'", "train, val"),
    "unknown checkpoint": (f"eval {RUN} --checkpoint 99", "'99'", "latest, best or one of these steps: 2, 4"),
    "changed model": (f"eval {RUN} model.width=0.25", "do not fit", "own configuration"),
    "key that there is none of, of an evaluation": (f"eval {RUN} imgsz=320", "'imgsz'", "Did you mean 'image_size'"),
    "key that there is none of, of a prediction": (f"predict {RUN} city imgsz=320", "'imgsz'", "'image_size'"),
    "change that no prediction uses": (f"predict {RUN} city lr=0.1", "lr has no effect on a prediction", "image_size"),
    "change that nothing uses": (f"eval {RUN} lr=0.1", "lr has no effect on an evaluation", "image_size"),
    "other classes": (f"eval {RUN} --data other_classes", "cat, dog", "disc, square"),
    "other data missing": (f"eval {RUN} --data ciyt", "ciyt", "did you mean city"),
    "figures into a folder": (f"eval {RUN} --json empty", "empty", "is a folder"),
    "detections below a file": (f"eval {RUN} --save plain.txt/found.json", "plain.txt", "no folder"),
    "damaged checkpoint": ("eval damaged", "damaged", "model.safetensors", "--checkpoint"),
    "pickle as a run": ("eval weights.pt", "weights.pt", "pickle", "not opened", "a run's folder"),
    "no picture": (f"predict {RUN}", "SOURCE", "predict --help"),
    "missing picture": (f"predict {RUN} city/images/vall", "vall", "Did you mean 'val'"),
    "folder without pictures": (f"predict {RUN} empty", "empty", "no image or video", "pattern"),
    "pattern without matches": (f"predict {RUN} 'city/*.gif'", "city/*.gif", "pattern"),
    "text as a picture": (f"predict {RUN} plain.txt", "plain.txt", "no image"),
    "broken picture": (f"predict {RUN} zero_bytes/images/train/2.png", "2.png", "empty"),
    "score above one": (f"predict {RUN} city --score 3", "--score", "less than or equal to 1"),
    "result over its source": (f"predict {RUN} city/images/val --out city/images/val", "0.png, a source", "--out"),
    "result below a file": (f"predict {RUN} city/images/val --out plain.txt", "plain.txt", "no folder"),
    # everything else
    "folder as the truth": ("score coco . found.json", "is a folder", "Give a file, such as found.json"),
    "missing truth": ("score coco thruth.json found.json", "thruth.json", "Did you mean 'truth.json'"),
    "missing detections": ("score coco truth.json foundd.json", "foundd.json", "Did you mean 'found.json'"),
    "swapped files": ("score coco found.json truth.json", "found.json", "The truth comes first"),
    "results of other images": ("score coco truth.json strange.json", "detections[0]", "image_id 6"),
    "keys of no recipe": ("list yolov7-tinny", "'yolov7-tiny'"),
    "keys of no group": (f"list {RECIPE} augmnt", "'augmnt'", "'augment'"),
    "one run to compare": (f"compare {RUN}", "two or more"),
    "a run beside itself": (f"compare {RUN} {RUN}", "given twice"),
    "curve that is no png": (f"plot-lr {RECIPE} --data city --out lr.jpg", "lr.jpg", ".png"),
    "status of nothing": ("status nowhere", "nowhere", "no such run"),
    "report of nothing": ("report city", "city", "run.json"),
    "unknown format": ("world new --format yol", "'yol'", "Did you mean 'yolo'"),
    "world over something": ("world taken", "taken", "not an empty folder"),
    "world of nothing": ("world new --scenes 1", "--scenes", "greater than or equal to 2"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_with_its_cure_and_leaves_nothing(messy, monkeypatch, name):
    line, *words = MISTAKES[name]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = files_in(messy)
    if name == "run in use":
        with RunLock(messy / RUN):
            outcome = typed(line, cwd=messy)
    else:
        outcome = typed(line, cwd=messy)
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert len(outcome.err.splitlines()) <= 5, outcome.err
    assert "Traceback" not in outcome.err
    missing = [word for word in words if word not in outcome.err]
    assert not missing, f"{missing} not in: {outcome.err}"
    assert files_in(messy) == before


def test_there_are_more_mistakes_than_promised():
    assert len(MISTAKES) >= 30


@pytest.mark.parametrize("name", ["typo in the recipe", "wrong path", "resume of the finished"])
def test_a_real_process_ends_in_the_same_way(messy, name):
    line, *words = MISTAKES[name]
    command = [sys.executable, "-m", "sightline.cli.main", *line.split()]
    done = subprocess.run(command, cwd=messy, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) <= 5
    assert all(word in done.stderr for word in words), done.stderr


def test_a_run_whose_checkpoints_are_all_damaged_is_not_started_anew(messy):
    before = files_in(messy)
    outcome = typed("resume damaged epochs=3", cwd=messy)
    assert outcome.code == 2
    assert [line.split(" is damaged")[0] for line in outcome.out.splitlines()] == [
        "Checkpoint step_00000004", "Checkpoint step_00000002",
    ]  # fmt: skip
    assert "all 2 checkpoints are damaged" in outcome.err
    assert files_in(messy) == before


def test_control_characters_of_a_path_are_shown_not_sent(messy):
    outcome = sightline("check", "no\x1b[31m\nwhere", cwd=messy)
    assert outcome.code == 2
    assert "\x1b" not in outcome.err
    assert r"no\x1b[31m\nwhere" in outcome.err


def test_faulty_images_can_be_skipped_and_are_counted(messy, tmp_path):
    args = ["--data", messy / "class_high", *SMALL.split(), "data.on_fault=skip", "--out", tmp_path / "run"]
    with without_report():
        outcome = sightline("train", RECIPE, *args, cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert re.search(r"left out 1 of 8 images .*data\.on_fault=skip", outcome.out)


class OutOfMemoryError(RuntimeError):
    """Has the name that PyTorch's has."""


@pytest.mark.parametrize(
    "error, words",
    [
        (FloatingPointError("loss became NaN at step 3"), "loss became NaN at step 3"),
        (OutOfMemoryError("CUDA out of memory\nmore"), "lower batch_size or image_size. CUDA out of memory"),
        (OSError("only words"), "only words"),
    ],
)
def test_failures_end_with_one_and_a_line(messy, monkeypatch, error, words):
    def fail():
        raise error

    monkeypatch.setattr("sightline.api.list_recipes", fail)
    outcome = typed("list", cwd=messy)
    assert (outcome.code, len(outcome.err.splitlines())) == (1, 1)
    assert words in outcome.err


def test_a_defect_of_ours_keeps_its_traceback(messy, monkeypatch):
    monkeypatch.setattr("sightline.api.list_recipes", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        typed("list", cwd=messy)


def test_a_disk_that_refuses_is_a_failure_not_a_mistake(messy, tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError(28, "No space left on device", "weights.bin")

    monkeypatch.setattr("sightline.engine.session.build_training", refuse)
    city = write_city(tmp_path / "city")
    outcome = sightline("train", RECIPE, "--data", city, *SMALL.split(), cwd=tmp_path)
    assert outcome == (1, "", "error: weights.bin: No space left on device\n")
    assert not Path(tmp_path, "runs").exists()
