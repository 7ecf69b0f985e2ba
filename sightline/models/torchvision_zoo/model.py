"""Building a classifier of torchvision for any number of classes."""

from __future__ import annotations

from typing import Any

from torch import nn

from sightline.config.errors import ConfigError
from sightline.models.torchvision_zoo.config import TorchvisionConfig


def build_torchvision(config: TorchvisionConfig, *, num_classes: int, image_size: int) -> nn.Module:
    """(B, 3, H, W) to logits (B, K), with torchvision's own initialisation and without auxiliary heads.

    Args:
        config: Which one.
        num_classes: K.
        image_size: Height and width of the input, pixels. Transformers are built for one size.

    Raises:
        ConfigError: If the network cannot take images of this size.
    """
    from torchvision.models import get_model

    options: dict[str, Any] = {"num_classes": num_classes}
    if config.name.startswith("vit_"):
        options["image_size"] = image_size
    elif config.name.startswith("maxvit"):
        options["input_size"] = (image_size, image_size)
    elif config.name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}
    try:
        network: nn.Module = get_model(config.name, weights=None, **options)
    except (AssertionError, ValueError, RuntimeError) as error:  # what their constructors say of a size
        raise ConfigError(
            f"image_size: {config.name} cannot be built for images of {image_size} pixels "
            f"({str(error) or 'a size it refuses'}). Take the size that it was made for: image_size=224."
        ) from error
    return network
