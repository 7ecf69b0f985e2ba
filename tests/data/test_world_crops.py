"""The objects of the world, cut out."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from sightline.config.errors import UserError
from sightline.data.formats import open_class_dataset
from sightline.data.world import embedded
from sightline.data.world.config import CLASS_NAMES, EmbeddedCropsConfig, EmbeddedWorldConfig, WorldConfig
from sightline.data.world.crops import crop_of, write_crops
from sightline.data.world.embedded import embedded_crops
from sightline.data.world.render import render_sample

SMALL = WorldConfig(image_hw=(128, 208), min_visible_pixels=20)
CONFIG = EmbeddedCropsConfig(city=EmbeddedWorldConfig(scenes=6, val_fraction=0.34, world=SMALL), crop_size=32)


def test_every_large_and_visible_object_becomes_a_crop_of_its_class(tmp_path):
    counts = write_crops(tmp_path / "crops", CONFIG)
    source = open_class_dataset(tmp_path / "crops", class_names=CLASS_NAMES)
    assert source.format == "class_folders" and source.splits == ("train", "val")
    for split, scenes in (("train", range(4)), ("val", range(4, 6))):
        labels = source.read(split)
        assert dict(zip(CLASS_NAMES, labels.images_per_class.tolist(), strict=True)) == counts[split]
        assert (labels.sizes_hw == 32).all()
        expected = set()
        for scene in scenes:
            truth = render_sample(0, scene, SMALL)[3].truth
            sides = truth.boxes_xyxy[:, 2:] - truth.boxes_xyxy[:, :2]
            for number, label in enumerate(truth.labels.tolist()):
                if truth.is_labelled[number] and truth.visible_fraction[number] >= 0.5 and sides[number].max() >= 16:
                    expected.add(f"{CLASS_NAMES[label]}/{scene:06d}_{number:02d}.jpg")
        assert {"/".join(Path(path).parts[-2:]) for path in labels.paths} == expected
        assert len(expected) > 4


def test_a_crop_shows_its_box_in_the_middle_with_context():
    image = np.zeros((100, 200, 3), np.uint8)
    image[40:60, 80:120] = 255  # 40 wide; with a quarter on both sides the square is 60
    crop = crop_of(image, np.array([80.0, 40, 120, 60]), EmbeddedCropsConfig(crop_size=60, context=0.25))
    assert crop.shape == (60, 60, 3)
    rows, columns = np.flatnonzero(crop[:, 30, 0]), np.flatnonzero(crop[30, :, 0])
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (20, 39, 10, 49)


@pytest.mark.parametrize("box", [(0, 0, 30, 10), (170, 90, 200, 100), (0, 0, 200, 100), (50, 0, 60, 100)])
def test_a_crop_at_the_edge_stays_inside_the_picture(box):
    image = np.random.default_rng(0).integers(1, 256, (100, 200, 3), dtype=np.uint8)
    crop = crop_of(image, np.array(box, float), EmbeddedCropsConfig(crop_size=20, context=0.5))
    assert crop.shape == (20, 20, 3) and crop.min() > 0


def test_crops_are_kept_and_the_same_again(tmp_path, monkeypatch):
    first = embedded_crops(CONFIG, tmp_path / "a")
    again = embedded_crops(CONFIG, tmp_path / "b")
    files = sorted(path.relative_to(first) for path in first.rglob("*.jpg"))
    assert files and all((first / file).read_bytes() == (again / file).read_bytes() for file in files)
    assert cv2.imread(str(first / files[0])).shape == (32, 32, 3)
    monkeypatch.setattr("sightline.data.world.crops.write_crops", None)
    assert embedded_crops(CONFIG, tmp_path / "a") == first
    other = embedded._kept(tmp_path / "a", "another", "train", lambda folder: (folder / "train").mkdir(parents=True))
    assert other.parent == first.parent and other != first


def test_a_city_without_large_objects_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="no object of the 4 scenes of 'train'"):
        write_crops(tmp_path / "crops", CONFIG.but(min_side=5000))
    assert list(tmp_path.iterdir()) == []
