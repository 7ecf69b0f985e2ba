"""Runs by name: one function is one run. This table is all there is."""

from __future__ import annotations

from collections.abc import Callable

from sightline.config.errors import ConfigError, did_you_mean
from sightline.engine.run_config import RunConfig
from sightline.recipes import binary_networks, classifiers, yolov7

RECIPES: dict[str, Callable[[], RunConfig]] = {
    "yolov7-tiny": yolov7.yolov7_tiny,
    "yolov7": yolov7.yolov7,
    "yolov7-tiny-small": yolov7.yolov7_tiny_small,
    "yolov7-tiny-world": yolov7.yolov7_tiny_world,
    "small-cnn": classifiers.small_cnn,
    "torchvision": classifiers.torchvision,
    "timm": classifiers.timm,
    "lenet": binary_networks.lenet,
    "binary-resnet": binary_networks.binary_resnet,
    "binary-densenet": binary_networks.binary_densenet,
    "meliusnet": binary_networks.meliusnet,
}


def recipe(name: str) -> RunConfig:
    """The run of a name.

    Raises:
        ConfigError: If there is none; names the nearest one.
    """
    if name not in RECIPES:
        hint = did_you_mean(name, RECIPES) or f" There are: {', '.join(RECIPES)}."
        raise ConfigError(f"no recipe {name!r}.{hint} List them with: sightline list")
    return RECIPES[name]().but(recipe=name)
