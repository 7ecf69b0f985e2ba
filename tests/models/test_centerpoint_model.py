"""CenterPoint as a whole, on pillars and on voxels: it learns a toy scene, and takes any cloud."""

import re

import pytest
import torch
from pydantic import ValidationError

from sightline.models.blocks.bev_backbone import BevBackboneConfig
from sightline.models.blocks.sparse_encoder import SparseEncoderConfig
from sightline.models.centerpoint.config import CenterPointPillarConfig, CenterPointVoxelConfig
from sightline.models.centerpoint.head_config import CenterHeadConfig
from sightline.models.centerpoint.model import CenterPointPillar, CenterPointVoxel, openpcdet_names
from sightline.ops.boxes3d import BoxTargets3D
from sightline.ops.point_clouds import PointClouds
from sightline.ops.rotated_iou import rotated_iou_3d

CLASSES = ("Car", "Pedestrian")
RANGE = (0.0, -6.4, -3.0, 12.8, 6.4, 1.0)
BACKBONE = BevBackboneConfig(layers=(1,), strides=(1,), channels=(16,), up_strides=(1.0,), up_channels=(16,))
PILLARS = CenterPointPillarConfig(
    point_range=RANGE,
    pillar_size=(0.4, 0.4),
    pillar_channels=(16,),
    backbone=BACKBONE,
    head=CenterHeadConfig(channels=16),
)
VOXELS = CenterPointVoxelConfig(
    point_range=RANGE,
    voxel_size=(0.2, 0.2, 0.2),
    encoder=SparseEncoderConfig(channels=(8, 16), layers=(1, 1), z_paddings=(1,), out_channels=8),
    backbone=BACKBONE,
    head=CenterHeadConfig(channels=16),
)
BOTH = [(PILLARS, CenterPointPillar), (VOXELS, CenterPointVoxel)]
CAR = (6.1, 1.3, -1.2, 3.9, 1.6, 1.5, 0.5)
PERSON = (3.1, -3.7, -1.1, 0.8, 0.6, 1.8, -1.0)


def toy_scene():
    """Points on the ground and in two boxes, and an empty second cloud."""
    random = torch.Generator().manual_seed(0)
    ground = torch.rand(600, 3, generator=random) * torch.tensor([12.8, 12.8, 0.05]) - torch.tensor([0, 6.4, 2.0])
    parts = [ground]
    for x, y, z, *size, yaw in (CAR, PERSON):
        local = (torch.rand(300, 3, generator=random) - 0.5) * torch.tensor(size)
        angle = torch.tensor(yaw)
        cos, sin = angle.cos(), angle.sin()
        turned = torch.stack((local[:, 0] * cos - local[:, 1] * sin, local[:, 0] * sin + local[:, 1] * cos), dim=1)
        parts.append(torch.cat((turned, local[:, 2:]), dim=1) + torch.tensor([x, y, z]))
    points = torch.cat(parts)
    clouds = PointClouds(torch.cat((points, torch.ones(len(points), 1)), dim=1), (len(points), 0))
    return clouds, BoxTargets3D(torch.tensor([CAR, PERSON]), torch.tensor([0, 1]), (2, 0))


@pytest.mark.parametrize(("config", "kind"), BOTH)
def test_a_toy_scene_is_learnt(config, kind):
    torch.manual_seed(1)
    model = kind(config, CLASSES)
    clouds, targets = toy_scene()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=120)
    sums = []
    for _ in range(120):
        losses = model.train().losses(clouds, targets)
        loss = losses["heatmap"] + losses["box"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        sums.append(loss.item())
    assert sums[-1] < sums[0] / 10
    for norm in model.modules():
        if isinstance(norm, torch.nn.modules.batchnorm._BatchNorm):
            norm.momentum = 1.0  # averages over so few steps lag behind
    with torch.no_grad():
        model(clouds)
    found, nothing = model.eval().detect(clouds)
    assert found.labels[:2].sort().values.tolist() == [0, 1]
    overlaps = rotated_iou_3d(found.boxes3d[:2], targets.boxes3d[found.labels[:2]]).diagonal()
    assert (overlaps > 0.7).all()
    assert (found.scores[:2] > 0.5).all() and (found.scores[2:] < 0.5).all()
    assert (nothing.scores < 0.5).all()


@pytest.mark.parametrize(("config", "kind"), BOTH)
def test_points_that_are_nowhere_change_nothing(config, kind):
    torch.manual_seed(1)
    model = kind(config, CLASSES).eval()
    clouds, _ = toy_scene()
    strange = torch.tensor([[float("nan"), 0, 0, 0], [1e9, 0, 0, 0], [5, 5, 40, 0], [float("-inf"), 0, 0, 0]])
    with torch.no_grad():
        plain, more = (
            model(PointClouds(points, (len(points),)))[0]
            for points in (clouds.points, torch.cat((clouds.points, strange)))
        )
    assert torch.equal(plain.heatmap, more.heatmap)


@pytest.mark.parametrize(("config", "kind"), [*BOTH, (PILLARS.but(pillar_channels=(8, 16)), CenterPointPillar)])
@pytest.mark.parametrize(
    "head",
    [
        CenterHeadConfig(channels=16),
        CenterHeadConfig(
            channels=16, groups=(("Pedestrian",), ("Car",)), velocity=True, layers=1, heatmap_layers=3,
            bias_before_norm=False,
        ),
    ],
)  # fmt: skip
def test_every_layer_has_its_name_in_openpcdet(config, kind, head):
    model = kind(config.but(head=head), CLASSES)
    layers = {name.rpartition(".")[0] for name in model.state_dict()}
    names = openpcdet_names(model.config)
    assert set(names.values()) == layers
    assert len(names) == len(layers)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: PILLARS.but(pillar_size=(0.3, 0.4)), "x from 0 to 12.8 m is not a whole number of pillars of 0.3 m"),
        (lambda: PILLARS.but(backbone=BACKBONE.but(strides=(5,), up_strides=(5.0,))), "multiple of 5"),
        (lambda: VOXELS.but(backbone=BACKBONE.but(strides=(64,), up_strides=(64.0,))), "multiple of 128"),
        (lambda: VOXELS.but(voxel_size=(0.2, 0.2, 4.0)), "too few"),
        (lambda: PILLARS.but(pillar_channels=(7, 16)), "only the last can be odd"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make, told):
    with pytest.raises(ValidationError, match=re.escape(told)):
        make()
