"""Sparse convolutions and an iteration of SECOND on KITTI's full range, in reference convolutions; spconv beside them.

The reference is one 3x3 convolution, 64 to 64 channels, of 1x64x248x216 without gradients: it takes the machine out of
the figure. spconv's CPU package (pip install spconv) has forward only, so it is compared without gradients.
"""

import argparse
import math
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.pointpillars_step import CLASSES, targets
from benchmarks.timing import emit, paired, ratios
from sightline.engine.clip import clip_grad_norm
from sightline.engine.optim import OptimizerConfig, build_optimizer
from sightline.engine.schedule import GroupValues
from sightline.models.blocks.sparse_encoder import SparseEncoder, SparseEncoderConfig
from sightline.models.second.config import SecondConfig
from sightline.models.second.model import Second
from sightline.ops.point_clouds import PointClouds
from sightline.ops.sparse import Sites, sparse_convolution, strided_map, submanifold_map
from sightline.ops.voxelize import voxel_means

CUBE = (3, 3, 3)


def scene(seed: int = 0) -> Tensor:
    """(P, 4): what 64 beams see of a street in a quarter turn: ground, and walls at 6 to 60 m."""
    random = torch.Generator().manual_seed(seed)
    azimuth = torch.linspace(-math.pi / 4, math.pi / 4, 520)
    walls = (6 + 54 * torch.rand(26, generator=random)).repeat_interleave(20)
    slope = torch.linspace(math.radians(-24.8), math.radians(2), 64).tan()[:, None]
    ground = torch.where(slope < 0, -1.73 / slope, math.inf)
    reach = torch.minimum(ground, walls.expand(64, -1)) * (1 + 0.001 * torch.randn(64, 520, generator=random))
    xyz = torch.stack((reach * azimuth.cos(), reach * azimuth.sin(), reach * slope), dim=2).reshape(-1, 3)
    return torch.cat((xyz, torch.rand(len(xyz), 1, generator=random)), dim=1)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks sparse-conv", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    points = scene()
    batch, truth = PointClouds(points, (len(points),)), targets(1)
    model = Second(SecondConfig(), CLASSES).train()
    optimizer = build_optimizer(OptimizerConfig(kind="adamw", weight_decay=0.01), model)
    grouped = model.group(batch)
    means, coords = voxel_means(grouped), grouped.coords
    depth, height, width = model.grid.shape_zyx
    sites = Sites(coords, (depth + 1, height, width), 1)
    kernel_map = submanifold_map(sites, CUBE)
    features, weight = torch.randn(len(sites), 64, requires_grad=True), torch.randn(64, *CUBE, 64, requires_grad=True)
    image, kernel = torch.randn(1, 64, 248, 216), torch.randn(64, 64, 3, 3)

    def iteration() -> None:
        optimizer.zero_grad()
        torch.stack(list(model.losses(batch, truth).values())).sum().backward()
        clip_grad_norm(optimizer.gradients(), 10.0)
        optimizer.step([GroupValues(1e-5, 0.95)])

    encoder = SparseEncoder(SparseEncoderConfig(), 4, model.grid.shape_zyx).eval()

    def encode(one: SparseEncoder) -> Tensor:
        with torch.no_grad():
            return one(means, coords, 1).features

    variants = {
        "convolution": lambda: F.conv2d(image, kernel, padding=1),
        "map of a submanifold convolution": lambda: submanifold_map(sites, CUBE),
        "map of a strided convolution": lambda: strided_map(sites, CUBE, (2, 2, 2), (1, 1, 1)),
        "submanifold 64 to 64 forward and backward": lambda: (
            sparse_convolution(features, weight, kernel_map).sum().backward()
        ),
        "encoder forward": lambda: encode(encoder),
        "iteration of SECOND": iteration,
    }
    if find_spec("spconv"):
        other = SparseEncoder(SparseEncoderConfig(backend="spconv"), 4, model.grid.shape_zyx).eval()
        other.load_state_dict(encoder.state_dict())
        torch.testing.assert_close(encode(other).sum(), encode(encoder).sum(), rtol=1e-4, atol=1e-2)
        variants["encoder forward, spconv"] = lambda: encode(other)
    table = ratios(paired(variants, options.rounds), "convolution")
    spconv = table.get("encoder forward, spconv")
    emit(
        "sparse_conv",
        figure=table["iteration of SECOND"]["cpu"],
        unit="reference convolutions for an iteration of SECOND, one frame",
        peer="a dense 3x3 convolution, 64 to 64 channels, of 1x64x248x216; spconv where it is installed",
        goal="none given; 1.5 for the encoder against spconv's",
        rounds=options.rounds,
        rows=table,
        encoder_of_spconv=None if spconv is None else round(table["encoder forward"]["cpu"] / spconv["cpu"], 4),
        voxels=len(sites),
        pairs=kernel_map.num_pairs,
    )


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
