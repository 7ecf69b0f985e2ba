import math

import pytest
import torch
from torch.nn import functional as F

from sightline.losses.cross_entropy import MixedLabels, soft_cross_entropy


def logits_and_labels(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 5, generator=generator, dtype=dtype), torch.tensor([0, 1, 2, 3, 4, 0])


def test_even_logits_cost_the_logarithm_of_the_number_of_classes():
    losses = soft_cross_entropy(torch.zeros(2, 8), torch.tensor([3, 5]), smoothing=0.1)
    torch.testing.assert_close(losses, torch.full((2,), math.log(8)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_it_equals_pytorchs_loss_with_soft_targets(smoothing):
    logits, labels = logits_and_labels()
    expected = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(soft_cross_entropy(logits, labels, smoothing=smoothing), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_images_have_the_mean_of_both_targets(smoothing):
    logits, labels = logits_and_labels()
    other, shares = labels.flip(0), torch.tensor([1.0, 0.5, 0.25, 0.9, 0.0, 0.3], dtype=torch.float64)
    one_hot = shares[:, None] * F.one_hot(labels, 5) + (1 - shares[:, None]) * F.one_hot(other, 5)
    targets = (1 - smoothing) * one_hot + smoothing / 5
    expected = -(targets * F.log_softmax(logits, dim=1)).sum(dim=1)
    found = soft_cross_entropy(logits, labels, smoothing=smoothing, mixed=MixedLabels(other, shares))
    torch.testing.assert_close(found, expected)


def test_its_gradient_is_that_of_finite_differences():
    logits, labels = logits_and_labels()
    mixed = MixedLabels(labels.flip(0), torch.full((6,), 0.3, dtype=torch.float64))
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: soft_cross_entropy(x, labels, smoothing=0.1, mixed=mixed), logits)


def test_no_images_give_no_losses():
    assert soft_cross_entropy(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)).shape == (0,)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_a_smoothing_that_is_no_share_is_refused(smoothing):
    with pytest.raises(ValueError, match="smoothing"):
        soft_cross_entropy(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), smoothing=smoothing)


@pytest.mark.parametrize("labels, shares", [((1,), (2,)), ((2,), (1,))])
def test_second_classes_of_another_number_of_images_are_refused(labels, shares):
    mixed = MixedLabels(torch.zeros(labels, dtype=torch.long), torch.ones(shares))
    with pytest.raises(ValueError, match=r"mixed\.(labels|shares)"):
        soft_cross_entropy(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), mixed=mixed)
