"""The network of a pillar's points, and the map that pillars make."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sightline.models.blocks.pillars import PillarFeatures, scatter_pillars

GRID = {"voxel_size": (0.5, 0.5, 4.0), "point_range": (0.0, -2.0, -3.0, 4.0, 2.0, 1.0)}


def pillars(count=7, places=5, seed=0):
    random = torch.Generator().manual_seed(seed)
    num_points = torch.randint(1, places + 1, (count,), generator=random)
    num_points[0] = places
    points = torch.randn(count, places, 4, generator=random)
    points *= (torch.arange(places) < num_points[:, None])[..., None]
    coords = torch.stack((torch.zeros(count, dtype=torch.int64), torch.arange(count), torch.arange(count)), dim=1)
    return points, num_points, coords


def net(channels=(6,), **changes):
    torch.manual_seed(0)
    module = PillarFeatures(num_point_features=4, channels=channels, **GRID, **changes)
    for norm in module.norms:
        nn.init.uniform_(norm.weight, -1, 1)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return module


def with_every_place(module, points, num_points, coords):
    """The definition: each of the V x T places is a row of the batch norm, also those without a point."""
    rows = module.describe(points, num_points, coords)
    for linear, norm in zip(module.linears, module.norms, strict=True):
        plain = nn.BatchNorm1d(norm.num_features, norm.eps, norm.momentum)
        plain.load_state_dict(norm.state_dict())
        plain.weight, plain.bias = norm.weight, norm.bias
        plain.train(norm.training)
        out = plain(linear(rows).flatten(0, 1)).relu().view(*rows.shape[:2], -1)
        best = out.max(dim=1).values
        rows = torch.cat((out, best[:, None].expand_as(out)), dim=2)
        norm.expected = plain
    return best


def test_a_point_is_told_by_itself_its_offset_from_the_mean_and_from_the_centre():
    points = torch.tensor([[[1.0, 0.0, 0.0, 0.3], [2.0, 1.0, 2.0, 0.5], [0.0, 0.0, 0.0, 0.0]]])
    told = net().describe(points, torch.tensor([2]), torch.tensor([[0, 4, 2]]))
    # Mean (1.5, 0.5, 1); centre x = 2 * 0.5 + 0.25 + 0, y = 4 * 0.5 + 0.25 - 2, z = 2 - 3.
    first = [1.0, 0.0, 0.0, 0.3, -0.5, -0.5, -1.0, -0.25, -0.25, 1.0]
    torch.testing.assert_close(told[0, 0], torch.tensor(first))
    assert not told[0, 2].any()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("channels", [(6,), (8, 6)])
def test_empty_places_count_as_points_of_zeros(channels, training):
    module = net(channels).train(training)
    batch = pillars()
    wanted = with_every_place(module, *batch)
    torch.testing.assert_close(module(*batch), wanted, rtol=1e-5, atol=1e-5)
    if training:
        for norm in module.norms:
            torch.testing.assert_close(norm.running_mean, norm.expected.running_mean)
            torch.testing.assert_close(norm.running_var, norm.expected.running_var)
            assert norm.num_batches_tracked == 1


def test_gradients_are_those_of_every_place():
    module = net((8, 6)).train()
    batch = pillars()
    pull = torch.randn(7, 6, generator=torch.Generator().manual_seed(1))
    (with_every_place(module, *batch) * pull).sum().backward()
    wanted = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    (module(*batch) * pull).sum().backward()
    for parameter, grad in zip(module.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [(6,), (8, 6)])
def test_the_dense_form_is_the_same_function(channels):
    module = net(channels).eval()
    batch = pillars()
    torch.testing.assert_close(module.dense(*batch), module(*batch), rtol=1e-5, atol=1e-5)


def test_distance_and_relative_coordinates_alone_can_be_told():
    module = net(has_absolute_xyz=False, has_distance=True)
    points, num_points, coords = pillars()
    told = module.describe(points, num_points, coords)
    assert told.shape[-1] == 8 == module.linears[0].in_features
    torch.testing.assert_close(told[..., -1], points[..., :3].norm(dim=-1))


def test_a_batch_without_pillars_leaves_no_trace():
    module = net().train()
    before = module.norms[0].running_var.clone()
    out = module(torch.zeros(0, 5, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3, dtype=torch.int64))
    assert out.shape == (0, 6)
    assert torch.equal(module.norms[0].running_var, before)


def test_odd_channels_before_the_last_layer_are_refused():
    with pytest.raises(ValueError, match="even"):
        net((7, 6))


def test_pillars_lie_at_their_cells():
    features = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    coords = torch.tensor([[0, 1, 2], [0, 0, 1]])
    bev = scatter_pillars(features, coords, torch.tensor([0, 1]), num_samples=2, height=2, width=3)
    wanted = torch.zeros(2, 2, 2, 3)
    wanted[0, :, 1, 2] = features[0]
    wanted[1, :, 0, 1] = features[1]
    assert torch.equal(bev, wanted)
    assert bev.is_contiguous(memory_format=torch.channels_last)


def test_the_gradient_of_the_map_is_that_of_the_cells():
    features = torch.randn(2, 2, requires_grad=True)
    coords = torch.tensor([[0, 1, 2], [0, 0, 1]])
    bev = scatter_pillars(features, coords, torch.tensor([0, 0]), num_samples=1, height=2, width=3)
    F.mse_loss(bev, torch.zeros_like(bev), reduction="sum").backward()
    torch.testing.assert_close(features.grad, 2 * features.detach())
