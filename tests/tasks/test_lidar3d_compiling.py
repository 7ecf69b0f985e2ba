"""Compiled LiDAR detectors: what of them is, and that their numbers stay."""

import copy
import os

import pytest
import torch
from torch._dynamo.utils import counters

from sightline.engine.compiling import compile_modules
from sightline.models.blocks.bev_backbone import BevBackboneConfig
from sightline.models.centerpoint.config import CenterPointPillarConfig
from sightline.models.centerpoint.head_config import CenterHeadConfig
from sightline.models.centerpoint.model import CenterPointPillar
from sightline.models.pointpillars.config import PointPillarsConfig
from sightline.models.pointpillars.model import PointPillars
from sightline.ops.boxes3d import BoxTargets3D
from sightline.ops.point_clouds import PointClouds
from sightline.tasks.lidar3d import Lidar3D
from tests.forked import forked

CLASSES = ("Car", "Pedestrian")
SIZES = {
    "point_range": (0, -6.4, -3, 12.8, 6.4, 1),
    "pillar_size": (0.4, 0.4),
    "max_points_per_pillar": 8,
    "pillar_channels": (8,),
    "backbone": BevBackboneConfig(
        layers=(1, 1), strides=(2, 2), channels=(8, 16), up_strides=(1, 2), up_channels=(8, 8)
    ),
}


def pointpillars():
    return PointPillars(PointPillarsConfig(**SIZES), CLASSES)


def centerpoint():
    return CenterPointPillar(CenterPointPillarConfig(**SIZES, head=CenterHeadConfig(channels=8)), CLASSES)


def batch(counts):
    random = torch.Generator().manual_seed(sum(counts))
    low, high = torch.tensor([0.0, -6.4, -3, 0]), torch.tensor([12.8, 6.4, 1, 1])
    points = torch.rand(sum(counts), 4, generator=random) * (high - low) + low
    boxes = torch.tensor([[5.0, 1, -1, 3.9, 1.6, 1.5, 0.3], [8.0, -3, -1, 0.8, 0.6, 1.7, 2.0]])
    return PointClouds(points, counts), BoxTargets3D(boxes, torch.tensor([0, 1]), (2, *(0 for _ in counts[1:])))


def step(detector, clouds, targets):
    """Losses, and gradients of all parameters."""
    detector.zero_grad()
    losses = detector.losses(clouds, targets)
    torch.stack(list(losses.values())).sum().backward()
    grads = [one.grad for one in detector.parameters()]
    return {name: loss.detach() for name, loss in losses.items()}, grads


def check(detector, compile_parts):
    """Two steps on clouds of other sizes are those of a copy that runs as it is written, from two graphs."""
    plain = copy.deepcopy(detector)
    task = Lidar3D(detector, class_names=CLASSES, point_range=SIZES["point_range"])
    torch._dynamo.reset()  # or it takes a graph of an earlier test with the same shapes
    before = counters["stats"]["unique_graphs"]
    compile_parts(task.modules_to_compile())
    for counts in ((300, 0), (100, 90)):
        for got, wanted in zip(step(detector, *batch(counts)), step(plain, *batch(counts)), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == before + 2  # the pyramid and the head's layers, each once


@pytest.mark.parametrize("build", [pointpillars, centerpoint])
def test_layers_on_maps_are_whole_graphs_for_clouds_of_every_size(build):
    torch.manual_seed(0)
    check(build(), lambda parts: [part.compile(backend="aot_eager", fullgraph=True) for part in parts])


@pytest.mark.slow
@pytest.mark.parametrize("how", [True, "try"])
def test_a_compiled_detector_has_the_losses_of_the_plain_one(how):
    torch.manual_seed(0)
    # The compiler starts threads of autograd, after which no child of this process could train any more.
    pid = forked(lambda: check(pointpillars(), lambda parts: compile_modules(parts, how)))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_names_of_weights_are_those_of_the_layers_alone():
    assert not any("pyramid" in name for name in pointpillars().state_dict())
