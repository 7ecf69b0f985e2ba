"""Batch norm of maps of which most cells are alike."""

import pytest
import torch
from torch import nn

from sightline.models.blocks.map_batch_norm import MapBatchNorm


def nearly_empty(shape, seed=0):
    random = torch.Generator().manual_seed(seed)
    filled = torch.rand(shape[0], 1, *shape[2:], generator=random) < 0.03
    return (torch.randn(shape, generator=random) * filled + 0.1).to(memory_format=torch.channels_last)


def norms(channels):
    torch.manual_seed(0)
    ours, exact = MapBatchNorm(channels, 1e-3, 0.01), nn.BatchNorm2d(channels, 1e-3, 0.01)
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    exact.load_state_dict(ours.state_dict())
    return ours, exact.double()


@pytest.mark.parametrize("shape", [(2, 16, 124, 108), (1, 3, 1, 5), (3, 8, 7, 1)])
def test_values_gradients_and_running_statistics_are_those_of_float64(shape):
    ours, exact = norms(shape[1])
    x = nearly_empty(shape)
    mine, wide = x.clone().requires_grad_(), x.double().contiguous().requires_grad_()
    out, wanted = ours(mine), exact(wide)
    pull = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-6 * wanted.abs().max().item())
    out.backward(pull)
    wanted.backward(pull.double())
    for got, true in (
        (mine.grad, wide.grad),
        (ours.weight.grad, exact.weight.grad),
        (ours.bias.grad, exact.bias.grad),
        (ours.running_mean, exact.running_mean),
        (ours.running_var, exact.running_var),
    ):
        torch.testing.assert_close(got.double(), true, rtol=1e-5, atol=1e-5 * true.abs().max().item())
    assert ours.num_batches_tracked == 1


def test_many_equal_cells_do_not_make_the_variance_wrong():
    x = nearly_empty((2, 8, 248, 216))
    ours, exact = norms(8)
    ours(x)
    exact(x.double().contiguous())
    torch.testing.assert_close(ours.running_var.double(), exact.running_var, rtol=1e-6, atol=0)


def test_other_memory_types_and_evaluation_are_pytorchs_own():
    x = nearly_empty((2, 4, 6, 5))
    for given, training in ((x.contiguous(), True), (x.double(), True), (x, False)):
        ours, theirs = norms(4)
        ours, theirs = ours.to(given.dtype).train(training), theirs.to(given.dtype).train(training)
        assert torch.equal(ours(given), theirs(given))
