"""The world as data sets on disk."""

import json
import stat
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from sightline.config.errors import UserError
from sightline.data.formats import open_dataset
from sightline.data.world import embedded
from sightline.data.world.config import CLASS_NAMES, EmbeddedWorldConfig, WorldConfig
from sightline.data.world.embedded import embedded_world
from sightline.data.world.render import render_sample
from sightline.data.world.writers import write_world

SMALL = WorldConfig(image_hw=(128, 208), min_visible_pixels=20)
FORMATS = ("yolo", "coco", "voc")


@pytest.mark.parametrize("format", FORMATS)
def test_the_readers_find_the_rendered_boxes(tmp_path: Path, format):
    summary = write_world(tmp_path / "world", format=format, scenes=5, seed=3, val_fraction=0.4, config=SMALL)
    source = open_dataset(tmp_path / "world")
    assert source.format == format == summary.format
    assert sorted(source.class_names) == sorted(CLASS_NAMES)
    assert summary.images == {"train": 3, "val": 2}
    num_boxes = 0
    for split, indices in (("train", (0, 1, 2)), ("val", (3, 4))):
        annotations = source.read(split)
        assert annotations.faults == ()
        assert [Path(path).name for path in annotations.paths] == [f"{index:06d}.jpg" for index in indices]
        assert (annotations.sizes_hw == SMALL.image_hw).all()
        for row, index in enumerate(indices):
            image, boxes, labels, rendering = render_sample(3, index, SMALL)
            found, found_labels = annotations.boxes_of(row)
            np.testing.assert_allclose(found, boxes, atol=1e-6)
            assert [source.class_names[k] for k in found_labels] == [CLASS_NAMES[k] for k in labels]
            decoded = cv2.imread(str(annotations.paths[row]))[:, :, ::-1]
            assert np.abs(decoded.astype(int) - image).mean() < 6  # JPEG
            num_boxes += len(boxes)
            if format == "coco":
                visible = rendering.truth.visible_pixels[rendering.truth.is_labelled]
                start = annotations.offsets[row]
                assert annotations.areas[start : start + len(boxes)].tolist() == visible.tolist()
    assert sum(summary.boxes.values()) == num_boxes
    assert source.unused() == []


def test_pycocotools_loads_the_coco_form(tmp_path: Path, capsys):
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    write_world(tmp_path / "world", format="coco", scenes=3, config=SMALL)
    truth = coco.COCO(str(tmp_path / "world" / "annotations" / "instances_train.json"))
    assert [c["name"] for c in truth.loadCats(truth.getCatIds())] == list(CLASS_NAMES)
    for image in truth.loadImgs(truth.getImgIds()):
        boxes = [a["bbox"] for a in truth.loadAnns(truth.getAnnIds(imgIds=image["id"]))]
        expected = render_sample(0, image["id"] - 1, SMALL)[1]
        np.testing.assert_array_equal(np.array(boxes)[:, :2], expected[:, :2])
        np.testing.assert_array_equal(np.array(boxes)[:, 2:], expected[:, 2:] - expected[:, :2])


def test_more_scenes_do_not_change_the_first_ones(tmp_path: Path):
    for scenes in (2, 4):
        write_world(tmp_path / str(scenes), format="yolo", scenes=scenes, val_fraction=0, config=SMALL)
    for name in ("images/train/000001.jpg", "labels/train/000001.txt"):
        assert (tmp_path / "2" / name).read_bytes() == (tmp_path / "4" / name).read_bytes()


