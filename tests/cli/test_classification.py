"""A classifier on the command line, as a user would type it; and the mistakes that only classifiers have."""

import csv
import json
import math
import re
import shutil
import sys

import pytest
import torch

from sightline.engine.checkpoint.reader import load_tensors, newest_whole
from sightline.recipes import RECIPES
from sightline.report.history import read_run
from tests.class_pictures import SHAPES, TINY_CLASSES, write_shapes
from tests.cli.tool import RECIPE as DETECTOR
from tests.cli.tool import files_in, sightline, typed, without_report, write_city
from tests.data.class_zoo import write_cifar_python, write_idx
from tests.faults.tiny import assert_same_bits

RUN = "runs/small-cnn/1"
FIGURES = {"top1", "balanced_accuracy", "precision", "f1", "nll", "ece"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A user's folder: ``shapes``, class folders, and ``runs/small-cnn/1``, a run of two epochs. Do not write here."""
    folder = tmp_path_factory.mktemp("shop")
    write_shapes(folder / "shapes")
    mixing = ("augment.mixup_alpha=0.4", "augment.randaugment_ops=2", "ema.decay=0.9")
    done = sightline("train", "small-cnn", "--data", "shapes", *TINY_CLASSES, *mixing, cwd=folder)
    assert done.code == 0, done.err
    (folder / "train.log").write_text(done.out)
    return folder


def trained(cwd, *arguments):
    with without_report():
        done = sightline("train", *arguments, cwd=cwd)
    assert done.code == 0, done.err
    return done.out


def changed(*changes):
    """The tiny settings with others in their place."""
    given = dict(change.split("=", 1) for change in (*TINY_CLASSES, *changes))
    return [f"{key}={value}" for key, value in given.items()]


def rows_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def evaluated(run):
    return [row["values"] for row in rows_of(run) if row["kind"] == "eval"]


# train, resume, report


def test_training_tells_data_losses_and_accuracy(shop):
    log = (shop / "train.log").read_text()
    assert "shapes, 3 classes: disc, square, stripe" in log
    assert "24 images to train on, 12 images to evaluate" in log
    steps = [line for line in log.splitlines() if line.startswith("epoch") and "cross_entropy" in line]
    assert len(steps) == 6 and all("top1" in line and "images/s" in line for line in steps)
    assert len(re.findall(r"evaluated: top1 [01]\.\d+", log)) == 2
    assert len(evaluated(shop / RUN)) == 2 and all(values.keys() >= FIGURES for values in evaluated(shop / RUN))


def test_the_loss_that_is_minimised_leaves_the_accuracy_out(shop):
    rows = [row["values"] for row in rows_of(shop / RUN) if row["kind"] == "train"]
    assert len(rows) == 6
    assert all(row["loss"] == row["loss/cross_entropy"] and 0 <= row["top1"] <= 1 for row in rows)


def test_the_report_shows_accuracy_confusion_and_pictures(shop):
    page = (shop / RUN / "report" / "index.html").read_text()
    for words in ("Top-1 accuracy", "Confusion, counts", "Reliability", "Predictions", "Training batches", *SHAPES):
        assert words in page, words
    pictures = [path.name for path in (shop / RUN / "pictures").glob("*.jpg")]
    assert sorted(name.split("_")[0] for name in pictures) == ["eval", "train"]


def test_discs_squares_and_stripes_are_learned_in_seconds(shop, tmp_path):
    trained(tmp_path, "small-cnn", "--data", shop / "shapes", *changed("epochs=15"), "--out", "run")
    assert evaluated(tmp_path / "run")[-1]["top1"] == 1.0


def test_the_best_likelihood_is_the_smallest(shop, tmp_path):
    changes = changed("epochs=4", "evaluate.best.metric=nll")
    trained(tmp_path, "small-cnn", "--data", shop / "shapes", *changes, "--out", "run")
    best = min((row["values"]["nll"], row["step"]) for row in rows_of(tmp_path / "run") if row["kind"] == "eval")
    assert read_run(tmp_path / "run").best_row.step == best[1]
    assert (tmp_path / "run" / "checkpoints" / "best").read_text().strip() == f"step_{best[1]:08d}"


def test_a_stopped_run_goes_on_to_the_bits_of_an_unbroken_one(shop, tmp_path):
    again = ("--from", RUN, "epochs=4")
    trained(shop, *again, "--out", tmp_path / "unbroken")
    with without_report():
        assert sightline("train", *again, "stop_at_epoch=2", "--out", tmp_path / "broken", cwd=shop).code == 3
        assert sightline("resume", tmp_path / "broken", "stop_at_epoch=null", cwd=shop).code == 0
    assert_same_bits(tmp_path / "broken", tmp_path / "unbroken")


def test_the_seed_decides_every_loss(shop, tmp_path):
    trained(shop, "--from", RUN, "--out", tmp_path / "again")
    trained(shop, "--from", RUN, "seed=5", "--out", tmp_path / "other")
    assert rows_of(tmp_path / "again") == rows_of(shop / RUN)
    assert rows_of(tmp_path / "other") != rows_of(shop / RUN)


def test_the_largest_batch_that_fits_is_found(shop, tmp_path):
    out = trained(
        tmp_path, "small-cnn", "--data", shop / "shapes", *changed("batch_size=auto", "auto_batch.most=4", "epochs=1"),
        "--out", "run",
    )  # fmt: skip
    assert "batch_size=auto: 4" in out and "1 epoch, 6 steps, batches of 4" in out


def test_a_binary_network_learns_in_grey(shop, tmp_path):
    small = ("image_size=20", "model.channels=8", "model.hidden=16", "epochs=1")
    out = trained(tmp_path, "lenet", "--data", shop / "shapes", *changed(*small, "optimizer.weight_decay=0.1"))
    table = {row[0]: row for row in map(str.split, out.splitlines()) if row[1:2] and row[0] in ("no_decay", "decay")}
    # Decayed: the first convolution of one channel of grey, 5*5*1*8, and the last layer, 16*3, with their biases.
    assert table["decay"][2:4] == ["259", "0.1"] and 259 == 200 + 8 + 48 + 3
    assert table["no_decay"][3] == "0", "binary weights and norms"


# freezing and weights


def test_a_frozen_network_keeps_its_bits_and_the_last_layer_learns(shop, tmp_path):
    start = load_tensors(newest_whole(shop / RUN, print), "ema")["ema"]
    changes = (f"weights={shop / RUN}", "freeze=[network.stem.*, network.blocks.*, network.norm.*]", "ema=null")
    kept = [change for change in TINY_CLASSES if not change.startswith("ema")]
    out = trained(tmp_path, "small-cnn", "--data", shop / "shapes", *kept, *changes, "--out", "run")
    assert "0 new, 0 unused" in out and "statistics of 7 normalisation layers" in out  # two a block, and the last
    after = load_tensors(newest_whole(tmp_path / "run", print))["model"]
    same = {name for name in start if torch.equal(start[name], after[name])}
    assert start.keys() - same == {"network.head.weight", "network.head.bias"}


def test_weights_of_other_classes_begin_a_new_last_layer(shop, tmp_path):
    write_shapes(tmp_path / "five", names=("a", "b", "c", "d", "e"))
    out = trained(tmp_path, "small-cnn", "--data", "five", *TINY_CLASSES, f"weights={shop / RUN}", "--out", "run")
    assert "2 new, 0 unused" in out
    lines = (tmp_path / "run" / "start_weights.txt").read_text().splitlines()
    assert [line.split()[1] for line in lines if line.startswith("new ")] == [
        "network.head.weight", "network.head.bias",
    ]  # fmt: skip


# eval, predict, release, compare, check, list, plot-lr


def test_every_figure_of_an_evaluation_follows_from_its_csv(shop, tmp_path):
    files = ("--save", tmp_path / "answers.csv", "--json", tmp_path / "figures.json")
    outcome = sightline("eval", RUN, "--checkpoint", "latest", *files, cwd=shop)
    assert outcome.code == 0, outcome.err
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert figures == {name: evaluated(shop / RUN)[-1][name] for name in FIGURES}, "those of the training, to the bit"
    with (tmp_path / "answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"].split("/")[-2:] for row in rows] == [[c, f"{n}.png"] for c in SHAPES for n in range(4)]
    assert figures["top1"] == sum(row["labels"] == row["predicted"] for row in rows) / 12
    assert figures["nll"] == pytest.approx(-math.fsum(float(row["log_likelihoods"]) for row in rows) / 12, abs=1e-12)


