"""The binary ResNet: images in, logits out. Shapes: B images, C channels, H x W pixels, K classes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import Tensor, nn

from sightline.config.errors import ConfigError
from sightline.models.binary_resnet.blocks import UnitE1, UnitE2, UnitV1
from sightline.models.binary_resnet.config import CHANNELS, STAGES, BinaryResNetConfig
from sightline.models.blocks.batch_norm import BiasedBatchNorm
from sightline.models.blocks.initialisation import initialise
from sightline.models.blocks.stems import build_stem, choose_stem, stem_output_size
from sightline.ops.checks import check_shape

INPUT_EPS = 2e-5
"""Of the batch norm of the images."""


class BinaryResNet(nn.Module):
    """A ResNet of 18 or 34 layers whose inner convolutions are quantised.

    Args:
        config: Variant, stem, shortcuts, slices and bits.
        num_classes: K.
        image_size: Side of the images in pixels; decides the stem where the configuration leaves it open.
        in_channels: C of the images.

    Raises:
        ConfigError: If images of this size do not fit.
    """

    def __init__(self, config: BinaryResNetConfig, num_classes: int, *, image_size: int, in_channels: int = 3) -> None:
        super().__init__()
        self.config = config
        self.in_channels = in_channels
        self.stem_kind = choose_stem(config.stem, image_size)
        self.check_image_size(image_size, image_size)
        normalises_first = config.variant.endswith("e2")
        self.input_norm = BiasedBatchNorm(in_channels, eps=INPUT_EPS, has_scale=False)
        self.stem = build_stem(self.stem_kind, in_channels, CHANNELS[0])
        self.stem_norm = nn.Identity() if normalises_first else BiasedBatchNorm(CHANNELS[0])
        self.stages = nn.Sequential(*(nn.Sequential(*_units(config, stage)) for stage in range(len(CHANNELS))))
        self.final_norm = BiasedBatchNorm(CHANNELS[-1]) if normalises_first else nn.Identity()
        self.head = nn.Linear(CHANNELS[-1], num_classes)
        initialise(self, config.initialisation)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K).

        Raises:
            ConfigError: If images of this size do not fit.
        """
        check_shape("images", images, ("B", self.in_channels, "H", "W"))
        self.check_image_size(*images.shape[2:])
        features = self.stem_norm(self.stem(self.input_norm(images)))
        features = self.final_norm(self.stages(features)).relu()  # (B, 512, H', W')
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits

    def check_image_size(self, height: int, width: int) -> None:
        """Refuse images whose maps cannot be halved where pooled shortcuts meet strided convolutions.

        Raises:
            ConfigError: Names the size and the way out.
        """
        if not self.config.shortcut.pool:
            return
        for pixels in (height, width):
            cells = stem_output_size(self.stem_kind, pixels)
            if cells % 8:
                unit = 8 if self.stem_kind == "thumbnail" else 32
                raise ConfigError(
                    f"images of {height} x {width} pixels: with shortcut.pool=true the sides of the stem's output must "
                    f"be multiples of 8, not {cells}. Take sides that are multiples of {unit}, or shortcut.pool=false."
                )


def _units(config: BinaryResNetConfig, stage: int) -> Iterator[nn.Module]:
    """The units of a stage. Where there are slices, they take turns; a unit that halves the size is never sliced."""
    depth, _, kind = config.variant.partition("_")
    pairs = STAGES[depth][stage]
    before, channels = CHANNELS[max(stage - 1, 0)], CHANNELS[stage]
    stride = 1 if stage == 0 else 2
    if kind == "v1":
        new_pair = partial(UnitV1, shortcut=config.shortcut, quantisation=config.quantisation)
        yield new_pair(before, channels, stride)
        yield from (new_pair(channels, channels) for _ in range(pairs - 1))
        return
    unit = {"e1": UnitE1, "e2": UnitE2}[kind]
    new_unit = partial(unit, shortcut=config.shortcut, quantisation=config.quantisation)
    sliced = 2 * pairs
    if stride > 1:
        yield new_unit(before, channels, stride)
        sliced -= 1
    for number in range(sliced * config.slices):
        yield new_unit(channels, channels, slices=config.slices, index=number % config.slices)
