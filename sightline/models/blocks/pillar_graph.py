"""A detector on pillars as other programs run it: one cloud from its pillars on, to all its boxes before suppression.

Shapes: V pillars, T points of a pillar at most, F numbers of a point, C channels, H x W cells, N boxes, K classes.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sightline.ops.point_clouds import PointClouds
from sightline.ops.voxelize import Voxels, pad_voxels

UNDECIDED = 1e-4
"""A rounding may decide between two directions that are no further apart than this."""


class PillarGraph(nn.Module, abc.ABC):
    """What is exported, of plain operations; only V is open.

    Args:
        model: A trained detector with ``config``, ``grid``, ``pillars`` and ``group``; becomes one for evaluation.
    """

    scores_are: ClassVar[str]
    """How the scores of a box make detections: to tell a user."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model
        self.eval()

    @property
    def max_points_per_pillar(self) -> int:
        """T."""
        return int(self.model.config.max_points_per_pillar)

    @property
    def num_point_features(self) -> int:
        """F."""
        return int(self.model.pillars.num_point_features)

    @property
    def facts(self) -> Mapping[str, Any]:
        """What pillars are made with, as plain values."""
        config = self.model.config
        return {
            "point_range": list(config.point_range),
            "pillar_size": list(config.pillar_size),
            "map_hw": list(self.model.grid.shape_zyx[1:]),
            "max_points_per_pillar": config.max_points_per_pillar,
            "max_pillars": config.max_pillars,
            **self.suppression,
        }

    @property
    @abc.abstractmethod
    def suppression(self) -> Mapping[str, Any]:
        """Which boxes are kept as detections, as plain values."""

    def inputs(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What ``forward`` takes of a cloud (P, F)."""
        grouped = self.model.group(PointClouds(points, (len(points),)))
        voxels = pad_voxels(grouped, self.max_points_per_pillar)
        return voxels.features, voxels.num_points, voxels.coords

    @abc.abstractmethod
    def forward(self, points: Tensor, num_points: Tensor, coords: Tensor) -> tuple[Tensor, Tensor]:
        """All boxes, and what their classes are.

        Args:
            points: (V, T, F) float32, zeros behind the points of a pillar.
            num_points: (V,) int64; 0 for places that no pillar needs.
            coords: (V, 4) int64: 0, 0, y, x of each pillar's cell.

        Returns:
            Boxes (N, 7 or more), LiDAR frame, and scores (N, K) in [0, 1].
        """

    @abc.abstractmethod
    def undecided(self, points: Tensor, num_points: Tensor, coords: Tensor) -> Tensor:
        """(N,) bool: of the same boxes, whether a rounding may turn them."""

    def bev(self, points: Tensor, num_points: Tensor, coords: Tensor) -> Tensor:
        """The map (1, C, H, W) of the pillars."""
        features: Tensor = self.model.pillars.dense(Voxels(points, coords, num_points))
        _, height, width = self.model.grid.shape_zyx
        nowhere = height * width  # one cell more, for places that no pillar needs
        cell = torch.where(num_points > 0, coords[:, 2] * width + coords[:, 3], nowhere)
        canvas = features.new_zeros(nowhere + 1, features.shape[1]).index_copy(0, cell, features)[:nowhere]
        return canvas.view(1, height, width, -1).permute(0, 3, 1, 2)
