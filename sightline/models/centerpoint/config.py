"""What decides a CenterPoint model, on pillars or on voxels."""

from __future__ import annotations

import abc
from typing import Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from sightline.config.base import Config
from sightline.models.blocks.bev_backbone import BevBackboneConfig
from sightline.models.blocks.bev_grid import check_cells
from sightline.models.blocks.sparse_encoder import SparseEncoderConfig
from sightline.models.centerpoint.head_config import CenterHeadConfig
from sightline.models.centerpoint.targets import CenterGrid
from sightline.ops.voxelize import VoxelGrid


class CenterPointConfig(Config, abc.ABC):
    """What pillars and voxels have in common (Yin et al., CVPR 2021); the space and the sizes are KITTI's."""

    point_range: tuple[float, float, float, float, float, float] = (0.0, -39.68, -3.0, 69.12, 39.68, 1.0)
    """x_min, y_min, z_min, x_max, y_max, z_max of the points that are seen, metres, LiDAR frame."""
    backbone: BevBackboneConfig = Field(default_factory=BevBackboneConfig)
    """The pyramid on the map."""
    head: CenterHeadConfig = Field(default_factory=CenterHeadConfig)
    """Heat maps, boxes, loss, and which detections are kept."""

    @property
    @abc.abstractmethod
    def grid(self) -> VoxelGrid:
        """The pillars or voxels."""

    @property
    def encoder_stride(self) -> int:
        """Pillars or voxels along a cell of the map that the pyramid gets."""
        return 1

    @property
    def center_grid(self) -> CenterGrid:
        """The cells of the map that the head looks at."""
        _, height, width = self.grid.shape_zyx
        stride = self.encoder_stride * self.backbone.stride
        size_x, size_y, _ = self.grid.voxel_size
        return CenterGrid(self.point_range[:2], (size_x, size_y), stride, (height // stride, width // stride))


class CenterPointPillarConfig(CenterPointConfig):
    """CenterPoint on pillars."""

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

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        check_cells(self.grid, key="pillar_size", noun="pillars", divisor=self.backbone.divisor)
        if any(width % 2 for width in self.pillar_channels[:-1]):
            raise ValueError(f"pillar_channels: only the last can be odd, got {list(self.pillar_channels)}.")
        return self

    @property
    def grid(self) -> VoxelGrid:
        """The pillars."""
        return VoxelGrid(self.point_range, (*self.pillar_size, self.point_range[5] - self.point_range[2]))


def _voxel_backbone() -> BevBackboneConfig:
    return BevBackboneConfig(
        layers=(5, 5), strides=(1, 2), channels=(128, 256), up_strides=(1.0, 2.0), up_channels=(256, 256)
    )


class CenterPointVoxelConfig(CenterPointConfig):
    """CenterPoint on voxels."""

    point_range: tuple[float, float, float, float, float, float] = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0)
    """x_min, y_min, z_min, x_max, y_max, z_max of the points that are seen, metres, LiDAR frame."""
    backbone: BevBackboneConfig = Field(default_factory=_voxel_backbone)
    """The pyramid on the map that comes of the sparse convolutions."""
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

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        self.encoder.map_shape(self.grid.shape_zyx)
        check_cells(self.grid, key="voxel_size", noun="voxels", divisor=self.encoder.stride * self.backbone.divisor)
        return self

    @property
    def grid(self) -> VoxelGrid:
        """The voxels."""
        return VoxelGrid(self.point_range, self.voxel_size)

    @property
    def encoder_stride(self) -> int:
        """Voxels along a cell of the map that the pyramid gets."""
        return self.encoder.stride
