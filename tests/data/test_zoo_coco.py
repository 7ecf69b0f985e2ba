"""Broken COCO data sets: every kind ends as a named fault with file and place, never as an unnamed error."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.data import zoo

JSON = "instances_train2017.json"
JPG = "a.jpg"


def text(data):
    """Write the JSON file of the training images."""
    return lambda root: (root / "annotations" / JSON).write_bytes(data if isinstance(data, bytes) else data.encode())


def content(change):
    """Change the content of that file; ``change`` gets it as plain values."""

    def write(root):
        values = zoo.coco_content("train")
        change(values)
        text(json.dumps(values))(root)

    return write


def entry(which, index=1, **changes):
    """Change keys of one entry; ``...`` takes a key out."""

    def change(values):
        for key, value in changes.items():
            if value is ...:
                del values[which][index][key]
            else:
                values[which][index][key] = value

    return content(change)


def box(*numbers):
    """Change a box of the first image; no edge of it is on the image's."""
    return entry("annotations", 1, bbox=list(numbers))


def swapped(which, index, value):
    """Put something else in the place of an entry."""
    return content(lambda values: values[which].__setitem__(index, value))


def turned_image(root):
    (root / "train2017" / JPG).write_bytes(zoo.image_bytes(orientation=6))


def other_categories(root):
    values = zoo.coco_content("val")
    values["categories"] = [{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}]
    (root / "annotations/instances_val2017.json").write_text(json.dumps(values))


def extra_category(root):
    values = zoo.coco_content("val")
    values["categories"].append({"id": 9, "name": "cow"})
    (root / "annotations/instances_val2017.json").write_text(json.dumps(values))


VALID = json.dumps(zoo.coco_content("train"))
HUGE = 10**400

