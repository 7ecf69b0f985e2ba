import json

import numpy as np
import pytest

from sightline.data.faults import FormatError
from sightline.data.formats import open_dataset
from tests.data import zoo
from tests.data.zoo import read_all


def changed(root, change, split="train"):
    """A valid set after ``change`` of one file's content."""
    zoo.write_coco(root)
    values = zoo.coco_content(split)
    change(values)
    (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(values))
    return root


def test_classes_are_in_the_order_of_their_ids_which_may_have_gaps(tmp_path):
    changed(tmp_path, lambda values: values["categories"].reverse())
    annotations = read_all(tmp_path)["train"]
    assert annotations.class_names == ("cat", "dog")
    assert annotations.category_ids.tolist() == [3, 7]
    assert annotations.labels.tolist() == [0, 1] * 3


def test_boxes_ids_areas_and_crowds_are_those_of_the_file(tmp_path):
    def change(values):
        values["annotations"][1] |= {"iscrowd": 1}
        del values["annotations"][2]["area"], values["annotations"][2]["iscrowd"]
        values["annotations"].insert(0, values["annotations"].pop())  # of the last image

    annotations = read_all(changed(tmp_path, change))["train"]
    assert annotations.image_ids.tolist() == [10, 11, 12]
    assert annotations.boxes_of(0)[0].tolist() == [[9, 10, 30, 35], [0, 0, 20, 20]]
    assert annotations.areas.tolist() == [400, 380, 21 * 25, 380, 380, 400]
    assert annotations.is_crowd.tolist() == [False, True, False, False, False, False]
    assert annotations.boxes_of(2)[1].tolist() == [1, 0]  # the order in the file


def test_a_crowd_over_the_same_box_is_no_duplicate(tmp_path):
    def change(values):
        values["annotations"].append({**values["annotations"][0], "iscrowd": 1})

    annotations = read_all(changed(tmp_path, change))["train"]
    assert annotations.faults == ()
    assert len(annotations.labels) == 7


def test_agrees_with_pycocotools(tmp_path):
    coco_api = pytest.importorskip("pycocotools.coco")
    rng = np.random.default_rng(0)

    def change(values):
        values["annotations"] = [
            {
                "id": i,
                "image_id": int(rng.integers(10, 13)),
                "category_id": int(rng.choice([3, 7])),
                "bbox": [*rng.uniform(0, 20, 2).round(2), *rng.uniform(1, 28, 2).round(2)],
                "area": float(rng.uniform(1, 100)),
                "iscrowd": int(rng.integers(0, 2)),
            }
            for i in range(200)
        ]

    annotations = read_all(changed(tmp_path, change))["train"]
    api = coco_api.COCO(str(tmp_path / "annotations/instances_train2017.json"))
    for index, image_id in enumerate(annotations.image_ids):
        rows = slice(annotations.offsets[index], annotations.offsets[index + 1])
        truth = api.loadAnns(api.getAnnIds(imgIds=[image_id]))
        boxes = annotations.boxes_xyxy[rows].copy()
        boxes[:, 2:] -= boxes[:, :2]
        np.testing.assert_allclose(boxes, [a["bbox"] for a in truth], atol=1e-12)
        assert annotations.category_ids[annotations.labels[rows]].tolist() == [a["category_id"] for a in truth]
        assert annotations.areas[rows].tolist() == [a["area"] for a in truth]
        assert annotations.is_crowd[rows].tolist() == [a["iscrowd"] == 1 for a in truth]


def test_file_names_may_hold_folders(tmp_path):
    def change(values):
        for image in values["images"]:
            image["file_name"] = "train2017/" + image["file_name"]

    annotations = read_all(changed(tmp_path, change))["train"]
    assert annotations.faults == ()
    assert annotations.paths[0] == str(tmp_path / "train2017/a.jpg")


def test_sizes_may_be_missing(tmp_path):
    def change(values):
        del values["images"][0]["width"]
        values["images"][1] |= {"height": None, "width": 0}
        values["images"][2] |= {"height": 48.0}

    annotations = read_all(changed(tmp_path, change))["train"]
    assert annotations.faults == ()
    assert annotations.sizes_hw.tolist() == [[48, 64]] * 3


@pytest.mark.parametrize("folder", ["images/train2017", "images/train", "train", "images", "."])
def test_places_where_images_may_be(tmp_path, folder):
    zoo.write_coco(tmp_path)
    images = tmp_path / "train2017"
    target = tmp_path / folder
    target.mkdir(parents=True, exist_ok=True)
    for path in images.iterdir():
        path.rename(target / path.name)
    images.rmdir()
    assert read_all(tmp_path)["train"].faults == ()


def test_one_json_file(tmp_path):
    zoo.write_coco(tmp_path)
    source = open_dataset(tmp_path / "annotations/instances_val2017.json")
    assert source.splits == ("val",)
    assert source.read("val").paths[0] == str(tmp_path / "val2017/d.jpg")
    (tmp_path / "annotations/instances_val2017.json").rename(tmp_path / "val2017/mine.json")
    source = open_dataset(tmp_path / "val2017/mine.json")
    assert source.splits == ("train",)
    assert source.read("train").paths[0] == str(tmp_path / "val2017/d.jpg")


def test_annotation_files_beside_the_images(tmp_path):
    zoo.write_coco(tmp_path)
    for split, name in (("train", "train"), ("val", "valid")):
        images = (tmp_path / f"{split}2017").rename(tmp_path / name)
        (tmp_path / f"annotations/instances_{split}2017.json").rename(images / "_annotations.coco.json")
    (tmp_path / "annotations").rmdir()
    source = open_dataset(tmp_path)
    assert source.splits == ("train", "val")
    assert source.read("val").paths[0] == str(tmp_path / "valid/d.jpg")
    assert source.unused() == []
    assert open_dataset(tmp_path / "valid/_annotations.coco.json").splits == ("val",)


@pytest.mark.parametrize("names", [("train.json", "val.json"), ("train2017.json", "val2017.json")])
def test_annotation_files_of_plain_names(tmp_path, names):
    zoo.write_coco(tmp_path)
    for split, name in zip(("train", "val"), names, strict=True):
        (tmp_path / f"annotations/instances_{split}2017.json").rename(tmp_path / "annotations" / name)
    (tmp_path / "annotations/captions.json").write_text("{}")
    if names[0] == "train.json":
        for split in ("train", "val"):
            (tmp_path / f"{split}2017").rename(tmp_path / split)
    assert {split: len(a) for split, a in read_all(tmp_path).items()} == {"train": 3, "val": 2}


def test_a_validation_file_may_know_fewer_categories(tmp_path):
    def change(values):
        values["categories"] = [category for category in values["categories"] if category["id"] == 7]
        values["annotations"] = [a for a in values["annotations"] if a["category_id"] == 7]

    annotations = read_all(changed(tmp_path, change, split="val"))["val"]
    assert annotations.class_names == ("cat", "dog")
    assert annotations.labels.tolist() == [1, 1]


def test_class_names_that_differ_from_those_asked_for_are_refused(tmp_path):
    zoo.write_coco(tmp_path)
    with pytest.raises(FormatError, match="asked for were dog, cat"):
        open_dataset(tmp_path, class_names=["dog", "cat"]).read("train")


def test_images_that_no_file_lists_are_told(tmp_path):
    zoo.write_coco(tmp_path)
    (tmp_path / "val2017/z.jpg").write_bytes(zoo.image_bytes())
    assert [(fault.kind, fault.path.name) for fault in open_dataset(tmp_path).unused()] == [
        ("image_not_listed", "z.jpg")
    ]
