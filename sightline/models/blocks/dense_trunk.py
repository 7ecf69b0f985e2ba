"""What binary DenseNets and MeliusNets share: stages that append channels, transitions that thin them out.

Shapes: B images, C channels, H x W cells or pixels, K classes.

References:
    Bethge et al., "BinaryDenseNet", ICCV Workshops 2019; Bethge et al., "MeliusNet", WACV 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Literal, NamedTuple, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from sightline.config.base import Config
from sightline.config.errors import ConfigError
from sightline.models.blocks.activated_conv import ActivatedConv
from sightline.models.blocks.batch_norm import BiasedBatchNorm
from sightline.models.blocks.channels import ChannelShuffle
from sightline.models.blocks.initialisation import Initialisation, initialise
from sightline.models.blocks.quantisation import QuantisationConfig
from sightline.models.blocks.stems import GROUPED_CHANNELS, Stem, StemChoice, build_stem, choose_stem, stem_output_size
from sightline.ops.checks import check_shape

TransitionPart = Literal["norm", "relu", "max_pool", "average_pool", "shuffle", "conv", "binary_conv"]

NUM_STAGES = 4
SHUFFLE_GROUPS = 16
CHANNEL_STEP = 32
"""Transitions leave a multiple of so many channels."""
DILATIONS = (1, 1, 2, 4)
"""Of the stages, where the map stays large."""
PLAIN_TRANSITION: tuple[TransitionPart, ...] = ("norm", "max_pool", "relu", "conv")
SHUFFLED_TRANSITION: tuple[TransitionPart, ...] = ("norm", "max_pool", "relu", "shuffle", "conv")

Reduction = Annotated[float, Field(ge=1)]


class DenseTrunkConfig(Config):
    """Options of networks that grow along their channels; what is left out is the variant's."""

    stem: StemChoice = "auto"
    """First layers; auto takes thumbnail below 50 pixels, else imagenet."""
    stem_channels: PositiveInt = 64
    """Channels that the stem makes."""
    growth: PositiveInt = 64
    """Channels that every unit appends."""
    blocks: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] | None = None
    """Units in each of the four stages."""
    reductions: tuple[Reduction, Reduction, Reduction] | None = None
    """What the channels are divided by between the stages; the results are rounded to multiples of 32."""
    transition: tuple[TransitionPart, ...] | None = None
    """Parts between the stages, in order: norm, relu, max_pool, average_pool, shuffle, and one 1x1 convolution: conv
    (full precision) or binary_conv."""
    transition_groups: PositiveInt | None = None
    """Groups of the 1x1 convolution between the stages; only in full precision."""
    dilated: bool = False
    """Keep the maps of the last two stages as large as the second one's, and dilate their convolutions."""
    quantisation: QuantisationConfig = Field(default_factory=QuantisationConfig)
    """Bits of the inner layers."""
    initialisation: Initialisation = "gaussian"
    """How the weights start: gaussian by the inputs of a layer, xavier by inputs and outputs, for PReLUs prelu_in or
    prelu_average, or small (0.01)."""

    def layout(self) -> Layout:
        """The numbers of the variant, with what this configuration changes."""
        standard = self.standard()
        return Layout(
            self.blocks or standard.blocks,
            self.reductions or standard.reductions,
            self.transition or standard.transition,
            self.transition_groups or standard.groups,
        )

    def standard(self) -> Layout:
        """The numbers of the variant."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        layout = self.layout()
        _check_transition(layout)
        if self.stem == "grouped" and self.stem_channels % GROUPED_CHANNELS:
            raise ValueError(
                f"stem_channels={self.stem_channels}: a grouped stem needs a multiple of {GROUPED_CHANNELS}."
            )
        if self.dilated and self.quantisation.scaling == "xnor":
            raise ValueError("scaling='xnor' is not defined for dilated=true; use 'none' or 'binet'.")
        for before, after in transition_channels(self):
            if before % layout.groups or after % layout.groups:
                raise ValueError(f"transition_groups={layout.groups} does not divide {before} and {after} channels.")
            if "shuffle" in layout.transition and before % SHUFFLE_GROUPS:
                raise ValueError(f"transition: a shuffle needs a multiple of {SHUFFLE_GROUPS} channels, not {before}.")
        return self


class Layout(NamedTuple):
    """The numbers that tell variants apart."""

    blocks: tuple[int, int, int, int]
    reductions: tuple[float, float, float]
    transition: tuple[TransitionPart, ...] = PLAIN_TRANSITION
    groups: int = 1


def _check_transition(layout: Layout) -> None:
    parts = layout.transition
    if sum(part in ("conv", "binary_conv") for part in parts) != 1:
        raise ValueError(f"transition={list(parts)}: there must be exactly one conv or binary_conv.")
    if sum(part in ("max_pool", "average_pool") for part in parts) != 1:
        raise ValueError(f"transition={list(parts)}: there must be exactly one max_pool or average_pool.")
    if layout.groups > 1 and "conv" not in parts:
        raise ValueError(f"transition_groups={layout.groups} does nothing without conv, of full precision.")


def transition_channels(config: DenseTrunkConfig) -> Iterator[tuple[int, int]]:
    """Channels before and after every transition."""
    channels = config.stem_channels
    layout = config.layout()
    for units, reduction in zip(layout.blocks, layout.reductions, strict=False):
        before = channels + units * config.growth
        channels = max(round(before // reduction / CHANNEL_STEP), 1) * CHANNEL_STEP
        yield before, channels


class DenseUnit(nn.Module):
    """Appends new channels, which a binary convolution makes of the normalised input.

    Args:
        in_channels: C.
        growth: New channels.
        dilation: Of the convolution.
        quantisation: Bits, methods, threshold and scaling.
    """

    def __init__(self, in_channels: int, growth: int, dilation: int, *, quantisation: QuantisationConfig) -> None:
        super().__init__()
        self.norm = BiasedBatchNorm(in_channels)
        self.conv = ActivatedConv(
            in_channels, growth, 3, padding=dilation, dilation=dilation, quantisation=quantisation
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C + growth, H, W)."""
        return torch.cat((x, self.conv(self.norm(x))), dim=1)


