"""What runs on images have in common."""

import pytest

from sightline import api
from tests.data import class_zoo
from tests.data.zoo import write_yolo

SMALL = ["device=cpu", "workers=0"]


def training_batches(recipe, changes, data):
    config, _ = api.resolve(recipe, [*SMALL, *changes], data=data)
    problem = config.open()
    loaders = {"train": problem.train_loader, "val": problem.eval_loader}
    lengths = {name: [one.batch_length(k) for k in range(one.batches_per_epoch)] for name, one in loaders.items()}
    for one in loaders.values():
        one.close()
    return lengths


@pytest.mark.parametrize("drop, expected", [("true", [4, 4]), ("false", [4, 4, 2])])
def test_a_last_batch_that_is_not_full_can_be_left_out_of_training_alone(tmp_path, drop, expected):
    data = class_zoo.write_cifar_python(tmp_path / "cifar")  # 10 images to train on, 2 to test
    changes = ["batch_size=4", "eval_batch_size=4", f"data.drop_last={drop}"]
    assert training_batches("resnet-e18-cifar", changes, data) == {"train": expected, "val": [2]}


def test_so_it_can_for_detectors(tmp_path):
    data = write_yolo(tmp_path / "boxes")
    whole = training_batches("yolov7-tiny-small", ["model.width=0.125", "batch_size=2"], data)["train"]
    full = training_batches("yolov7-tiny-small", ["model.width=0.125", "batch_size=2", "data.drop_last=true"], data)
    assert whole[-1] == 1 and full["train"] == whole[:-1]


def test_without_val_the_test_images_are_evaluated_and_named(tmp_path):
    data = class_zoo.write_cifar_python(tmp_path / "cifar")
    config, _ = api.resolve("small-cnn", [*SMALL, "batch_size=4"], data=data)
    problem = config.open(training=False)
    problem.eval_loader.close()
    assert problem.source.endswith(", test") and problem.facts["splits"].keys() == {"cifar/test"}
    cut, _ = api.resolve("small-cnn", [*SMALL, "batch_size=4", "data.val_fraction=0.5"], data=data)
    problem = cut.open(training=False)
    problem.eval_loader.close()
    assert problem.source.endswith(", val"), "what was cut off the training images comes first"
