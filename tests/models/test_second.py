"""SECOND as a whole, at a small size."""

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from sightline.config.errors import ConfigError
from sightline.models.blocks.bev_backbone import BevBackboneConfig
from sightline.models.blocks.sparse_encoder import SparseEncoderConfig
from sightline.models.second.config import SecondConfig
from sightline.models.second.model import Second, openpcdet_names
from sightline.ops.boxes3d import BoxTargets3D
from sightline.ops.point_clouds import PointClouds

CLASSES = ("Car", "Pedestrian")


def small(**changes):
    values = {
        "point_range": (0, -6.4, -3, 12.8, 6.4, 1),
        "voxel_size": (0.2, 0.2, 0.4),
        "encoder": SparseEncoderConfig(channels=(8, 16), layers=(1, 1), z_paddings=(1,), out_channels=8),
        "backbone": BevBackboneConfig(
            layers=(1, 1), strides=(1, 2), channels=(16, 16), up_strides=(1, 2), up_channels=(16, 16)
        ),
    }
    return SecondConfig(**{**values, **changes})


def model(config=None, seed=0):
    torch.manual_seed(seed)
    return Second(config or small(), CLASSES)


def batch(seed=0, counts=(300, 0, 200)):
    random = torch.Generator().manual_seed(seed)
    low, high = torch.tensor([0.0, -6.4, -3, 0]), torch.tensor([12.8, 6.4, 1, 1])
    points = torch.rand(sum(counts), 4, generator=random) * (high - low) + low
    boxes = torch.tensor(
        [[5.0, 1, -1, 3.9, 1.6, 1.5, 0.3], [8.0, -3, -1, 0.8, 0.6, 1.7, 2.0], [4.0, 4, -1, 4, 1.7, 1.6, -3]]
    )
    return PointClouds(points, counts), BoxTargets3D(boxes, torch.tensor([0, 1, 0]), (2, 0, 1))


@pytest.mark.parametrize("counts", [(300, 0, 200), (0, 0, 1), (0, 0, 0)])
def test_losses_have_gradients_for_every_parameter_however_few_points_there_are(counts):
    net = model()
    clouds, targets = batch(counts=counts)
    losses = net.losses(clouds, targets)
    assert set(losses) == {"class", "box", "direction"}
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_points_that_are_no_numbers_or_out_of_range_are_left_out():
    net = model().eval()
    clouds, _ = batch(counts=(300,))
    bad = torch.tensor([[float("nan"), 0, 0, 0], [5, float("inf"), 0, 0], [100, 0, 0, 0]])
    more = PointClouds(torch.cat((bad, clouds.points)), (303,))
    assert torch.equal(net(more).logits, net(clouds).logits)


def test_a_sample_is_found_alike_alone_and_in_a_batch():
    net = model().eval()
    clouds, _ = batch()
    together = net(clouds)
    alone = net(PointClouds(clouds.split()[2], (200,)))
    torch.testing.assert_close(alone.logits, together.logits[2:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone.deltas, together.deltas[2:], rtol=1e-4, atol=1e-5)


def test_two_runs_give_the_same_bits():
    gradients = []
    for _ in range(2):
        net = model()
        torch.stack(list(net.losses(*batch()).values())).sum().backward()
        gradients.append([parameter.grad for parameter in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_box_is_learnt_and_found():
    net = model()
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = 0.2  # the original's 0.01 needs hundreds of steps
    clouds, targets = batch(counts=(300, 200, 200))
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        torch.stack(list(net.losses(clouds, targets).values())).sum().backward()
        optimizer.step()
    found = net.eval().detect(clouds)
    assert [len(one.scores) > 0 for one in found] == [True, False, True]
    best = found[2]
    torch.testing.assert_close(best.boxes3d[0, :6], targets.boxes3d[2, :6], rtol=0, atol=0.4)
    assert best.labels[0] == 0
    assert (best.boxes3d[0, 6] - targets.boxes3d[2, 6]).cos() > 0.9  # the front is at the front


def test_every_tensor_has_the_name_of_the_original():
    for config in (small(), SecondConfig()):
        layers = {name.rpartition(".")[0] for name in model(config).state_dict()}
        assert set(openpcdet_names(config).values()) == layers


def test_a_class_without_anchors_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"no anchors for the class 'Pedestrain'.*Did you mean 'Pedestrian'"):
        Second(small(), ("Car", "Pedestrain"))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"voxel_size": (0.3, 0.2, 0.4)}, "x from 0 to 12.8 m is not a whole number"),
        ({"voxel_size": (0.2, 0.2, 0.3)}, "z from -3 to 1 m is not a whole number"),
        ({"point_range": (0, -6.4, -3, 12.6, 6.4, 1)}, "63 voxels along x.*multiple of 4"),
        ({"voxel_size": (0.2, 0.2, 2.0)}, "2 voxels along z are too few"),
        ({"point_range": (0, -6.4, 3, 12.8, 6.4, 1)}, "point_range"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, word):
    with pytest.raises(ValueError, match=word):
        small(**changes)
