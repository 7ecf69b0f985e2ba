"""Processes with uneven shares of clouds and boxes compute the losses and gradients of the whole batch."""

import pytest
import torch

from sightline.engine.distributed.sync_batch_norm import synchronise_batch_norm
from sightline.models.blocks.bev_backbone import BevBackboneConfig
from sightline.models.pointpillars.config import PointPillarsConfig
from sightline.models.pointpillars.model import PointPillars
from sightline.ops.boxes3d import BoxTargets3D
from sightline.ops.point_clouds import PointClouds
from tests.together import together

POINTS = (200, 150, 0, 80)
BOXES = (0, 5, 1, 3)
CONFIG = PointPillarsConfig(
    point_range=(0, -6.4, -3, 12.8, 6.4, 1),
    pillar_size=(0.4, 0.4),
    max_points_per_pillar=4,
    pillar_channels=(8, 8),
    backbone=BevBackboneConfig(layers=(1,), strides=(2,), channels=(8,), up_strides=(1,), up_channels=(8,)),
)


def share(chosen):
    """The clouds and boxes of some samples of a batch of four."""
    random = torch.Generator().manual_seed(3)
    low, high = torch.tensor([0.0, -6.4, -3, 0]), torch.tensor([12.8, 6.4, 1, 1])
    clouds = [torch.rand(count, 4, generator=random) * (high - low) + low for count in POINTS]
    sizes = torch.tensor([3.9, 1.6, 1.5])
    boxes, labels = [], []
    for count in BOXES:
        centers = torch.rand(count, 3, generator=random) * (high - low)[:3] + low[:3]
        yaws = torch.rand(count, 1, generator=random) * 6
        boxes.append(torch.cat((centers, sizes.expand(count, 3), yaws), dim=1))
        labels.append(torch.randint(0, 2, (count,), generator=random))
    nothing = torch.zeros(0, 4), torch.zeros(0, 7), torch.zeros(0, dtype=torch.int64)
    points, boxes3d, classes = (
        torch.cat((empty, *(rows[number] for number in chosen)))
        for empty, rows in zip(nothing, (clouds, boxes, labels), strict=True)
    )
    return (
        PointClouds(points.double(), tuple(POINTS[number] for number in chosen)),
        BoxTargets3D(boxes3d.double(), classes, tuple(BOXES[number] for number in chosen)),
    )


def losses_and_gradients(processes, count):
    torch.manual_seed(0)
    model = PointPillars(CONFIG, ("Car", "Pedestrian")).double()
    if count > 1:
        synchronise_batch_norm(model, torch.device("cpu"))
    losses = model.losses(*share(range(len(POINTS))[processes.share.rank :: count]))
    torch.stack(list(losses.values())).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    for tensor in gradients.values() if count > 1 else ():
        torch.distributed.all_reduce(tensor)
        tensor.div_(count)
    buffers = {name: value for name, value in model.named_buffers() if "running" in name}
    return {name: float(value.detach()) for name, value in processes.mean(losses).items()}, gradients, buffers


@pytest.mark.parametrize("count", [2, 3, 5])
def test_losses_gradients_and_statistics_are_those_of_one_process(count):
    ((losses, gradients, buffers),) = together(1, losses_and_gradients, 1)
    for found_losses, found, found_buffers in together(count, losses_and_gradients, count):
        assert found_losses == pytest.approx(losses, rel=1e-6)
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-10, msg=name)
        for name, values in buffers.items():
            torch.testing.assert_close(found_buffers[name], values, rtol=1e-9, atol=1e-12, msg=name)
