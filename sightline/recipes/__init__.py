"""Runs by name: one function is one run. This table is all there is; a recipe is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from sightline.config.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from sightline.engine.run_config import RunConfig

RECIPES: dict[str, str] = {
    "yolov7-tiny": "sightline.recipes.yolov7:yolov7_tiny",
    "yolov7": "sightline.recipes.yolov7:yolov7",
    "yolov7-tiny-small": "sightline.recipes.yolov7:yolov7_tiny_small",
    "yolov7-tiny-world": "sightline.recipes.yolov7:yolov7_tiny_world",
    "small-cnn": "sightline.recipes.classifiers:small_cnn",
    "resnet18-cifar": "sightline.recipes.binary_networks:resnet18_cifar",
    "torchvision": "sightline.recipes.classifiers:torchvision",
    "timm": "sightline.recipes.classifiers:timm",
    "lenet": "sightline.recipes.binary_networks:lenet",
    "resnet-e18-cifar": "sightline.recipes.binary_networks:resnet_e18_cifar",
    "binary-densenet": "sightline.recipes.binary_networks:binary_densenet",
    "meliusnet": "sightline.recipes.binary_networks:meliusnet",
    "pointpillars": "sightline.recipes.pointpillars:pointpillars",
    "pointpillars-world": "sightline.recipes.pointpillars:pointpillars_world",
    "second": "sightline.recipes.second:second",
    "second-world": "sightline.recipes.second:second_world",
    "centerpoint-pillar": "sightline.recipes.centerpoint:centerpoint_pillar",
    "centerpoint-voxel": "sightline.recipes.centerpoint:centerpoint_voxel",
    "centerpoint-world": "sightline.recipes.centerpoint:centerpoint_world",
}
"""Module and function by name."""


def recipe_function(name: str) -> Callable[[], RunConfig]:
    """The function behind a name; its docstring says what a reader should see.

    Raises:
        ConfigError: If there is none; names the nearest one.
    """
    if name not in RECIPES:
        hint = did_you_mean(name, RECIPES) or f" There are: {', '.join(RECIPES)}."
        raise ConfigError(f"no recipe {name!r}.{hint} List them with: sightline list")
    function: Callable[[], RunConfig] = resolve_name(RECIPES[name])
    return function


def recipe(name: str) -> RunConfig:
    """The run of a name.

    Raises:
        ConfigError: If there is none; names the nearest one.
    """
    return recipe_function(name)().but(recipe=name)
