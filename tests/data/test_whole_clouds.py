"""Clouds that are broken inside are found before a run, by reading each file once."""

import os

import numpy as np
import pytest

from sightline.data import whole_clouds
from sightline.data.formats.find_lidar import open_lidar_dataset
from sightline.data.whole_clouds import WholeClouds
from tests.data.kitti_zoo import cloud, write_kitti

FRAMES = tuple(f"{number:06d}" for number in range(4))


@pytest.fixture
def kitti(tmp_path):
    root = write_kitti(tmp_path / "kitti", FRAMES, lists={"train": "\n".join(FRAMES)})
    points = cloud(2)
    points[7, 2] = np.inf
    points.tofile(root / "training/velodyne/000002.bin")
    return root


@pytest.fixture
def read(monkeypatch):
    """Names of the files that were read."""
    names = []
    real = whole_clouds.read_points
    monkeypatch.setattr(whole_clouds, "read_points", lambda path: (names.append(path[-10:]), real(path))[1])
    return names


def faults(kitti, cache):
    split = WholeClouds(open_lidar_dataset(kitti), cache).read("train")
    return [(fault.kind, fault.path.name, fault.image) for fault in split.faults if fault.fatal]


def test_numbers_that_are_not_finite_spoil_their_frame_and_every_file_is_read_once(kitti, tmp_path, read):
    expected = [("non_finite_points", "000002.bin", 2)]
    assert faults(kitti, tmp_path / "cache") == expected
    assert sorted(read) == [f"{frame}.bin" for frame in FRAMES]
    assert faults(kitti, tmp_path / "cache") == expected
    assert len(read) == 4


def test_a_changed_file_is_looked_at_again(kitti, tmp_path, read):
    faults(kitti, tmp_path / "cache")
    path = kitti / "training/velodyne/000002.bin"
    cloud(2).tofile(path)
    os.utime(path, ns=(0, 0))
    assert faults(kitti, tmp_path / "cache") == []
    assert len(read) == 8


@pytest.mark.parametrize("text", ["", "[[9, 'a', 'b']]", '[[9, "non_finite_points", "b"]]', "7", '[["a"]]'])
def test_a_damaged_memory_of_it_is_made_anew(kitti, tmp_path, read, text):
    expected = faults(kitti, tmp_path / "cache")
    (kept,) = (tmp_path / "cache").glob("*.json")
    kept.write_text(text)
    assert faults(kitti, tmp_path / "cache") == expected
    assert len(read) == 8


def test_frames_that_are_spoilt_already_are_left_alone(kitti, tmp_path, read):
    (kitti / "training/label_2/000002.txt").write_text("Car 1 2\n")
    assert {image for _, _, image in faults(kitti, tmp_path / "cache")} == {2}
    assert sorted(read) == ["000000.bin", "000001.bin", "000003.bin"]
