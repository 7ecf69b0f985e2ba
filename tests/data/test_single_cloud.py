"""One cloud of a user: from KITTI's folders, from anywhere, or an array."""

import math
import shutil

import numpy as np
import pytest

from sightline.config.errors import DataError
from sightline.data.single_cloud import batch_of_cloud, cloud_of_array, read_cloud
from tests.data.kitti_zoo import HEIGHT, WIDTH, cloud, write_kitti

EVERYWHERE = (-100.0, -100.0, -10.0, 100.0, 100.0, 10.0)


@pytest.fixture
def kitti(tmp_path):
    return write_kitti(tmp_path / "kitti")


def test_in_the_folders_of_kitti_the_camera_is_found(kitti):
    found = read_cloud(kitti / "training/velodyne/000001.bin")
    np.testing.assert_array_equal(found.points, cloud(1))
    assert found.image_path == kitti / "training/image_2/000001.png" and found.image_hw == (HEIGHT, WIDTH)
    assert found.calibration is not None and found.calibration.image_from_rect[0, 0] == 100


def test_a_cloud_without_a_camera_beside_it_is_just_points(kitti, tmp_path):
    alone = shutil.copy(kitti / "training/velodyne/000001.bin", tmp_path)
    assert read_cloud(tmp_path / "000001.bin").calibration is None, alone
    (kitti / "training/image_2/000001.png").write_bytes(b"no picture")
    found = read_cloud(kitti / "training/velodyne/000001.bin")
    assert found.calibration is not None and found.image_path is None and found.image_hw is None


def test_a_broken_calibration_is_told_with_its_file_and_a_way_out(kitti):
    (kitti / "training/calib/000001.txt").write_text("P2: 1 2\n")
    with pytest.raises(DataError, match=r"calib/000001.txt: P2 has 2 numbers, expected 12. Repair it, or move"):
        read_cloud(kitti / "training/velodyne/000001.bin")


def test_only_points_in_range_and_in_view_are_given_to_the_detector(kitti):
    found = read_cloud(kitti / "training/velodyne/000001.bin")
    batch = batch_of_cloud(found, EVERYWHERE, in_view=False)
    assert batch.point_counts == (200,) and batch.points.shape == (200, 4) and len(batch) == 1
    # Focal length 100 and the middle at (60, 20) of 120 x 40 pixels: |y| <= 0.6 x and |z| <= 0.2 x.
    x, y, z = found.points[:, :3].T.astype(np.float64)
    seen = (60 - 100 * y / x >= 0) & (60 - 100 * y / x < 120) & (20 - 100 * z / x >= 0) & (20 - 100 * z / x < 40)
    assert batch_of_cloud(found, EVERYWHERE, in_view=True).points.tolist() == found.points[seen].tolist()
    near = batch_of_cloud(found, (0, -100, -10, 20, 100, 10), in_view=False).points
    assert near.tolist() == found.points[x <= 20].tolist()


def test_arrays_of_any_kind_of_number_become_float32():
    points = cloud_of_array(np.arange(8).reshape(2, 4)).points
    assert points.dtype == np.float32 and points.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert batch_of_cloud(cloud_of_array(np.zeros((0, 4))), EVERYWHERE, in_view=True).point_counts == (0,)


@pytest.mark.parametrize(
    "points, message",
    [
        (np.zeros(4), r"shape \(P, 4\).*float64 of shape \(4,\)"),
        (np.zeros((5, 3)), r"of shape \(5, 3\)"),
        (np.array([["a", "b", "c", "d"]]), "expected numbers"),
        (np.array([[0, 0, 0, 0], [0, 0, 0, math.nan]]), "1 point of 2 with NaN or infinity, the first is number 1"),
        (np.array([[1e300, 0, 0, 0]]), "1 point of 1 with NaN or infinity"),
    ],
)
def test_arrays_that_are_no_clouds_are_refused(points, message):
    with pytest.raises(DataError, match=message):
        cloud_of_array(points)
