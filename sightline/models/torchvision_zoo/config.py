"""Which classifier of torchvision, and the few choices that all of them have."""

from __future__ import annotations

from pydantic import Field, field_validator

from sightline.config.base import Config
from sightline.config.errors import did_you_mean


class TorchvisionConfig(Config):
    """A classifier of torchvision with fresh weights; ``weights=FILE`` starts from trained ones, such as a ``.pth``."""

    name: str = Field("resnet18", validate_default=False)  # or torchvision would be loaded before anybody asks for it
    """As in ``torchvision.models``: resnet18, mobilenet_v3_small, efficientnet_b0, convnext_tiny, vit_b_16, ..."""

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        from torchvision import models

        names = models.list_models(module=models)
        if name not in names:
            near = (
                did_you_mean(name, names) or " Its page lists them: https://docs.pytorch.org/vision/stable/models.html"
            )
            raise ValueError(f"torchvision has no classifier {name!r}.{near}")
        return name
