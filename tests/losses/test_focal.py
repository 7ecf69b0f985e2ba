import math

import pytest
import torch

from sightline.losses.focal import background_focal_loss, sigmoid_focal_loss, weighted_bce


def test_cross_entropy_by_hand():
    # p = 0.8 for logit log 4: -log 0.8 when true, -log 0.2 when not; a positive counts three times.
    logits = torch.tensor([math.log(4.0)] * 2)
    loss = weighted_bce(logits, torch.tensor([1.0, 0.0]), positive_weight=3)
    torch.testing.assert_close(loss, torch.tensor([-3 * math.log(0.8), -math.log(0.2)]))


def test_focal_by_hand():
    # p = 0.8, gamma 2, alpha 0.25: 0.25 * 0.2^2 * -log 0.8, and 0.75 * 0.8^2 * -log 0.2.
    logits = torch.tensor([math.log(4.0)] * 2)
    loss = sigmoid_focal_loss(logits, torch.tensor([1.0, 0.0]), alpha=0.25, gamma=2)
    expected = torch.tensor([0.25 * 0.04 * -math.log(0.8), 0.75 * 0.64 * -math.log(0.2)])
    torch.testing.assert_close(loss, expected)


def test_without_damping_it_is_half_the_cross_entropy():
    logits, targets = torch.randn(3, 4), torch.rand(3, 4)
    half = sigmoid_focal_loss(logits, targets, alpha=0.5, gamma=0)
    torch.testing.assert_close(half, weighted_bce(logits, targets) / 2)


@pytest.mark.parametrize("gamma", [0.5, 1.5, 2.0])
@pytest.mark.parametrize("positive_weight", [1.0, 1.7])
def test_gradients_are_those_of_finite_differences(gamma, positive_weight):
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(12, generator=random, dtype=torch.float64).requires_grad_()
    targets = torch.rand(12, generator=random, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: sigmoid_focal_loss(x, targets, gamma=gamma, positive_weight=positive_weight), logits
    )


def test_certain_answers_give_finite_gradients():
    logits = torch.tensor([200.0, -200.0, 200.0, -200.0], requires_grad=True)
    sigmoid_focal_loss(logits, torch.tensor([1.0, 1.0, 0.0, 0.0]), gamma=0.5).sum().backward()
    assert logits.grad.isfinite().all()


def test_where_all_is_background_the_loss_is_that_of_zero_targets():
    logits = torch.linspace(-30, 30, 121, dtype=torch.float64).requires_grad_()
    for alpha, gamma in ((0.25, 2.0), (0.5, 0.0), (0.9, 1.5)):
        got = background_focal_loss(logits, alpha=alpha, gamma=gamma)
        wanted = sigmoid_focal_loss(logits, torch.zeros_like(logits), alpha=alpha, gamma=gamma)
        torch.testing.assert_close(got, wanted, rtol=1e-7, atol=1e-7)
        grads = [torch.autograd.grad(loss.sum(), logits, retain_graph=True)[0] for loss in (got, wanted)]
        torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-7)
