"""Voxels of OpenPCDet (spconv): every voxel, its place in the list, and its points."""

import json

import numpy as np
import torch

from sightline.ops.point_clouds import PointClouds
from sightline.ops.voxelize import VoxelGrid, voxelize_hard
from tests.conftest import oracle
from tests.parity.openpcdet_clouds import recorded_grid, recorded_points


def voxelized(points, grid, max_points, max_voxels):
    cloud = PointClouds(torch.from_numpy(points), (len(points),))
    return voxelize_hard(cloud, grid, max_points=int(max_points), max_voxels=int(max_voxels))


def same(voxels, recorded, name):
    np.testing.assert_array_equal(voxels.coords[:, 1:], recorded[f"{name}/coords_zyx"], err_msg=name)
    np.testing.assert_array_equal(voxels.num_points, recorded[f"{name}/num_points"], err_msg=name)
    if f"{name}/voxels" in recorded:
        features = recorded[f"{name}/voxels"]  # of the first voxels, perhaps without columns that nobody needs
        np.testing.assert_array_equal(voxels.features[: len(features), : features.shape[1]], features, err_msg=name)
        assert not voxels.features[: len(features), features.shape[1] :].any()


def test_made_up_points_on_edges_and_at_the_limits():
    with np.load(oracle("openpcdet", "voxels_synthetic.npz")) as recorded:
        settings = {}
        for name in sorted({key.partition("/")[0] for key in recorded.files if "/" in key}):
            points = recorded["points"]
            if f"{name}/voxel_size" in recorded:
                parts = ("voxel_size", "max_points", "max_voxels")
                settings[name] = [recorded[f"{name}/{part}"] for part in parts]
            else:  # the same voxeliser again, with the points turned round
                name_before = name.partition("_")[0]
                points, settings[name] = points[::-1].copy(), settings[name_before]
            size, max_points, max_voxels = settings[name]
            grid = VoxelGrid(tuple(recorded["range"].tolist()), tuple(size.tolist()))
            same(voxelized(points, grid, max_points, max_voxels), recorded, name)
        assert settings


def test_real_frames():
    meta = json.loads(oracle("openpcdet", "voxels_real_meta.json").read_text())
    assert meta
    with np.load(oracle("openpcdet", "voxels_real.npz")) as recorded:
        for name, facts in meta.items():
            config, _, frame = name.split("/")
            grid = recorded_grid(config, facts["voxel_size"])
            points = recorded_points(config, frame)
            assert grid.shape_zyx == tuple(facts["grid_size_xyz"][::-1])
            assert len(points) == facts["num_points_in"]
            voxels = voxelized(points, grid, facts["max_points"], facts["max_voxels"])
            assert len(voxels.coords) == facts["num_voxels"]
            assert int(voxels.num_points.sum()) == facts["sum_num_points"]
            total = float(voxels.features.double().abs().sum())
            np.testing.assert_allclose(total, facts["voxels_abs_sum"], rtol=1e-9, err_msg=name)
            same(voxels, recorded, name)
