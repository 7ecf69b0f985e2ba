"""Broken YOLO data sets: every kind ends as a named fault with file and place, never as an unnamed error."""

import os
import shutil
from pathlib import Path

import pytest

from tests.data import zoo


def label(text):
    """Write the label of the first training image."""

    def write(root):
        path = root / "labels" / "train" / "a.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    return write


def data_yaml(text):
    return lambda root: (root / "data.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())


def told(**changes):
    """Change lines of data.yaml; None takes a key out."""
    keys = {"path": ".", "train": "images/train", "val": "images/val", "names": "[cat, dog]"} | changes
    return data_yaml("".join(f"{key}: {value}\n" for key, value in keys.items() if value is not None))


def list_file(content):
    """Give the training images by a list."""

    def write(root):
        (root / "train.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
        told(train="train.txt")(root)

    return write


GOOD = "0 0.5 0.5 0.25 0.5\n"
A_TXT, A_JPG, YAML = "a.txt", "a.jpg", "data.yaml"

# name: (what to break, kind of the fault, file, line, words of the message)
ZOO = {
    # one line of a label file
    "class too high": (label(GOOD + "2 0.5 0.5 0.2 0.2\n"), "class_out_of_range", A_TXT, 2, "classes are 0 to 1"),
    "class negative": (label("-1 0.5 0.5 0.2 0.2\n"), "class_out_of_range", A_TXT, 1, "class -1"),
    "class with fraction": (label("0.5 0.5 0.5 0.2 0.2\n"), "bad_class", A_TXT, 1, "got 0.5"),
    "class is a word": (label("cat 0.5 0.5 0.2 0.2\n"), "bad_class", A_TXT, 1, "'cat'"),
    "class is nan": (label("nan 0.5 0.5 0.2 0.2\n"), "bad_class", A_TXT, 1, "got nan"),
    "class is infinite": (label("inf 0.5 0.5 0.2 0.2\n"), "bad_class", A_TXT, 1, "got inf"),
    "class is huge": (label("1e30 0.5 0.5 0.2 0.2\n"), "bad_class", A_TXT, 1, "1e+30"),
    "coordinate nan": (label("\n" + GOOD + "0 nan 0.5 0.2 0.2\n"), "non_finite", A_TXT, 3, "nan"),
    "coordinate infinite": (label("0 0.5 inf 0.2 0.2\n"), "non_finite", A_TXT, 1, "inf"),
    "coordinate overflows": (label("0 0.5 1e999 0.2 0.2\n"), "non_finite", A_TXT, 1, "inf"),
    "coordinate overflows in pixels": (label("0 1e308 0.5 1e308 0.2\n"), "non_finite", A_TXT, 1, ""),
    "coordinate is a word": (label("0 0.5 half 0.2 0.2\n"), "bad_number", A_TXT, 1, "column 3 is 'half'"),
    "number with underscore": (label("0 0.5 0.5 0_1 0.2\n"), "bad_number", A_TXT, 1, "'0_1'"),
    "number in hexadecimal": (label("0 0.5 0.5 0x1 0.2\n"), "bad_number", A_TXT, 1, "'0x1'"),
    "commas": (label("0,0.5,0.5,0.2,0.2\n"), "wrong_columns", A_TXT, 1, "1 column"),
    "4 columns": (label("0 0.5 0.5 0.2\n"), "wrong_columns", A_TXT, 1, "4 columns"),
    "6 columns": (label(GOOD + "0 0.5 0.5 0.2 0.2 0.9\n"), "wrong_columns", A_TXT, 2, "6 columns"),
    "polygon with half a point": (label("0 .1 .1 .2 .2 .3 .3 .4\n"), "wrong_columns", A_TXT, 1, "8 columns"),
    "polygon with nan": (label("0 .1 .1 nan .2 .3 .3\n"), "non_finite", A_TXT, 1, "nan"),
    "polygon with a word": (label("0 .1 .1 x .2 .3 .3\n"), "bad_number", A_TXT, 1, "column 4"),
    "polygon outside": (label("0 .1 .1 1.5 .2 .3 .3\n"), "outside_box", A_TXT, 1, "32 pixels out"),
    "pixels instead of shares": (label("0 32 24 10 10\n"), "outside_box", A_TXT, 1, "shares of the image"),
    "box far outside": (label("0 -0.5 0.5 0.2 0.2\n"), "outside_box", A_TXT, 1, "pixels out of the image (64x48)"),
    "box reaches far out": (label("0 0.9 0.5 0.4 0.2\n"), "outside_box", A_TXT, 1, "6.4 pixels"),
    "negative width": (label("0 0.5 0.5 -0.2 0.2\n"), "negative_size", A_TXT, 1, "negative"),
    "zero width": (label("0 0.5 0.5 0 0.2\n" + GOOD), "degenerate_box", A_TXT, 1, "no width"),
    "tiny box": (label("0 0.5 0.5 1e-30 1e-30\n" + GOOD), "degenerate_box", A_TXT, 1, "no width"),
    "box on the edge line": (label("0 1.01 0.5 0.02 0.2\n" + GOOD), "degenerate_box", A_TXT, 1, "no width"),
    "box given twice": (label(GOOD + "1 .5 .5 .2 .2\n" + GOOD), "duplicate_box", A_TXT, 3, "'cat' is given twice"),
    "box over the edge by rounding": (label("0 0.9 0.5 0.22 0.2\n"), "clipped_box", A_TXT, 1, "pixels over"),
    # a whole label file
    "label is binary": (label(bytes(range(256))), "not_text", A_TXT, 1, "byte 0x00"),
    "label is UTF-16": (label(GOOD.encode("utf-16")), "not_text", A_TXT, 1, "byte 0xff"),
    "label holds a null byte": (label(GOOD + "0 \0\n"), "not_text", A_TXT, 2, "byte 0x00"),
    "label holds an accent": (label(GOOD + "é\n"), "not_text", A_TXT, 2, "byte 0xc3"),
    "label is JSON": (label('{"boxes": [[1, 2]]}'), "wrong_columns", A_TXT, 1, "columns"),
    "label is a folder": (zoo.replaced("labels/train/a.txt", Path.mkdir), "unreadable_label", A_TXT, None, "a folder"),
    "label is a pipe": (zoo.replaced("labels/train/a.txt", os.mkfifo), "unreadable_label", A_TXT, None, "pipe"),
    "label is a loop of links": (
        zoo.replaced("labels/train/a.txt", zoo.link_to_itself),
        "unreadable_label",
        A_TXT,
        None,
        "opened",
    ),
    "label missing": (
        lambda root: (root / "labels/train/a.txt").unlink(),
        "image_without_label",
        A_JPG,
        None,
        "background",
    ),
    "label without image": (
        lambda root: (root / "labels/train/zz.txt").write_text(GOOD),
        "label_without_image",
        "zz.txt",
        None,
        "no image",
    ),
    "no labels folder": (lambda root: shutil.rmtree(root / "labels"), "no_labels", YAML, None, "looked for in"),
    "all labels empty": (
        lambda root: [path.write_text("") for path in (root / "labels/train").iterdir()],
        "no_labels",
        YAML,
        None,
        "none of 3 images",
    ),
    # images
    **zoo.broken_images("images/train/a.jpg"),
    "image format not read": (
        lambda root: (root / "images/train/z.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20)),
        "unsupported_image",
        "z.heic",
        None,
        "HEIC",
    ),
    # lists
    "list names a missing image": (
        list_file("images/train/a.jpg\n\nimages/train/gone.jpg\n"),
        "missing_image",
        "train.txt",
        3,
        "gone.jpg does not exist",
    ),
    "list names an image twice": (
        list_file("images/train/a.jpg\nimages/train/a.jpg\n"),
        "duplicate_image",
        "train.txt",
        2,
        "again",
    ),
    "list is binary": (list_file(b"images/train/a.jpg\0"), "not_text", "train.txt", None, "null bytes"),
    "list is empty": (list_file("\n\n"), "no_images", YAML, None, "train.txt"),
    "list is missing": (told(train="lost.txt"), "not_found", "lost.txt", None, "'train: lost.txt'"),
    "list names impossible files": (
        list_file("a\x01b.jpg\nimages/train/a.jpg\n" + "x" * 5000 + ".jpg\n"),
        "unreadable_image",
        None,
        None,
        "opened",
    ),
    # data.yaml
    "data.yaml is a list": (data_yaml("- 1\n"), "wrong_type", YAML, None, "expected keys"),
    "data.yaml is empty": (data_yaml(""), "wrong_type", YAML, None, "expected keys"),
    "data.yaml has broken syntax": (data_yaml("path: .\nnames: [cat\n"), "bad_yaml", YAML, 3, ""),
    "data.yaml has a tag": (told(names="!!python/tuple [a, b]"), "bad_yaml", YAML, 4, "tag"),
    "data.yaml has a key twice": (data_yaml(zoo.DATA_YAML + "val: x\n"), "bad_yaml", YAML, 7, "given twice"),
    "data.yaml is an alias bomb": (
        data_yaml("a: &a [x, x]\nb: [" + "*a, " * 200 + "*a]\n"),
        "bad_yaml",
        YAML,
        2,
        "more than 100 aliases",
    ),
    "data.yaml is nested deep": (data_yaml("[" * 1000), "bad_yaml", YAML, 1, "nested more than"),
    "data.yaml is no UTF-8": (data_yaml(b"names: [caf\xe9]\n"), "bad_yaml", YAML, 1, "UTF-8"),
    "data.yaml is too large": (data_yaml("#" * 2_000_000), "unreadable_file", YAML, None, "bytes"),
    "names missing": (told(names=None), "missing_key", YAML, None, "'names' is missing"),
    "names misspelt": (
        told(names=None, name="[a, b]"),
        "missing_key",
        YAML,
        None,
        "Did you mean 'name'?",
    ),
    "names is a text": (told(names="cat"), "wrong_type", YAML, 4, "'names' must be"),
    "names is empty": (told(names="[]"), "bad_names", YAML, None, "0 class names"),
    "names with a gap": (told(names="{0: cat, 2: dog}"), "bad_names", YAML, 4, "must be 0 to 1"),
    "names with text as number": (told(names="{a: cat, b: dog}"), "bad_names", YAML, 4, "must be 0 to 1"),
    "names with a list inside": (told(names="[cat, [dog]]"), "bad_names", YAML, 4, "class 1 must be text"),
    "names with nothing": (told(names="[cat, ]"), "class_out_of_range", A_TXT, 2, "the only class is 0"),
    "names with null": (told(names="[cat, ~]"), "bad_names", YAML, 4, "class 1 must be text"),
    "names doubled": (told(names="[cat, cat]"), "bad_names", YAML, 4, "the same name 'cat'"),
    "names with an escape": (told(names='[cat, "\\e[31m"]'), "bad_names", YAML, 4, "\\x1b[31m"),
    "nc differs": (told(nc="3"), "bad_names", YAML, 5, "'nc' is 3, but 'names' holds 2"),
    "nc is a text": (told(nc="two"), "bad_names", YAML, 5, "'nc' is 'two'"),
    "no split": (told(train=None, val=None), "missing_key", YAML, None, "'train', 'val' or 'test' is missing"),
    "split misspelt": (told(train=None, val=None, trian="images"), "missing_key", YAML, None, "Did you mean 'trian'?"),
    "split is a number": (told(train="5"), "wrong_type", YAML, 2, "'train' must be a folder"),
    "split is an empty list": (told(train="[]"), "bad_value", YAML, 2, "empty list"),
    "split list with a number": (told(train="[images/train, 5]"), "wrong_type", YAML, 2, "got 5"),
    "split folder missing": (told(train="images/trian"), "not_found", "trian", None, "did you mean"),
    "split folder without images": (told(train="labels"), "no_images", YAML, None, "'train' has no images"),
    "split folder with dots": (told(train="../images/train"), "not_found", "train", None, "mean 'images/train'?"),
    "path missing": (told(path="../datasets/pets"), "not_found", YAML, 1, "holds: pets"),
    "path is a number": (told(path="5"), "wrong_type", YAML, 1, "'path' must be text"),
    "path with a null byte": (told(path='"a\\0b"'), "not_found", YAML, 1, "does not exist"),
    "download": (told(download="'rm -rf /'"), "download_ignored", YAML, 5, "never followed"),
}


def test_the_zoo_is_large():
    assert len(ZOO) >= 90


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    return zoo.write_yolo(tmp_path_factory.mktemp("yolo") / "pets")


@pytest.mark.parametrize("name", ZOO)
def test_every_kind_of_damage_is_reported_with_its_place(name, valid, tmp_path):
    zoo.assert_reported(valid, tmp_path / "pets", *ZOO[name])


def test_the_valid_set_has_no_faults(valid):
    faults, read = zoo.outcome(valid)
    assert faults == []
    assert {split: (len(a), len(a.labels)) for split, a in read.items()} == {"train": (3, 6), "val": (2, 4)}


def test_a_label_file_full_of_rubbish_gives_a_bounded_report(valid, tmp_path):
    shutil.copytree(valid, tmp_path / "pets")
    label("rubbish\n" * 5000)(tmp_path / "pets")
    faults, _ = zoo.outcome(tmp_path / "pets")
    assert len(faults) == 101
    assert "4,900 more malformed lines" in faults[-1].message


@pytest.mark.parametrize(
    "name", ["é猫.jpg", "two words.jpg", "<img src=x onerror=alert(1)>.jpg", "\x1b[31mred.jpg", "a\nb.jpg"]
)
def test_odd_file_names_are_read_and_printed_safely(valid, tmp_path, name):
    root = tmp_path / "pets"
    shutil.copytree(valid, root)
    (root / "images/train/a.jpg").rename(root / "images/train" / name)
    (root / "labels/train/a.txt").rename(root / "labels/train" / Path(name).with_suffix(".txt").name)
    faults, read = zoo.outcome(root)
    assert faults == []
    assert len(read["train"].labels) == 6
    (root / "labels/train" / Path(name).with_suffix(".txt").name).write_text("9 0 0 0 0")
    faults, _ = zoo.outcome(root)
    assert str(faults[0]).isprintable()


def test_file_names_that_are_no_text_are_read(valid, tmp_path):
    root = tmp_path / "pets"
    shutil.copytree(valid, root)
    stem = os.fsdecode(b"\xff\xfe")
    try:
        (root / "images/train/a.jpg").rename(root / "images/train" / f"{stem}.jpg")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    (root / "labels/train/a.txt").rename(root / "labels/train" / f"{stem}.txt")
    faults, read = zoo.outcome(root)
    assert faults == []
    assert len(read["train"].labels) == 6


def test_files_without_permission_are_reported(valid, monkeypatch):
    zoo.refuse_to_open(monkeypatch, "a.txt", "b.jpg")
    faults, _ = zoo.outcome(valid)
    assert sorted((fault.kind, fault.path.name) for fault in faults) == [
        ("unreadable_image", "b.jpg"),
        ("unreadable_label", "a.txt"),
    ]
