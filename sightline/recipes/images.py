"""What every recipe on images has in common, whatever is looked for on them."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Literal

from sightline.recipes.data_run import DataRun, SplitDataConfig
from sightline.tasks.image_model import ImageModel


class ImageDataConfig(SplitDataConfig):
    """Where images and their truth come from, and what happens to faulty ones."""

    on_fault: Literal["refuse", "skip"] = "refuse"
    """What to do with images whose file or truth is broken: stop and list them, or leave them out and say how many."""
    cache: Literal["none", "ram", "disk"] = "none"
    """Keep decoded images in memory, or in one packed file in the cache folder (never beside the data)."""


class ImageRun(DataRun, abc.ABC):
    """A run on images."""

    data: ImageDataConfig = ImageDataConfig()

    @abc.abstractmethod
    def trained_model(self, class_names: Sequence[str]) -> ImageModel:
        """The model for use on pictures, with fresh weights."""
