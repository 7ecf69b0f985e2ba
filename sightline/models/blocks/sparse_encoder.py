"""From voxels to a bird's-eye-view map by sparse convolutions: ever coarser sites, whose heights become channels.

Shapes: V voxels or sites, C channels, B samples, D x H x W cells along z, y, x.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from sightline.config.base import Config
from sightline.models.blocks.sparse_conv import SiteNorm, SparseBackend, SparseLayers, sparse_layers
from sightline.ops.sparse import Sites, SparseTensor, Triple

NORM_EPS = 1e-3
NORM_MOMENTUM = 0.01
CUBE: Triple = (3, 3, 3)


class SparseEncoderConfig(Config):
    """The stages, finest first; the values are those published for SECOND."""

    channels: tuple[PositiveInt, ...] = Field((16, 32, 64, 64), min_length=1)
    """Channels of each stage. Each stage after the first is twice as coarse as the one before."""
    layers: tuple[NonNegativeInt, ...] = Field((1, 2, 2, 2), min_length=1)
    """Submanifold convolutions of each stage, after the one that leads to it."""
    z_paddings: tuple[NonNegativeInt, ...] = (1, 1, 0)
    """Cells added below and above where a stage leads to the next; along x and y it is always one."""
    out_channels: PositiveInt = 128
    """Channels of a cell in the end, before its heights are joined."""
    backend: SparseBackend = "torch"
    """What computes the convolutions: PyTorch, or spconv where it is installed."""

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        if not len(self.channels) == len(self.layers) == len(self.z_paddings) + 1:
            raise ValueError(
                f"channels and layers need one entry for each stage, and z_paddings one less; their lengths are "
                f"{len(self.channels)}, {len(self.layers)} and {len(self.z_paddings)}."
            )
        return self

    @property
    def stride(self) -> int:
        """Voxels along x and y of one cell of the map."""
        return 1 << (len(self.channels) - 1)

    def map_shape(self, shape_zyx: Triple) -> Triple:
        """Cells of the map, heights among them, that comes of a grid.

        Raises:
            ValueError: If there are not enough voxels.
        """
        depth, height, width = shape_zyx
        depth += 1  # room for what lies in the uppermost voxels, as in the original
        for padding in self.z_paddings:
            depth = (depth + 2 * padding - 3) // 2 + 1
            height, width = (height - 1) // 2 + 1, (width - 1) // 2 + 1
        depth = (depth - 3) // 2 + 1
        if depth < 1:
            raise ValueError(
                f"{shape_zyx[0]} voxels along z are too few for {len(self.channels)} stages with z_paddings "
                f"{list(self.z_paddings)}: nothing is left for the last convolution, which joins 3 of them."
            )
        return depth, height, width


class SparseBlock(nn.Module):
    """A sparse convolution, batch norm and ReLU."""

    def __init__(self, conv: nn.Module, channels: int, layers: SparseLayers, eps: float, momentum: float) -> None:
        super().__init__()
        self.conv = conv
        self.norm = SiteNorm(channels, eps=eps, momentum=momentum)
        self._with_features = layers.with_features

    def forward(self, input: Any) -> Any:
        """Of the backend's kind of tensor."""
        out = self.conv(input)
        return self._with_features(out, self.norm(out.features).relu())


class SparseEncoder(nn.Module):
    """The middle of SECOND, and of CenterPoint on voxels.

    Args:
        config: The stages.
        in_channels: C of the voxels.
        shape_zyx: D, H, W of the grid of voxels.
        eps: Of the batch norms.
        momentum: Of the batch norms' running averages.

    Attributes:
        map_shape: D', H', W' of the map.
        out_channels: Channels of the map, those of all its heights.
        stride: Voxels along x and y of one cell of the map.

    Raises:
        ConfigError: If the backend is not installed.
        ValueError: If the grid has too few cells along z.

    Reference:
        Yan et al., "SECOND: Sparsely Embedded Convolutional Detection", Sensors 2018, section 3.1.
    """

    def __init__(
        self,
        config: SparseEncoderConfig,
        in_channels: int,
        shape_zyx: Triple,
        *,
        eps: float = NORM_EPS,
        momentum: float = NORM_MOMENTUM,
    ) -> None:
        super().__init__()
        self.map_shape = config.map_shape(shape_zyx)
        self.out_channels = config.out_channels * self.map_shape[0]
        self.stride = config.stride
        self._shape = (shape_zyx[0] + 1, *shape_zyx[1:])
        self._layers = layers = sparse_layers(config.backend)

        def block(conv: nn.Module, channels: int) -> SparseBlock:
            return SparseBlock(conv, channels, layers, eps, momentum)

        width = config.channels[0]
        self.stem = block(layers.submanifold(in_channels, width, CUBE, map_name="sites0"), width)
        self.stages = nn.ModuleList()
        for number, (channels, count) in enumerate(zip(config.channels, config.layers, strict=True)):
            blocks = []
            if number:
                padding = (config.z_paddings[number - 1], 1, 1)
                down = layers.strided(
                    width, channels, CUBE, stride=(2, 2, 2), padding=padding, map_name=f"down{number}"
                )
                blocks.append(block(down, channels))
            for _ in range(count):
                conv = layers.submanifold(channels, channels, CUBE, map_name=f"sites{number}")
                blocks.append(block(conv, channels))
            self.stages.append(nn.Sequential(*blocks))
            width = channels
        flatten = layers.strided(
            width, config.out_channels, (3, 1, 1), stride=(2, 1, 1), padding=(0, 0, 0), map_name="flatten"
        )
        self.flatten = block(flatten, config.out_channels)

    def forward(self, features: Tensor, coords: Tensor, num_samples: int) -> SparseTensor:
        """From voxels to the sites of the map.

        Args:
            features: (V, C); computed on in the type of the weights.
            coords: (V, 4) int64 of each: sample, z, y, x; none twice.
            num_samples: B.

        Returns:
            Sites on the grid of ``map_shape``; ``to_bev()`` makes the map (B, out_channels, H', W') of them.
        """
        layers = self._layers
        features = features.to(self.flatten.norm.weight.dtype)
        tensor = layers.enter(SparseTensor(features, Sites(coords, self._shape, num_samples)))
        tensor = self.stem(tensor)
        for stage in self.stages:
            tensor = stage(tensor)
        return layers.leave(self.flatten(tensor))


def openpcdet_encoder_names(config: SparseEncoderConfig, *, theirs: str = "backbone_3d.") -> dict[str, str]:
    """OpenPCDet's names of the layers of ``VoxelBackBone8x``, each with ours relative to ``SparseEncoder``."""
    names = {}
    for layer, part in enumerate(("conv", "norm")):
        names[f"{theirs}conv_input.{layer}"] = f"stem.{part}"
        for stage, count in enumerate(config.layers):
            for block in range(count + (stage > 0)):
                names[f"{theirs}conv{stage + 1}.{block}.{layer}"] = f"stages.{stage}.{block}.{part}"
        names[f"{theirs}conv_out.{layer}"] = f"flatten.{part}"
    return names
