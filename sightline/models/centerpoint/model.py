"""CenterPoint: point clouds in, losses or boxes out.

Shapes: B samples, F numbers of a point, C channels, H x W cells.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sightline.models.blocks.bev_backbone import BevBackbone, openpcdet_backbone_names
from sightline.models.blocks.pillar_graph import PillarGraph
from sightline.models.blocks.pillars import PillarFeatures, openpcdet_pillar_names
from sightline.models.blocks.sparse_encoder import SparseEncoder, openpcdet_encoder_names
from sightline.models.centerpoint.config import CenterPointConfig, CenterPointPillarConfig, CenterPointVoxelConfig
from sightline.models.centerpoint.graph import CenterPointGraph
from sightline.models.centerpoint.head import CenterHead
from sightline.models.centerpoint.predictor import CenterMaps, openpcdet_center_names
from sightline.ops.boxes3d import BoxTargets3D, Detections3D
from sightline.ops.filled_cells import FilledCells
from sightline.ops.point_clouds import PointClouds
from sightline.ops.sparse import SparseTensor
from sightline.ops.voxelize import VoxelPoints, group_by_voxel, voxel_means


class CenterPoint(nn.Module, abc.ABC):
    """A pyramid on a bird's-eye-view map of points, and a centre head.

    Args:
        config: Sizes, heads, thresholds.
        class_names: The K classes of the data.
        map_channels: C of the map that comes of the points.

    Raises:
        ConfigError: If the head's groups do not fit the classes.

    Reference:
        Yin et al., "Center-based 3D Object Detection and Tracking", CVPR 2021.
    """

    def __init__(self, config: CenterPointConfig, class_names: Sequence[str], map_channels: int) -> None:
        super().__init__()
        self.grid = config.grid
        self.backbone = BevBackbone(config.backbone, map_channels)
        self.head = CenterHead(
            config.head, class_names, in_channels=self.backbone.out_channels, grid=config.center_grid
        )

    @abc.abstractmethod
    def map_of(self, clouds: PointClouds) -> FilledCells:
        """The map (B, C, H, W) of the points, by its filled cells."""

    def forward(self, clouds: PointClouds) -> list[CenterMaps]:
        """What each head says of every cell."""
        said: list[CenterMaps] = self.head(self.backbone(self.map_of(clouds)))
        return said

    def losses(self, clouds: PointClouds, targets: BoxTargets3D) -> dict[str, Tensor]:
        """``heatmap`` and ``box``: weighted scalars, means over the objects of the batch."""
        return self.head.losses(self(clouds), targets)

    @torch.no_grad()
    def detect(self, clouds: PointClouds) -> list[Detections3D]:
        """Detections of each sample, best first, LiDAR frame."""
        return self.head.detections(self(clouds))

    def fixed_parts(self) -> list[nn.Module]:
        """What is computed on maps: the pyramid after its first convolution, and the layers of the head."""
        return [self.backbone.pyramid, self.head.predictor]


class CenterPointPillar(CenterPoint):
    """CenterPoint on pillars.

    Args:
        config: Sizes, heads, thresholds.
        class_names: The K classes of the data.
        num_point_features: F.

    Raises:
        ConfigError: If the head's groups do not fit the classes.
    """

    def __init__(
        self, config: CenterPointPillarConfig, class_names: Sequence[str], *, num_point_features: int = 4
    ) -> None:
        super().__init__(config, class_names, config.pillar_channels[-1])
        self.config = config
        self.pillars = PillarFeatures(
            num_point_features=num_point_features,
            channels=config.pillar_channels,
            voxel_size=self.grid.voxel_size,
            point_range=config.point_range,
        )

    def group(self, clouds: PointClouds) -> VoxelPoints:
        """The points in their pillars; fewer pillars are allowed while training."""
        limit = self.config.max_pillars_training if self.training else self.config.max_pillars
        return group_by_voxel(clouds, self.grid, max_points=self.config.max_points_per_pillar, max_voxels=limit)

    def map_of(self, clouds: PointClouds) -> FilledCells:
        """The map of pillars."""
        grouped = self.group(clouds)
        features = self.pillars(grouped, self.config.max_points_per_pillar)
        return FilledCells(features, grouped.coords, len(clouds.counts), self.grid.shape_zyx[1:])

    def graph(self) -> PillarGraph:
        """This model as other programs run it, the weights shared."""
        return CenterPointGraph(self)


class CenterPointVoxel(CenterPoint):
    """CenterPoint on voxels.

    Args:
        config: Sizes, heads, thresholds.
        class_names: The K classes of the data.
        num_point_features: F.

    Raises:
        ConfigError: If the head's groups do not fit the classes, or spconv is asked for and not installed.
    """

    def __init__(
        self, config: CenterPointVoxelConfig, class_names: Sequence[str], *, num_point_features: int = 4
    ) -> None:
        encoder = SparseEncoder(config.encoder, num_point_features, config.grid.shape_zyx)
        super().__init__(config, class_names, encoder.out_channels)
        self.config = config
        self.encoder = encoder

    def group(self, clouds: PointClouds) -> VoxelPoints:
        """The points in their voxels; fewer voxels are allowed while training."""
        limit = self.config.max_voxels_training if self.training else self.config.max_voxels
        return group_by_voxel(clouds, self.grid, max_points=self.config.max_points_per_voxel, max_voxels=limit)

    def map_of(self, clouds: PointClouds) -> FilledCells:
        """The map of what the sparse convolutions say."""
        grouped = self.group(clouds)
        sites: SparseTensor = self.encoder(voxel_means(grouped), grouped.coords, len(clouds.counts))
        return sites.to_columns()


def openpcdet_names(config: CenterPointPillarConfig | CenterPointVoxelConfig) -> dict[str, str]:
    """OpenPCDet's names of layers, each with the name of ours; without the weight's own last part.

    ``dense_head.heads_list.0.hm.1.bias`` is ``head.predictor.heads.0.heatmap.1.bias``. Their ``global_step`` has no
    counterpart.
    """
    if isinstance(config, CenterPointPillarConfig):
        of_points, own = openpcdet_pillar_names(len(config.pillar_channels)), "pillars"
    else:
        of_points, own = openpcdet_encoder_names(config.encoder), "encoder"
    return {
        **{theirs: f"{own}.{ours}" for theirs, ours in of_points.items()},
        **{theirs: f"backbone.{ours}" for theirs, ours in openpcdet_backbone_names(config.backbone).items()},
        **{theirs: f"head.predictor.{ours}" for theirs, ours in openpcdet_center_names(config.head).items()},
    }