# name: (what to break, kind of the fault, file, line, words of the message)
ZOO = {
    # the file
    "file empty": (text(""), "bad_json", JSON, None, "empty"),
    "file only blanks": (text(" \n"), "bad_json", JSON, None, "empty"),
    "file is text": (text("hello"), "bad_json", JSON, 1, "column 1"),
    "file is binary": (text(bytes(range(256))), "bad_json", JSON, 2, "UTF-8"),
    "file is an image": (text(zoo.image_bytes()), "bad_json", JSON, 1, "UTF-8"),
    "file is UTF-16": (text(VALID.encode("utf-16")), "bad_json", JSON, 1, "UTF-8"),
    "file truncated": (text(VALID[:-20]), "bad_json", JSON, 1, "column"),
    "file with something behind": (text(VALID + "\n}"), "bad_json", JSON, 2, "column 1"),
    "file with a comma too many": (text(VALID.replace("}]", "},]", 1)), "bad_json", JSON, 1, "column"),
    "file with comments": (text("// COCO\n" + VALID), "bad_json", JSON, 1, "column 1"),
    "100,000 nested lists": (text("[" * 100_000 + "]" * 100_000), "bad_json", JSON, None, "nested too deep"),
    "100,000 nested objects": (text('{"a":' * 100_000), "bad_json", JSON, None, "nested too deep"),
    "NaN token": (text(VALID.replace("400.0", "NaN")), "bad_json", JSON, None, "NaN"),
    "Infinity token": (text(VALID.replace("400.0", "-Infinity")), "bad_json", JSON, None, "-Infinity"),
    "number of 5000 digits": (
        text(VALID.replace("400.0", "9" * 5000)),
        "bad_json",
        JSON,
        None,
        "number cannot be read",
    ),
    "key twice": (text(VALID.replace('"width"', '"height"')), "bad_json", JSON, None, "'height' is given twice"),
    "file is a folder": (
        zoo.replaced(f"annotations/{JSON}", Path.mkdir),
        "unreadable_file",
        JSON,
        None,
        "a folder",
    ),
    "file is a pipe": (zoo.replaced(f"annotations/{JSON}", os.mkfifo), "unreadable_file", JSON, None, "pipe"),
    "file is a loop of links": (
        zoo.replaced(f"annotations/{JSON}", zoo.link_to_itself),
        "unreadable_file",
        JSON,
        None,
        "opened",
    ),
    # its main parts
    "a list outside": (text("[1, 2]"), "wrong_type", JSON, None, "expected an object"),
    "a number outside": (text("5"), "wrong_type", JSON, None, "expected an object"),
    "an annotation outside": (text('{"image_id": 1}'), "wrong_type", JSON, None, "expected an object"),
    "no images": (content(lambda v: v.pop("images")), "missing_key", JSON, None, "'images'"),
    "no annotations": (content(lambda v: v.pop("annotations")), "missing_key", JSON, None, "'annotations'"),
    "no categories": (content(lambda v: v.pop("categories")), "missing_key", JSON, None, "'categories'"),
    "images is an object": (
        content(lambda v: v.update(images={})),
        "wrong_type",
        JSON,
        None,
        "'images' must be a list",
    ),
    "annotations is null": (content(lambda v: v.update(annotations=None)), "wrong_type", JSON, None, "'annotations'"),
    "categories is text": (content(lambda v: v.update(categories="cat")), "wrong_type", JSON, None, "'categories'"),
    "images is empty": (content(lambda v: v.update(images=[], annotations=[])), "no_images", JSON, None, "empty list"),
    "annotations is empty": (
        content(lambda v: v.update(annotations=[])),
        "no_labels",
        "pets",
        None,
        "none of 3 images",
    ),
    "categories is empty": (content(lambda v: v.update(categories=[])), "bad_names", JSON, None, "0 class names"),
    # categories
    "category is a list": (swapped("categories", 1, []), "wrong_type", JSON, None, "categories[1] must be"),
    "category without id": (entry("categories", id=...), "missing_key", JSON, None, "categories[1] has no 'id'"),
    "category without name": (entry("categories", name=...), "missing_key", JSON, None, "categories[1] has no 'name'"),
    "category id is text": (entry("categories", id="7"), "wrong_type", JSON, None, "whole number, got '7'"),
    "category id is true": (entry("categories", id=True), "wrong_type", JSON, None, "whole number, got True"),
    "category id is huge": (entry("categories", id=HUGE), "bad_value", JSON, None, "too large"),
    "category name is a number": (entry("categories", name=7), "wrong_type", JSON, None, "text, got 7"),
    "category name is empty": (entry("categories", name=" "), "bad_names", JSON, None, "class 1 must be text"),
    "category name with an escape": (entry("categories", name="\x1b[2J"), "bad_names", JSON, None, "\\x1b[2J"),
    "category id twice": (entry("categories", id=3), "duplicate_id", JSON, None, "categories[1]: the id 3"),
    "category name twice": (entry("categories", name="cat"), "bad_names", JSON, None, "same name 'cat'"),
    "categories differ by split": (
        other_categories,
        "bad_names",
        "instances_val2017.json",
        None,
        "3 is 'dog', but 'cat'",
    ),
    "category only in val": (extra_category, "bad_names", "instances_val2017.json", None, "9 is 'cow', but missing"),
    # images
    "image entry is a number": (
        swapped("images", 1, 5),
        "wrong_type",
        JSON,
        None,
        "images[1] must be an object, got 5",
    ),
    "image without id": (entry("images", id=...), "missing_key", JSON, None, "images[1] has no 'id'"),
    "image without file_name": (
        entry("images", file_name=...),
        "missing_key",
        JSON,
        None,
        "images[1] has no 'file_name'",
    ),
    "image id is text": (entry("images", id="11"), "wrong_type", JSON, None, "'id' must be a whole number, got '11'"),
    "image id is huge": (entry("images", id=HUGE), "wrong_type", JSON, None, "a very long number"),
    "image file_name is a list": (entry("images", file_name=["b.jpg"]), "wrong_type", JSON, None, "a list of 1"),
    "image file_name is empty": (entry("images", file_name=""), "wrong_type", JSON, None, "'file_name' must be text"),
    "image id twice": (entry("images", id=10), "duplicate_id", JSON, None, "images[1] (b.jpg): the id 10"),
    "image file twice": (entry("images", file_name="a.jpg"), "duplicate_id", JSON, None, "a.jpg is listed twice"),
    "image outside by dots": (entry("images", file_name="../../x.jpg"), "unsafe_path", JSON, None, "leads out"),
    "image with an absolute path": (entry("images", file_name="/etc/passwd"), "unsafe_path", JSON, None, "leads out"),
    "image with a null byte": (entry("images", file_name="b\0.jpg"), "unsafe_path", JSON, None, "b\\x00.jpg"),
    "image with half a letter": (
        entry("images", file_name="\ud800.jpg"),
        "missing_image",
        "\ud800.jpg",
        None,
        "\\ud800",
    ),
    "image file missing": (entry("images", file_name="gone.jpg"), "missing_image", "gone.jpg", None, "does not exist"),
    "all image files missing": (
        lambda root: shutil.rmtree(root / "train2017"),
        "no_images",
        JSON,
        None,
        "none of its images, such as a.jpg, is in",
    ),
    "image width is text": (entry("images", width="64"), "bad_value", JSON, None, "images[1]: 'width' is '64'"),
    "image height negative": (entry("images", height=-1), "bad_value", JSON, None, "'height' is -1"),
    "image height with fraction": (entry("images", height=1.5), "bad_value", JSON, None, "'height' is 1.5"),
    "image of another size": (entry("images", width=640), "size_mismatch", JSON, None, "b.jpg is 64x48, but"),
    "image turned by EXIF": (turned_image, "size_mismatch", JSON, None, "EXIF data turns it"),
    **zoo.broken_images(f"train2017/{JPG}"),
    "image not listed": (
        lambda root: (root / "train2017/zz.jpg").write_bytes(zoo.image_bytes()),
        "image_not_listed",
        "zz.jpg",
        None,
        "no JSON file",
    ),
    # annotations
    "annotation is text": (swapped("annotations", 1, "box"), "wrong_type", JSON, None, "annotations[1] is no object"),
    "annotation is null": (swapped("annotations", 1, None), "wrong_type", JSON, None, "annotations[1] is no object"),
    "annotation is empty": (
        swapped("annotations", 1, {}),
        "missing_key",
        JSON,
        None,
        "annotations[1] has no 'image_id'",
    ),
    "no image_id": (entry("annotations", image_id=...), "missing_key", JSON, None, "annotations[1] has no 'image_id'"),
    "no category_id": (entry("annotations", category_id=...), "missing_key", JSON, None, "'category_id' is missing"),
    "no bbox": (entry("annotations", bbox=...), "missing_key", JSON, None, "annotations[1]: 'bbox' is missing"),
    "bbox is null": (entry("annotations", bbox=None), "missing_key", JSON, None, "'bbox' is missing"),
    "image_id is text": (entry("annotations", image_id="10"), "wrong_type", JSON, None, "whole number, got '10'"),
    "image_id is a list": (entry("annotations", image_id=[10]), "wrong_type", JSON, None, "got a list of 1"),
    "image_id unknown": (entry("annotations", image_id=99), "unknown_image_id", JSON, None, "no image has the id 99"),
    "image_id is huge": (entry("annotations", image_id=HUGE), "unknown_image_id", JSON, None, "a very long number"),
    "category_id unknown": (entry("annotations", category_id=4), "unknown_category_id", JSON, None, "has the id 4"),
    "category_id with fraction": (entry("annotations", category_id=3.0), "wrong_type", JSON, None, "got 3.0"),
    "bbox of 3": (box(1, 2, 3), "wrong_columns", JSON, None, "'bbox' must be 4 numbers, got a list of 3"),
    "bbox of 5": (box(1, 2, 3, 4, 5), "wrong_columns", JSON, None, "a list of 5"),
    "bbox is an object": (entry("annotations", bbox={"x": 1}), "wrong_columns", JSON, None, "a map of 1"),
    "bbox with text": (box(1, 2, "3", 4), "bad_number", JSON, None, "'bbox' holds '3'"),
    "bbox with null": (box(1, 2, None, 4), "bad_number", JSON, None, "'bbox' holds None"),
    "bbox with true": (box(1, 2, True, 4), "bad_number", JSON, None, "'bbox' holds True"),
    "bbox overflows": (text(VALID.replace("21.0", "1e999", 1)), "non_finite", JSON, None, "annotations[0]"),
    "bbox with a huge number": (box(1, 2, HUGE, 4), "non_finite", JSON, None, "number without limit"),
    "bbox negative width": (box(1, 2, -3, 4), "negative_size", JSON, None, "annotations[1]: width or height"),
    "bbox zero width": (box(1, 2, 0, 4), "degenerate_box", JSON, None, "annotations[1]: no width"),
    "bbox outside": (box(70, 2, 10, 4), "outside_box", JSON, None, "annotations[1]: the box"),
    "bbox reaches far out": (box(5, 5, 100, 20), "outside_box", JSON, None, "41 pixels out of the image (64x48)"),
    "bbox over the edge by rounding": (box(44, 28, 20.5, 20), "clipped_box", JSON, None, "0.5 pixels over"),
    "bbox twice": (
        content(lambda v: v["annotations"].append({**v["annotations"][0], "id": 999})),
        "duplicate_box",
        JSON,
        None,
        "annotations[6]: the box",
    ),
    "area is text": (entry("annotations", area="big"), "bad_number", JSON, None, "'area' holds 'big'"),
    "area negative": (entry("annotations", area=-1), "bad_value", JSON, None, "'area' is -1"),
    "iscrowd is 2": (entry("annotations", iscrowd=2), "bad_value", JSON, None, "'iscrowd' must be 0 or 1, got 2"),
    "iscrowd is text": (entry("annotations", iscrowd="no"), "bad_value", JSON, None, "got 'no'"),
}


def test_the_zoo_is_large():
    assert len(ZOO) >= 90


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    return zoo.write_coco(tmp_path_factory.mktemp("coco") / "pets")


@pytest.mark.parametrize("name", ZOO)
def test_every_kind_of_damage_is_reported_with_its_place(name, valid, tmp_path):
    zoo.assert_reported(valid, tmp_path / "pets", *ZOO[name])


def test_the_valid_set_has_no_faults(valid):
    faults, read = zoo.outcome(valid)
    assert faults == []
    assert {split: (len(a), len(a.labels)) for split, a in read.items()} == {"train": (3, 6), "val": (2, 4)}


def test_files_without_permission_are_reported(valid, monkeypatch):
    zoo.refuse_to_open(monkeypatch, JSON, "d.jpg")
    faults, _ = zoo.outcome(valid)
    assert [(fault.kind, fault.path.name) for fault in faults] == [("unreadable_file", JSON)]