def test_other_splits_and_data_can_be_evaluated(shop, tmp_path):
    train = sightline("eval", RUN, "--split", "train", cwd=shop)
    assert train.code == 0 and f"on {shop / 'shapes'}, train" in train.out
    write_shapes(tmp_path / "more", val=7)
    other = sightline("eval", RUN, "--data", tmp_path / "more", "--json", tmp_path / "figures.json", cwd=shop)
    assert other.code == 0, other.err
    assert json.loads((tmp_path / "figures.json").read_text())["num_images"] == 21


def test_predictions_are_those_of_the_evaluation(shop, tmp_path):
    files = ("--save", tmp_path / "answers.csv")
    assert sightline("eval", RUN, *files, cwd=shop).code == 0
    outcome = sightline("predict", RUN, "shapes/val", "--out", tmp_path / "found", "--score", "0", cwd=shop)
    assert outcome.code == 0, outcome.err
    with (tmp_path / "answers.csv").open(newline="") as file:
        wanted = {row["image"].rpartition("shapes/")[2]: row for row in csv.DictReader(file)}
    entries = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert len(entries) == 12
    for entry in entries:
        best = entry["classes"][0]
        row = wanted[entry["file"].rpartition("shapes/")[2]]
        assert best["label"] == int(row["predicted"]) and best["class"] == SHAPES[best["label"]]
        assert best["score"] == pytest.approx(float(row["confidences"]), abs=2e-5)  # five decimals
        assert (tmp_path / "found" / entry["picture"]).exists()
        assert f"{best['class']} {best['score']:.2f}" in outcome.out


