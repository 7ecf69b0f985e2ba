import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sightline.ops.boxes3d import (
    bev_corners,
    centers_in_range,
    corners3d,
    enlarged,
    nearest_bev_aligned,
    num_corners_in_range,
    wrap,
)

RANGE = [0, -10, -3, 20, 10, 1]


def box(x=0.0, y=0.0, z=0.0, dx=4.0, dy=2.0, dz=1.0, yaw=0.0):
    return torch.tensor([[x, y, z, dx, dy, dz, yaw]], dtype=torch.float64)


def test_corners_of_a_box_along_x():
    (corners,) = corners3d(box(10, 20, 30)).tolist()
    assert corners[:4] == [[12, 21, 29.5], [12, 19, 29.5], [8, 19, 29.5], [8, 21, 29.5]]
    assert corners[4:] == [[12, 21, 30.5], [12, 19, 30.5], [8, 19, 30.5], [8, 21, 30.5]]


def test_a_quarter_turn_to_the_left_brings_the_front_to_y():
    (corners,) = bev_corners(box(yaw=math.pi / 2))
    expected = torch.tensor([[-1, 2], [1, 2], [1, -2], [-1, -2]], dtype=torch.float64)
    assert torch.allclose(corners, expected, atol=1e-12)


def test_corners_keep_type_and_take_velocities_and_no_boxes():
    assert corners3d(torch.zeros(3, 9)).shape == (3, 8, 3)
    assert corners3d(torch.zeros(0, 7)).shape == (0, 8, 3)
    assert corners3d(torch.zeros(1, 7)).dtype == torch.float32
    with pytest.raises(ValueError, match="boxes3d: expected shape"):
        corners3d(torch.zeros(3, 5))


@pytest.mark.parametrize(
    "degrees, is_across", [(0, False), (44, False), (46, True), (134, True), (136, False), (180, False), (-91, True)]
)
def test_the_nearest_aligned_box_swaps_its_sides_beyond_45_degrees(degrees, is_across):
    for turns in (-2, 0, 3):
        aligned = nearest_bev_aligned(box(5, 6, yaw=math.radians(degrees) + turns * math.pi))
        assert aligned.tolist() == [[4, 4, 6, 8] if is_across else [3, 5, 7, 7]]


def test_wrapped_angles():
    angles = torch.tensor([0.0, 3.5, -3.5, 7.0, -math.pi], dtype=torch.float64)
    expected = [0, 3.5 - 2 * math.pi, 2 * math.pi - 3.5, 7 - 2 * math.pi, -math.pi]
    assert wrap(angles, 0.5, 2 * math.pi).tolist() == pytest.approx(expected)
    assert wrap(torch.tensor(-0.5), 0.0, math.pi).item() == pytest.approx(math.pi - 0.5)


@given(st.floats(-1000, 1000), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([math.pi, 2 * math.pi]))
def test_a_wrapped_angle_is_in_its_range_and_whole_periods_away(angle, offset, period):
    wrapped = wrap(torch.tensor(angle, dtype=torch.float64), offset, period).item()
    assert -offset * period - 1e-9 <= wrapped <= (1 - offset) * period + 1e-9
    assert (angle - wrapped) / period == pytest.approx(round((angle - wrapped) / period), abs=1e-9)


def test_a_larger_box_has_its_centre_where_it_was():
    assert enlarged(box(1, 2, 3, yaw=0.5), [0.5, 0.25, 1]).tolist() == [[1, 2, 3, 4.5, 2.25, 2, 0.5]]


def test_a_centre_on_a_face_of_the_range_is_inside():
    boxes3d = torch.cat((box(20, 10, 1), box(0, -10, -3), box(20.01, 0, 0), box(5, 0, 1.01), box(5, -10.01, 0)))
    assert centers_in_range(boxes3d, RANGE).tolist() == [True, True, False, False, False]


def test_corners_are_counted_in_x_and_y_only():
    boxes3d = torch.cat((box(10, 0, 50), box(0, 0), box(-2, 0), box(-2.1, 0), box(0, 10), box(19, 9, yaw=math.pi / 4)))
    # The turned box: corners at 19 + (±2 ∓ 1) / √2 and so on; x: 19.7, 21.1, 18.3, 16.9, y: 11.1, 9.7, 6.9, 8.3.
    assert num_corners_in_range(boxes3d, RANGE).tolist() == [8, 4, 4, 0, 2, 4]
