"""Building a classifier of timm for any number of classes. timm is imported here alone, when it is asked for."""

from __future__ import annotations

from typing import Any

from torch import nn

from sightline.config.errors import ConfigError, did_you_mean
from sightline.models.timm_zoo.config import TimmConfig


def build_timm(config: TimmConfig, *, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """(B, C, H, W) to logits (B, K), with timm's own initialisation.

    Args:
        config: Which one.
        num_classes: K.
        in_channels: C.
        image_size: Height and width of the input, pixels; for the networks that are built for one size.

    Raises:
        ConfigError: If timm is not installed, has no such network, or the network does not take such images.
    """
    try:
        import timm
    except ImportError:
        raise ConfigError("models of timm need the package timm: pip install 'sightline[timm]'") from None
    if config.name not in timm.list_models():
        near = did_you_mean(config.name, timm.list_models()) or " List them with timm.list_models()."
        raise ConfigError(f"model.name: timm has no {config.name!r}.{near}")
    options: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_channels, "drop_rate": config.dropout}
    if config.drop_path:
        options["drop_path_rate"] = config.drop_path
    try:
        network: nn.Module = timm.create_model(config.name, pretrained=False, **options, img_size=image_size)
    except TypeError:  # most convolutional networks take any size, and no word about it
        network = timm.create_model(config.name, pretrained=False, **options)
    except (AssertionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"model.name: timm cannot build {config.name} for {image_size} pixels: {error}") from error
    return network
