import pytest
import torch

from sightline.losses.smoothing import smooth_one_hot


def test_half_of_the_smoothing_goes_each_way():
    targets = smooth_one_hot(torch.tensor([2, 0]), 3, 0.1)
    torch.testing.assert_close(targets, torch.tensor([[0.05, 0.05, 0.95], [0.95, 0.05, 0.05]]))


def test_without_smoothing_it_is_one_hot():
    assert smooth_one_hot(torch.tensor([1]), 2).tolist() == [[0, 1]]


def test_no_rows():
    assert smooth_one_hot(torch.zeros(0).long(), 5, 0.1, torch.float64).shape == (0, 5)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_impossible_smoothing_is_refused(smoothing):
    with pytest.raises(ValueError, match="smoothing"):
        smooth_one_hot(torch.tensor([0]), 2, smoothing)
