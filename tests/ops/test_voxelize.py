"""Voxels: order, caps, edges, and what lies in none."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sightline.ops.point_clouds import PointClouds
from sightline.ops.voxelize import VoxelGrid, group_by_voxel, voxel_means, voxelize_dynamic, voxelize_hard

GRID = VoxelGrid((0, 0, 0, 4, 3, 2), (1, 1, 1))


def clouds(*rows, numbers=4):
    tensors = [torch.tensor(part, dtype=torch.float32).reshape(-1, numbers) for part in rows]
    return PointClouds(torch.cat(tensors), tuple(map(len, tensors)))


def by_a_loop(cloud, grid, max_points, max_voxels):
    """The rule read aloud: one point after the other."""
    low, size = np.float32(grid.point_range[:3]), np.float32(grid.voxel_size)
    voxels = {}
    for point in cloud.numpy():
        cell = np.floor((point[:3] - low) / size)
        if not (np.all(cell >= 0) and np.all(cell < grid.shape_zyx[::-1])):
            continue
        key = tuple(int(c) for c in cell[::-1])
        if key not in voxels and len(voxels) == max_voxels:
            continue
        inside = voxels.setdefault(key, [])
        if len(inside) < max_points:
            inside.append(point)
    return voxels


def test_the_grid_counts_cells_along_z_y_x():
    assert GRID.shape_zyx == (2, 3, 4)
    assert VoxelGrid((0, -39.68, -3, 69.12, 39.68, 1), (0.16, 0.16, 4)).shape_zyx == (1, 496, 432)


@pytest.mark.parametrize(
    ("point_range", "voxel_size", "words"),
    [
        ((0, 0, 0, 4, 3, 2), (1, 0, 1), "voxel_size"),
        ((0, 0, 0, 4, 3, 2), (1, float("nan"), 1), "voxel_size"),
        ((0, 3, 0, 4, 3, 2), (1, 1, 1), "point_range"),
        ((0, 0, 0, float("inf"), 3, 2), (1, 1, 1), "point_range"),
        ((0, 0, 0, 4, 3, 2), (1, 1, 5), "no whole cell"),
        ((0, 0, 0, 4, 3, 2), (1e-9, 1, 1), "too many"),
        ((0, 0, 0, 1e10, 3, 2), (1e-300, 1, 1), "too many"),
    ],
)
def test_an_impossible_grid_is_refused(point_range, voxel_size, words):
    with pytest.raises(ValueError, match=words):
        VoxelGrid(point_range, voxel_size)


def test_voxels_stand_in_the_order_of_their_first_points():
    cloud = clouds([[3.5, 2.5, 1.5, 0.1], [0.5, 0.5, 0.5, 0.2], [3.1, 2.1, 1.1, 0.3]])
    voxels = voxelize_hard(cloud, GRID, max_points=3, max_voxels=9)
    assert voxels.coords.tolist() == [[0, 1, 2, 3], [0, 0, 0, 0]]
    assert voxels.num_points.tolist() == [2, 1]
    assert torch.equal(voxels.features[0, :2], cloud.points[[0, 2]])
    assert voxels.features[0, 2].tolist() == [0, 0, 0, 0]
    assert torch.equal(voxels.features[1, 0], cloud.points[1])


def test_lower_faces_belong_to_the_grid_and_upper_ones_do_not():
    cloud = clouds(
        [[0, 0, 0, 0], [4, 0, 0, 0], [0, 3, 0, 0], [0, 0, 2, 0], [-0.001, 0, 0, 0], [3.999, 2.999, 1.999, 0]]
    )
    assert voxelize_dynamic(cloud, GRID).coords.tolist() == [[0, 0, 0, 0], [0, 1, 2, 3]]


def test_a_full_voxel_drops_points_and_a_full_cloud_drops_voxels():
    # Cells a b a c a b: two voxels of two points; c comes too late, the third a is too much, b still fills up.
    x = [0.5, 1.5, 0.6, 2.5, 0.7, 1.6]
    cloud = clouds([[value, 0, 0, i] for i, value in enumerate(x)])
    voxels = voxelize_hard(cloud, GRID, max_points=2, max_voxels=2)
    assert voxels.coords[:, 3].tolist() == [0, 1]
    assert voxels.features[:, :, 3].tolist() == [[0, 2], [1, 5]]


def test_the_limits_hold_for_each_cloud_of_a_batch():
    first, second = [[0.5, 0, 0, 1], [1.5, 0, 0, 2], [2.5, 0, 0, 3]], [[2.5, 0, 0, 4], [0.5, 0, 0, 5], [2.6, 0, 0, 6]]
    voxels = voxelize_hard(clouds(first, [], second), GRID, max_points=2, max_voxels=2)
    assert voxels.coords.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [2, 0, 0, 2], [2, 0, 0, 0]]
    assert voxels.features[:, :, 3].tolist() == [[1, 0], [2, 0], [4, 6], [5, 0]]


@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.integers(1, 3), st.integers(1, 12), st.integers(3, 6))
def test_every_batch_equals_a_loop_over_its_points(seed, num_points, max_points, max_voxels, numbers):
    random = np.random.default_rng(seed)
    parts = [random.uniform(-0.5, 4.5, (random.integers(num_points + 1), numbers)).round(1) for _ in range(3)]
    batch = clouds(*parts, numbers=numbers)
    voxels = voxelize_hard(batch, GRID, max_points=max_points, max_voxels=max_voxels)
    row = 0
    for number, cloud in enumerate(batch.split()):
        for cell, points in by_a_loop(cloud, GRID, max_points, max_voxels).items():
            assert voxels.coords[row].tolist() == [number, *cell]
            assert voxels.num_points[row] == len(points)
            np.testing.assert_array_equal(voxels.features[row, : len(points)], points)
            assert not voxels.features[row, len(points) :].any()
            row += 1
    assert row == len(voxels.coords)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 1e38, -1e38])
def test_points_without_a_place_lie_in_no_voxel(bad):
    rows = [[0.5, 0.5, 0.5, 1]] + [[bad if axis == a else 0.5 for a in range(3)] + [2] for axis in range(3)]
    voxels = voxelize_hard(clouds(rows), GRID, max_points=5, max_voxels=5)
    assert voxels.num_points.tolist() == [1]
    assert voxels.features[0, 0, 3] == 1


@pytest.mark.parametrize("counts", [(), (0,), (0, 0)])
def test_empty_clouds_have_no_voxels(counts):
    voxels = voxelize_hard(PointClouds(torch.zeros(0, 4), counts), GRID, max_points=5, max_voxels=5)
    assert voxels.features.shape == (0, 5, 4)
    assert voxels.coords.shape == (0, 4)
    assert voxels.num_points.shape == (0,)
    assert voxel_means(voxelize_dynamic(PointClouds(torch.zeros(0, 4), counts), GRID)).shape == (0, 4)


def test_a_cloud_far_outside_has_no_voxels():
    assert len(voxelize_hard(clouds([[9, 9, 9, 0]]), GRID, max_points=5, max_voxels=5).coords) == 0


def test_dynamic_voxels_keep_every_point_and_know_its_voxel():
    cloud = clouds([[0.5, 0, 0, 1], [1.5, 0, 0, 5], [0.25, 0, 0, 3], [9, 0, 0, 0]])
    grouped = voxelize_dynamic(cloud, GRID)
    assert grouped.points[:, 3].tolist() == [1, 3, 5]
    assert grouped.voxel_index.tolist() == [0, 0, 1]
    assert voxel_means(grouped)[:, [0, 3]].tolist() == [[0.375, 2], [1.5, 5]]


def test_the_points_stay_as_they_were():
    cloud = clouds([[0.5, 0.5, 0.5, 1]])
    voxelize_hard(cloud, GRID, max_points=5, max_voxels=5)
    assert cloud.points.tolist() == [[0.5, 0.5, 0.5, 1]]


def test_a_grid_of_more_cells_than_int32_counts():
    grid = VoxelGrid((0, 0, 0, 2000, 2000, 2000), (1, 1, 1))
    cloud = clouds([[1999.5, 1999.5, 1999.5, 0], [0.5, 1.5, 2.5, 0]], [[1999.5, 0, 1999.5, 0]])
    assert group_by_voxel(cloud, grid).coords.tolist() == [[0, 1999, 1999, 1999], [0, 2, 1, 0], [1, 1999, 0, 1999]]


def test_a_grid_beyond_all_numbers_is_refused():
    grid = VoxelGrid((0, 0, 0, 1, 1, 1), (1e-6, 1e-6, 1e-6))
    with pytest.raises(ValueError, match="cells"):
        group_by_voxel(clouds([[0.5, 0.5, 0.5, 0]]), grid)


def test_five_million_points():
    points = torch.rand(5_000_000, 4, generator=torch.Generator().manual_seed(0)) * 4
    voxels = voxelize_hard(PointClouds(points, (len(points),)), GRID, max_points=7, max_voxels=100)
    assert len(voxels.coords) == 24
    assert voxels.num_points.tolist() == [7] * 24
    assert torch.equal(
        voxels.features[0, 0], points[((points[:, :3] < torch.tensor([4, 3, 2])).all(1)).nonzero()[0, 0]]
    )


@pytest.mark.parametrize("rows", [torch.zeros(3, 2), torch.zeros(3), torch.zeros(2, 4)])
def test_points_of_a_wrong_shape_are_refused(rows):
    with pytest.raises(ValueError, match="points"):
        voxelize_dynamic(PointClouds(rows, (3,)), GRID)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_bits():
    points = torch.rand(200_000, 5, generator=torch.Generator().manual_seed(0)) * 5
    batch = PointClouds(points, (150_000, 0, 50_000))
    fine = VoxelGrid((0, 0, 0, 4, 3, 2), (0.05, 0.05, 0.1))
    for grid in (GRID, fine):
        here = voxelize_hard(batch, grid, max_points=5, max_voxels=30_000)
        there = voxelize_hard(PointClouds(points.cuda(), batch.counts), grid, max_points=5, max_voxels=30_000)
        assert all(torch.equal(a, b.cpu()) for a, b in zip(here, there, strict=True))
