import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sightline.ops.points import points_in_boxes, points_in_range, rotate_points


def cloud(*rows, dtype=np.float32):
    return np.array(rows, dtype=dtype)


def one_by_one(points, boxes3d, margin=0.01):
    """The rule of points in boxes, for one point and one box at a time, in Python's floats."""
    inside = np.zeros((len(boxes3d), len(points)), dtype=bool)
    for row, (bx, by, bz, dx, dy, dz, yaw) in enumerate(boxes3d.tolist()):
        for column, (x, y, z, *_) in enumerate(points.tolist()):
            turned = complex(x - bx, y - by) * complex(math.cos(yaw), -math.sin(yaw))
            near = abs(turned.real) < dx / 2 + margin and abs(turned.imag) < dy / 2 + margin
            inside[row, column] = near and abs(z - bz) <= dz / 2
    return inside


def test_a_box_is_a_centimetre_wider_to_its_sides_but_not_higher():
    points = cloud([2.009, 0, 0], [2.011, 0, 0], [0, -1.009, 0], [0, -1.011, 0], [0, 0, 0.75], [0, 0, 0.751])
    boxes3d = cloud([0, 0, 0, 4, 2, 1.5, 0])
    assert points_in_boxes(points, boxes3d).tolist() == [[True, False, True, False, True, False]]
    strict = points_in_boxes(points, boxes3d, side_margin=0.0)
    assert strict.tolist() == [[False, False, False, False, True, False]]


def test_the_heading_turns_from_x_to_y():
    points = cloud([1.2, 1.2, 0, 0.5], [1.2, -1.2, 0, 0.5])
    boxes3d = cloud([0, 0, 0, 4, 1, 1, math.pi / 4], [0, 0, 0, 4, 1, 1, -math.pi / 4])
    assert points_in_boxes(points, boxes3d).tolist() == [[True, False], [False, True]]


def test_a_point_can_be_in_several_boxes():
    boxes3d = cloud([0, 0, 0, 4, 2, 1, 0], [1, 0, 0, 4, 2, 1, 2])
    assert points_in_boxes(cloud([0.5, 0, 0]), boxes3d).tolist() == [[True], [True]]


def test_no_points_and_no_boxes():
    assert points_in_boxes(np.zeros((0, 4), np.float32), np.ones((2, 7), np.float32)).shape == (2, 0)
    assert points_in_boxes(np.ones((3, 4), np.float32), np.zeros((0, 7), np.float32)).shape == (0, 3)


def test_what_is_not_finite_is_in_no_box_and_holds_no_point():
    bad = [math.nan, math.inf, -math.inf]
    points = cloud(*([number, 0, 0] for number in bad), *([0, 0, number] for number in bad), [0, 0, 0])
    boxes3d = cloud([0, 0, 0, 4, 2, 1, 0], [math.nan, 0, 0, 4, 2, 1, 0], [0, 0, 0, 4, 2, 1, math.nan])
    inside = points_in_boxes(points, boxes3d)
    assert inside[0].tolist() == [False] * 6 + [True]
    assert not inside[1:].any()


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"points: expected shape \(_, at least 3\), got \(2, 2\)"):
        points_in_boxes(np.zeros((2, 2), np.float32), np.zeros((2, 7), np.float32))
    with pytest.raises(ValueError, match="boxes3d: expected shape"):
        points_in_boxes(np.zeros((2, 3), np.float32), np.zeros((2, 5), np.float32))
    with pytest.raises(ValueError, match="points: expected shape"):
        points_in_range(np.zeros(3, np.float32), [0, 0, 0, 1, 1, 1])


def test_points_turn_from_x_to_y_and_keep_height_and_intensity():
    turned = rotate_points(cloud([1, 0, 5, 0.3], [0, 2, -1, 0.7]), math.pi / 2)
    assert turned.dtype == np.float32
    assert turned == pytest.approx(cloud([0, 1, 5, 0.3], [-2, 0, -1, 0.7]), abs=1e-7)


def test_turning_does_not_write_to_the_given_points():
    points = cloud([1, 2, 3])
    points.setflags(write=False)
    assert rotate_points(points, 1.0) is not points


def test_the_range_includes_its_edges_and_not_height():
    points = cloud([0, -10, 0], [20, 10, 99], [20.01, 0, 0], [-0.01, 0, 0], [5, 10.01, 0], [math.nan, 0, 0])
    assert points_in_range(points, [0, -10, -3, 20, 10, 1]).tolist() == [True, True, False, False, False, False]


coordinates = st.floats(-4, 4)
box = st.tuples(
    coordinates, coordinates, coordinates, st.floats(0, 6), st.floats(0, 6), st.floats(0, 6), st.floats(-9, 9)
)


@given(arrays(np.float64, (20, 3), elements=coordinates), st.lists(box, min_size=1, max_size=4))
def test_points_in_boxes_as_one_by_one(points, boxes):
    boxes3d = np.array(boxes)
    clear = [one_by_one(points, boxes3d, 0.01 + shift) for shift in (-1e-9, 1e-9)]  # not within rounding of a side
    inside = points_in_boxes(points, boxes3d)
    np.testing.assert_array_equal(inside[clear[0] == clear[1]], clear[0][clear[0] == clear[1]])


@given(arrays(np.float64, (10, 4), elements=coordinates), st.floats(-9, 9))
def test_turning_back_gives_the_same_points(points, angle):
    np.testing.assert_allclose(rotate_points(rotate_points(points, angle), -angle), points, atol=1e-12)
