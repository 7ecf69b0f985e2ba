import math

import torch

from sightline.losses.heatmap_focal import heatmap_focal_loss, known_l1_loss


def test_a_centre_and_its_neighbour_by_hand():
    # Centre with p = 0.8: 0.2^2 * -log 0.8. Target 0.5 with p = 0.8: 0.5^4 * 0.8^2 * -log 0.2.
    loss = heatmap_focal_loss(torch.tensor([0.8, 0.8]), torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(loss, torch.tensor([-0.04 * math.log(0.8), -0.0625 * 0.64 * math.log(0.2)]))


def test_gradients_are_those_of_finite_differences():
    random = torch.Generator().manual_seed(0)
    probs = torch.rand(12, generator=random, dtype=torch.float64).clamp(0.05, 0.95).requires_grad_()
    targets = torch.rand(12, generator=random, dtype=torch.float64)
    targets[:4] = 1
    assert torch.autograd.gradcheck(lambda p: heatmap_focal_loss(p, targets), probs)


def test_what_nobody_knows_costs_nothing_and_moves_nothing():
    predicted = torch.tensor([1.0, 2.0, 5.0], requires_grad=True)
    loss = known_l1_loss(predicted, torch.tensor([3.0, math.nan, 1.0]))
    assert loss.tolist() == [2, 0, 4]
    loss.sum().backward()
    assert predicted.grad.tolist() == [-1, 0, 1]
