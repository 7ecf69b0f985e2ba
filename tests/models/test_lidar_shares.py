"""LiDAR detectors: processes with uneven shares of clouds and boxes compute the losses and gradients of the batch."""

import pytest
import torch

from sightline import api
from sightline.engine.distributed.sync_batch_norm import synchronise_batch_norm
from sightline.ops.boxes3d import BoxTargets3D
from sightline.ops.point_clouds import PointClouds
from tests.faults.tiny_lidar import TINY_PILLARS
from tests.together import together

NAMES = ("Car", "Pedestrian", "Cyclist")
SMALL = {
    "pointpillars-world": TINY_PILLARS,
    "centerpoint-world": (*TINY_PILLARS, "model.head.channels=8"),
    "second-world": (
        "model.point_range=[0,-10.4,-3,20.8,10.4,1]", "model.voxel_size=[0.4,0.4,0.2]", "model.encoder.channels=[4,8]",
        "model.encoder.layers=[1,1]", "model.encoder.z_paddings=[0]", "model.encoder.out_channels=8",
        "model.backbone.layers=[1,1]", "model.backbone.channels=[8,8]", "model.backbone.up_channels=[8,8]",
    ),
}  # fmt: skip
POINTS = (300, 0, 40, 120)
BOXES = (0, 2, 5, 1)
"""Of each cloud: one without boxes, and one without points."""


def detector(recipe):
    torch.manual_seed(0)
    config, _ = api.resolve(recipe, list(SMALL[recipe]))
    return config.build_detector(NAMES)


def whole_batch():
    generator = torch.Generator().manual_seed(5)
    size = torch.tensor([18.0, 16, 2, 1])
    points = torch.rand(sum(POINTS), 4, generator=generator, dtype=torch.float64) * size - torch.tensor([0.0, 8, 2, 0])
    boxes3d = torch.rand(sum(BOXES), 7, generator=generator, dtype=torch.float64)
    boxes3d = boxes3d * torch.tensor([16.0, 14, 0.4, 1, 0.5, 0.3, 3]) + torch.tensor([1, -7, -1, 3.2, 1.4, 1.5, -1])
    labels = torch.arange(sum(BOXES)) % 3
    return points.split(POINTS), boxes3d.split(BOXES), labels.split(BOXES)


def share_of(chosen):
    points, boxes3d, labels = whole_batch()

    def joined(parts, empty):
        return torch.cat([empty, *(parts[number] for number in chosen)])

    clouds = PointClouds(joined(points, torch.zeros(0, 4, dtype=torch.float64)), tuple(POINTS[i] for i in chosen))
    return clouds, BoxTargets3D(
        joined(boxes3d, torch.zeros(0, 7, dtype=torch.float64)),
        joined(labels, torch.zeros(0, dtype=torch.int64)),
        tuple(BOXES[i] for i in chosen),
    )


def losses_and_gradients(processes, recipe, count):
    module = detector(recipe).double()
    if count > 1:
        synchronise_batch_norm(module, torch.device("cpu"))
    losses = module.losses(*share_of(range(len(POINTS))[processes.share.rank :: count]))
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in module.named_parameters()}
    for tensor in gradients.values() if count > 1 else ():
        torch.distributed.all_reduce(tensor)
        tensor.div_(count)
    statistics = {name: b for name, b in module.named_buffers() if "running" in name}
    return {name: float(value.detach()) for name, value in processes.mean(losses).items()}, gradients, statistics


@pytest.mark.parametrize("recipe", SMALL)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_losses_gradients_and_statistics_are_those_of_one_process(recipe, count):
    ((losses, gradients, statistics),) = together(1, losses_and_gradients, recipe, 1)
    assert all(value > 0 for value in losses.values())
    for found_losses, found, found_statistics in together(count, losses_and_gradients, recipe, count):
        assert found_losses == pytest.approx(losses, rel=1e-6)
        for name, gradient in gradients.items():
            scale = float(gradient.abs().max())
            torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-7 * scale + 1e-12, msg=name)
        for name, values in statistics.items():
            torch.testing.assert_close(found_statistics[name], values, rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.parametrize("recipe", SMALL)
@pytest.mark.parametrize(
    "chosen", [(), (1,), (0,), (1, 1)], ids=["no cloud", "no points", "no boxes", "no point at all"]
)
def test_batches_of_nothing_have_finite_losses_a_gradient_for_every_weight_and_clean_statistics(recipe, chosen):
    module = detector(recipe)
    clouds, targets = share_of(chosen)
    clouds = PointClouds(clouds.points.float(), clouds.counts)
    losses = module.losses(clouds, BoxTargets3D(targets.boxes3d.float(), targets.labels, targets.counts))
    sum(losses.values()).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert all(buffer.isfinite().all() for buffer in module.buffers())
    found = module.eval().detect(clouds)
    assert len(found) == len(chosen)
