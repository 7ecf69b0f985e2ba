"""Overlap of boxes seen from above, against areas by hand and by exact polygons."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.ops.rotated_overlap import paired_overlaps, rotated_overlaps


def box(x=0.0, y=0.0, dx=2.0, dy=2.0, yaw=0.0, z=0.0):
    return np.array([[x, y, z, dx, dy, 1.0, yaw]])


def test_squares_that_share_a_corner_region_overlap():
    assert rotated_overlaps(box(), box(1.9, 1.9)).tolist() == [[True]]


def test_squares_that_touch_along_a_side_do_not_overlap():
    assert rotated_overlaps(box(), box(2.0, 0.0)).tolist() == [[False]]


def test_height_does_not_matter():
    assert rotated_overlaps(box(), box(z=100)).tolist() == [[True]]


def test_the_corner_of_a_turned_square_decides():
    # The diagonal of a square of side 2 is 2.83: turned by 45 degrees it reaches 1.41 from its centre.
    assert not rotated_overlaps(box(), box(2.42, yaw=math.pi / 4)).any()
    assert rotated_overlaps(box(), box(2.40, yaw=math.pi / 4)).all()


def test_circles_that_meet_are_not_enough():
    # Two long thin boxes side by side: their circles overlap, they do not.
    assert not rotated_overlaps(box(dx=10, dy=1), box(y=1.5, dx=10, dy=1)).any()
    assert rotated_overlaps(box(dx=10, dy=1), box(y=1.5, dx=10, dy=1, yaw=math.pi / 2)).all()


@pytest.mark.parametrize("size", [(0.0, 2.0), (2.0, 0.0), (-1.0, -1.0)])
def test_a_box_without_area_overlaps_nothing(size):
    flat = box(dx=size[0], dy=size[1])
    assert not rotated_overlaps(flat, box(dx=5, dy=5)).any()
    assert not rotated_overlaps(box(dx=5, dy=5), flat).any()


def test_a_box_that_is_not_a_number_overlaps_nothing():
    assert not rotated_overlaps(box(x=math.nan), box()).any()


@pytest.mark.parametrize("n, m", [(0, 3), (3, 0), (0, 0)])
def test_no_boxes(n, m):
    assert rotated_overlaps(np.zeros((n, 7)), np.zeros((m, 9))).shape == (n, m)


def area_shared(a, b):
    """Of two boxes (7,), by cutting the corners of one at the sides of the other (Sutherland and Hodgman, 1974)."""

    def corners(one):
        x, y, _, dx, dy, _, yaw = one
        c, s = math.cos(yaw), math.sin(yaw)
        signs = ((1, 1), (-1, 1), (-1, -1), (1, -1))
        return [(x + c * i * dx / 2 - s * j * dy / 2, y + s * i * dx / 2 + c * j * dy / 2) for i, j in signs]

    polygon, other = corners(a), corners(b)
    for (px, py), (qx, qy) in zip(other, other[1:] + other[:1], strict=True):
        kept, previous = [], polygon[-1] if polygon else None
        for point in polygon:
            side = (qx - px) * (point[1] - py) - (qy - py) * (point[0] - px)
            before = (qx - px) * (previous[1] - py) - (qy - py) * (previous[0] - px)
            if (side >= 0) != (before >= 0):
                t = before / (before - side)
                kept.append(tuple(previous[k] + t * (point[k] - previous[k]) for k in (0, 1)))
            if side >= 0:
                kept.append(point)
            previous = point
        polygon = kept
    pairs = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    return abs(sum(x * v - u * y for (x, y), (u, v) in pairs)) / 2


PLACES, ZERO, ONE = st.floats(-4, 4), st.just(0.0), st.just(1.0)
some_box = st.tuples(PLACES, PLACES, ZERO, st.floats(0.5, 6), st.floats(0.5, 3), ONE, st.floats(-7, 7))


@given(some_box, some_box)
def test_boxes_overlap_where_their_polygons_share_an_area(first, second):
    a, b = np.array([first]), np.array([second])
    area = area_shared(first, second)
    if area > 1e-6:
        assert rotated_overlaps(a, b).all() and rotated_overlaps(b, a).all() and paired_overlaps(a, b).all()
    elif not rotated_overlaps(a * (1, 1, 1, 0.999, 0.999, 1, 1), b).any():
        assert area < 1e-6
    else:  # smaller by a thousandth and still said to overlap: there must be an area
        assert area > 0
