"""Points of a full LiDAR frame sorted into voxels, beside spconv.

The frame is one of KITTI's, or as many points of the built-in city where KITTI is not at hand. spconv is called as
OpenPCDet calls it, and gives padded voxels; our models take points in the order of their voxels (``group``), and padded
ones (``padded``) where they are asked for. Both have the same bits (tests/parity/test_openpcdet_voxels.py).
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.timing import emit, paired, ratios
from sightline.data.point_files import read_points
from sightline.data.world.config import LidarConfig
from sightline.data.world.lidar import sweep_scene
from sightline.data.world.scene import make_scene
from sightline.ops.point_clouds import PointClouds
from sightline.ops.voxelize import VoxelGrid, group_by_voxel, voxelize_hard

GRIDS = {
    "pointpillars": (VoxelGrid((0, -39.68, -3, 69.12, 39.68, 1), (0.16, 0.16, 4)), 32),
    "second": (VoxelGrid((0, -40, -3, 70.4, 40, 1), (0.05, 0.05, 0.1)), 5),
}
"""Cells and points of one at most."""
MAX_VOXELS = 40_000


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks voxels", description=__doc__)
    parser.add_argument("--cloud", type=Path, help="a file of points; the built-in city when left out")
    parser.add_argument("--grid", choices=sorted(GRIDS), default="pointpillars")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)

    if options.cloud is None:
        lidar = LidarConfig(beams=64, steps_per_turn=2083)
        points = sweep_scene(make_scene(0, 0), lidar).points
    else:
        points = read_points(options.cloud).copy()  # spconv takes only what may be written to
    clouds = PointClouds(torch.from_numpy(points), (len(points),))
    grid, max_points = GRIDS[options.grid]
    variants: dict[str, Callable[[], object]] = {
        "group": lambda: group_by_voxel(clouds, grid, max_points=max_points, max_voxels=MAX_VOXELS),
        "padded": lambda: voxelize_hard(clouds, grid, max_points=max_points, max_voxels=MAX_VOXELS),
    }
    peer = _spconv(points, grid, max_points)
    if peer is not None:
        variants["spconv"] = peer
    base = "spconv" if peer is not None else "padded"
    rows = ratios(paired(variants, options.rounds, inner=5), base)
    emit(
        "voxels",
        figure=rows["group"]["cpu"],
        unit=f"of the CPU time of {base}, one thread",
        peer="spconv, Point2VoxelCPU3d" if peer is not None else "none: spconv is not installed",
        goal="<= 2",
        rounds=options.rounds,
        rows=rows,
        points=len(points),
        shape={"grid": options.grid, "cloud": str(options.cloud)},
        torch=torch.__version__,
    )


def _spconv(points: np.ndarray, grid: VoxelGrid, max_points: int) -> Callable[[], object] | None:
    try:
        from cumm import tensorview
        from spconv.utils import Point2VoxelCPU3d
    except ImportError:
        return None
    generator = Point2VoxelCPU3d(
        vsize_xyz=list(grid.voxel_size),
        coors_range_xyz=list(grid.point_range),
        num_point_features=points.shape[1],
        max_num_points_per_voxel=max_points,
        max_num_voxels=MAX_VOXELS,
    )

    def voxels() -> object:
        return [part.numpy() for part in generator.point_to_voxel(tensorview.from_numpy(points))]

    return voxels


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
