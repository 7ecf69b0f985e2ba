"""The network of a pillar's points."""

import pytest
import torch
from torch import nn

from sightline.models.blocks.pillars import PillarFeatures
from sightline.ops.voxelize import VoxelPoints, pad_voxels

GRID = {"voxel_size": (0.5, 0.5, 4.0), "point_range": (0.0, -2.0, -3.0, 4.0, 2.0, 1.0)}
PLACES = 5


def pillars(count=7, seed=0):
    random = torch.Generator().manual_seed(seed)
    num_points = torch.randint(1, PLACES + 1, (count,), generator=random)
    num_points[:1] = PLACES
    numbers = torch.arange(count)
    coords = torch.stack((torch.zeros_like(numbers), torch.zeros_like(numbers), numbers, numbers), dim=1)
    points = torch.randn(int(num_points.sum()), 4, generator=random)
    return VoxelPoints(points, numbers.repeat_interleave(num_points), coords, num_points)


def net(channels=(6,), **changes):
    torch.manual_seed(0)
    module = PillarFeatures(num_point_features=4, channels=channels, **GRID, **changes)
    for norm in module.norms:
        nn.init.uniform_(norm.weight, -1, 1)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return module


def with_every_place(module, grouped):
    """The definition: each of the V x T places is a row of the batch norm, also those without a point."""
    voxels = pad_voxels(grouped, PLACES)
    rows = torch.zeros(*voxels.features.shape[:2], module.linears[0].in_features)
    for number, count in enumerate(grouped.num_points.tolist()):
        points = voxels.features[number, :count]
        rows[number, :count] = module.describe(points, points[:, :3].mean(dim=0), grouped.coords[number])
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
    # Cell y = 4, x = 2: centre x = 2 * 0.5 + 0.25, y = 4 * 0.5 + 0.25 - 2, z = 2 - 3.
    told = net().describe(torch.tensor([1.0, 0, 0, 0.3]), torch.tensor([1.5, 0.5, 1]), torch.tensor([0, 0, 4, 2]))
    torch.testing.assert_close(told, torch.tensor([1.0, 0, 0, 0.3, -0.5, -0.5, -1, -0.25, -0.25, 1]))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("channels", [(6,), (8, 6)])
def test_empty_places_count_as_points_of_zeros(channels, training):
    module = net(channels).train(training)
    grouped = pillars()
    wanted = with_every_place(module, grouped)
    torch.testing.assert_close(module(grouped, PLACES), wanted, rtol=1e-5, atol=1e-5)
    if training:
        for norm in module.norms:
            torch.testing.assert_close(norm.running_mean, norm.expected.running_mean)
            torch.testing.assert_close(norm.running_var, norm.expected.running_var)
            assert norm.num_batches_tracked == 1


def test_gradients_are_those_of_every_place():
    module = net((8, 6)).train()
    grouped = pillars()
    pull = torch.randn(7, 6, generator=torch.Generator().manual_seed(1))
    (with_every_place(module, grouped) * pull).sum().backward()
    wanted = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    (module(grouped, PLACES) * pull).sum().backward()
    for parameter, grad in zip(module.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-4, atol=1e-5)


def test_without_a_number_of_places_only_points_count():
    module = net().train()
    grouped = pillars()
    rows = module.norms[0](module.linears[0](module.describe(*_of_each_point(grouped)))).relu()
    wanted = torch.stack([rows[grouped.voxel_index == number].amax(dim=0) for number in range(7)])
    torch.testing.assert_close(module(grouped), wanted)


def _of_each_point(grouped):
    means = torch.stack([grouped.points[grouped.voxel_index == n, :3].mean(dim=0) for n in range(7)])
    return grouped.points, means[grouped.voxel_index], grouped.coords[grouped.voxel_index]


@pytest.mark.parametrize("channels", [(6,), (8, 6)])
def test_the_dense_form_is_the_same_function(channels):
    module = net(channels).eval()
    grouped = pillars()
    dense = module.dense(pad_voxels(grouped, PLACES))
    torch.testing.assert_close(dense, module(grouped, PLACES), rtol=1e-5, atol=1e-5)


def test_distance_and_relative_coordinates_alone_can_be_told():
    module = net(has_absolute_xyz=False, has_distance=True)
    point = torch.tensor([3.0, 4.0, 0.0, 0.5])
    told = module.describe(point, torch.zeros(3), torch.zeros(4))
    assert told.shape == (8,) == (module.linears[0].in_features,)
    assert told[0] == 0.5
    assert told[-1] == 5


def test_a_batch_without_pillars_leaves_no_trace():
    module = net().train()
    before = module.norms[0].running_var.clone()
    assert module(pillars(count=0), PLACES).shape == (0, 6)
    assert torch.equal(module.norms[0].running_var, before)


def test_odd_channels_before_the_last_layer_are_refused():
    with pytest.raises(ValueError, match="even"):
        net((7, 6))
