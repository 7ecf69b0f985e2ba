"""Drawing a network: layers in a numbered list, each with the layers that it reads.

The numbers are those of the published models, so that their weights can be found by name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn

from sightline.models.blocks.conv import Activation, Concat, RepConv, Sum
from sightline.models.yolov7.layers import (
    NORM_EPS,
    NORM_MOMENTUM,
    DownBlock,
    PixelPhases,
    SpatialPyramidCSP,
    conv_norm_act,
    pool_same,
)


@dataclass(frozen=True)
class Feature:
    """The output of a layer: its number, its channels, and how many input pixels one cell covers."""

    layer: int
    channels: int
    stride: int


IMAGE = Feature(layer=-1, channels=3, stride=1)


@dataclass
class Graph:
    """A network being drawn. Every method appends layers and returns the feature of the last one.

    Channel counts are those at width 1; here they are multiplied by ``width`` and rounded up to a multiple of 8.
    """

    activation: Activation
    width: float = 1.0
    layers: list[nn.Module] = field(default_factory=list)
    sources: list[tuple[int, ...]] = field(default_factory=list)

    def _append(self, layer: nn.Module, read: Sequence[Feature], channels: int, stride: int) -> Feature:
        self.layers.append(layer)
        self.sources.append(tuple(feature.layer for feature in read))
        return Feature(len(self.layers) - 1, channels, stride)

    def _scaled(self, channels: int) -> int:
        return math.ceil(channels * self.width / 8) * 8

    def conv(self, x: Feature, channels: int, kernel_size: int = 1, stride: int = 1) -> Feature:
        """Convolution, batch norm, activation."""
        channels = self._scaled(channels)
        layer = conv_norm_act(x.channels, channels, kernel_size, stride, activation=self.activation)
        return self._append(layer, [x], channels, x.stride * stride)

    def rep_conv(self, x: Feature, channels: int) -> Feature:
        """A 3x3 convolution that trains as several branches."""
        channels = self._scaled(channels)
        layer = RepConv(x.channels, channels, activation=self.activation, eps=NORM_EPS, momentum=NORM_MOMENTUM)
        return self._append(layer, [x], channels, x.stride)

    def halve(self, x: Feature) -> Feature:
        """2x2 max pooling."""
        return self._append(nn.MaxPool2d(2, 2), [x], x.channels, 2 * x.stride)

    def pool(self, x: Feature) -> Feature:
        """5x5 max pooling that keeps the size."""
        return self._append(pool_same(5), [x], x.channels, x.stride)

    def double(self, x: Feature) -> Feature:
        """Twice the resolution, by repeating cells."""
        return self._append(nn.Upsample(scale_factor=2.0, mode="nearest"), [x], x.channels, x.stride // 2)

    def concat(self, *features: Feature) -> Feature:
        """Join along the channels."""
        return self._append(Concat(), features, sum(f.channels for f in features), features[0].stride)

    def add(self, a: Feature, b: Feature) -> Feature:
        """Sum of two features."""
        return self._append(Sum(), [a, b], a.channels, a.stride)

    def pixel_phases(self, x: Feature) -> Feature:
        """Half the resolution, four times the channels."""
        return self._append(PixelPhases(), [x], 4 * x.channels, 2 * x.stride)

    def down_block(self, x: Feature, channels: int) -> Feature:
        """Half the resolution by convolution and by pooling, in one layer."""
        channels = self._scaled(channels)
        return self._append(DownBlock(x.channels, channels, activation=self.activation), [x], channels, 2 * x.stride)

    def spatial_pyramid(self, x: Feature, channels: int) -> Feature:
        """Pooling over several window sizes inside a cross-stage block."""
        channels = self._scaled(channels)
        layer = SpatialPyramidCSP(x.channels, channels, activation=self.activation)
        return self._append(layer, [x], channels, x.stride)


class Step(NamedTuple):
    """Running one layer."""

    layer: int
    reads: tuple[int, ...]
    """Layers whose outputs it reads; ``IMAGE.layer`` is the image."""
    frees: tuple[int, ...]
    """Outputs that nobody reads after it, so that their memory can go."""


def plan(sources: Sequence[tuple[int, ...]], wanted: Sequence[int]) -> tuple[Step, ...]:
    """The layers to run for the wanted outputs, in order, and no others.

    Args:
        sources: For every layer those that it reads.
        wanted: Layers whose outputs are asked for.
    """
    needed = set(wanted)
    for layer in range(len(sources) - 1, -1, -1):
        if layer in needed:
            needed.update(sources[layer])
    layers = [layer for layer in range(len(sources)) if layer in needed]
    last_reader = {source: layer for layer in layers for source in sources[layer]}
    frees: dict[int, list[int]] = {layer: [] for layer in layers}
    for source, layer in last_reader.items():
        if source not in wanted:
            frees[layer].append(source)
    return tuple(Step(layer, sources[layer], tuple(sorted(frees[layer]))) for layer in layers)