@pytest.mark.parametrize(
    "scenes, val_fraction, images",
    [
        (1, 0.2, {"train": 1}),
        (2, 0.9, {"train": 1, "val": 1}),
        (3, 0.01, {"train": 2, "val": 1}),
        (3, 0.0, {"train": 3}),
    ],
)
def test_at_least_one_picture_trains_and_one_validates(tmp_path: Path, scenes, val_fraction, images):
    summary = write_world(tmp_path / "world", format="yolo", scenes=scenes, val_fraction=val_fraction, config=SMALL)
    assert summary.images == images
    assert open_dataset(tmp_path / "world").splits == tuple(images)


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path: Path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="not an empty folder"):
        write_world(tmp_path, format="yolo", scenes=1, config=SMALL)
    with pytest.raises(UserError, match="not an empty folder"):
        write_world(tmp_path / "note.txt", format="yolo", scenes=1, config=SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


def test_an_empty_folder_and_missing_parents_are_fine(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "a" / "b" / "world"):
        write_world(out, format="voc", scenes=1, config=SMALL)
        assert (out / "JPEGImages" / "000000.jpg").exists()


def test_a_folder_below_a_file_or_without_permission_is_the_users_mistake(tmp_path: Path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_world(tmp_path / "file" / "world", format="yolo", scenes=1, config=SMALL)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        write_world(tmp_path / "world", format="yolo", scenes=1, config=SMALL)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"format": "yolo_txt", "scenes": 1}, "Did you mean 'yolo'"),
        ({"format": "yolo", "scenes": 0}, "scenes is 0"),
        ({"format": "yolo", "scenes": 1, "seed": -1}, "seed is -1"),
        ({"format": "yolo", "scenes": 1, "val_fraction": 1.0}, "val_fraction is 1.0"),
    ],
)
def test_impossible_arguments_are_named(tmp_path: Path, arguments, words):
    with pytest.raises(UserError, match=words):
        write_world(tmp_path / "world", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_writer_leaves_nothing_behind(tmp_path: Path):
    def stop(done: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_world(tmp_path / "world", format="yolo", scenes=5, config=SMALL, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_has_the_permissions_of_a_new_folder(tmp_path: Path):
    (tmp_path / "other").mkdir()
    write_world(tmp_path / "world", format="coco", scenes=1, config=SMALL)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("world", "other")]
    assert modes[0] == modes[1]


def test_json_says_where_it_comes_from(tmp_path: Path):
    write_world(tmp_path / "world", format="coco", scenes=1, seed=12, config=SMALL)
    content = json.loads((tmp_path / "world" / "annotations" / "instances_train.json").read_text())
    assert "seed 12" in content["info"]["description"]


TINY = EmbeddedWorldConfig(scenes=3, val_fraction=0.34, world=SMALL)


def test_the_embedded_world_is_rendered_once(tmp_path: Path):
    rendered = []
    first = embedded_world(TINY, tmp_path, rendered.append)
    again = embedded_world(TINY, tmp_path, rendered.append)
    assert first == again and rendered == [1, 2, 3]
    assert open_dataset(first).splits == ("train", "val")
    other = embedded_world(TINY.but(seed=1), tmp_path)
    assert other != first and len(list(tmp_path.iterdir())) == 2


def test_a_half_made_embedded_world_is_not_taken_for_a_whole_one(tmp_path: Path):
    def crash(done: int) -> None:
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        embedded_world(TINY, tmp_path, crash)
    assert open_dataset(embedded_world(TINY, tmp_path)).splits == ("train", "val")


def test_two_at_a_time_get_one_whole_embedded_world(tmp_path: Path):
    barrier, found = threading.Barrier(2, timeout=60), []

    def ask() -> None:
        found.append(embedded_world(TINY, tmp_path, lambda done: barrier.wait() if done == 3 else None))

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 2 and found[0] == found[1]
    assert [p.name for p in tmp_path.iterdir()] == [found[0].name]
    assert len(open_dataset(found[0]).read("train")) == 2


def test_a_version_of_its_own_for_every_change_of_the_pictures(tmp_path: Path, monkeypatch):
    first = embedded_world(TINY, tmp_path)
    monkeypatch.setattr(embedded, "WORLD_VERSION", 10**6)
    assert embedded_world(TINY, tmp_path) != first


def test_a_cache_that_cannot_be_written_is_the_users_mistake(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="SIGHTLINE_CACHE"):
        embedded_world(TINY, tmp_path / "file")


def test_the_world_stands_in_the_cache_folder_of_everything(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "mine"))
    assert embedded_world(TINY).parent == tmp_path / "mine" / "world"
