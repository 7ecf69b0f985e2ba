"""Images in memory and in a packed file: always the pixels of the file, read as seldom as promised."""

import os
import pickle
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from sightline.config.errors import ConfigError, DataError
from sightline.data import packed_images
from sightline.data.cache import RecentImages, open_images
from sightline.data.cache_folder import cache_folder
from sightline.data.image_reader import ImageReader
from sightline.data.memory import Scratch
from sightline.data.packed_images import PackedImages, open_packed
from tests.data.pictures import MIXED_SIZES, annotations_of, smooth_image, write_pictures

ROOT = Path(__file__).parents[2]


@pytest.fixture
def annotations(tmp_path):
    (tmp_path / "images").mkdir()
    return write_pictures(tmp_path / "images", MIXED_SIZES)


class Counting(ImageReader):
    """Counts how often each image is read, and takes its time."""

    delay = 0.0

    def read(self, index, out):
        if not hasattr(self, "counts"):
            self.counts = Counter()
        self.counts[index] += 1
        time.sleep(self.delay)
        super().read(index, out)


def expected_pixels(annotations, index, image_size):
    """Decoded and resized by the simplest means."""
    image = cv2.cvtColor(cv2.imread(annotations.paths[index]), cv2.COLOR_BGR2RGB)
    ratio = image_size / max(image.shape[:2])
    size = (int(image.shape[1] * ratio), int(image.shape[0] * ratio)) if ratio != 1 else image.shape[1::-1]
    return cv2.resize(image, size)


def all_images(images, count):
    result = []
    for i in range(count):
        with images.borrow([i]) as (image,):
            result.append(image.copy())
    return result


@pytest.mark.parametrize("image_size", [64, 96, 33])
def test_every_cache_gives_the_pixels_of_the_files(annotations, image_size, tmp_path):
    for options in ({"cache": "none"}, {"cache": "none", "recent_bytes": 0}, {"cache": "ram"}, {"cache": "disk"}):
        images = open_images(ImageReader(annotations, image_size), **options, folder=tmp_path / "cache")
        for _ in range(2):
            for i, image in enumerate(all_images(images, len(annotations))):
                np.testing.assert_array_equal(image, expected_pixels(annotations, i, image_size))
                assert images.hw(i) == image.shape[:2]


def test_small_images_grow_only_where_asked(annotations):
    assert ImageReader(annotations, 64).hw(5) == (64, 48)
    assert ImageReader(annotations, 64, upscale=False).hw(5) == (40, 30)
    assert ImageReader(annotations, 64, upscale=False).hw(4) == (50, 64)
    with open_images(ImageReader(annotations, 64, upscale=False)).borrow([5]) as (image,):
        np.testing.assert_array_equal(image, expected_pixels(annotations, 5, 40))


def test_recent_images_are_not_read_again(annotations):
    reader = Counting(annotations, 64)
    images = RecentImages(reader, 3)
    for _ in range(5):
        with images.borrow([0, 1, 2, 1]):
            pass
    assert reader.counts == {0: 1, 1: 1, 2: 1}


def test_the_image_used_longest_ago_goes_first(annotations):
    reader = Counting(annotations, 64)
    images = RecentImages(reader, 3)
    for i in (0, 1, 2, 0, 3, 0, 2, 1):  # 3 takes the place of 1
        with images.borrow([i]):
            pass
    assert reader.counts == {0: 1, 1: 2, 2: 1, 3: 1}


def test_images_that_all_stay_take_no_more_memory_than_their_pixels(annotations):
    reader = ImageReader(annotations, 64)
    images = open_images(reader, cache="ram")
    for i in range(len(reader)):
        with images.borrow([i]) as (image,):
            assert image.base.nbytes == image.nbytes


def test_memory_of_old_images_is_used_again(annotations):
    images = RecentImages(ImageReader(annotations, 64), 2)
    places = set()
    for i in [0, 1, 2, 3, 4, 5] * 3:
        with images.borrow([i]) as (image,):
            places.add(image.ctypes.data)
    assert len(places) == 2


def test_borrowed_images_are_never_written_over(annotations):
    images = RecentImages(ImageReader(annotations, 64), 2)
    with images.borrow([0, 1, 2, 3]) as first, images.borrow([4, 5, 6, 7]) as second:
        for i, image in enumerate([*first, *second]):
            np.testing.assert_array_equal(image, expected_pixels(annotations, i, 64))


def test_many_images_at_once_do_not_make_the_cache_grow_for_good(annotations):
    images = RecentImages(ImageReader(annotations, 64), 2)
    with images.borrow(range(6)):
        assert len(images._entries) == 6
    with images.borrow([7]):
        assert len(images._entries) == 2


def test_threads_that_want_the_same_image_read_it_once(annotations):
    reader = Counting(annotations, 64)
    reader.delay = 0.02
    images, failures = RecentImages(reader, 8), []

    def work(seed):
        for i in np.random.default_rng(seed).integers(0, 8, 20):
            with images.borrow([int(i), int(i + 1) % 8]) as borrowed:
                for k, image in zip((i, (i + 1) % 8), borrowed, strict=True):
                    if not np.array_equal(image, expected_pixels(annotations, int(k), 64)):
                        failures.append(k)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert set(reader.counts.values()) == {1}


