"""The readers on real data sets."""

import socket
import time

import numpy as np

from sightline.data.annotations import content_key
from sightline.data.faults import enforce
from sightline.data.formats import open_dataset
from tests.conftest import dataset


def test_bccd_has_the_counts_of_its_description():
    # Counts from the data set's description; both boxes without size are RBC.
    source = open_dataset(dataset("bccd"))
    assert source.format == "voc"
    assert source.class_names == ("Platelets", "RBC", "WBC")
    assert source.splits == ("train", "val", "test", "trainval")
    read = {split: source.read(split) for split in source.splits}
    assert {split: len(a) for split, a in read.items()} == {"train": 205, "val": 87, "test": 72, "trainval": 292}
    assert (read["trainval"].boxes_per_class + read["test"].boxes_per_class).tolist() == [361, 4155 - 2, 372]
    assert (read["train"].boxes_per_class + read["val"].boxes_per_class).tolist() == read[
        "trainval"
    ].boxes_per_class.tolist()
    assert sorted((f.kind, f.path.stem, f.fatal) for f in read["trainval"].faults) == [
        ("degenerate_box", "BloodImage_00338", False),
        ("degenerate_box", "BloodImage_00343", False),
    ]
    assert (read["train"].sizes_hw == [480, 640]).all()
    assert source.unused() == []


def test_bccd_lines_of_faults_point_at_the_object():
    for fault in open_dataset(dataset("bccd")).read("trainval").faults:
        lines = fault.path.read_text().splitlines()
        assert lines[fault.line - 1].strip() == "<object>"
        block = "".join(lines[fault.line : fault.line + 11])
        xmin, xmax = (block.split(f"<{key}>")[1].split("<")[0] for key in ("xmin", "xmax"))
        assert xmin == xmax


def test_coco128_has_every_line_of_its_label_files():
    source = open_dataset(dataset("coco128"))
    assert source.format == "yolo"
    assert source.splits == ("train", "val")
    annotations = source.read("train")
    assert len(annotations) == 128
    assert len(annotations.class_names) == 80
    labels = sorted((dataset("coco128") / "labels/train2017").glob("*.txt"))
    of_an_image = {path.rsplit("/", 1)[-1][:-4] for path in annotations.paths}
    lines = [line for path in labels if path.stem in of_an_image for line in path.read_text().splitlines()]
    assert len(annotations.labels) == len(lines)
    kinds = {fault.kind for fault in annotations.faults}
    assert kinds == {"image_without_label"}
    assert [fault.path.stem for fault in annotations.faults if fault.kind == "image_without_label"] == [
        "000000000250",
        "000000000508",
    ]
    assert [fault.path.name for fault in source.unused()] == ["000000000656.txt", "000000000659.txt"]
    kept, messages = enforce(annotations, "refuse")
    assert kept is annotations
    assert len(messages) == 1


def test_boxes_of_a_coco128_image_by_hand():
    # 000000000025.jpg is 640x426; its first line is "23 0.770336 0.489695 0.335891 0.697559".
    annotations = open_dataset(dataset("coco128")).read("train")
    index = next(i for i, path in enumerate(annotations.paths) if path.endswith("000000000025.jpg"))
    boxes, labels = annotations.boxes_of(index)
    assert annotations.sizes_hw[index].tolist() == [426, 640]
    assert labels[0] == 23
    low, high = (0.770336 - 0.335891 / 2) * 640, (0.770336 + 0.335891 / 2) * 640
    np.testing.assert_allclose(boxes[0, [0, 2]], [low, high], atol=1e-9)


def test_reading_takes_a_fraction_of_a_second():
    for name in ("bccd", "coco128"):
        folder = dataset(name)
        seconds = []
        for _ in range(3):
            start = time.process_time()
            source = open_dataset(folder)
            for split in source.splits:
                source.read(split)
            seconds.append(time.process_time() - start)
        assert min(seconds) < 0.5, f"{name}: {min(seconds):.2f} s of CPU time"


def test_nothing_is_sent_or_fetched(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a socket was asked for")

    monkeypatch.setattr(socket, "socket", refuse)
    assert len(open_dataset(dataset("coco128")).read("train")) == 128


def test_content_keys_differ_by_split_and_stay_the_same():
    keys = [content_key(open_dataset(dataset("bccd")).read(split)) for split in ("train", "val", "train")]
    assert keys[0] == keys[2] != keys[1]