NewUnit = Callable[[int, int], nn.Module]
"""Makes a unit for so many input channels and such a dilation; it appends the configuration's growth."""


class DenseTrunk(nn.Module):
    """Stem, four stages with transitions between them, and a classifier.

    Args:
        config: Stem, growth, blocks, transitions and bits.
        num_classes: K.
        new_unit: Makes the units of the stages.
        image_size: Side of the images in pixels; decides the stem where the configuration leaves it open.
        in_channels: C of the images.

    Raises:
        ConfigError: If images of this size do not fit.
    """

    def __init__(
        self,
        config: DenseTrunkConfig,
        num_classes: int,
        new_unit: NewUnit,
        *,
        image_size: int,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.config = config
        self.in_channels = in_channels
        self.stem_kind = choose_stem(config.stem, image_size)
        self.dilations = DILATIONS if config.dilated else (1,) * NUM_STAGES
        self.window = _last_window(self.stem_kind, dilated=config.dilated)
        self.check_image_size(image_size, image_size)
        self.stem = build_stem(self.stem_kind, in_channels, config.stem_channels)
        self.stages = nn.ModuleList()
        self.transitions = nn.ModuleList()
        layout, channels = config.layout(), config.stem_channels
        reduced = [after for _, after in transition_channels(config)]
        for stage, units in enumerate(layout.blocks):
            starts = [channels + unit * config.growth for unit in range(units)]
            self.stages.append(nn.Sequential(*(new_unit(start, self.dilations[stage]) for start in starts)))
            channels += units * config.growth
            if stage < len(reduced):
                pools = self.dilations[stage + 1] == 1
                self.transitions.append(
                    nn.Sequential(*_transition(layout, channels, reduced[stage], config.quantisation, pools=pools))
                )
                channels = reduced[stage]
        self.norm = BiasedBatchNorm(channels)
        self.head = nn.Linear(channels, num_classes)
        initialise(self, config.initialisation)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K).

        Raises:
            ConfigError: If images of this size do not fit.
        """
        check_shape("images", images, ("B", self.in_channels, "H", "W"))
        self.check_image_size(*images.shape[2:])
        features = self.stages[0](self.stem(images))
        for transition, stage in zip(self.transitions, list(self.stages)[1:], strict=True):
            features = stage(transition(features))
        features = self.norm(features).relu()  # (B, C', window, window)
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits

    def check_image_size(self, height: int, width: int) -> None:
        """Refuse images whose last map is not the window that is averaged at the end.

        Raises:
            ConfigError: Names the sizes that fit.
        """
        cells = self._last_cells(height), self._last_cells(width)
        if cells != (self.window, self.window):
            fitting = [size for size in range(1, 1024) if self._last_cells(size) == self.window]
            raise ConfigError(
                f"images of {height} x {width} pixels leave a last map of {cells[0]} x {cells[1]} cells, but "
                f"{self.window} x {self.window} are averaged. With the stem {self.stem_kind!r} sides of {fitting[0]} "
                f"to {fitting[-1]} pixels fit."
            )

    def _last_cells(self, pixels: int) -> int:
        halvings = sum(dilation == 1 for dilation in self.dilations[1:])
        return stem_output_size(self.stem_kind, pixels) >> halvings


def _last_window(stem: Stem, *, dilated: bool) -> int:
    """Cells along the sides of the last map, which the network averages."""
    if dilated:
        return 28
    return 4 if stem == "thumbnail" else 7


def _transition(
    layout: Layout, before: int, after: int, quantisation: QuantisationConfig, *, pools: bool
) -> Iterator[nn.Module]:
    channels = before
    for part in layout.transition:
        match part:
            case "norm":
                yield BiasedBatchNorm(channels)
            case "relu":
                yield nn.ReLU()
            case "max_pool" if pools:
                yield nn.MaxPool2d(2)
            case "average_pool" if pools:
                yield nn.AvgPool2d(2)
            case "shuffle":
                yield ChannelShuffle(SHUFFLE_GROUPS)
            case "conv":
                yield nn.Conv2d(before, after, 1, groups=layout.groups, bias=False)
                channels = after
            case "binary_conv":
                yield ActivatedConv(before, after, 1, quantisation=quantisation)
                channels = after


def spread(sizes: Sequence[tuple[int, int]]) -> tuple[float, float, float]:
    """Reductions from the channels before and after each of three transitions."""
    first, second, third = (before / after for before, after in sizes)
    return first, second, third