def test_threads_with_a_tiny_cache_see_right_pixels(annotations):
    images, failures = RecentImages(ImageReader(annotations, 64), 1), []
    expected = [expected_pixels(annotations, i, 64) for i in range(8)]

    def work(seed):
        for i in np.random.default_rng(seed).integers(0, 8, 150):
            with images.borrow([int(i), int(i + 3) % 8]) as (first, second):
                if not (np.array_equal(first, expected[i]) and np.array_equal(second, expected[(i + 3) % 8])):
                    failures.append(i)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize("cache", ["none", "ram", "disk"])
def test_a_broken_file_is_an_error_that_names_it(annotations, cache, tmp_path):
    path = Path(annotations.paths[3])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"0003\.png"):
        images = open_images(ImageReader(annotations, 64), cache=cache, folder=tmp_path / "cache")
        with images.borrow([2, 3]):
            pass
    if cache != "disk":  # others are as good as before, and asking again says the same
        with images.borrow([2]) as (image,):
            np.testing.assert_array_equal(image, expected_pixels(annotations, 2, 64))
        with pytest.raises(DataError, match=r"0003\.png"), images.borrow([3]):
            pass
        assert all(entry.num_pins == 0 for entry in images._entries.values())


def test_an_image_that_changed_its_size_is_an_error(annotations):
    cv2.imwrite(annotations.paths[0], smooth_image(0, 20, 20))
    with (
        pytest.raises(DataError, match=r"0000\.png: has changed"),
        RecentImages(ImageReader(annotations, 64), 4).borrow([0]),
    ):
        pass


def test_an_image_whose_size_was_unreadable_says_why(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    annotations = annotations_of([tmp_path / "bad.jpg"], [(0, 0)], [[]], [[]])
    with pytest.raises(DataError, match=r"bad\.jpg"):
        ImageReader(annotations, 64).hw(0)


def test_ram_that_is_too_small_is_refused(annotations, monkeypatch):
    class Memory:
        available = 20_000

    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory)
    with pytest.raises(ConfigError, match=r"data\.cache=ram needs 0.0 GiB for 8 images.*Use data\.cache=disk"):
        open_images(ImageReader(annotations, 64), cache="ram")


def folder_content(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.suffix == ".pixels"}


def test_a_packed_file_is_written_once_and_outside_of_the_data(annotations, tmp_path):
    before = sorted((tmp_path / "images").iterdir())
    cache = tmp_path / "cache"
    first = open_packed(ImageReader(annotations, 64), cache)
    content = folder_content(cache)
    assert len(content) == 1
    second = open_packed(ImageReader(annotations, 64), cache)
    assert folder_content(cache) == content
    assert first.path == second.path
    assert sorted((tmp_path / "images").iterdir()) == before
    assert not [path for path in cache.iterdir() if path.name.startswith(".part")]


def test_a_packed_file_has_the_bytes_of_the_pixels_and_a_small_index(annotations, tmp_path):
    images = open_packed(ImageReader(annotations, 64), tmp_path / "cache")
    pixels = sum(3 * h * w for h, w in map(images.hw, range(8)))
    assert images.path.stat().st_size == 32 + 8 + 8 * 8 + 9 * 8 + pixels


def test_the_name_of_a_packed_file_tells_content_and_settings(annotations, tmp_path):
    cache = tmp_path / "cache"
    readers = [
        ImageReader(annotations, 64),
        ImageReader(annotations, 96),
        ImageReader(annotations, 64, area=True),
        ImageReader(annotations, 64, upscale=False),
    ]
    paths = {open_packed(reader, cache).path for reader in readers}
    assert len(paths) == 4


def test_a_changed_image_is_packed_anew_even_with_the_same_size_in_bytes(annotations, tmp_path):
    cache, path = tmp_path / "cache", Path(annotations.paths[2]).with_suffix(".bmp")
    cv2.imwrite(str(path), np.full((64, 64, 3), 10, np.uint8))
    changed = annotations_of([*list(annotations.paths)[:2], path], MIXED_SIZES[:3], [[]] * 3, [[]] * 3)
    old = open_packed(ImageReader(changed, 64), cache)
    cv2.imwrite(str(path), np.full((64, 64, 3), 200, np.uint8))
    os.utime(path, ns=(1, 1))
    new = open_packed(ImageReader(changed, 64), cache)
    assert new.path != old.path
    assert all_images(new, 3)[2].max() == 200
    assert all_images(old, 3)[2].max() == 10  # a run that reads it goes on


def test_a_copy_of_the_data_uses_the_same_packed_file(annotations, tmp_path):
    first = open_packed(ImageReader(annotations, 64), tmp_path / "cache")
    moved = tmp_path / "elsewhere"
    (tmp_path / "images").rename(moved)
    paths = [moved / Path(path).name for path in annotations.paths]
    copy = annotations_of(paths, MIXED_SIZES, [[]] * 8, [[]] * 8)
    assert open_packed(ImageReader(copy, 64), tmp_path / "cache").path == first.path


