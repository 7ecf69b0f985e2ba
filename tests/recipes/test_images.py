"""What runs on images have in common."""

import pytest

from sightline import api
from sightline.engine.distributed.processes import Share
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


@pytest.mark.parametrize("batch_size, processes, is_refused", [(3, 1, True), (3, 2, True), (4, 2, True), (5, 2, False)])
def test_one_image_for_batch_norm_is_refused_in_whichever_process_it_is(tmp_path, batch_size, processes, is_refused):
    data = class_zoo.write_cifar_python(tmp_path / "cifar")  # 10 images to train on; they leave 1, 1, 2, 5
    changes = ["image_size=28", "sync_batch_norm=false", f"batch_size={batch_size}"]
    config, _ = api.resolve("lenet", [*SMALL, *changes], data=data)
    refusal = config.refusal_of_last_batch(config.build_network(10), 10, Share(0, processes))
    assert (refusal is not None) == is_refused


def test_a_review_counts_the_cache_of_classifiers_at_the_size_of_the_files(tmp_path):
    folders = class_zoo.write_class_folders(tmp_path / "pets")  # 12 + 6 images of 16 x 12 pixels
    config, _ = api.resolve("small-cnn", [*SMALL, "data.cache=ram"], data=folders)
    assert config.review_data(decode=False).memory == {"data.cache=ram": 18 * 16 * 12 * 3}
    packed, _ = api.resolve("small-cnn", [*SMALL, "data.cache=ram"], data=class_zoo.write_cifar_python(tmp_path / "c"))
    assert packed.review_data(decode=False).memory.get("data.cache=ram", 0) == 0, "they are in memory as they are"
