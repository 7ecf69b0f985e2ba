"""PointPillars: point clouds in, losses or boxes out.

Shapes: B samples, V pillars, T points of a pillar at most, F numbers of a point, C channels, H x W cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sightline.models.blocks.anchor_head3d import AnchorHead3D, openpcdet_head_names
from sightline.models.blocks.anchor_predictor import AnchorPredictions
from sightline.models.blocks.bev_backbone import BevBackbone, openpcdet_backbone_names
from sightline.models.blocks.pillars import PillarFeatures, openpcdet_pillar_names
from sightline.models.pointpillars.config import PointPillarsConfig
from sightline.ops.boxes3d import BoxTargets3D, Detections3D
from sightline.ops.filled_cells import FilledCells
from sightline.ops.point_clouds import PointClouds
from sightline.ops.voxelize import VoxelPoints, Voxels, group_by_voxel


class PointPillars(nn.Module):
    """A pillar network, a pyramid on the map of pillars, and an anchor head.

    Args:
        config: Sizes, anchors, thresholds.
        class_names: The K classes of the data.
        num_point_features: F.

    Raises:
        ConfigError: If a class has no anchors.

    Reference:
        Lang et al., "PointPillars: Fast Encoders for Object Detection from Point Clouds", CVPR 2019.
    """

    def __init__(self, config: PointPillarsConfig, class_names: Sequence[str], *, num_point_features: int = 4) -> None:
        super().__init__()
        self.config = config
        self.grid = config.grid
        self.map_hw = self.grid.shape_zyx[1:]
        self.pillars = PillarFeatures(
            num_point_features=num_point_features,
            channels=config.pillar_channels,
            voxel_size=self.grid.voxel_size,
            point_range=config.point_range,
        )
        self.backbone = BevBackbone(config.backbone, self.pillars.out_channels)
        height, width = self.map_hw
        stride = self.backbone.stride
        self.head = AnchorHead3D(
            config.head,
            class_names,
            in_channels=self.backbone.out_channels,
            map_hw=(height // stride, width // stride),
            point_range=config.point_range,
        )

    def group(self, clouds: PointClouds) -> VoxelPoints:
        """The points in their pillars; fewer pillars are allowed while training."""
        limit = self.config.max_pillars_training if self.training else self.config.max_pillars
        return group_by_voxel(clouds, self.grid, max_points=self.config.max_points_per_pillar, max_voxels=limit)

    def forward(self, clouds: PointClouds) -> AnchorPredictions:
        """What is predicted for every anchor."""
        grouped = self.group(clouds)
        features = self.pillars(grouped, self.config.max_points_per_pillar)
        cells = FilledCells(features, grouped.coords, len(clouds.counts), self.map_hw)
        predictions: AnchorPredictions = self.head(self.backbone.levels(cells))
        return predictions

    def losses(self, clouds: PointClouds, targets: BoxTargets3D) -> dict[str, Tensor]:
        """``class``, ``box``, ``direction``: weighted scalars, means over the samples."""
        return self.head.losses(self(clouds), targets)

    @torch.no_grad()
    def detect(self, clouds: PointClouds) -> list[Detections3D]:
        """Detections of each sample, best first, LiDAR frame."""
        return self.head.detections(self(clouds))


class PointPillarsGraph(nn.Module):
    """One sample from its pillars on, in evaluation mode, of plain operations and fixed shapes: what is exported.

    Args:
        model: A trained model; becomes one for evaluation.
    """

    def __init__(self, model: PointPillars) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, points: Tensor, num_points: Tensor, coords: Tensor) -> tuple[Tensor, ...]:
        """What is predicted for every anchor.

        Args:
            points: (V, T, F) float32, zeros behind the points of a pillar.
            num_points: (V,) int64; 0 for places that no pillar needs.
            coords: (V, 4) int64: 0, 0, y, x of each pillar's cell.

        Returns:
            Logits of the classes (1, A, K), residuals of the boxes (1, A, 7) and, where there are direction bins, their
            logits (1, A, D).
        """
        model = self.model
        features = model.pillars.dense(Voxels(points, coords, num_points))
        height, width = model.map_hw
        nowhere = height * width  # one cell more, for places that no pillar needs
        cell = torch.where(num_points > 0, coords[:, 2] * width + coords[:, 3], nowhere)
        canvas = features.new_zeros(nowhere + 1, features.shape[1]).index_copy(0, cell, features)[:nowhere]
        bev = canvas.view(1, height, width, -1).permute(0, 3, 1, 2)
        logits, deltas, directions = model.head(model.backbone.levels(bev))
        return (logits, deltas) if directions is None else (logits, deltas, directions)


def openpcdet_names(config: PointPillarsConfig) -> dict[str, str]:
    """OpenPCDet's names of layers, each with the name of ours; without the weight's own last part.

    ``backbone_2d.blocks.0.1.weight`` is ``backbone.stages.0.0.weight``. Their ``global_step`` has no counterpart.
    """
    return {
        **{theirs: f"pillars.{ours}" for theirs, ours in openpcdet_pillar_names(len(config.pillar_channels)).items()},
        **{theirs: f"backbone.{ours}" for theirs, ours in openpcdet_backbone_names(config.backbone).items()},
        **{theirs: f"head.{ours}" for theirs, ours in openpcdet_head_names(config.head).items()},
    }
