import shutil

import numpy as np
import pytest

from sightline.data.faults import FormatError
from sightline.data.formats import open_dataset
from tests.data import zoo


@pytest.mark.parametrize("format", zoo.WRITERS)
def test_the_format_is_told_by_what_is_there(tmp_path, format):
    source = open_dataset(zoo.WRITERS[format](tmp_path / "pets"))
    assert source.format == format
    assert source.splits == ("train", "val")
    assert source.class_names == ("cat", "dog")
    assert source.read("val").name == "pets/val"


def test_labels_offsets_and_sizes_of_the_three_formats_are_the_same(tmp_path):
    first, *others = (zoo.read_all(write(tmp_path / name))["train"] for name, write in zoo.WRITERS.items())
    truth = [[24, 12, 40, 36], [12, 6, 20, 18]]
    assert first.boxes_of(1)[0].tolist() == truth
    for other in others:
        # VOC and COCO of the zoo hold other boxes, equal to each other.
        assert other.boxes_of(1)[0].tolist() == [[9, 10, 30, 35], [0, 0, 20, 20]]
        np.testing.assert_array_equal(other.labels, first.labels)
        np.testing.assert_array_equal(other.offsets, first.offsets)
        np.testing.assert_array_equal(other.sizes_hw, first.sizes_hw)


def test_a_path_that_does_not_exist_names_the_nearest(tmp_path):
    (tmp_path / "bccd").mkdir()
    (tmp_path / "coco128").mkdir()
    with pytest.raises(
        FormatError, match=r"coco12/images: no such file .* holds: bccd, coco128; did you mean .*coco128\?"
    ):
        open_dataset(tmp_path / "coco12" / "images")
    with pytest.raises(FormatError, match=r"no such file or folder; .*bccd is empty"):
        open_dataset(tmp_path / "bccd" / "x")


def test_a_folder_that_is_no_data_set_says_what_was_looked_for_and_what_is_there(tmp_path):
    (tmp_path / "readme.md").write_text("")
    with pytest.raises(FormatError) as caught:
        open_dataset(tmp_path)
    for words in ("data.yaml", "annotations/*.json", "Annotations/*.xml", "it holds readme.md"):
        assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 5


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.csv"])
def test_a_file_that_is_no_data_set(tmp_path, name):
    (tmp_path / name).write_text("")
    with pytest.raises(FormatError, match=r"expected a data\.yaml, a COCO \.json or a \.txt"):
        open_dataset(tmp_path / name)


@pytest.mark.parametrize("name", ["images", "labels"])
def test_a_folder_inside_a_data_set_leads_to_it(tmp_path, name):
    zoo.write_yolo(tmp_path / "pets")
    with pytest.raises(FormatError, match=r"did you mean .*pets\?"):
        open_dataset(tmp_path / "pets" / name)


def test_an_empty_folder(tmp_path):
    with pytest.raises(FormatError, match="it holds nothing"):
        open_dataset(tmp_path)


def test_two_formats_in_one_folder_need_a_choice(tmp_path):
    zoo.write_coco(tmp_path)
    zoo.write_yolo(tmp_path)
    assert open_dataset(tmp_path).format == "yolo"  # data.yaml decides
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(
        FormatError, match=r"several formats: yolo and coco. Choose one: data\.format=yolo, or .* --format yolo\.$"
    ):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, format="coco").format == "coco"
    with pytest.raises(
        FormatError, match=r"no data set of the format 'voc'.* with data\.format=yolo .* or data\.format=coco "
    ):
        open_dataset(tmp_path, format="voc")


def test_a_format_that_is_not_there_leads_to_the_one_that_is(tmp_path):
    zoo.write_yolo(tmp_path / "pets")
    for path in (tmp_path / "pets", tmp_path / "pets" / "data.yaml"):
        with pytest.raises(
            FormatError, match=r"the format 'voc'.* with data\.format=yolo \(--format yolo of sightline"
        ):
            open_dataset(path, format="voc")


def test_home_is_filled_in(tmp_path, monkeypatch):
    zoo.write_voc(tmp_path / "pets")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_dataset("~/pets").format == "voc"


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "\ud800"])
def test_impossible_paths(path):
    with pytest.raises(FormatError, match="no such file or folder"):
        open_dataset(path)


@pytest.mark.parametrize("format", zoo.WRITERS)
def test_a_relative_path_gives_relative_paths_that_can_be_opened(tmp_path, monkeypatch, format):
    zoo.WRITERS[format](tmp_path / "pets")
    monkeypatch.chdir(tmp_path)
    annotations = zoo.read_all("pets")["val"]
    assert all(path.startswith("pets/") for path in annotations.paths)
    assert annotations.faults == ()
    assert annotations.name == "pets/val"
    monkeypatch.chdir(tmp_path / "pets")
    assert zoo.read_all(".")["val"].name == "pets/val"


@pytest.mark.parametrize("format", zoo.WRITERS)
def test_reading_leaves_the_folder_as_it_was(tmp_path, format):
    root = zoo.WRITERS[format](tmp_path / "pets")
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(tmp_path.rglob("*"))}
    for path in before:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        zoo.read_all(root)
        assert open_dataset(root).unused() == []
    finally:
        for path in before:
            path.chmod(0o755 if path.is_dir() else 0o644)
    after = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(tmp_path.rglob("*"))}
    assert after == before
    shutil.rmtree(root)
