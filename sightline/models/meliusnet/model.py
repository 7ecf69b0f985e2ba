"""The MeliusNet: images in, logits out. Shapes: B images, C channels, H x W cells, K classes."""

from __future__ import annotations

from torch import Tensor, nn

from sightline.models.blocks.batch_norm import BiasedBatchNorm
from sightline.models.blocks.binary_layers import ActivatedConv
from sightline.models.blocks.channels import add_to_channels
from sightline.models.blocks.dense_trunk import DenseTrunk, DenseUnit
from sightline.models.blocks.quantisation import QuantisationConfig
from sightline.models.meliusnet.config import MeliusNetConfig


class ImprovementUnit(nn.Module):
    """Adds what a binary convolution makes of the normalised input to its last channels.

    Args:
        in_channels: C.
        improved: Number of last channels that are changed.
        dilation: Of the convolution.
        quantisation: Bits, methods, threshold and scaling.
    """

    def __init__(self, in_channels: int, improved: int, dilation: int, *, quantisation: QuantisationConfig) -> None:
        super().__init__()
        self.begin = in_channels - improved
        self.norm = BiasedBatchNorm(in_channels)
        self.conv = ActivatedConv(
            in_channels, improved, 3, padding=dilation, dilation=dilation, quantisation=quantisation
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return add_to_channels(x, self.conv(self.norm(x)), self.begin)


class MeliusNet(DenseTrunk):
    """Every unit appends channels and then improves them.

    Args:
        config: Variant, stem, growth, transitions and bits.
        num_classes: K.
        image_size: Side of the images in pixels; decides the stem where the configuration leaves it open.
        in_channels: C of the images.

    Raises:
        ConfigError: If images of this size do not fit.
    """

    def __init__(self, config: MeliusNetConfig, num_classes: int, *, image_size: int, in_channels: int = 3) -> None:
        def new_unit(channels: int, dilation: int) -> nn.Module:
            grown = channels + config.growth
            improved = grown if config.improves_all else config.growth
            return nn.Sequential(
                DenseUnit(channels, config.growth, dilation, quantisation=config.quantisation),
                ImprovementUnit(grown, improved, dilation, quantisation=config.quantisation),
            )

        super().__init__(config, num_classes, new_unit, image_size=image_size, in_channels=in_channels)
