"""PointPillars: point clouds in, losses or boxes out.

Shapes: B samples, V pillars, T points of a pillar at most, F numbers of a point, C channels, H x W cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sightline.models.blocks.anchor_head3d import AnchorHead3D, openpcdet_head_names
from sightline.models.blocks.anchor_predictor import AnchorPredictions
from sightline.models.blocks.bev_backbone import BevBackbone, openpcdet_backbone_names
from sightline.models.blocks.pillar_graph import UNDECIDED, PillarGraph
from sightline.models.blocks.pillars import PillarFeatures, openpcdet_pillar_names
from sightline.models.pointpillars.config import PointPillarsConfig
from sightline.ops.boxes3d import BoxTargets3D, Detections3D, wrap
from sightline.ops.filled_cells import FilledCells
from sightline.ops.point_clouds import PointClouds
from sightline.ops.voxelize import VoxelPoints, group_by_voxel


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

    def fixed_parts(self) -> list[nn.Module]:
        """What is computed on maps: the pyramid after its first convolution, and the layers of the head."""
        return [self.backbone.pyramid, self.head.predictor]

    def graph(self) -> PillarGraph:
        """This model as other programs run it, the weights shared."""
        return PointPillarsGraph(self)


class PointPillarsGraph(PillarGraph):
    """What is exported: the boxes of all anchors."""

    scores_are = "a box is of its best class"

    @property
    def suppression(self) -> dict[str, Any]:
        """Threshold, overlap, and how many."""
        head = self.model.config.head
        names = ("score_threshold", "nms_iou_threshold", "max_candidates", "max_detections")
        return {name: getattr(head, name) for name in names}

    def predictions(self, points: Tensor, num_points: Tensor, coords: Tensor) -> AnchorPredictions:
        """What is predicted for every anchor, of what ``forward`` takes."""
        predictions: AnchorPredictions = self.model.head(
            self.model.backbone.levels(self.bev(points, num_points, coords))
        )
        return predictions

    def forward(self, points: Tensor, num_points: Tensor, coords: Tensor) -> tuple[Tensor, Tensor]:
        """See ``PillarGraph``; boxes (A, 7) and scores (A, K) of the A anchors."""
        predictions = self.predictions(points, num_points, coords)
        return self.model.head.decode(predictions, 0), predictions.logits[0].sigmoid()

    def undecided(self, points: Tensor, num_points: Tensor, coords: Tensor) -> Tensor:
        """(A,) bool: two directions are alike, or the yaw is at the border of its bin."""
        predictions = self.predictions(points, num_points, coords)
        if predictions.directions is None:
            return predictions.logits.new_zeros(predictions.logits.shape[1], dtype=torch.bool)
        config = self.model.config.head
        ranked = predictions.directions[0].sort(dim=1, descending=True).values  # (A, D)
        near = UNDECIDED * ranked.abs().max().clamp(min=1)
        is_alike = (ranked[:, :1] - ranked[:, 1:2] <= near).any(dim=1)
        period = 2 * math.pi / config.direction_bins
        yaws = self.model.head.decode(predictions, 0)[:, 6]
        apart = wrap(yaws - config.direction_offset + config.direction_limit_offset * period, 0.5, period).abs()
        undecided: Tensor = is_alike | (apart <= UNDECIDED)
        return undecided


def openpcdet_names(config: PointPillarsConfig) -> dict[str, str]:
    """OpenPCDet's names of layers, each with the name of ours; without the weight's own last part.

    ``backbone_2d.blocks.0.1.weight`` is ``backbone.stages.0.0.weight``. Their ``global_step`` has no counterpart.
    """
    return {
        **{theirs: f"pillars.{ours}" for theirs, ours in openpcdet_pillar_names(len(config.pillar_channels)).items()},
        **{theirs: f"backbone.{ours}" for theirs, ours in openpcdet_backbone_names(config.backbone).items()},
        **{theirs: f"head.{ours}" for theirs, ours in openpcdet_head_names(config.head).items()},
    }
