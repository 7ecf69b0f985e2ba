"""Pillars: what is told of the points in vertical columns, and the network on it.

Shapes: V pillars, P points, T points of a pillar at most, F numbers of a point, C channels.

Reference:
    Lang et al., "PointPillars: Fast Encoders for Object Detection from Point Clouds", CVPR 2019, section 2.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sightline.models.blocks.batch_norm import WeightedBatchNorm
from sightline.ops.voxelize import VoxelPoints, Voxels, voxel_means


class PillarFeatures(nn.Module):
    """A small network on every point of a pillar, and the largest answer of each channel.

    A point is told by its own numbers, its offset from the mean of its pillar's points, and its offset from the
    pillar's centre. As in the original the empty places of a pillar take part, as points whose numbers are all 0; here
    they are computed once for each pillar and counted as often as there are.

    Args:
        num_point_features: F, at least 3: x, y, z first.
        channels: C of each layer; a layer that is not the last one has half of it for points and half for pillars.
        voxel_size: (dx, dy, dz) of a pillar, metres.
        point_range: (x_min, y_min, z_min, x_max, y_max, z_max), metres, LiDAR frame.
        has_absolute_xyz: Whether x, y, z themselves are told.
        has_distance: Whether the distance from the sensor is told too.
        eps: Of the batch norms.
        momentum: Of the batch norms' running averages.

    Raises:
        ValueError: If the channels are none, or odd where they are halved.
    """

    cell: Tensor
    origin: Tensor

    def __init__(
        self,
        *,
        num_point_features: int,
        channels: Sequence[int],
        voxel_size: Sequence[float],
        point_range: Sequence[float],
        has_absolute_xyz: bool = True,
        has_distance: bool = False,
        eps: float = 1e-3,
        momentum: float = 0.01,
    ) -> None:
        super().__init__()
        if not channels or any(width % 2 for width in channels[:-1]):
            raise ValueError(f"channels: expected at least one layer and even numbers before the last, got {channels}.")
        self.has_absolute_xyz = has_absolute_xyz
        self.has_distance = has_distance
        self.num_point_features = num_point_features
        self.out_channels = channels[-1]
        self.register_buffer("cell", torch.tensor(voxel_size, dtype=torch.float32), persistent=False)
        center = [low + size / 2 for low, size in zip(point_range[:3], voxel_size, strict=True)]
        self.register_buffer("origin", torch.tensor(center, dtype=torch.float32), persistent=False)
        width = num_point_features + 6 + (0 if has_absolute_xyz else -3) + (1 if has_distance else 0)
        self.linears = nn.ModuleList()
        self.norms = nn.ModuleList()
        for number, out in enumerate(channels):
            own = out if number == len(channels) - 1 else out // 2
            self.linears.append(nn.Linear(width, own, bias=False))
            self.norms.append(WeightedBatchNorm(own, eps, momentum))
            width = 2 * own

    def describe(self, points: Tensor, means: Tensor, coords: Tensor) -> Tensor:
        """What the network is told of points.

        Args:
            points: (..., F).
            means: (..., 3) mean of the points of their pillar.
            coords: (..., 4) cell of their pillar: sample, z, y, x.

        Returns:
            (..., D).
        """
        xyz = points[..., :3]
        centers = coords[..., 1:].flip(-1).to(points.dtype) * self.cell + self.origin
        parts = [points if self.has_absolute_xyz else points[..., 3:], xyz - means, xyz - centers]
        if self.has_distance:
            parts.append(xyz.norm(dim=-1, keepdim=True))
        return torch.cat(parts, dim=-1)

    def forward(self, pillars: VoxelPoints, places: int | None = None) -> Tensor:
        """Features of every pillar, in full precision under autocast too.

        With the 8 bits of bf16 a point 70 m away is known to a quarter of a metre; and oneDNN keeps a kernel for every
        number of points, which takes gigabytes in the course of a run.

        Args:
            pillars: Points (P, F) in their V pillars.
            places: T, of which those without a point take part as points of zeros; None: there are none of these.

        Returns:
            (V, C), at least 0, in float32 or float64.
        """
        num_pillars = len(pillars.num_points)
        means, coords = voxel_means(pillars)[:, :3], pillars.coords
        pillar = pillars.voxel_index
        rows = self.describe(pillars.points, means[pillar], coords[pillar])
        weights = rows.new_ones(len(rows))
        if places is not None:
            empty = places - pillars.num_points
            short = empty.nonzero().squeeze(1)
            pillar = torch.cat((pillar, short))  # (R,) rows: points, then empty places
            rows = torch.cat((rows, rows.new_zeros(len(short), rows.shape[1])))
            weights = torch.cat((weights, empty[short].to(rows.dtype)))
        best = rows
        with torch.autocast(rows.device.type, enabled=False):
            for number, (linear, norm) in enumerate(zip(self.linears, self.norms, strict=True)):
                if number:
                    rows = torch.cat((rows, best[pillar]), dim=1)
                rows = norm(linear(rows), weights).relu()
                best = _largest(rows, pillar, num_pillars)  # (V, C)
        return best

    def dense(self, voxels: Voxels) -> Tensor:
        """As ``forward`` in evaluation mode, of fixed shapes and plain operations, so that it can be exported.

        A pillar may have no point; what comes out for it means nothing.
        """
        points, coords, num_points = voxels
        means = points[..., :3].sum(dim=1) / num_points[:, None].clamp(min=1).to(points.dtype)
        is_point = torch.arange(points.shape[1], device=points.device) < num_points[:, None]  # (V, T)
        rows = best = self.describe(points, means[:, None], coords[:, None]) * is_point[..., None]
        for number, (linear, norm) in enumerate(zip(self.linears, self.norms, strict=True)):
            if number:
                rows = torch.cat((rows, best[:, None].expand_as(rows)), dim=2)
            assert isinstance(norm, WeightedBatchNorm)
            scale, shift = norm.scale_and_shift()
            rows = (linear(rows) * scale + shift).relu()
            best = rows.amax(dim=1)  # (V, C)
        return best


def _largest(rows: Tensor, pillar: Tensor, num_pillars: int) -> Tensor:
    """(R, C) rows, at least 0, to the largest of each pillar, (V, C)."""
    zeros = rows.new_zeros(num_pillars, rows.shape[1])
    return zeros.scatter_reduce(0, pillar[:, None].expand_as(rows), rows, "amax")


def openpcdet_pillar_names(num_layers: int, *, theirs: str = "vfe.") -> dict[str, str]:
    """OpenPCDet's names of the layers of ``PillarVFE``, each with ours relative to ``PillarFeatures``."""
    names = {}
    for layer in range(num_layers):
        names[f"{theirs}pfn_layers.{layer}.linear"] = f"linears.{layer}"
        names[f"{theirs}pfn_layers.{layer}.norm"] = f"norms.{layer}"
    return names
