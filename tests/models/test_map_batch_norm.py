"""Batch norm of maps of which most cells are alike."""

import pytest
import torch
from torch import nn

from sightline.engine.distributed.sync_batch_norm import synchronise_batch_norm
from sightline.models.blocks.map_batch_norm import MapBatchNorm
from tests.together import together


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


def shares_of_a_map(processes, count, kind, shares):
    """Output, gradients and running variance of this process's samples of one batch."""
    torch.manual_seed(0)
    norm = kind(8, 1e-3, 1.0)
    nn.init.normal_(norm.weight)
    if count > 1:
        norm = synchronise_batch_norm(norm, torch.device("cpu"))
    x = nearly_empty((3, 8, 248, 216)).split(shares)[processes.share.rank].contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    pull = torch.linspace(-1, 1, 216).expand_as(x)
    out = norm(x)
    out.backward(pull)
    gradients = torch.stack((norm.weight.grad, norm.bias.grad))
    if count > 1:
        torch.distributed.all_reduce(gradients)
    return out.detach(), x.grad, gradients, norm.running_var


@pytest.mark.parametrize("shares", [(1, 2), (2, 0, 1)])
def test_processes_with_uneven_shares_or_none_have_the_exact_sums_of_all_samples(shares):
    whole = together(1, shares_of_a_map, 1, MapBatchNorm, (3,))[0]
    found = together(len(shares), shares_of_a_map, len(shares), MapBatchNorm, shares)
    for place, tolerance in ((0, 1e-5), (1, 1e-5)):
        scale = whole[place].abs().max().item()
        joined = torch.cat([one[place] for one in found])
        torch.testing.assert_close(joined, whole[place], rtol=tolerance, atol=tolerance * scale)
    for out in found:
        torch.testing.assert_close(out[2], whole[2], rtol=1e-5, atol=1e-5 * whole[2].abs().max().item())
        torch.testing.assert_close(out[3], whole[3], rtol=3e-6, atol=0)  # joined in float32
