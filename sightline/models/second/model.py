"""SECOND: point clouds in, losses or boxes out.

Shapes: B samples, V voxels, F numbers of a point, H x W cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sightline.models.blocks.anchor_head3d import AnchorHead3D, openpcdet_head_names
from sightline.models.blocks.anchor_predictor import AnchorPredictions
from sightline.models.blocks.bev_backbone import BevBackbone, openpcdet_backbone_names
from sightline.models.blocks.sparse_encoder import SparseEncoder, openpcdet_encoder_names
from sightline.models.second.config import SecondConfig
from sightline.ops.boxes3d import BoxTargets3D, Detections3D
from sightline.ops.point_clouds import PointClouds
from sightline.ops.voxelize import VoxelPoints, group_by_voxel, voxel_means


class Second(nn.Module):
    """Means of the points in voxels, sparse convolutions, a pyramid on the map, and an anchor head.

    Args:
        config: Sizes, anchors, thresholds.
        class_names: The K classes of the data.
        num_point_features: F.

    Raises:
        ConfigError: If a class has no anchors, or spconv is asked for and not installed.

    Reference:
        Yan et al., "SECOND: Sparsely Embedded Convolutional Detection", Sensors 2018.
    """

    def __init__(self, config: SecondConfig, class_names: Sequence[str], *, num_point_features: int = 4) -> None:
        super().__init__()
        self.config = config
        self.grid = config.grid
        self.encoder = SparseEncoder(config.encoder, num_point_features, self.grid.shape_zyx)
        self.backbone = BevBackbone(config.backbone, self.encoder.out_channels)
        _, height, width = self.encoder.map_shape
        stride = self.backbone.stride
        self.head = AnchorHead3D(
            config.head,
            class_names,
            in_channels=self.backbone.out_channels,
            map_hw=(height // stride, width // stride),
            point_range=config.point_range,
        )

    def group(self, clouds: PointClouds) -> VoxelPoints:
        """The points in their voxels; fewer voxels are allowed while training."""
        limit = self.config.max_voxels_training if self.training else self.config.max_voxels
        return group_by_voxel(clouds, self.grid, max_points=self.config.max_points_per_voxel, max_voxels=limit)

    def forward(self, clouds: PointClouds) -> AnchorPredictions:
        """What is predicted for every anchor."""
        grouped = self.group(clouds)
        sites = self.encoder(voxel_means(grouped), grouped.coords, len(clouds.counts))
        predictions: AnchorPredictions = self.head(self.backbone.levels(sites.to_columns()))
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


def openpcdet_names(config: SecondConfig) -> dict[str, str]:
    """OpenPCDet's names of layers, each with the name of ours; without the weight's own last part.

    ``backbone_3d.conv2.0.0.weight`` is ``encoder.stages.1.0.conv.weight``. Their ``global_step`` has no counterpart.
    """
    return {
        **{theirs: f"encoder.{ours}" for theirs, ours in openpcdet_encoder_names(config.encoder).items()},
        **{theirs: f"backbone.{ours}" for theirs, ours in openpcdet_backbone_names(config.backbone).items()},
        **{theirs: f"head.{ours}" for theirs, ours in openpcdet_head_names(config.head).items()},
    }
