"""Maps of which only few cells are filled."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from sightline.ops.filled_cells import FilledCells, conv_of_cells


def cells_of(samples, height, width, channels, *, share, seed=0):
    random = torch.Generator().manual_seed(seed)
    sample, row, column = (torch.rand(samples, height, width, generator=random) < share).nonzero().unbind(1)
    coords = torch.stack((sample, torch.zeros_like(sample), row, column), dim=1)
    features = torch.randn(len(coords), channels, generator=random, dtype=torch.float64)
    return FilledCells(features, coords[torch.randperm(len(coords), generator=random)], samples, (height, width))


def test_cells_lie_at_their_places_and_others_are_zero():
    features = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    bev = FilledCells(features, torch.tensor([[0, 0, 1, 2], [1, 0, 0, 1]]), 2, (2, 3)).to_map()
    wanted = torch.zeros(2, 2, 2, 3)
    wanted[0, :, 1, 2] = features[0]
    wanted[1, :, 0, 1] = features[1]
    assert torch.equal(bev, wanted)
    assert bev.is_contiguous(memory_format=torch.channels_last)


@given(
    size=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    share=st.sampled_from([0.0, 0.2, 1.0]),
)
def test_the_convolution_is_that_of_the_full_map(size, stride, height, width, share):
    cells = cells_of(2, height, width, 3, share=share)
    weight = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = F.conv2d(cells.to_map(), weight, stride=stride, padding=size // 2)
    torch.testing.assert_close(conv_of_cells(cells, weight, stride=stride), wanted)


def test_its_gradients_are_those_of_the_full_map():
    cells = cells_of(2, 6, 5, 3, share=0.4)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    features = cells.features.clone().requires_grad_()
    few = cells._replace(features=features)
    wanted = F.conv2d(few.to_map(), weight, stride=2, padding=1)
    pull = torch.randn_like(wanted)
    expected = torch.autograd.grad(wanted, (features, weight), pull)
    got = torch.autograd.grad(conv_of_cells(few, weight, stride=2), (features, weight), pull)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_weight_of_other_channels_is_refused():
    with pytest.raises(ValueError, match="weight"):
        conv_of_cells(cells_of(1, 4, 4, 3, share=0.5), torch.zeros(4, 2, 3, 3), stride=1)
