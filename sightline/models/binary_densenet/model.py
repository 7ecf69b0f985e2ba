"""The binary DenseNet: images in, logits out."""

from __future__ import annotations

from torch import nn

from sightline.models.binary_densenet.config import BinaryDenseNetConfig
from sightline.models.blocks.dense_trunk import DenseTrunk, DenseUnit


class BinaryDenseNet(DenseTrunk):
    """Every unit appends channels to all that came before it.

    Args:
        config: Variant, stem, growth, transitions and bits.
        num_classes: K.
        image_size: Side of the images in pixels; decides the stem where the configuration leaves it open.
        in_channels: C of the images.

    Raises:
        ConfigError: If images of this size do not fit.
    """

    def __init__(
        self, config: BinaryDenseNetConfig, num_classes: int, *, image_size: int, in_channels: int = 3
    ) -> None:
        def new_unit(channels: int, dilation: int) -> nn.Module:
            return DenseUnit(channels, config.growth, dilation, quantisation=config.quantisation)

        super().__init__(config, num_classes, new_unit, image_size=image_size, in_channels=in_channels)