def test_a_released_file_predicts_as_its_run_does(shop, tmp_path):
    assert sightline("release", RUN, "--out", tmp_path / "c.safetensors", cwd=shop).code == 0
    for model, out in ((shop / RUN, "of_run"), ("c.safetensors", "of_file")):
        assert sightline("predict", model, shop / "shapes/val", "--out", out, cwd=tmp_path).code == 0
    found = [(tmp_path / out / "predictions.json").read_text() for out in ("of_run", "of_file")]
    assert found[0] == found[1]
    outcome = sightline("eval", "c.safetensors", "--data", shop / "shapes", cwd=tmp_path)
    assert outcome.code == 0 and "top1" in outcome.out


def test_classifiers_are_compared_with_each_other(shop, tmp_path):
    for lr in ("0.03", "0.01"):
        trained(tmp_path, "small-cnn", "--data", shop / "shapes", *changed(f"lr={lr}"), "--out", lr)
    compared = sightline("compare", "0.03", "0.01", cwd=tmp_path)
    assert compared.code == 0, compared.err
    rows = [line.split() for line in compared.out.splitlines()]
    assert any(row[:2] == ["best", "top1"] for row in rows) and ["lr", "0.03", "0.01"] in rows


def test_a_run_is_checked_before_it_begins(shop):
    before = files_in(shop)
    outcome = sightline("check", "small-cnn", "--data", "shapes", "image_size=16", "device=cpu", cwd=shop)
    assert outcome.code == 0, outcome.out
    assert "all 36 images were decoded" in outcome.out and "train: 24 images of 3 classes" in outcome.out
    assert "judged: top1, balanced_accuracy" in outcome.out and "all well" in outcome.out
    assert files_in(shop) == before


def test_a_check_names_a_last_batch_that_cannot_be_trained_on(shop):
    outcome = sightline("check", "lenet", "--data", "shapes", "batch_size=23", "device=cpu", cwd=shop)
    assert outcome.code == 2
    assert "batch_size=23: 24 images leave 1" in " ".join(outcome.out.split())
    assert sightline("check", "lenet", "--data", "shapes", "batch_size=24", "device=cpu", cwd=shop).code == 0


def test_class_folders_are_counted(shop):
    outcome = typed("check shapes", cwd=shop)
    assert outcome.code == 0 and "class_folders, 3 classes" in outcome.out and "no faults" in outcome.out


@pytest.mark.parametrize(
    "recipe",
    [
        name
        for name, place in RECIPES.items()
        if place.startswith(("sightline.recipes.classifiers", "sightline.recipes.binary"))
    ],
)
def test_keys_of_every_classifier_are_listed_with_help(recipe, tmp_path):
    outcome = typed(f"list {recipe}", cwd=tmp_path)
    assert outcome.code == 0
    assert "crop_ratio: " in outcome.out and "loss.label_smoothing: " in outcome.out and "model." in outcome.out


def test_the_schedule_of_a_classifier_is_drawn(shop, tmp_path):
    outcome = sightline(
        "plot-lr", "small-cnn", *TINY_CLASSES, "--data", shop / "shapes", "--out", "lr.png", cwd=tmp_path
    )
    assert outcome.code == 0, outcome.err
    assert len((tmp_path / "lr.csv").read_text().splitlines()) == 1 + 6


# mistakes


