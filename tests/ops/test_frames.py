import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.ops.frames import (
    Calibration,
    boxes_camera_to_lidar,
    boxes_lidar_to_camera,
    camera_corners,
    image_boxes,
    observation_angles,
    wrapped,
)

# Focal length 100, centre (50, 40). The camera sits 0.5 m ahead of the LiDAR and 0.2 m below it, and looks ahead.
IDEAL = Calibration(
    np.array([[100, 0, 50, 0], [0, 100, 40, 0], [0, 0, 1, 0]], dtype=np.float32),
    np.eye(3, dtype=np.float32),
    np.array([[0, -1, 0, 0], [0, 0, -1, -0.2], [1, 0, 0, -0.5]], dtype=np.float32),
)
SIZE_HW = (80, 100)


def real(angle=0.01):
    """A calibration like KITTI's: a rectification by a small turn, and a second camera beside the first."""
    cos, sin = math.cos(angle), math.sin(angle)
    return Calibration(
        np.array([[721.5, 0, 609.6, 44.9], [0, 721.5, 172.9, 0.2], [0, 0, 1, 0.003]], dtype=np.float32),
        np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]], dtype=np.float32),
        IDEAL.camera_from_lidar,
    )


def rows(*items):
    return np.array(items, dtype=np.float32)


def test_ahead_of_the_lidar_is_ahead_of_the_camera():
    assert IDEAL.lidar_to_rect(rows([10.5, 2, 1, 0.9])).tolist() == [[-2, pytest.approx(-1.2), 10]]


def test_a_point_is_seen_where_the_pinhole_says():
    # x = -2, y = -1.2, z = 10: u = 50 - 100 * 2 / 10, v = 40 - 100 * 1.2 / 10.
    pixels, depths = IDEAL.rect_to_image(rows([-2, -1.2, 10]))
    assert pixels.tolist() == [[pytest.approx(30), pytest.approx(28)]]
    assert depths.tolist() == [10]


def test_the_picture_has_its_first_pixel_and_not_the_one_behind_its_last():
    # On z = 100 a pixel is 1 m: u = x + 50, v = y + 40.
    edges = rows([-50, -40, 100], [49.99, 39.99, 100], [50, 0, 100], [0, 40, 100], [-50.01, 0, 100], [0, -40.01, 100])
    seen = IDEAL.is_in_image(IDEAL.rect_to_lidar(edges), SIZE_HW)
    assert seen.tolist() == [True, True, False, False, False, False]


def test_what_is_behind_the_camera_is_not_seen_nor_what_is_not_finite():
    points = rows([-9.5, 0, -0.2], [0.5, 0, -0.2], [math.nan, 0, 0], [math.inf, 0, 0], [20, 0, 0])
    with np.errstate(all="raise", invalid="ignore"):
        assert IDEAL.is_in_image(points, SIZE_HW).tolist() == [False, False, False, False, True]


@given(st.lists(st.tuples(st.floats(1, 80), st.floats(-40, 40), st.floats(-3, 3)), min_size=1), st.floats(-0.1, 0.1))
def test_to_the_picture_and_back_is_the_same_point(points, angle):
    calibration = real(angle)
    points = np.array(points)
    rect = calibration.lidar_to_rect(points)
    np.testing.assert_allclose(calibration.rect_to_lidar(rect), points, atol=2e-5)
    pixels, depths = calibration.rect_to_image(rect)
    np.testing.assert_allclose(calibration.image_to_rect(pixels, depths), rect, rtol=1e-6, atol=1e-6)


def test_a_car_that_drives_ahead():
    # 10 m ahead of the camera, 1.5 m below it; it looks along z, which is rotation_y = -pi / 2 and yaw 0.
    boxes_camera = np.array([[0, 1.5, 10, 4, 1.6, 1.8, -math.pi / 2]])
    boxes3d = boxes_camera_to_lidar(boxes_camera, IDEAL)
    np.testing.assert_allclose(boxes3d, [[10.5, 0, -1.7 + 0.8, 4, 1.8, 1.6, 0]], atol=1e-6)
    np.testing.assert_allclose(observation_angles(boxes3d, boxes_camera), [-math.pi / 2], atol=1e-7)


