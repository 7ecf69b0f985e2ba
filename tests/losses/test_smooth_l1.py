"""Differences that are squared near 0."""

import math

import torch

from sightline.losses.smooth_l1 import sine_pair, smooth_l1_loss


def test_values_by_hand():
    # Below beta 0.5: 0.2^2 / 1 = 0.04; above: 2 - 0.25.
    got = smooth_l1_loss(torch.tensor([0.2, 2.0]), torch.zeros(2), beta=0.5)
    torch.testing.assert_close(got, torch.tensor([0.04, 1.75]))


def test_weights_scale_the_difference_and_not_the_loss():
    got = smooth_l1_loss(torch.tensor([[1.0, 1.0]]), torch.zeros(1, 2), beta=0.0, code_weights=torch.tensor([2.0, 0.5]))
    torch.testing.assert_close(got, torch.tensor([[2.0, 0.5]]))


def test_an_unknown_target_has_no_loss_and_no_gradient():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = smooth_l1_loss(x, torch.tensor([float("nan"), 1.0]), beta=0.1)
    loss.sum().backward()
    assert loss[0] == 0
    assert x.grad.tolist() == [0, 1]


def test_half_a_turn_costs_nothing_in_a_sine_difference():
    a, b = sine_pair(torch.tensor([0.3, 0.3]), torch.tensor([0.3 + math.pi, 0.3 + math.pi / 2]))
    torch.testing.assert_close(a - b, torch.tensor([0.0, -1.0]))


def test_gradients_are_those_of_finite_differences():
    random = torch.Generator().manual_seed(0)
    x, t = (torch.randn(6, 3, generator=random, dtype=torch.float64) for _ in range(2))
    weights = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    torch.autograd.gradcheck(lambda v: smooth_l1_loss(v, t, beta=0.1, code_weights=weights), x.requires_grad_())
    torch.autograd.gradcheck(lambda v: torch.sub(*sine_pair(v, t)), x)
