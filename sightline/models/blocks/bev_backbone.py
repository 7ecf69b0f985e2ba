"""The 2D pyramid on a bird's-eye-view map: ever coarser stages, each brought back to one resolution and joined.

Shapes: B samples, C channels, H x W cells.
"""

from __future__ import annotations

import math
from typing import Annotated, Self

import torch
from pydantic import Field, FiniteFloat, PositiveInt, model_validator
from torch import Tensor, nn

from sightline.config.base import Config
from sightline.models.blocks.map_batch_norm import MapBatchNorm
from sightline.ops.filled_cells import FilledCells, conv_of_cells

NORM_EPS = 1e-3
NORM_MOMENTUM = 0.01
NEARLY_WHOLE = 1e-3
"""A third may be written as 0.333."""
MOST_STEPS = 1024
"""Of the resolution of a stage; the weights grow with the square."""


class BevBackboneConfig(Config):
    """The stages, finest first; each list has one entry a stage."""

    layers: tuple[PositiveInt, ...] = (3, 5, 5)
    """3x3 convolutions of each stage, after the one that changes the resolution."""
    strides: tuple[PositiveInt, ...] = (2, 2, 2)
    """How much coarser each stage is than the one before."""
    channels: tuple[PositiveInt, ...] = (64, 128, 256)
    """Channels of each stage."""
    up_strides: tuple[Annotated[FiniteFloat, Field(gt=0)], ...] = (1.0, 2.0, 4.0)
    """How much finer each stage's output is made before all are joined; below 1 coarser."""
    up_channels: tuple[PositiveInt, ...] = (128, 128, 128)
    """Channels of each stage in the joined map."""

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        lengths = {name: len(getattr(self, name)) for name in type(self).model_fields}
        if len(set(lengths.values())) != 1 or not self.layers:
            told = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise ValueError(f"every list needs one entry for each stage, but their lengths are: {told}.")
        reached = 1
        resolutions = set()
        for stride, up in zip(self.strides, self.up_strides, strict=True):
            finer, coarser = _whole_steps(up)
            reached *= stride
            resolutions.add(reached * coarser / finer)
        if len(resolutions) != 1:
            raise ValueError(
                f"strides {list(self.strides)} and up_strides {list(self.up_strides)} bring the stages to different "
                f"resolutions (strides {sorted(resolutions)} of the input), so they cannot be joined."
            )
        (resolution,) = resolutions
        if resolution != int(resolution):
            raise ValueError(
                f"strides {list(self.strides)} and up_strides {list(self.up_strides)} make a map with {resolution:g} "
                "cells of the input along each of its own; it must be a whole number."
            )
        return self

    @property
    def out_channels(self) -> int:
        """Channels of the joined map."""
        return sum(self.up_channels)

    @property
    def stride(self) -> int:
        """Cells of the input along one cell of the joined map."""
        finer, coarser = _whole_steps(self.up_strides[0])
        return self.strides[0] * coarser // finer

    @property
    def divisor(self) -> int:
        """Cells of the input along x and y must be a multiple of it, so that every stage has whole cells."""
        return math.lcm(math.prod(self.strides), self.stride)


def _whole_steps(up: float) -> tuple[int, int]:
    """How many times finer, and how many times coarser, a resolution becomes; one of them is 1."""
    steps = up if up >= 1 else 1 / up
    if abs(steps - round(steps)) > NEARLY_WHOLE * steps or steps > MOST_STEPS:
        raise ValueError(f"up_strides: expected whole numbers, or 1 over one, up to {MOST_STEPS}, got {up:g}.")
    return (round(steps), 1) if up >= 1 else (1, round(steps))


class MapConv(nn.Conv2d):
    """A convolution that also takes a map as its filled cells, and on a CPU multiplies only these.

    A GPU is quicker with the full map, and adds in an order of its own otherwise.
    """

    def forward(self, input: Tensor | FilledCells) -> Tensor:
        """(B, C_in, H, W), or the filled cells of such a map -> (B, C_out, H / stride, W / stride)."""
        if not isinstance(input, FilledCells):
            return super().forward(input)
        if input.features.device.type != "cpu":
            return super().forward(input.to_map())
        return conv_of_cells(input, self.weight, stride=self.stride[0])


def _conv(
    in_channels: int, out_channels: int, stride: int, eps: float, momentum: float, *, is_first: bool = False
) -> list[nn.Module]:
    conv = MapConv if is_first else nn.Conv2d
    return [
        conv(in_channels, out_channels, 3, stride, padding=1, bias=False),
        MapBatchNorm(out_channels, eps=eps, momentum=momentum),
        nn.ReLU(inplace=True),
    ]