@pytest.fixture(scope="module")
def messy(shop, tmp_path_factory):
    """The shop with all that a user may have got wrong in it."""
    folder = tmp_path_factory.mktemp("messy")
    shutil.copytree(shop, folder, dirs_exist_ok=True)
    write_city(folder / "city")
    write_idx(folder / "digits")
    write_cifar_python(folder / "cifar")
    (folder / "nothing").mkdir()
    for name in ("cut_off", "no_val", "other_classes", "one_class", "odd"):
        shutil.copytree(folder / "shapes", folder / name)
    picture = folder / "cut_off" / "train" / "disc" / "1.png"
    picture.write_bytes(picture.read_bytes()[:300])
    shutil.rmtree(folder / "no_val" / "val")
    for split in ("train", "val"):
        (folder / "other_classes" / split / "disc").rename(folder / "other_classes" / split / "circle")
        for name in ("disc", "square"):
            shutil.rmtree(folder / "one_class" / split / name)
    shutil.copy(folder / "odd" / "train" / "disc" / "0.png", folder / "odd" / "train" / "disc" / "more.png")
    write_idx(folder / "magic")
    images = folder / "magic" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:2] + b"\x09" + images.read_bytes()[3:])
    write_cifar_python(folder / "evil")
    (folder / "evil" / "data_batch_2").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    return folder


def on(data, *changes, recipe="small-cnn"):
    return " ".join(("train", recipe, "--data", data, *changed(*changes)))


