"""Valid files of image classes, damaged at random: sane arrays or a typed error, and nothing else."""

import pytest
from hypothesis import given, settings

from sightline.config.errors import UserError
from tests.data import class_zoo
from tests.data.test_formats_fuzz import damaged, damages

FILES = [
    ("cifar_python", "data_batch_2"),
    ("cifar_python", "batches.meta"),
    ("cifar_binary", "data_batch_2.bin"),
    ("cifar_binary", "batches.meta.txt"),
    ("idx", "train-images-idx3-ubyte"),
    ("idx", "train-labels-idx1-ubyte"),
    ("imagenet", "val.txt"),
    ("class_folders", "train/cat/0.png"),
]


@pytest.mark.parametrize("format, name", FILES)
def test_damaged_files(tmp_path, format, name):
    root = class_zoo.WRITERS[format](tmp_path / "set")
    path = root / name
    valid = path.read_bytes()
    seen = set()

    @settings(derandomize=True, max_examples=150, deadline=None)
    @given(damages)
    def damage(plan):
        path.write_bytes(damaged(valid, plan))
        try:
            faults, read = class_zoo.outcome(root)
        except UserError as error:
            raise AssertionError(f"an error without a fault: {error}") from error
        for labels in read.values():
            class_zoo.assert_sane(labels)
        seen.add(any(fault.fatal for fault in faults))

    damage()
    assert True in seen, "no damage was found"


@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_damaged_archives(tmp_path, mode):
    path = class_zoo.write_archive(tmp_path / "set", mode=mode)
    valid = path.read_bytes()

    @settings(derandomize=True, max_examples=60, deadline=None)
    @given(damages)
    def damage(plan):
        path.write_bytes(damaged(valid, plan))
        _, read = class_zoo.outcome(path)
        for labels in read.values():
            class_zoo.assert_sane(labels)

    damage()
