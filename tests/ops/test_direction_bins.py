"""Headings as bins, and back."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from sightline.ops.direction_bins import direction_labels, yaws_in_bins


def test_two_bins_tell_front_from_rear():
    # With an offset of 45 degrees the first bin is 45 to 225 degrees.
    yaws = torch.tensor([50.0, 220, 230, 40, -40, -310, 410]).deg2rad()
    assert direction_labels(yaws, bins=2, offset=math.pi / 4).tolist() == [0, 0, 1, 1, 1, 0, 0]


@given(st.floats(-9, 9), st.integers(1, 8), st.floats(-3, 3), st.integers(-3, 3))
def test_a_yaw_comes_back_from_any_bin_up_to_whole_turns(yaw, bins, offset, moved):
    given_yaw = torch.tensor([yaw], dtype=torch.float64)
    labels = direction_labels(given_yaw, bins=bins, offset=offset)
    predicted = given_yaw + moved * 2 * math.pi / bins
    back = yaws_in_bins(predicted, labels, bins=bins, offset=offset)
    turn = 2 * math.pi / bins  # at a border rounding may choose the bin beside
    distance = (back - given_yaw + math.pi) % (2 * math.pi) - math.pi
    place = ((given_yaw - offset) / turn) % 1
    is_at_border = (place < 1e-6) | (place > 1 - 1e-6)
    assert is_at_border.item() or distance.abs().item() < 1e-9
