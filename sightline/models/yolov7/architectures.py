"""The networks of the YOLOv7 paper, drawn layer by layer.

Reference:
    Wang, Bochkovskiy, Liao, "YOLOv7: Trainable bag-of-freebies sets new state-of-the-art for real-time object
    detectors", CVPR 2023; figures 2 and 3 and appendix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from torch import nn

from sightline.models.blocks.conv import Activation
from sightline.models.yolov7.config import AnchorsPx, Variant
from sightline.models.yolov7.graph import IMAGE, Feature, Graph


@dataclass(frozen=True)
class Elan:
    """An efficient layer aggregation block: a chain of 3x3 convolutions of which some outputs are kept and joined."""

    depth: int
    """3x3 convolutions in the chain."""
    keep_every: int
    """Of the chain, every so many outputs are kept, the last one included."""

    def draw(self, graph: Graph, x: Feature, hidden: int, out: int, *, chain: int | None = None) -> Feature:
        """Two 1x1 convolutions to ``hidden`` channels, the chain on the second of them, a 1x1 to ``out`` on all.

        The chain has ``chain`` channels, by default as many as ``hidden``.
        """
        kept = [graph.conv(x, hidden), graph.conv(x, hidden)]
        link = kept[-1]
        for number in range(1, self.depth + 1):
            link = graph.conv(link, chain or hidden, 3)
            if number % self.keep_every == 0:
                kept.append(link)
        return graph.conv(graph.concat(*reversed(kept)), out)


def pool_and_stride(graph: Graph, x: Feature, channels: int, *joined: Feature) -> Feature:
    """Half the resolution: pooling beside a strided convolution, ``channels`` each, joined with further features."""
    pooled = graph.conv(graph.halve(x), channels)
    strided = graph.conv(graph.conv(x, channels), channels, 3, 2)
    return graph.concat(strided, pooled, *joined)


def from_above(graph: Graph, top: Feature, lateral: Feature, channels: int) -> Feature:
    """A coarser feature brought to the lateral one's resolution and joined with it, ``channels`` each."""
    doubled = graph.double(graph.conv(top, channels))
    return graph.concat(graph.conv(lateral, channels), doubled)


class Outlets(NamedTuple):
    """The features that the heads read, finest first."""

    lead: list[Feature]
    aux: list[Feature]
    """For the auxiliary heads, which only training uses; empty where there are none."""


def draw_tiny(graph: Graph) -> Outlets:
    """YOLOv7-tiny: strides 8, 16, 32."""
    elan = Elan(depth=2, keep_every=1)
    x = graph.conv(IMAGE, 32, 3, 2)
    x = graph.conv(x, 64, 3, 2)
    x = elan.draw(graph, x, 32, 64)
    c3 = elan.draw(graph, graph.halve(x), 64, 128)
    c4 = elan.draw(graph, graph.halve(c3), 128, 256)
    c5 = elan.draw(graph, graph.halve(c4), 256, 512)

    skip = graph.conv(c5, 256)
    pyramid = [graph.conv(c5, 256)]
    for _ in range(3):
        pyramid.append(graph.pool(pyramid[-1]))
    main = graph.conv(graph.concat(*reversed(pyramid)), 256)
    p5 = graph.conv(graph.concat(main, skip), 256)
    p4 = elan.draw(graph, from_above(graph, p5, c4, 128), 64, 128)
    p3 = elan.draw(graph, from_above(graph, p4, c3, 64), 32, 64)

    n4 = elan.draw(graph, graph.concat(graph.conv(p3, 128, 3, 2), p4), 64, 128)
    n5 = elan.draw(graph, graph.concat(graph.conv(n4, 256, 3, 2), p5), 128, 256)
    return Outlets([graph.conv(p3, 128, 3), graph.conv(n4, 256, 3), graph.conv(n5, 512, 3)], aux=[])


