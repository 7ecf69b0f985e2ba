"""Points to voxels: cells of a regular grid. Shapes: P points, F numbers of a point, V voxels, T points of one at most.

One sort of 64-bit keys (cell, number of the point) finds the voxels of a whole batch, so that memory grows with the
points and never with the grid. The same bits come out on every run, on the CPU and on a GPU; only the additions of
``voxel_means`` may come in any order on a GPU, as all of PyTorch's do unless it is told to be deterministic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sightline.ops.checks import check_shape
from sightline.ops.point_clouds import PointClouds


@dataclass(frozen=True)
class VoxelGrid:
    """A box of space cut into cells.

    Raises:
        ValueError: If the range is empty, a size is not positive, or there is no whole cell.
    """

    point_range: tuple[float, float, float, float, float, float]
    """x, y, z of the lower corner, then of the upper one, metres."""
    voxel_size: tuple[float, float, float]
    """Sizes of a cell along x, y, z, metres."""

    def __post_init__(self) -> None:
        if not all(math.isfinite(size) and size > 0 for size in self.voxel_size):
            raise ValueError(f"voxel_size: expected three sizes above 0 m, got {self.voxel_size}.")
        low, high = self.point_range[:3], self.point_range[3:]
        if not all(math.isfinite(b - a) and b > a for a, b in zip(low, high, strict=True)):
            raise ValueError(f"point_range: expected x, y, z from low to high, got {self.point_range}.")
        ratios = [(b - a) / size for a, b, size in zip(low, high, self.voxel_size, strict=True)]
        if max(ratios) >= 2**24 or 0 in self.shape_zyx:
            raise ValueError(f"A range of {self.point_range} has no whole cell of {self.voxel_size}, or too many.")

    @cached_property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Cells along z, y, x."""
        low, high = self.point_range[:3], self.point_range[3:]
        x, y, z = (round((b - a) / size) for a, b, size in zip(low, high, self.voxel_size, strict=True))
        return z, y, x


class VoxelPoints(NamedTuple):
    """Points in their voxels. Voxels stand in the order of their first points, a voxel's points in their own order."""

    points: Tensor
    """(P, F), those of one voxel after those of another."""
    voxel_index: Tensor
    """(P,) int64, ascending: the voxel of each point."""
    coords: Tensor
    """(V, 4) int64: number of the cloud in the batch, and cell z, y, x."""
    num_points: Tensor
    """(V,) int64, at least 1."""


class Voxels(NamedTuple):
    """Voxels with room for T points each."""

    features: Tensor
    """(V, T, F); zeros behind the last point of a voxel."""
    coords: Tensor
    """(V, 4) int64: number of the cloud in the batch, and cell z, y, x."""
    num_points: Tensor
    """(V,) int64 in 1..T."""


def group_by_voxel(
    clouds: PointClouds, grid: VoxelGrid, *, max_points: int | None = None, max_voxels: int | None = None
) -> VoxelPoints:
    """Sort the points of a batch into voxels.

    The cell of a point is floor((point - low corner) / size) in float32, as in spconv. Points outside of the range,
    and points with NaN or infinity as a coordinate, lie in no voxel and are left out.

    Args:
        clouds: Points of B clouds; x, y, z come first.
        grid: The cells.
        max_points: A voxel's further points are left out.
        max_voxels: A cloud's further voxels are left out, with their points.

    Raises:
        ValueError: If points have no x, y, z, or there are too many cells (2^53; less with many points).
    """
    points = clouds.points
    check_shape("points", points, (sum(clouds.counts), "F"))
    if points.shape[1] < 3:
        raise ValueError(f"points: expected at least x, y, z, got {points.shape[1]} numbers of a point.")
    index_bits = len(points).bit_length()
    keys = _ascending(_keys(clouds, grid, index_bits))
    cells = keys >> index_bits
    index = keys & ((1 << index_bits) - 1)  # of the point in the batch
    is_first = torch.ones_like(cells, dtype=torch.bool)
    torch.ne(cells[1:], cells[:-1], out=is_first[1:])
    begins = _true_places(is_first)  # (V,) of each voxel in the sorted lists
    counts = torch.diff(begins, append=begins.new_tensor([len(cells)]))
    order = _order(index.index_select(0, begins))  # of the voxels, by their first points
    coords = _coords(cells.index_select(0, begins.index_select(0, order)), grid)
    if max_voxels is not None and len(order) > max_voxels:
        order, coords = _first_of_each_cloud(order, coords, len(clouds.counts), max_voxels)
    begins, counts = begins.index_select(0, order), counts.index_select(0, order)
    if max_points is not None:
        counts = counts.clamp(max=max_points)

    ends = counts.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    voxel_index = torch.repeat_interleave(counts, output_size=total)
    shift = begins - ends + counts  # from a point's place in the result to its place in the sorted lists
    places = shift.index_select(0, voxel_index).add_(torch.arange(total, device=points.device))
    return VoxelPoints(_take_rows(points, index.index_select(0, places)), voxel_index, coords, counts)


def voxelize_hard(clouds: PointClouds, grid: VoxelGrid, *, max_points: int, max_voxels: int) -> Voxels:
    """Voxels of at most ``max_points`` points, at most ``max_voxels`` of a cloud; as ``group_by_voxel``, padded."""
    return pad_voxels(group_by_voxel(clouds, grid, max_points=max_points, max_voxels=max_voxels), max_points)


