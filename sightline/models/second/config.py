"""What decides a SECOND model."""

from __future__ import annotations

from typing import Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from sightline.config.base import Config
from sightline.models.blocks.anchor_config import AnchorHead3DConfig
from sightline.models.blocks.bev_backbone import BevBackboneConfig
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
    def _the_map_can_be_divided(self) -> Self:
        shape_zyx = self.grid.shape_zyx
        low, high = self.point_range[:3], self.point_range[3:]
        for axis, cells in enumerate(reversed(shape_zyx)):
            size = (high[axis] - low[axis]) / cells
            if abs(size - self.voxel_size[axis]) > 1e-3 * size:
                raise ValueError(
                    f"voxel_size: {'xyz'[axis]} from {low[axis]:g} to {high[axis]:g} m is not a whole number of "
                    f"voxels of {self.voxel_size[axis]:g} m; {size:g} m would be."
                )
        self.encoder.map_shape(shape_zyx)
        coarsest = self.encoder.stride
        for stride in self.backbone.strides:
            coarsest *= stride
        for name, cells in (("x", shape_zyx[2]), ("y", shape_zyx[1])):
            if cells % coarsest:
                raise ValueError(
                    f"point_range, voxel_size: {cells} voxels along {name}, but the encoder and the backbone's "
                    f"strides need a multiple of {coarsest}."
                )
        return self

    @property
    def grid(self) -> VoxelGrid:
        """The voxels."""
        return VoxelGrid(self.point_range, self.voxel_size)