@dataclass(frozen=True)
class Large:
    """What tells yolov7 and yolov7x apart."""

    stem: int
    """Channels of the first layer."""
    backbone: Elan
    neck: Elan
    levels: tuple[int, int, int]
    """Channels of the neck's features at strides 8, 16, 32; the backbone has four, four and two times as many."""
    neck_chain_share: int
    """The chains of the neck's blocks have the hidden channels divided by this."""
    last_hidden: int = 512
    is_reparametrised: bool = False
    """The last 3x3 convolutions train as several branches."""


def draw_large(graph: Graph, design: Large) -> Outlets:
    """yolov7 and yolov7x: strides 8, 16, 32."""
    low, middle, high = design.levels
    backbone = partial(design.backbone.draw, graph)

    def neck(x: Feature, hidden: int, out: int) -> Feature:
        return design.neck.draw(graph, x, hidden, out, chain=hidden // design.neck_chain_share)

    x = graph.conv(IMAGE, design.stem, 3)
    x = graph.conv(x, 2 * design.stem, 3, 2)
    x = graph.conv(x, 2 * design.stem, 3)
    x = graph.conv(x, 4 * design.stem, 3, 2)
    c2 = backbone(x, 64, 2 * low)
    c3 = backbone(pool_and_stride(graph, c2, low), 128, 4 * low)
    c4 = backbone(pool_and_stride(graph, c3, middle), 256, 4 * middle)
    c5 = backbone(pool_and_stride(graph, c4, high), 256, 2 * high)

    p5 = graph.spatial_pyramid(c5, high)
    p4 = neck(from_above(graph, p5, c4, middle), 256, middle)
    p3 = neck(from_above(graph, p4, c3, low), 128, low)
    n4 = neck(pool_and_stride(graph, p3, low, p4), 256, middle)
    n5 = neck(pool_and_stride(graph, n4, middle, p5), design.last_hidden, high)

    last = graph.rep_conv if design.is_reparametrised else partial(graph.conv, kernel_size=3)
    lead = [last(feature, 2 * channels) for feature, channels in zip((p3, n4, n5), design.levels, strict=True)]
    return Outlets(lead, aux=[])


YOLOV7 = Large(
    stem=32,
    backbone=Elan(depth=4, keep_every=2),
    neck=Elan(depth=4, keep_every=1),
    levels=(128, 256, 512),
    neck_chain_share=2,
    is_reparametrised=True,
)
YOLOV7X = Large(
    stem=40,
    backbone=Elan(depth=6, keep_every=2),
    neck=Elan(depth=6, keep_every=2),
    levels=(160, 320, 640),
    neck_chain_share=1,
)


@dataclass(frozen=True)
class Huge:
    """What tells the four networks for large images apart."""

    stem: int
    """Channels of the first layer."""
    depth: int
    """3x3 convolutions in a chain."""
    levels: tuple[int, int, int, int]
    """Channels of the backbone's features at strides 8, 16, 32, 64; the neck has half of them."""
    aux: tuple[int, int, int, int]
    """Channels that the auxiliary heads read at these strides."""
    has_down_blocks: bool = True
    """Resolution is halved by convolution and pooling together, not by a convolution alone."""
    is_twofold: bool = False
    """Every aggregation block stands twice, side by side, and the sum goes on."""


def draw_huge(graph: Graph, design: Huge) -> Outlets:
    """w6, e6, d6, e6e: strides 8 to 64, with auxiliary heads on the way down the pyramid."""
    in_backbone = Elan(design.depth, keep_every=2)
    in_neck = Elan(design.depth, keep_every=1)
    half = [channels // 2 for channels in design.levels]

    def down(x: Feature, channels: int) -> Feature:
        return graph.down_block(x, channels) if design.has_down_blocks else graph.conv(x, channels, 3, 2)

    def aggregate(block: Callable[[], Feature]) -> tuple[Feature, Feature]:
        """What goes on, and the last block's own output, which the auxiliary head reads."""
        first = block()
        if not design.is_twofold:
            return first, first
        second = block()
        return graph.add(second, first), second

    x = graph.conv(graph.pixel_phases(IMAGE), design.stem, 3)
    backbone = []
    for channels, hidden in zip((2 * design.stem, *design.levels), (64, 128, 256, 384, 512), strict=True):
        entry = down(x, channels)
        x, _ = aggregate(partial(in_backbone.draw, graph, entry, hidden, channels))
        backbone.append(x)

    top = graph.spatial_pyramid(x, half[3])
    pyramid, aux_features = [top], [top]
    for level, hidden in ((2, 384), (1, 256), (0, 128)):
        joined = from_above(graph, pyramid[0], backbone[1 + level], half[level])
        on, last = aggregate(partial(in_neck.draw, graph, joined, hidden, half[level], chain=hidden // 2))
        pyramid.insert(0, on)
        aux_features.insert(0, last)

    neck = [pyramid[0]]
    for level, hidden in ((1, 256), (2, 384), (3, 512)):
        joined = graph.concat(down(neck[-1], half[level]), pyramid[level])
        on, _ = aggregate(partial(in_neck.draw, graph, joined, hidden, half[level], chain=hidden // 2))
        neck.append(on)

    lead = [graph.conv(feature, channels, 3) for feature, channels in zip(neck, design.levels, strict=True)]
    aux = [graph.conv(feature, channels, 3) for feature, channels in zip(aux_features, design.aux, strict=True)]
    return Outlets(lead, aux)


E6_LEVELS = (320, 640, 960, 1280)
D6_LEVELS = (384, 768, 1152, 1536)
W6 = Huge(stem=64, depth=4, levels=(256, 512, 768, 1024), aux=E6_LEVELS, has_down_blocks=False)
E6 = Huge(stem=80, depth=6, levels=E6_LEVELS, aux=E6_LEVELS)
D6 = Huge(stem=96, depth=8, levels=D6_LEVELS, aux=D6_LEVELS)
E6E = Huge(stem=80, depth=6, levels=E6_LEVELS, aux=E6_LEVELS, is_twofold=True)


@dataclass(frozen=True)
class Architecture:
    """A network by name: how it is drawn, with which activation, and its anchors."""

    draw: Callable[[Graph], Outlets]
    activation: Activation
    anchors_px: AnchorsPx


TINY_ANCHORS: AnchorsPx = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
LARGE_ANCHORS: AnchorsPx = (
    ((12, 16), (19, 36), (40, 28)),
    ((36, 75), (76, 55), (72, 146)),
    ((142, 110), (192, 243), (459, 401)),
)
HUGE_ANCHORS: AnchorsPx = (
    ((19, 27), (44, 40), (38, 94)),
    ((96, 68), (86, 152), (180, 137)),
    ((140, 301), (303, 264), (238, 542)),
    ((436, 615), (739, 380), (925, 792)),
)

ARCHITECTURES: dict[Variant, Architecture] = {
    "tiny": Architecture(draw_tiny, partial(nn.LeakyReLU, 0.1, inplace=True), TINY_ANCHORS),
    "yolov7": Architecture(partial(draw_large, design=YOLOV7), nn.SiLU, LARGE_ANCHORS),
    "yolov7x": Architecture(partial(draw_large, design=YOLOV7X), nn.SiLU, LARGE_ANCHORS),
    "w6": Architecture(partial(draw_huge, design=W6), nn.SiLU, HUGE_ANCHORS),
    "e6": Architecture(partial(draw_huge, design=E6), nn.SiLU, HUGE_ANCHORS),
    "d6": Architecture(partial(draw_huge, design=D6), nn.SiLU, HUGE_ANCHORS),
    "e6e": Architecture(partial(draw_huge, design=E6E), nn.SiLU, HUGE_ANCHORS),
}