def pad_voxels(grouped: VoxelPoints, max_points: int) -> Voxels:
    """The same voxels with ``max_points`` rows each, zeros behind the last point; no voxel may have more points."""
    points, counts = grouped.points, grouped.num_points
    first_row = torch.arange(len(counts), device=points.device) * max_points - counts.cumsum(0) + counts
    rows = first_row.index_select(0, grouped.voxel_index).add_(torch.arange(len(points), device=points.device))
    features = points.new_zeros(len(counts) * max_points, points.shape[1])
    _put_rows(features, rows, points)
    return Voxels(features.view(len(counts), max_points, points.shape[1]), grouped.coords, counts)


def voxelize_dynamic(clouds: PointClouds, grid: VoxelGrid) -> VoxelPoints:
    """All points within the range, in as many voxels as they need."""
    return group_by_voxel(clouds, grid)


def voxel_means(grouped: VoxelPoints) -> Tensor:
    """(V, F): mean of the points of each voxel."""
    points, counts = grouped.points, grouped.num_points
    sums = points.new_zeros(len(counts), points.shape[1]).index_add_(0, grouped.voxel_index, points)
    return sums / counts[:, None]


def _keys(clouds: PointClouds, grid: VoxelGrid, index_bits: int) -> Tensor:
    """Of each point within the range: its cell in the batch, then ``index_bits`` bits with its index."""
    points = clouds.points
    shape_zyx = grid.shape_zyx
    batch = len(clouds.counts)
    num_cells = batch * math.prod(shape_zyx)
    if num_cells.bit_length() > min(63 - index_bits, 53):
        raise ValueError(f"{batch} clouds of {shape_zyx} cells and {len(points)} points in all cannot be numbered.")
    # A division by a number would be a multiplication by its rounded inverse on some devices.
    low = torch.tensor(grid.point_range[:3], device=points.device)[:, None]
    size = torch.tensor(grid.voxel_size, device=points.device)[:, None]
    limit = torch.tensor(shape_zyx[::-1], dtype=torch.float32, device=points.device)[:, None]
    xyz = points[:, :3].T.clone(memory_format=torch.contiguous_format).float()
    xyz = xyz.sub_(low).div_(size).floor_()  # (3, P) cells
    index = _true_places(_inside(xyz, limit))
    if num_cells > 2**24:
        xyz = xyz.double()  # counts on exactly
    x, y, z = xyz
    if batch > 1:
        counts = torch.tensor(clouds.counts, device=points.device)
        z = z + torch.repeat_interleave(counts, output_size=len(points)) * shape_zyx[0]
    cells: Tensor = z.mul(shape_zyx[1]).add_(y).mul_(shape_zyx[2]).add_(x).index_select(0, index)
    return cells.long().bitwise_left_shift_(index_bits).bitwise_or_(index)


def _coords(cells: Tensor, grid: VoxelGrid) -> Tensor:
    """(V, 4) cloud, z, y, x of (V,) cell numbers."""
    depth, height, width = grid.shape_zyx
    exact = cells.double()  # divides faster than integers, and below 2^53 the floor of a quotient is exact, too
    lines = (exact / width).floor_()
    planes = (lines / height).floor_()
    cloud = (planes / depth).floor_()
    return torch.stack((cloud, planes - cloud * depth, lines - planes * height, exact - lines * width), dim=1).long()


def _first_of_each_cloud(order: Tensor, coords: Tensor, batch: int, limit: int) -> tuple[Tensor, Tensor]:
    """The first ``limit`` voxels of each cloud."""
    cloud = coords[:, 0]
    counts = torch.zeros(batch, dtype=torch.int64, device=cloud.device).index_add_(0, cloud, torch.ones_like(cloud))
    place = torch.arange(len(cloud), device=cloud.device) - (counts.cumsum(0) - counts)[cloud]
    kept = _true_places(place < limit)
    return order[kept], coords[kept]


# NumPy does these several times faster on the CPU.


def _ascending(keys: Tensor) -> Tensor:
    """(N,) int64 without equals, sorted."""
    return keys.sort().values if keys.is_cuda else torch.from_numpy(np.sort(keys.numpy()))


def _order(keys: Tensor) -> Tensor:
    """(N,) places that sort (N,) int64 below 2^31 without equals."""
    bits = len(keys).bit_length()
    places = torch.arange(len(keys), device=keys.device)
    return _ascending((keys << bits).bitwise_or_(places)).bitwise_and_((1 << bits) - 1)


def _inside(xyz: Tensor, limit: Tensor) -> Tensor:
    """(P,): each of (3, P) at least 0 and below (3, 1); not NaN."""
    if xyz.is_cuda:
        return ((xyz >= 0) & (xyz < limit)).all(dim=0)
    cells, cells_limit = xyz.numpy(), limit.numpy()
    inside = (cells >= 0) & (cells < cells_limit)
    return torch.from_numpy(inside[0] & inside[1] & inside[2])


def _true_places(mask: Tensor) -> Tensor:
    """Where a mask (N,) is true: (n,) int64."""
    return mask.nonzero().squeeze(1) if mask.is_cuda else torch.from_numpy(np.flatnonzero(mask.numpy()))


def _take_rows(rows: Tensor, index: Tensor) -> Tensor:
    return rows.index_select(0, index) if rows.is_cuda else torch.from_numpy(rows.numpy().take(index.numpy(), axis=0))


def _put_rows(rows: Tensor, index: Tensor, values: Tensor) -> None:
    """``rows[index] = values`` without an index twice."""
    if rows.is_cuda:
        rows.index_copy_(0, index, values)
    else:
        _whole_rows(rows)[index.numpy()] = _whole_rows(values)


def _whole_rows(rows: Tensor) -> np.ndarray[Any, Any]:
    """(N,) items of as many bytes as a row has; the same memory."""
    return rows.numpy().view(f"V{rows.shape[1] * rows.element_size()}")[:, 0]