def test_the_angle_of_observation_is_less_by_the_direction():
    # A car at 45 degrees to the right of the LiDAR that looks away from it: alpha as for one straight ahead.
    boxes3d = np.array([[10, -10, 0, 4, 1.8, 1.6, -math.pi / 4]])
    boxes_camera = boxes_lidar_to_camera(boxes3d, IDEAL)
    np.testing.assert_allclose(boxes_camera[:, 6], -math.pi / 4)
    np.testing.assert_allclose(observation_angles(boxes3d, boxes_camera), [-math.pi / 2])


@given(st.floats(2, 70), st.floats(-40, 40), st.floats(-3, 1), st.floats(-3, 3))
def test_boxes_to_the_camera_and_back_are_the_same_and_so_are_their_corners(x, y, z, yaw):
    calibration = real()
    boxes3d = np.array([[x, y, z, 4, 1.8, 1.5, yaw]])
    boxes_camera = boxes_lidar_to_camera(boxes3d, calibration)
    np.testing.assert_allclose(boxes_camera_to_lidar(boxes_camera, calibration), boxes3d, atol=2e-5)
    # The rectification tilts boxes a little: the middle of the top in both frames.
    top = camera_corners(boxes_camera)[0, 4:].mean(axis=0)
    np.testing.assert_allclose(top, calibration.lidar_to_rect(boxes3d[:, :3] + [[0, 0, 0.75]])[0], atol=1e-4)


def test_corners_of_a_box_in_the_frame_of_the_camera():
    # Length along x; y points down, so the top is at 1.5 - 1.6.
    (corners,) = camera_corners(np.array([[0, 1.5, 10, 4, 1.6, 2, 0]]))
    np.testing.assert_allclose(corners[:4], [[2, 1.5, 11], [2, 1.5, 9], [-2, 1.5, 9], [-2, 1.5, 11]])
    np.testing.assert_allclose(corners[4:, 1], -0.1)
    # A quarter turn around y brings the front from x to -z.
    (corners,) = camera_corners(np.array([[0, 1.5, 10, 4, 1.6, 2, math.pi / 2]]))
    np.testing.assert_allclose(corners[:2, 2], [8, 8])


def test_the_box_in_the_picture_lies_around_the_corners_and_is_cut_to_the_pixels():
    # The near face is at z = 8, x from -1 to 5: u from 50 - 12.5 to 50 + 62.5; y from -1 to 1: v from 27.5 to 52.5.
    boxes_camera = np.array([[2, 1, 10, 6, 2, 4, 0]], dtype=np.float32)
    np.testing.assert_allclose(image_boxes(boxes_camera, IDEAL), [[37.5, 27.5, 112.5, 52.5]])
    np.testing.assert_allclose(image_boxes(boxes_camera, IDEAL, SIZE_HW), [[37.5, 27.5, 99, 52.5]])


def test_no_boxes_and_no_points():
    none = np.zeros((0, 7), dtype=np.float32)
    assert boxes_camera_to_lidar(none, IDEAL).shape == boxes_lidar_to_camera(none, IDEAL).shape == (0, 7)
    assert image_boxes(none, IDEAL, SIZE_HW).shape == (0, 4)
    assert IDEAL.is_in_image(none[:, :4], SIZE_HW).shape == (0,)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_stays(dtype):
    boxes = np.array([[1, 2, 30, 4, 1.6, 1.8, 0.3]], dtype=dtype)
    for result in (
        boxes_camera_to_lidar(boxes, IDEAL),
        boxes_lidar_to_camera(boxes, IDEAL),
        image_boxes(boxes, IDEAL, SIZE_HW),
        camera_corners(boxes),
    ):
        assert result.dtype == dtype


@given(st.lists(st.floats(-1000, 1000, width=32), max_size=20))
def test_wrapped_yaws_point_the_same_way(values):
    yaws = np.array(values, np.float32)
    after = wrapped(yaws)
    assert after.dtype == np.float32
    assert (np.abs(after) <= np.float32(math.pi)).all()
    np.testing.assert_allclose(np.cos(after - yaws.astype(np.float64)), 1, atol=1e-6)


def test_half_a_turn_is_wrapped_to_its_negative():
    np.testing.assert_allclose(wrapped(np.array([math.pi, -math.pi, 3 * math.pi, 0.0])), [-math.pi] * 3 + [0])


def test_angles_that_are_not_finite_stay_so():
    assert np.isnan(wrapped(np.array([math.nan, math.inf, 1.0]))).tolist() == [True, True, False]
