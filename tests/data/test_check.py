import json
import shutil

import pytest

from sightline.data.check import check_dataset
from sightline.data.faults import FATAL_KINDS, MILD_KINDS, FormatError
from tests.conftest import dataset
from tests.data import class_zoo, zoo


def test_a_sound_set_is_a_table_without_faults(tmp_path):
    report = check_dataset(zoo.write_yolo(tmp_path / "pets"), decode=True)
    assert report.is_usable
    assert report.num_decoded == 5
    assert report.lines() == [
        f"{tmp_path}/pets: yolo, 2 classes",
        "",
        "              train  val",
        "images            3    2",
        "  unusable        0    0",
        "  background      0    0",
        "boxes             6    4",
        "  cat             3    2",
        "  dog             3    2",
        "",
        "no faults",
    ]


def test_faults_are_grouped_by_kind_with_their_places(tmp_path):
    root = zoo.write_yolo(tmp_path / "pets")
    (root / "labels/train/a.txt").write_text("0 .5 .5 .2 .2\n5 .5 .5 .2 .2\n6 .5 .5 .2 .2\n")
    (root / "labels/val/d.txt").unlink()
    report = check_dataset(root)
    assert not report.is_usable
    lines = report.lines(places=1)
    place = lines.index("error: 2 places with class_out_of_range: class number that the data set does not have")
    assert lines[place + 1] == f"  {root}/labels/train/a.txt:2: class 5, but the classes are 0 to 1"
    assert lines[place + 2] == "  ... and 1 more"
    assert lines[place + 3].startswith("note: 1 place with image_without_label")
    assert "data.on_fault=skip" in lines[-1]
    assert report.splits[0].num_unusable == 1
    assert report.splits[1].num_background == 1
    assert len(report.lines(places=None)) == len(lines)  # the one left out instead of the words for it


@pytest.mark.parametrize("format", zoo.WRITERS)
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_images_that_are_cut_off_are_found_without_decoding(tmp_path, format, share):
    root = zoo.WRITERS[format](tmp_path / "pets")
    image = next(iter(sorted(root.rglob("b.jpg"))))
    data = zoo.image_bytes()
    image.write_bytes(data[: int(len(data) * share)])
    report = check_dataset(root)
    assert [(fault.kind, fault.path) for fault in report.faults] == [("truncated_image", image)]
    assert report.splits[0].num_unusable == 1


@pytest.mark.parametrize("format", zoo.WRITERS)
def test_decoding_finds_images_that_are_damaged_inside(tmp_path, format):
    root = zoo.WRITERS[format](tmp_path / "pets")
    image = next(iter(sorted(root.rglob("b.jpg"))))
    data = bytearray(zoo.image_bytes("PNG"))
    data[len(data) // 2] ^= 0xFF
    image.write_bytes(data)
    assert check_dataset(root).is_usable
    report = check_dataset(root, decode=True)
    assert [(fault.kind, fault.path) for fault in report.faults] == [("broken_image", image)]
    assert [split.num_unusable for split in report.splits] == [1, 0]


def test_an_image_in_two_splits_is_reported_once(tmp_path):
    root = zoo.write_yolo(tmp_path / "pets")
    (root / "data.yaml").write_text(zoo.DATA_YAML.replace("images/val", "images/train"))
    (root / "images/train/a.jpg").write_bytes(b"")
    report = check_dataset(root, decode=True)
    assert [fault.kind for fault in report.faults] == ["empty_image"]
    assert [split.num_unusable for split in report.splits] == [1, 1]


def test_copies_are_found_by_their_content(tmp_path):
    root = zoo.write_voc(tmp_path / "pets")  # all images of a split are copies
    report = check_dataset(root, same_content=True)
    assert [(fault.kind, fault.path.name) for fault in report.faults] == [
        ("same_content", "b.jpg"),
        ("same_content", "c.jpg"),
        ("same_content", "e.jpg"),
    ]
    assert report.is_usable


def test_a_split_that_cannot_be_read_does_not_hide_the_others(tmp_path):
    root = zoo.write_yolo(tmp_path / "pets")
    shutil.rmtree(root / "images/val")
    report = check_dataset(root)
    assert [split.name for split in report.splits] == ["train"]
    assert [fault.kind for fault in report.faults] == ["not_found"]
    assert not report.is_usable


def test_a_set_that_cannot_be_read_at_all_is_an_error(tmp_path):
    with pytest.raises(FormatError, match="no such file"):
        check_dataset(tmp_path / "none")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(FormatError, match=r"a\.json:1"):
        check_dataset(tmp_path / "a.json")


def test_progress_is_told(tmp_path):
    calls = []
    check_dataset(zoo.write_coco(tmp_path), decode=True, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i, 5) for i in range(1, 6)]


def test_the_report_as_plain_values(tmp_path):
    root = zoo.write_yolo(tmp_path / "pets")
    (root / "labels/train/\x1b.txt").write_text("")
    values = json.loads(json.dumps(check_dataset(root).as_dict()))
    assert values["splits"][0]["boxes_per_class"] == [3, 3]
    assert values["faults"][0]["kind"] == "label_without_image"
    assert values["faults"][0]["path"].endswith("\\x1b.txt")


def test_nothing_is_written(tmp_path):
    root = zoo.write_yolo(tmp_path / "pets")
    before = sorted(path for path in tmp_path.rglob("*"))
    check_dataset(root, decode=True, same_content=True)
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_every_kind_of_fault_has_one_meaning():
    assert not FATAL_KINDS.keys() & MILD_KINDS.keys()
    assert len(FATAL_KINDS | MILD_KINDS) == len(set((FATAL_KINDS | MILD_KINDS).values()))


def test_real_sets_are_usable():
    for name in ("bccd", "coco128"):
        report = check_dataset(dataset(name), decode=True)
        assert report.is_usable
        assert report.num_decoded == {"bccd": 364, "coco128": 128}[name]


def test_image_classes_are_checked_too(tmp_path):
    root = class_zoo.write_class_folders(tmp_path / "pets")
    path = root / "train" / "dog" / "1.png"
    good = path.read_bytes()
    path.write_bytes(good[:60] + bytes(8) + good[68:])  # behind the header
    report = check_dataset(root, decode=True)
    assert [(fault.kind, fault.path) for fault in report.faults] == [("broken_image", path)]
    assert report.num_decoded == 18 and not report.is_usable
    assert report.lines()[:8] == [
        f"{root}: class_folders, 3 classes",
        "",
        "            train  val",
        "images         12    6",
        "  unusable      1    0",
        "  cat           4    2",
        "  dog           3    2",
        "  owl           4    2",
    ]
    values = json.loads(json.dumps(report.as_dict()))
    assert values["splits"][0] == {"name": "train", "num_images": 12, "num_unusable": 1, "images_per_class": [4, 3, 4]}


def test_image_classes_in_the_home_folder_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    class_zoo.write_class_folders(tmp_path / "pets")
    assert check_dataset("~/pets").format == "class_folders"


def test_packed_images_are_checked_too(tmp_path):
    root = class_zoo.write_cifar_binary(tmp_path / "cifar")
    (root / "test_batch.bin").write_bytes(class_zoo.record(0) + class_zoo.record(9))
    report = check_dataset(root, decode=True)
    assert [fault.kind for fault in report.faults if fault.fatal] == ["class_out_of_range"]
    assert [split.num_unusable for split in report.splits] == [0, 1] and report.num_decoded == 0
    assert report.splits[1].images_per_class == (1, 0, 0), "an image of the class 9 is not one of class 0"
    assert check_dataset(root, format="cifar_binary").format == "cifar_binary"
