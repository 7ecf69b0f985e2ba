"""Objects cut out of their frames: which points, in which file, and what happens to a damaged one."""

import multiprocessing
import os
import pickle

import numpy as np
import pytest

from sightline.config.errors import ConfigError, DataError
from sightline.data.formats.find_lidar import open_lidar_dataset
from sightline.data.ground_truth_database import GroundTruthDatabase, cut_out, ground_truth_database
from tests.data.kitti_zoo import cloud, write_kitti


@pytest.fixture
def kitti(tmp_path):
    return write_kitti(tmp_path / "kitti")


def train(root, **options):
    return open_lidar_dataset(root, **options).read("train")


def same(a: GroundTruthDatabase, b: GroundTruthDatabase) -> bool:
    names = ("points", "offsets", "boxes3d", "types", "levels", "frames")
    return a.type_names == b.type_names and all(np.array_equal(getattr(a, n), getattr(b, n)) for n in names)


def test_the_points_of_an_object_are_those_in_its_box_relative_to_its_centre(kitti):
    database = cut_out(train(kitti))
    assert [database.type_names[t] for t in database.types] == ["Car", "Van", "Pedestrian"] * 2
    assert database.frames.tolist() == [0, 0, 0, 1, 1, 1]
    assert database.of_type("Pedestrian").tolist() == [2, 5] and len(database.of_type("Bus")) == 0
    for frame in (0, 1):
        points = cloud(frame)
        # The car's box is (10, 0, -0.75, 4, 1.6, 1.5, 0): sides along the axes, 1 cm wider in x and y.
        offsets = points[:, :3] - np.array([10, 0, -0.75])
        inside = (abs(offsets) <= (2.01, 0.81, 0.75)).all(axis=1)
        assert inside.sum() >= 10
        mine = database.points_of(3 * frame)
        np.testing.assert_allclose(mine[:, :3], offsets[inside], atol=1e-6)
        np.testing.assert_array_equal(mine[:, 3], points[inside, 3])  # in the order of the file


def test_the_file_is_made_once_and_mapped(kitti, tmp_path):
    calls = []
    held = train(kitti)
    first = ground_truth_database(held, folder=tmp_path / "cache", progress=lambda *call: calls.append(call))
    second = ground_truth_database(held, folder=tmp_path / "cache", progress=lambda *call: calls.append(call))
    assert calls == [(2, 2)]
    assert same(first, cut_out(held)) and same(first, second)
    assert not second.points.flags.owndata and not second.points.flags.writeable
    names = sorted(entry.suffix for entry in (tmp_path / "cache").iterdir())
    assert names in ([".objects"], [".lock", ".objects"])


def test_another_cloud_label_or_split_has_another_file_and_other_classes_share_it(kitti, tmp_path):
    def files():
        return {entry.name for entry in (tmp_path / "cache").glob("*.objects")}

    def opened(split="train", **options):
        return ground_truth_database(open_lidar_dataset(kitti, **options).read(split), folder=tmp_path / "cache")

    opened()
    opened(class_names=["Car"])
    assert len(files()) == 1
    opened("val")
    cloud(9).tofile(kitti / "training/velodyne/000000.bin")
    os.utime(kitti / "training/velodyne/000000.bin", (0, 0))
    changed = opened()
    assert len(files()) == 3 and same(changed, cut_out(train(kitti)))
    label = kitti / "training/label_2/000001.txt"
    label.write_text(label.read_text().replace("10.00 -1.57", "10.50 -1.57"))
    assert opened().boxes3d[3, 0] == pytest.approx(10.5)
    assert len(files()) == 4


@pytest.mark.parametrize("place", [0, 40, 70, 200, -1])
@pytest.mark.parametrize("is_cut", [False, True])
def test_a_damaged_file_is_made_anew(kitti, tmp_path, place, is_cut):
    held = train(kitti)
    expected = cut_out(held)
    ground_truth_database(held, folder=tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob("*.objects")
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data[:place] if is_cut else data)
    assert same(ground_truth_database(held, folder=tmp_path / "cache"), expected)
    assert same(ground_truth_database(held, folder=tmp_path / "cache"), expected)


def test_pickled_it_is_the_name_of_its_file(kitti, tmp_path):
    database = ground_truth_database(train(kitti), folder=tmp_path / "cache")
    data = pickle.dumps(database)
    assert len(data) < 1000
    assert same(pickle.loads(data), database)


def build(root, folder, queue):
    database = ground_truth_database(train(root), folder=folder)
    queue.put((len(database), float(database.points.sum())))


def test_processes_may_ask_at_once(kitti, tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    processes = [context.Process(target=build, args=(kitti, tmp_path / "cache", queue)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    assert found[0] == found[1] and found[0][0] == 6


def test_a_split_without_objects_has_an_empty_database(kitti, tmp_path):
    for path in (kitti / "training/label_2").iterdir():
        path.write_text("")
    database = ground_truth_database(train(kitti), folder=tmp_path / "cache")
    assert len(database) == 0 and database.points.shape == (0, 4)
    assert len(ground_truth_database(train(kitti), folder=tmp_path / "cache")) == 0


def test_a_cloud_with_nan_is_named(kitti, tmp_path):
    points = cloud()
    points[7, 1] = np.nan
    points.tofile(kitti / "training/velodyne/000001.bin")
    with pytest.raises(DataError, match=r"000001.bin: 1 point of 200 with NaN or infinity, the first is number 7"):
        ground_truth_database(train(kitti), folder=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.objects"))


def test_a_folder_that_cannot_be_written_to_is_told(kitti, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written.*SIGHTLINE_CACHE"):
        ground_truth_database(train(kitti), folder=tmp_path / "file")


def test_a_selection_keeps_points_and_boxes_together(kitti):
    database = cut_out(train(kitti))
    part = database.select([5, 0])
    assert part.types.tolist() == database.types[[5, 0]].tolist()
    for ours, theirs in enumerate((5, 0)):
        np.testing.assert_array_equal(part.points_of(ours), database.points_of(theirs))


def test_arrays_that_contradict_each_other_are_refused():
    def make(**changes):
        arrays = {
            "points": np.zeros((2, 4)),
            "offsets": [0, 2],
            "boxes3d": np.zeros((1, 7)),
            "types": [0],
            "levels": [0],
            "frames": [0],
        }
        return GroundTruthDatabase(("Car",), **{name: np.array(a) for name, a in (arrays | changes).items()})

    assert len(make()) == 1
    for changes in ({"offsets": [0, 3]}, {"types": [1]}, {"boxes3d": np.zeros((2, 7))}, {"points": np.zeros(8)}):
        with pytest.raises(ValueError, match="expected"):
            make(**changes)
