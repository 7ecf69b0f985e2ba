"""LeNet: images in, logits out. Shapes: B images, C channels, H x W pixels, K classes."""

from __future__ import annotations

from torch import Tensor, nn

from sightline.config.errors import ConfigError
from sightline.models.blocks.batch_norm import BiasedBatchNorm
from sightline.models.blocks.binary_layers import ActivatedConv, QuantisedActivation, QuantisedLinear
from sightline.models.blocks.initialisation import initialise
from sightline.models.lenet.config import LeNetConfig
from sightline.ops.checks import check_shape

KERNEL = 5
SMALLEST_IMAGE = 16


class LeNet(nn.Module):
    """Two convolutions of 5x5, each with a maximum over 2x2, and two dense layers.

    Args:
        config: Variant, widths and bits.
        num_classes: K.
        image_size: Side of the images in pixels; others cannot be taken later.
        in_channels: C of the images.

    Raises:
        ConfigError: If the images are too small.
    """

    def __init__(self, config: LeNetConfig, num_classes: int, *, image_size: int, in_channels: int = 1) -> None:
        super().__init__()
        if image_size < SMALLEST_IMAGE:
            raise ConfigError(
                f"images of {image_size} x {image_size} pixels: nothing is left of them after two convolutions of "
                f"{KERNEL}x{KERNEL}; LeNet takes {SMALLEST_IMAGE} pixels or more."
            )
        self.in_channels = in_channels
        self.image_size = image_size
        cells = _after_stage(_after_stage(image_size))
        flat = config.channels * cells**2
        layers = _binary_layers if config.variant == "binary" else _float_layers
        self.features = layers(config, in_channels, flat)
        self.head = nn.Linear(config.hidden, num_classes)
        initialise(self, config.initialisation)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K).

        Raises:
            ValueError: If the images have another shape than the network was made for.
        """
        check_shape("images", images, ("B", self.in_channels, self.image_size, self.image_size))
        logits: Tensor = self.head(self.features(images))
        return logits


def _after_stage(pixels: int) -> int:
    return (pixels - KERNEL + 1) // 2


def _binary_layers(config: LeNetConfig, in_channels: int, flat: int) -> nn.Sequential:
    bits = config.quantisation
    return nn.Sequential(
        nn.Conv2d(in_channels, config.channels, KERNEL),
        nn.Tanh(),
        nn.MaxPool2d(2),
        BiasedBatchNorm(config.channels),
        ActivatedConv(config.channels, config.channels, KERNEL, quantisation=bits),
        BiasedBatchNorm(config.channels),
        nn.MaxPool2d(2),
        nn.Flatten(),
        QuantisedActivation(bits.activation_method, bits.activation_bits, threshold=bits.threshold),
        QuantisedLinear(flat, config.hidden, method=bits.weight_method, bits=bits.weight_bits),
        BiasedBatchNorm(config.hidden),
        nn.Tanh(),
    )


def _float_layers(config: LeNetConfig, in_channels: int, flat: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, config.channels, KERNEL),
        BiasedBatchNorm(config.channels),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Conv2d(config.channels, config.channels, KERNEL),
        BiasedBatchNorm(config.channels),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(flat, config.hidden),
        BiasedBatchNorm(config.hidden),
        nn.Tanh(),
    )
