"""Samples of point clouds: what is in them, and that each depends on its names alone."""

import pickle

import numpy as np
import pytest
import torch

from sightline.config.errors import ConfigError, DataError
from sightline.data.formats.find_lidar import open_lidar_dataset
from sightline.data.ground_truth_database import ground_truth_database
from sightline.data.lidar_source import LidarEvalSource, LidarTrainSource
from sightline.data.loader import BatchLoader
from sightline.data.sampler import BatchRequest
from sightline.data.transforms.ground_truth_paste import PasteConfig
from sightline.data.transforms.point_augment import ObjectNoiseConfig, PointAugmentConfig
from tests.data.kitti_zoo import FOCAL, HEIGHT, MIDDLE_U, MIDDLE_V, WIDTH, cloud, write_kitti

RANGE = (0.0, -15.0, -2.5, 45.0, 15.0, 1.0)
STILL = PointAugmentConfig(paste=None, flip_x=0, rotate=(0, 0), scale=(1, 1), shuffle=False)
EVERYTHING = PointAugmentConfig(
    paste=PasteConfig(counts=2, without_levels=()), object_noise=ObjectNoiseConfig(), translate_std=(0.2, 0.2, 0.2)
)


@pytest.fixture
def kitti(tmp_path):
    frames = tuple(f"{i:06d}" for i in range(6))
    return write_kitti(tmp_path / "kitti", frames, lists={"train": "\n".join(frames)}, num_points=400)


@pytest.fixture
def train(kitti):
    return open_lidar_dataset(kitti).read("train")


@pytest.fixture
def database(train, tmp_path):
    return ground_truth_database(train, folder=tmp_path / "cache")


def seen(points):
    """What the camera of the zoo sees: u = 60 - 100 y / x, v = 20 - 100 z / x."""
    x, y, z = points[:, :3].astype(np.float64).T
    u, v = MIDDLE_U - FOCAL * y / x, MIDDLE_V - FOCAL * z / x
    return (x >= 0) & (u >= 0) & (u < WIDTH) & (v >= 0) & (v < HEIGHT)


def in_range(points):
    x, y, _ = points[:, :3].T
    return (x >= 0) & (x <= 45) & (y >= -15) & (y <= 15)


@pytest.mark.parametrize("in_view", [True, False])
def test_points_are_those_in_view_and_range_in_the_order_of_the_file(train, in_view):
    points = cloud(2, 400)
    expected = points[in_range(points) & (seen(points) if in_view else True)]
    assert 20 < len(expected) < 400
    for source in (
        LidarEvalSource(train, RANGE, in_view=in_view),
        LidarTrainSource(train, RANGE, STILL, in_view=in_view),
    ):
        np.testing.assert_array_equal(source.make(0, 2).points, expected)


def test_boxes_are_those_of_trained_classes(train):
    for source in (LidarEvalSource(train, RANGE), LidarTrainSource(train, RANGE, STILL)):
        sample = source.make(0, 0)
        assert sample.labels.tolist() == [0, 1]  # car and pedestrian; not the van, not DontCare
        np.testing.assert_allclose(sample.boxes3d[0], [10, 0, -0.75, 4, 1.6, 1.5, 0], atol=1e-6)
        assert sample.boxes3d.dtype == np.float32 and sample.labels.dtype == np.int64


def test_training_leaves_out_boxes_outside_of_the_range_and_evaluation_does_not(train):
    near = (0, -15, -2.5, 11, 15, 1)
    assert LidarTrainSource(train, near, STILL).make(0, 0).labels.tolist() == [0]
    assert LidarEvalSource(train, near).make(0, 0).labels.tolist() == [0, 1]


def test_without_pictures_all_points_are_used(tmp_path):
    train = open_lidar_dataset(write_kitti(tmp_path / "bare", images=False)).read("train")
    points = cloud(0)
    np.testing.assert_array_equal(LidarEvalSource(train, RANGE).make(0, 0).points, points[in_range(points)])