def _resample(in_channels: int, out_channels: int, up: float, eps: float, momentum: float) -> nn.Sequential:
    """To a resolution ``up`` times finer; every cell becomes up x up cells, or as many cells become one."""
    finer, coarser = _whole_steps(up)
    conv: nn.Module
    if coarser == 1:
        conv = nn.ConvTranspose2d(in_channels, out_channels, finer, finer, bias=False)
    else:
        conv = nn.Conv2d(in_channels, out_channels, coarser, coarser, bias=False)
    return nn.Sequential(conv, MapBatchNorm(out_channels, eps=eps, momentum=momentum), nn.ReLU(inplace=True))


class BevBackbone(nn.Module):
    """The pyramid of SECOND, PointPillars and CenterPoint.

    Args:
        config: The stages.
        in_channels: Channels of the map that comes in.
        eps: Of the batch norms.
        momentum: Of the batch norms' running averages.

    Attributes:
        out_channels: Channels of the joined map.
        stride: Cells of the input along one cell of the joined map.
        pyramid: Everything after the first convolution, which alone sees how many cells are filled: of fixed shapes.

    Reference:
        Lang et al., "PointPillars: Fast Encoders for Object Detection from Point Clouds", CVPR 2019, section 2.2.
    """

    def __init__(
        self, config: BevBackboneConfig, in_channels: int, *, eps: float = NORM_EPS, momentum: float = NORM_MOMENTUM
    ) -> None:
        super().__init__()
        self.out_channels = config.out_channels
        self.stride = config.stride
        self.stages = nn.ModuleList()
        self.resamplers = nn.ModuleList()
        rows = zip(config.layers, config.strides, config.channels, config.up_strides, config.up_channels, strict=True)
        for layers, stride, channels, up, up_channels in rows:
            stage = _conv(in_channels, channels, stride, eps, momentum, is_first=not self.stages)
            for _ in range(layers):
                stage += _conv(channels, channels, 1, eps, momentum)
            self.stages.append(nn.Sequential(*stage))
            self.resamplers.append(_resample(channels, up_channels, up, eps, momentum))
            in_channels = channels
        self.pyramid = _Pyramid(self.stages, self.resamplers)

    def forward(self, bev: Tensor | FilledCells) -> Tensor:
        """(B, C, H, W), or its filled cells -> (B, out_channels, H / stride, W / stride).

        H and W are multiples of the config's ``divisor``.
        """
        return torch.cat(self.levels(bev), dim=1)

    def levels(self, bev: Tensor | FilledCells) -> list[Tensor]:
        """As ``forward``, but not joined: one (B, its up_channels, H / stride, W / stride) for each stage."""
        stage = self.stages[0]
        assert isinstance(stage, nn.Sequential)
        levels: list[Tensor] = self.pyramid(stage[0](bev))
        return levels


class _Pyramid(nn.Module):
    """All of a backbone but its first convolution: a module, so that it can be compiled, without layers of its own."""

    def __init__(self, stages: nn.ModuleList, resamplers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = (stages, resamplers)  # in a tuple they are not registered again, under other names

    def forward(self, bev: Tensor) -> list[Tensor]:
        """What the first convolution gives, (B, C, H, W), to the levels."""
        levels: list[Tensor] = []
        stages, resamplers = self.layers
        for stage, resample in zip(stages, resamplers, strict=True):
            assert isinstance(stage, nn.Sequential)
            for layer in list(stage)[0 if levels else 1 :]:
                bev = layer(bev)
            levels.append(resample(bev))
        return levels


def openpcdet_backbone_names(config: BevBackboneConfig, *, theirs: str = "backbone_2d.") -> dict[str, str]:
    """OpenPCDet's names of the layers of ``BaseBEVBackbone``, each with ours relative to ``BevBackbone``.

    The names are those of layers, without the weight's own: ``backbone_2d.blocks.0.1`` is ``stages.0.0``. Theirs pads
    by a layer of its own before the first convolution of a stage, so their numbers are one higher.
    """
    names = {}
    for stage, layers in enumerate(config.layers):
        for layer in range(layers + 1):
            names[f"{theirs}blocks.{stage}.{3 * layer + 1}"] = f"stages.{stage}.{3 * layer}"
            names[f"{theirs}blocks.{stage}.{3 * layer + 2}"] = f"stages.{stage}.{3 * layer + 1}"
        for layer in (0, 1):
            names[f"{theirs}deblocks.{stage}.{layer}"] = f"resamplers.{stage}.{layer}"
    return names
