"""Starting from files of torchvision, timm and others, as they are downloaded."""

import argparse

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18

from sightline.engine.building import build_training
from sightline.engine.checkpoint.reader import load_tensors, newest_whole
from sightline.engine.checkpoint.start_weights import start_from_weights
from sightline.recipes.classifiers import torchvision as torchvision_recipe
from tests.cli.tool import sightline, without_report
from tests.faults.hostile import PICKLES

FAST = (
    "image_size=32", "batch_size=4", "epochs=1", "device=cpu", "workers=0", "threads=1", "log.trackers=[]",
    "log.train_pictures=0", "log.eval_pictures=0", "ema=null",
)  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of four pictures for training and two for evaluation."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                image = generator.integers(0, 255, (40, 40, 3), np.uint8)
                cv2.imwrite(str(root / split / name / f"{number}.png"), image)
    return root


def network(num_classes):
    torch.manual_seed(num_classes)
    return resnet18(num_classes=num_classes).eval()


def started(photos, weights):
    """A training of the ``torchvision`` recipe that started there, and the report."""
    config = torchvision_recipe().but(image_size=32, batch_size=4, device="cpu", threads=1, workers=0)
    config = config.but(data=config.data.but(path=photos))
    training = build_training(config, config.open())
    return training, start_from_weights(training, weights, partly=False)


CONTAINERS = {
    "state dict": lambda net: net.state_dict(),
    "checkpoint": lambda net: {"epoch": 3, "state_dict": net.state_dict(), "args": argparse.Namespace(lr=1)},
    "parallel": lambda net: {"model": nn.DataParallel(net).state_dict()},
    "averaged": lambda net: {"model": network(3).state_dict(), "ema": net.state_dict()},
    "module": lambda net: net,
    "in a detector": lambda net: (
        {f"backbone.{name}": t for name, t in net.state_dict().items()} | {"neck": net.fc.bias}
    ),
}


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "older"])
@pytest.mark.parametrize("kind", CONTAINERS)
def test_the_first_logits_are_those_of_torchvision(tmp_path, photos, kind, is_zip):
    theirs = network(2)
    torch.save(CONTAINERS[kind](theirs), tmp_path / "r18.pth", _use_new_zipfile_serialization=is_zip)
    training, report = started(photos, tmp_path / "r18.pth")
    assert (report.count("loaded"), report.count("new")) == (122, 0)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ours = training.task.network.eval().to(memory_format=torch.contiguous_format)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_a_file_of_another_number_of_classes_starts_a_run_with_a_new_head(tmp_path, photos, kind):
    theirs = network(10)
    file = tmp_path / f"r18.{kind}"
    if kind == "pth":
        torch.save({"state_dict": theirs.state_dict(), "args": argparse.Namespace(lr=1)}, file)
    else:
        save_file(theirs.state_dict(), file)
    changes = (f"weights={file.name}", "freeze=['network.conv1.*', 'network.bn1.*', 'network.layer?.*']", *FAST)
    with without_report():
        done = sightline("train", "torchvision", "--data", photos, *changes, "--out", "tuned", cwd=tmp_path)
    assert done.code == 0, done.err
    where = " (weights under 'state_dict')" if kind == "pth" else ""
    assert f"weights of {file.name}{where}: 120 of 122 tensors loaded, 2 new, 0 unused" in done.out
    assert "all names begin with 'network.' here alone; that is passed over" in done.out
    assert "new: network.fc.weight (2, 512), file (10, 512); network.fc.bias (2,), file (10,)" in done.out
    assert ("neither tensors nor plain values: argparse.Namespace" in done.out) == (kind == "pth")
    after = load_tensors(newest_whole(tmp_path / "tuned", print), "model")["model"]
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(after[f"network.{name}"], tensor) == (not name.startswith("fc."))


def test_the_file_tells_of_weights_that_are_not_used(tmp_path, photos):
    torch.save({"model": network(3).state_dict(), "ema": network(2).state_dict()}, tmp_path / "r18.pt")
    _, report = started(photos, tmp_path / "r18.pt")
    assert report.source.endswith("r18.pt (averaged weights under 'ema')")
    assert "the file has others, which are not used, under 'model'" in str(report)


@pytest.mark.parametrize("kind", PICKLES)
def test_a_hostile_file_is_refused_in_a_few_lines_and_not_run(tmp_path, photos, kind):
    PICKLES[kind](tmp_path / "weights.pth", tmp_path / "witness")
    done = sightline("train", "torchvision", "--data", photos, "weights=weights.pth", *FAST, cwd=tmp_path)
    assert done.code == 2
    assert "weights.pth: is a pickle" in done.err and len(done.err.splitlines()) <= 5
    if "torch" in kind:
        assert "its keys are 'model'; it names posix.system, and nothing of that was run" in done.err
    assert not (tmp_path / "witness").exists()


def test_a_damaged_file_is_refused_in_a_few_lines(tmp_path, photos):
    torch.save(network(2).state_dict(), tmp_path / "r18.pth")
    whole = (tmp_path / "r18.pth").read_bytes()
    (tmp_path / "r18.pth").write_bytes(whole[: len(whole) // 2])
    done = sightline("train", "torchvision", "--data", photos, "weights=r18.pth", *FAST, cwd=tmp_path)
    assert done.code == 2
    assert "r18.pth: no readable file of torch.save" in done.err and len(done.err.splitlines()) <= 5
