"""A training iteration of PointPillars on KITTI's full range, in reference convolutions.

The reference is one 3x3 convolution, 64 to 64 channels, of 1x64x248x216 without gradients: it takes the machine out of
the figure. The original's iteration costs 112 of them for one frame and 284 for two (recorded). An iteration is
voxelisation, forward, losses, backward, clipping of the gradients and an Adam step.
"""

import argparse

import torch
import torch.nn.functional as F

from benchmarks.timing import emit, paired, ratios
from sightline.engine.clip import clip_grad_norm
from sightline.engine.optim import OptimizerConfig, build_optimizer
from sightline.engine.schedule import GroupValues
from sightline.models.pointpillars.config import PointPillarsConfig
from sightline.models.pointpillars.model import PointPillars
from sightline.ops.boxes3d import BoxTargets3D
from sightline.ops.point_clouds import PointClouds

CLASSES = ("Car", "Pedestrian", "Cyclist")
RECORDED = {1: 112.18, 2: 284.27}
PILLARS = 6900
POINTS = 18_600
"""Of a frame; about those of the recorded one."""


def clouds(config: PointPillarsConfig, samples: int) -> PointClouds:
    """Points in so many random pillars, at least one in each."""
    random = torch.Generator().manual_seed(0)
    grid = config.grid
    _, height, width = grid.shape_zyx
    rows = []
    for _ in range(samples):
        cells = torch.randperm(height * width, generator=random)[:PILLARS]
        of_point = torch.cat((torch.arange(PILLARS), torch.randint(PILLARS, (POINTS - PILLARS,), generator=random)))
        cell = cells[of_point]
        places = torch.stack((cell % width, cell // width, torch.zeros_like(cell)), dim=1)
        offsets = torch.rand(POINTS, 3, generator=random) * 0.98 + 0.01
        xyz = (places + offsets) * torch.tensor(grid.voxel_size) + torch.tensor(grid.point_range[:3])
        rows.append(torch.cat((xyz, torch.rand(POINTS, 1, generator=random)), dim=1))
    return PointClouds(torch.cat(rows), (POINTS,) * samples)


def targets(samples: int, boxes: int = 10) -> BoxTargets3D:
    """So many cars, pedestrians and cyclists a frame."""
    random = torch.Generator().manual_seed(1)
    count = boxes * samples
    sizes = torch.tensor([[3.9, 1.6, 1.5], [0.8, 0.6, 1.7], [1.8, 0.6, 1.7]])
    labels = torch.randint(3, (count,), generator=random)
    centers = torch.rand(count, 3, generator=random) * torch.tensor([60.0, 70, 0.5]) + torch.tensor([5.0, -35, -1])
    yaws = torch.rand(count, 1, generator=random) * 6
    return BoxTargets3D(torch.cat((centers, sizes[labels], yaws), dim=1), labels, (boxes,) * samples)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks pointpillars-step", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, choices=sorted(RECORDED), default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)

    config = PointPillarsConfig()
    model = PointPillars(config, CLASSES).train()
    optimizer = build_optimizer(OptimizerConfig(kind="adamw", weight_decay=0.01), model)
    batch, truth = clouds(config, options.frames), targets(options.frames)
    features, weight = torch.randn(1, 64, 248, 216), torch.randn(64, 64, 3, 3)

    def reference() -> None:
        with torch.no_grad():
            F.conv2d(features, weight, padding=1)

    def step(*, bf16: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            losses = model.losses(batch, truth)
        torch.stack(list(losses.values())).sum().backward()
        clip_grad_norm(optimizer.gradients(), 10.0)
        optimizer.step([GroupValues(1e-4, 0.95)])
        optimizer.zero_grad()

    variants = {"reference": reference, "step": lambda: step(bf16=False), "bf16": lambda: step(bf16=True)}
    in_convolutions = ratios(paired(variants, options.rounds), "reference")
    recorded = RECORDED[options.frames]
    emit(
        "pointpillars_step",
        figure=round(in_convolutions["step"]["cpu"] / recorded, 3),
        unit="of the original's iteration, both in reference convolutions, CPU time, one thread",
        peer=f"OpenPCDet 0.6.0: {recorded} reference convolutions (recorded)",
        goal="<= 0.8",
        rounds=options.rounds,
        bf16=round(in_convolutions["bf16"]["cpu"] / recorded, 3),
        rows=in_convolutions,
        shape=vars(options),
        torch=torch.__version__,
    )


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
