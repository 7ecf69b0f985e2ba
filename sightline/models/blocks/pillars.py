"""Pillars: vertical columns of points become a bird's-eye-view map.

Shapes: V pillars, T points of a pillar at most, F numbers of a point, C channels, B samples, H x W cells.

Reference:
    Lang et al., "PointPillars: Fast Encoders for Object Detection from Point Clouds", CVPR 2019, section 2.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sightline.models.blocks.batch_norm import WeightedBatchNorm
from sightline.ops.checks import check_shape


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

    def describe(self, points: Tensor, num_points: Tensor, coords_zyx: Tensor) -> Tensor:
        """What the network is told of every place of a pillar.

        Args:
            points: (V, T, F), zeros behind the points of a pillar.
            num_points: (V,) points of each pillar, at least 1.
            coords_zyx: (V, 3) cell of each pillar.

        Returns:
            (V, T, D); zeros where there is no point.
        """
        xyz = points[..., :3]
        mean = xyz.sum(dim=1) / num_points[:, None].to(points.dtype)
        center = coords_zyx.flip(1).to(points.dtype) * self.cell + self.origin  # (V, 3)
        parts = [points if self.has_absolute_xyz else points[..., 3:], xyz - mean[:, None], xyz - center[:, None]]
        if self.has_distance:
            parts.append(xyz.norm(dim=-1, keepdim=True))
        is_point = torch.arange(points.shape[1], device=points.device) < num_points[:, None]  # (V, T)
        return torch.cat(parts, dim=-1) * is_point[..., None]

    def forward(self, points: Tensor, num_points: Tensor, coords_zyx: Tensor) -> Tensor:
        """Features of every pillar.

        Args:
            points: (V, T, F), zeros behind the points of a pillar.
            num_points: (V,) points of each pillar, 1 to T.
            coords_zyx: (V, 3) cell of each pillar.

        Returns:
            (V, C), at least 0.
        """
        check_shape("points", points, ("V", "T", "F"))
        check_shape("coords_zyx", coords_zyx, (len(points), 3))
        places = points.shape[1]
        is_point = torch.arange(places, device=points.device) < num_points[:, None]  # (V, T)
        is_short = num_points < places
        pillar = torch.cat((is_point.nonzero()[:, 0], is_short.nonzero()[:, 0]))  # (R,) rows: points, then empty places
        told = self.describe(points, num_points, coords_zyx)[is_point]
        rows = torch.cat((told, told.new_zeros(len(pillar) - len(told), told.shape[1])))
        weights = torch.cat((rows.new_ones(len(told)), (places - num_points[is_short]).to(rows.dtype)))
        best = rows
        for number, (linear, norm) in enumerate(zip(self.linears, self.norms, strict=True)):
            if number:
                rows = torch.cat((rows, best[pillar]), dim=1)
            rows = norm(linear(rows), weights).relu()
            best = _largest(rows, pillar, len(points))  # (V, C)
        return best

    def dense(self, points: Tensor, num_points: Tensor, coords_zyx: Tensor) -> Tensor:
        """As ``forward`` in evaluation mode, of fixed shapes and plain operations, so that it can be exported."""
        rows = best = self.describe(points, num_points, coords_zyx)
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


def scatter_pillars(
    features: Tensor, coords_zyx: Tensor, batch_index: Tensor, *, num_samples: int, height: int, width: int
) -> Tensor:
    """Put pillars at their cells of a map, zeros elsewhere.

    Args:
        features: (V, C).
        coords_zyx: (V, 3) cell of each pillar, z is 0.
        batch_index: (V,) sample of each pillar.
        num_samples: B.
        height: H, cells along y.
        width: W, cells along x.

    Returns:
        (B, C, H, W), in channels-last memory.
    """
    cell = (batch_index.long() * height + coords_zyx[:, 1].long()) * width + coords_zyx[:, 2].long()
    canvas = features.new_zeros(num_samples * height * width, features.shape[1])
    canvas = canvas.index_copy(0, cell, features)
    return canvas.view(num_samples, height, width, -1).permute(0, 3, 1, 2)


def openpcdet_pillar_names(num_layers: int, *, theirs: str = "vfe.") -> dict[str, str]:
    """OpenPCDet's names of the layers of ``PillarVFE``, each with ours relative to ``PillarFeatures``."""
    names = {}
    for layer in range(num_layers):
        names[f"{theirs}pfn_layers.{layer}.linear"] = f"linears.{layer}"
        names[f"{theirs}pfn_layers.{layer}.norm"] = f"norms.{layer}"
    return names