def test_files_that_did_not_change_are_not_read_again(annotations, tmp_path, monkeypatch):
    open_packed(ImageReader(annotations, 64), tmp_path / "cache")
    monkeypatch.setattr(packed_images, "read_image_bytes", lambda path: pytest.fail(f"read {path}"))
    open_packed(ImageReader(annotations, 64), tmp_path / "cache")


@pytest.mark.parametrize("damage", ["cut", "longer", "index", "empty"])
def test_a_damaged_packed_file_is_written_anew(annotations, tmp_path, damage):
    cache = tmp_path / "cache"
    path = open_packed(ImageReader(annotations, 64), cache).path
    whole = path.read_bytes()
    broken = {"cut": whole[:-1], "longer": whole + b"x", "index": whole[:50] + b"\xff" + whole[51:], "empty": b""}
    path.unlink()
    path.write_bytes(broken[damage])
    images = open_packed(ImageReader(annotations, 64), cache)
    for i, image in enumerate(all_images(images, 8)):
        np.testing.assert_array_equal(image, expected_pixels(annotations, i, 64))
    assert path.read_bytes() == whole


def test_a_packed_file_of_other_images_is_refused(annotations, tmp_path):
    path = open_packed(ImageReader(annotations, 64), tmp_path / "cache").path
    with pytest.raises(ValueError, match="holds other images"):
        PackedImages(path, ImageReader(annotations, 96))


def test_a_failure_while_writing_leaves_no_file(annotations, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packed_images.os, "fsync", full)
    with pytest.raises(ConfigError, match=r"image cache cannot be written: No space left on device. Name another"):
        open_packed(ImageReader(annotations, 64), tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]


def test_a_disk_that_is_too_small_is_told_before_writing(annotations, tmp_path, monkeypatch):
    class Usage:
        free = 1000

    monkeypatch.setattr(packed_images.shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(ConfigError, match="do not fit on the disk"):
        open_packed(ImageReader(annotations, 64), tmp_path / "cache")


def test_a_folder_that_cannot_be_made_is_a_user_error(annotations, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="SIGHTLINE_CACHE"):
        open_packed(ImageReader(annotations, 64), tmp_path / "file" / "cache")


def test_what_a_killed_writer_left_is_cleared_away(annotations, tmp_path):
    cache = tmp_path / "cache"
    path = open_packed(ImageReader(annotations, 64), cache).path
    path.rename(path.with_name(f".part-{path.name}"))
    open_packed(ImageReader(annotations, 64), cache)
    assert path.exists()
    assert not [found for found in cache.iterdir() if found.name.startswith(".part")]


def test_everything_is_cached_in_one_folder_that_the_environment_names(monkeypatch, tmp_path):
    monkeypatch.setenv("SIGHTLINE_CACHE", "~/here")
    assert cache_folder() == Path.home() / "here"
    monkeypatch.delenv("SIGHTLINE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "sightline"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the standard
    assert cache_folder() == Path.home() / ".cache" / "sightline"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "sightline"


@pytest.mark.parametrize("cache", ["none", "disk"])
def test_worker_processes_get_the_settings_not_the_pixels(annotations, cache, tmp_path):
    images = open_images(ImageReader(annotations, 64), cache=cache, folder=tmp_path / "cache")
    all_images(images, 8)
    travelling = pickle.dumps(images)
    assert len(travelling) < 5000
    for image, copy in zip(all_images(images, 8), all_images(pickle.loads(travelling), 8), strict=True):
        np.testing.assert_array_equal(image, copy)


def test_scratch_memory_is_kept_by_name_and_thread():
    scratch = Scratch()
    first = scratch.array("a", (4, 5))
    assert np.shares_memory(first, scratch.array("a", (2, 3)))
    assert not np.shares_memory(first, scratch.array("b", (4, 5)))
    found = []
    thread = threading.Thread(target=lambda: found.append(scratch.array("a", (4, 5))))
    thread.start()
    thread.join()
    assert not np.shares_memory(first, found[0])
    assert scratch.array("a", (100, 100)).shape == (100, 100)


FAULTS_OF_BATCHES = """
import resource, sys
import numpy as np
from sightline.data.memory import keep_freed_memory

def make_batches():
    for _ in range(20):
        images = [np.ones(900_000, np.uint8) for _ in range(4)]
        del images

if sys.argv[1] == "keep":
    keep_freed_memory()
make_batches()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
make_batches()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is the allocator of Linux that hands memory back")
def test_freed_memory_stays_with_the_process():
    # In fresh processes: what others did to the allocator would count too.
    def faults(mode):
        command = [sys.executable, "-c", FAULTS_OF_BATCHES, mode]
        return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)

    if faults("leave") < 1000:  # 80 images of 220 pages: touched anew, 17,600
        pytest.skip("the allocator of this system keeps freed memory by itself")
    assert faults("keep") < 100
