"""What decides a PointPillars model."""

from __future__ import annotations

from typing import Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from sightline.config.base import Config
from sightline.models.blocks.anchor_config import AnchorHead3DConfig
from sightline.models.blocks.bev_backbone import BevBackboneConfig
from sightline.models.blocks.bev_grid import check_cells
from sightline.ops.voxelize import VoxelGrid


class PointPillarsConfig(Config):
    """PointPillars (Lang et al., CVPR 2019); the values are those published for KITTI."""

    point_range: tuple[float, float, float, float, float, float] = (0.0, -39.68, -3.0, 69.12, 39.68, 1.0)
    """x_min, y_min, z_min, x_max, y_max, z_max of the points that are seen, metres, LiDAR frame."""
    pillar_size: tuple[PositiveFloat, PositiveFloat] = (0.16, 0.16)
    """Size of a pillar along x and y, metres; a pillar is as high as the range."""
    max_points_per_pillar: PositiveInt = 32
    """A pillar's further points are left out."""
    max_pillars_training: PositiveInt = 16_000
    """A sample's further pillars are left out while training."""
    max_pillars: PositiveInt = 40_000
    """A sample's further pillars are left out otherwise."""
    pillar_channels: tuple[PositiveInt, ...] = Field((64,), min_length=1)
    """Channels of the layers on a pillar's points."""
    backbone: BevBackboneConfig = Field(default_factory=BevBackboneConfig)
    """The pyramid on the map of pillars."""
    head: AnchorHead3DConfig = Field(default_factory=AnchorHead3DConfig)
    """Anchors, loss, and which detections are kept."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        check_cells(self.grid, key="pillar_size", noun="pillars", divisor=self.backbone.divisor)
        if any(width % 2 for width in self.pillar_channels[:-1]):
            raise ValueError(f"pillar_channels: only the last can be odd, got {list(self.pillar_channels)}.")
        return self

    @property
    def grid(self) -> VoxelGrid:
        """The pillars."""
        height = self.point_range[5] - self.point_range[2]
        return VoxelGrid(self.point_range, (*self.pillar_size, height))