MISTAKES = {
    # data
    "wrong path": (on("shaeps"), "shaeps", "did you mean shapes"),
    "folder without data": (on("nothing"), "nothing", "train/CLASS/*.jpg", "it holds nothing"),
    "boxes for a classifier": (on("city"), "images with boxes (yolo)", "recipes of detectors"),
    "file of boxes for a classifier": (on("city/data.yaml"), "data.yaml", "recipes of detectors", "yolo"),
    "classes for a detector": (f"train {DETECTOR} --data shapes", "folders of image classes", "recipes of classifiers"),
    "CIFAR for a detector": (f"train {DETECTOR} --data cifar", "image classes (CIFAR)", "recipes of classifiers"),
    "MNIST for a detector": (f"train {DETECTOR} --data digits", "image classes (MNIST's kind)", "classifiers"),
    "classes for a detector's evaluation": (f"eval {RUN} --data city", "images with boxes", "detectors"),
    "other classes": (f"eval {RUN} --data other_classes", "circle, square, stripe", "disc, square, stripe"),
    "no validation split": (on("no_val"), "no split 'val'", "it has: train", "data.val_fraction=0.1"),
    "split that is there already": (on("shapes", "data.val_fraction=0.5"), "a split 'val' already"),
    "part of a world": (f"train small-cnn {' '.join(TINY_CLASSES)} data.val_fraction=0.5", "built-in world", "--data"),
    "one class": (on("one_class"), "only one class folder", "stripe"),
    "names of other classes": (on("shapes", "data.class_names=[a,b,c]"), "disc, square, stripe", "a, b, c"),
    "truncated image": (on("cut_off"), "disc/1.png", "cut off", "data.on_fault=skip"),
    "wrong magic": (on("magic", "data.val_split=test"), "train-images-idx3-ubyte: byte 2", "type 9"),
    "pickle that wants to run code": (on("evil", "data.val_split=test"), "data_batch_2", "os.system", "run code"),
    "unknown split": (f"eval {RUN} --split tset", "'tset'", "train, val"),
    # images
    "grey with three numbers": (on("shapes", "data.grey=true"), "data.grey=true", "normalize.mean", "one number"),
    "a mean of 0 to 255": (
        on("shapes", "normalize.mean=[123.7,116.3,103.5]"), "normalize.mean", "less than or equal to 1",
    ),
    "two numbers for three channels": (on("shapes", "normalize.mean=[0.5,0.5]"), "one number or three", "2 and 3"),
    "grey for torchvision": (
        on("shapes", "data.grey=true", "normalize.mean=[0.5]", "normalize.std=[1]", recipe="torchvision"),
        "take colour", "leave out data.grey",
    ),
    "images too small": (on("shapes", "image_size=4"), "image_size", "greater than or equal to 8"),
    "images too small for LeNet": (on("shapes", "image_size=13", recipe="lenet"), "13 x 13", "16 pixels or more"),
    "images too small for a DenseNet": (on("shapes", recipe="binary-densenet"), "16 x 16", "32 to 39 pixels"),
    "images too small for a MeliusNet": (on("shapes", "image_size=30", recipe="meliusnet"), "30 x 30", "32 to 39"),
    "sides that a shortcut cannot halve": (
        on("shapes", "image_size=9", recipe="resnet-e18-cifar"), "9 x 9", "multiples of 8",
    ),
    "images too small for AlexNet": (
        on("shapes", "model.name=alexnet", recipe="torchvision"),
        "image_size=16: the network does not take images of 16 x 16 pixels", "larger image_size",
    ),
    "size of no transformer": (on("shapes", "model.name=vit_b_16", "image_size=50", recipe="torchvision"), "50", "224"),
    "one image left for batch norm": (
        on("odd", "image_size=28", recipe="lenet"), "batch_size=8: 25 images leave 1", "leaves more",
    ),
    "evaluation of too small images": (f"eval {RUN} image_size=3", "image_size", "greater than or equal to 8"),
    # networks
    "bits that a sign has not": (
        on("shapes", "model.quantisation.activation_bits=4", recipe="resnet-e18-cifar"),
        "activation_bits=4", "'round' or 'dorefa'",
    ),
    "sign of eight bits": (
        on("shapes", "model.quantisation.weight_bits=8", recipe="lenet"), "weight_bits=8", "'dorefa'",
    ),
    "typo in a method": (
        on("shapes", "model.quantisation.activation_method=dorefaa", recipe="meliusnet"), "Did you mean 'dorefa'",
    ),
    "typo in a network's name": (on("shapes", "model.name=resnt18", recipe="torchvision"), "'resnet18'"),
    "name of no network": (on("shapes", "model.name=zzz", recipe="torchvision"), "'zzz'", "pytorch.org"),
    "timm that is not installed": (on("shapes", recipe="timm"), "pip install 'sightline[timm]'"),
    # keys
    "mixing that is off": (on("shapes", "augment.mix=0.5"), "augment.mix=0.5 has no effect", "mixup_alpha"),
    "crop of another kind": (on("shapes", "augment.crop_scale=[0.1,1]"), "augment.crop=resized"),
    "five best of three classes": (on("shapes", "evaluate.best.metric=top5"), "no such figure", "'top1'"),
    "figure of a detector": (on("shapes", "evaluate.best.metric=AP"), "no such figure", "top1, balanced_accuracy"),
    # using
    "missing picture": (f"predict {RUN} shapes/vall", "vall", "Did you mean 'val'"),
    "score above one": (f"predict {RUN} shapes/val --score 2", "--score", "less than or equal to 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_with_its_cure_and_leaves_nothing(messy, monkeypatch, name):
    line, *words = MISTAKES[name]
    monkeypatch.setitem(sys.modules, "timm", None)  # as where it is not installed
    before = files_in(messy)
    outcome = typed(line, cwd=messy)
    assert outcome.code == 2, outcome
    assert outcome.out == "" and outcome.err.startswith("error: ")
    assert len(outcome.err.splitlines()) <= 5 and "Traceback" not in outcome.err
    missing = [word for word in words if word not in outcome.err]
    assert not missing, f"{missing} not in: {outcome.err}"
    assert files_in(messy) == before, "nothing is written, and no code of a pickle runs"


def test_a_cut_off_image_can_be_skipped_and_is_counted(messy, tmp_path):
    out = trained(tmp_path, "small-cnn", "--data", messy / "cut_off", *changed("data.on_fault=skip"), "--out", "run")
    assert re.search(r"left out 1 of 24 images .*data\.on_fault=skip", out)
    assert "23 images to train on" in out


def test_a_class_without_images_in_a_split_is_told_and_has_no_accuracy(messy, tmp_path):
    shutil.copytree(messy / "shapes", tmp_path / "shapes")
    shutil.rmtree(tmp_path / "shapes" / "val" / "square")
    out = trained(tmp_path, "small-cnn", "--data", "shapes", *TINY_CLASSES, "--out", "run")
    assert "1 x class without a sample in this split" in out and "8 images to evaluate" in out
    rows = {row["name"]: row for row in json.loads((tmp_path / "run" / "evaluation.json").read_text())["classes"]}
    assert rows["square"]["num_images"] == 0 and rows["square"]["accuracy"] is None
    assert 0 <= evaluated(tmp_path / "run")[-1]["balanced_accuracy"] <= 1


def test_a_batch_that_is_never_reached_is_no_reason_to_refuse(messy, tmp_path):
    changes = changed("image_size=20", "limit_batches=3", "epochs=1", "model.channels=8", "model.hidden=16")
    trained(tmp_path, "lenet", "--data", messy / "odd", *changes, "--out", "run")
    changes = changed("image_size=20", "data.drop_last=true", "epochs=1", "model.channels=8", "model.hidden=16")
    trained(tmp_path, "lenet", "--data", messy / "odd", *changes, "--out", "dropped")
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "dropped")
    assert [row["step"] for row in rows_of(tmp_path / "run") if row["kind"] == "train"] == [1, 2, 3]
