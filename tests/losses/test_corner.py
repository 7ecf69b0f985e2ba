"""Distances of corners."""

import math

import torch

from sightline.losses.corner import corner_loss

BOX = torch.tensor([[1.0, 2, 3, 4, 2, 1.5, 0.3]])


def moved(**changes):
    box = BOX.clone()
    for column, change in changes.items():
        box[:, "xyz".index(column) if column != "yaw" else 6] += change
    return box


def test_equal_boxes_and_turned_round_ones_cost_nothing():
    torch.testing.assert_close(corner_loss(BOX, BOX), torch.zeros(1))
    torch.testing.assert_close(corner_loss(moved(yaw=math.pi), BOX), torch.zeros(1), rtol=0, atol=1e-6)


def test_a_moved_box_costs_what_each_corner_moved():
    torch.testing.assert_close(corner_loss(moved(x=0.6), BOX), torch.tensor([0.18]))  # 0.6^2 / 2
    torch.testing.assert_close(corner_loss(moved(z=3.0), BOX), torch.tensor([2.5]))  # 3 - 1/2
