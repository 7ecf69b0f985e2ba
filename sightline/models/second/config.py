"""What decides a SECOND model."""

from __future__ import annotations

from typing import Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from sightline.config.base import Config
from sightline.models.blocks.anchor_config import AnchorHead3DConfig
from sightline.models.blocks.bev_backbone import BevBackboneConfig
from sightline.models.blocks.bev_grid import check_cells
from sightline.models.blocks.sparse_encoder import SparseEncoderConfig
from sightline.ops.voxelize import VoxelGrid


def _pyramid() -> BevBackboneConfig:
    return BevBackboneConfig(
        layers=(5, 5), strides=(1, 2), channels=(128, 256), up_strides=(1.0, 2.0), up_channels=(256, 256)
    )


class SecondConfig(Config):
    """SECOND (Yan et al., Sensors 2018); the values are those published for KITTI."""

    point_range: tuple[float, float, float, float, float, float] = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0)
    """x_min, y_min, z_min, x_max, y_max, z_max of the points that are seen, metres, LiDAR frame."""
    voxel_size: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.05, 0.05, 0.1)
    """Size of a voxel along x, y, z, metres."""
    max_points_per_voxel: PositiveInt = 5
    """A voxel's further points are left out of its mean."""
    max_voxels_training: PositiveInt = 16_000
    """A sample's further voxels are left out while training."""
    max_voxels: PositiveInt = 40_000
    """A sample's further voxels are left out otherwise."""
    encoder: SparseEncoderConfig = Field(default_factory=SparseEncoderConfig)
    """The sparse convolutions on voxels."""
    backbone: BevBackboneConfig = Field(default_factory=_pyramid)
    """The pyramid on the map that comes of them."""
    head: AnchorHead3DConfig = Field(default_factory=AnchorHead3DConfig)
    """Anchors, loss, and which detections are kept."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        self.encoder.map_shape(self.grid.shape_zyx)
        check_cells(self.grid, key="voxel_size", noun="voxels", divisor=self.encoder.stride * self.backbone.divisor)
        return self

    @property
    def grid(self) -> VoxelGrid:
        """The voxels."""
        return VoxelGrid(self.point_range, self.voxel_size)