def test_objects_of_other_scenes_are_pasted_until_the_last_epochs(train, database):
    # All cars stand in the same place, so the classes are moved apart: only pedestrians find room.
    objects = database.select(np.flatnonzero(database.types == database.type_names.index("Pedestrian")))
    moved = objects.boxes3d.copy()
    moved[:, :2] = np.stack((np.linspace(20, 40, len(moved)), np.zeros(len(moved))), axis=1)
    apart = type(objects)(
        objects.type_names, objects.points, objects.offsets, moved, objects.types, objects.levels, objects.frames
    )
    config = STILL.but(paste=PasteConfig(counts=3, without_levels=()), close_epochs=2)
    source = LidarTrainSource(train, RANGE, config, epochs=5, database=apart)
    counts = [len(source.make(epoch, 0).labels) for epoch in range(5)]
    assert counts == [5, 5, 5, 2, 2]
    pasted = source.make(0, 0)
    assert pasted.labels.tolist() == [0, 1, 1, 1, 1] and len(pasted.points) > len(source.make(3, 0).points)


def test_a_sample_depends_on_seed_epoch_index_and_pass_alone(train, database):
    def make(seed=0):
        return LidarTrainSource(train, RANGE, EVERYTHING, seed=seed, database=database)

    source = make()
    expected = source.make(2, 5)
    for index in (0, 3, 5):
        source.make(1, index)
    for other in (source, make(), pickle.loads(pickle.dumps(source))):
        for ours, theirs in zip(other.make(2, 5), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    for changed in (make(seed=1).make(2, 5), source.make(3, 5), source.make(2, 4), source.make(2, 5, repeat=1)):
        assert changed.points.shape != expected.points.shape or (changed.points != expected.points).any()


def test_worker_processes_are_sent_the_name_of_the_database_not_its_points(train, database):
    alone, together = (
        len(pickle.dumps(LidarTrainSource(train, RANGE, EVERYTHING, database=objects))) for objects in (None, database)
    )
    assert database.points.nbytes > 2000 and together - alone < 2000


def batches(source, sampler, **options):
    with BatchLoader(source, sampler, **options) as loader:
        for fetched in loader.iterate(epochs=2):
            batch = fetched.batch
            yield batch.sample_ids, batch.point_counts, batch.box_counts, batch.points, batch.boxes3d, batch.labels


@pytest.mark.parametrize("options", [{"workers": 2}, {"workers": 2, "kind": "processes", "start_method": "fork"}])
def test_workers_give_the_same_bits(train, database, options):
    source = LidarTrainSource(train, RANGE, EVERYTHING, database=database)
    expected = list(batches(source, source.sampler(4), workers=0))
    found = list(batches(source, source.sampler(4), **options))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours[:3] == theirs[:3]
        assert all(torch.equal(a, b) for a, b in zip(ours[3:], theirs[3:], strict=True))


def test_two_processes_make_the_samples_of_one(train, database):
    source = LidarTrainSource(train, RANGE, EVERYTHING, database=database)
    whole = list(batches(source, source.sampler(4), workers=0))
    shares = [list(batches(source, source.sampler(4, rank=r, num_processes=2), workers=0)) for r in range(2)]

    def clouds(parts):
        return {
            sample: points
            for ids, counts, _, points, _, _ in parts
            for sample, points in zip(ids, points.split(list(counts)), strict=True)
        }

    for batch, first, second in zip(whole, *shares, strict=True):
        one, two = clouds([batch]), clouds([first, second])
        assert sorted(one) == sorted(two)
        assert all(torch.equal(one[sample], two[sample]) for sample in one)


def test_a_batch_joins_clouds_of_any_size_and_a_share_may_be_empty(train):
    source = LidarEvalSource(train, RANGE)
    with BatchLoader(source, source.sampler(4), workers=0) as loader:
        sizes = []
        for fetched in loader.iterate(epochs=1):
            batch = fetched.batch
            assert batch.points.shape == (sum(batch.point_counts), 4) and batch.points.dtype == torch.float32
            assert batch.box_counts == (2,) * len(batch)
            sizes.append(batch.sample_ids)
    assert sizes == [(0, 1, 2, 3), (4, 5)]
    empty = source.collate(BatchRequest(0, 0, ()), {}, [])
    assert len(empty) == 0 and empty.points.shape == (0, 4) and empty.boxes3d.shape == (0, 7)


def test_one_long_epoch_shows_a_frame_differently_in_each_pass(train):
    source = LidarTrainSource(train, RANGE, PointAugmentConfig(paste=None), epochs=4)
    sampler = source.sampler(3, one_long_epoch=True)
    requests = [sampler.request(epoch, index) for epoch in range(4) for index in range(sampler.batches_per_epoch)]
    views = {(sample, request.repeats[slot]) for request in requests for slot, sample in enumerate(request.sample_ids)}
    assert len(views) == 24  # 6 frames in 4 passes
    first, second = (source.make(0, 3, repeat=repeat).points for repeat in (0, 1))
    assert not np.array_equal(np.sort(first[:, 0]), np.sort(second[:, 0]))


def test_broken_clouds_stop_with_the_name_of_the_file(kitti, train):
    points = cloud()
    points[3, 2] = np.inf
    points.tofile(kitti / "training/velodyne/000004.bin")
    source = LidarTrainSource(train, RANGE, STILL)
    with BatchLoader(source, source.sampler(2), workers=1) as loader, pytest.raises(DataError) as error:
        list(loader.iterate(epochs=1))
    assert "000004.bin: 1 point of 200 with NaN or infinity" in str(error.value)


def test_frames_without_points_in_range_or_objects_are_samples_too(kitti):
    (kitti / "training/label_2/000000.txt").write_text("")
    np.full((3, 4), -30, "<f4").tofile(kitti / "training/velodyne/000000.bin")
    train = open_lidar_dataset(kitti).read("train")
    for source in (LidarEvalSource(train, RANGE), LidarTrainSource(train, RANGE, PointAugmentConfig(paste=None))):
        sample = source.make(0, 0)
        assert sample.points.shape == (0, 4) and sample.boxes3d.shape == (0, 7) and sample.labels.shape == (0,)


def test_five_million_points_are_a_sample(kitti, train):
    points = np.tile(cloud(0, 500), (10_000, 1))
    points.tofile(kitti / "training/velodyne/000001.bin")
    expected = points[in_range(points) & seen(points)]
    assert len(LidarTrainSource(train, RANGE, STILL).make(0, 1).points) == len(expected)


def test_impossible_settings_are_refused(train, database):
    with pytest.raises(ConfigError, match="point_range"):
        LidarEvalSource(train, (0, 0, 0, 1, 1, 0))
    with pytest.raises(ConfigError, match="close_epochs=2 counts epochs from the end"):
        LidarTrainSource(train, RANGE, EVERYTHING.but(close_epochs=2))
    with pytest.raises(ConfigError, match="no number of epochs"):
        LidarTrainSource(train, RANGE, STILL).sampler(2, one_long_epoch=True)
    with pytest.raises(ConfigError, match="no class 'Bus'"):
        LidarTrainSource(train, RANGE, STILL.but(paste=PasteConfig(counts=(("Bus", 2),))), database=database)
    with pytest.raises(ConfigError, match="4 numbers per point, but the clouds have 5"):
        LidarTrainSource(train, RANGE, EVERYTHING, database=database, num_features=5)


def test_classes_without_objects_to_paste_are_told(train, database):
    source = LidarTrainSource(train, RANGE, EVERYTHING, database=database)
    assert len(source.messages) == 2 and "Cyclist" in source.messages[0]


def test_frames_without_a_ground_to_paste_onto_are_told(train, database):
    source = LidarTrainSource(train, RANGE, EVERYTHING, database=database)
    assert "no frame has a known ground plane" in source.messages[1]
    beside = EVERYTHING.but(paste=EVERYTHING.paste.but(onto_plane=False))
    assert not any("plane" in text for text in LidarTrainSource(train, RANGE, beside, database=database).messages)
