"""Which classifier of timm."""

from __future__ import annotations

from pydantic import Field

from sightline.config.base import Config


class TimmConfig(Config):
    """A classifier of timm with fresh weights; ``weights=FILE`` starts from a file of trained ones."""

    name: str = "resnet18"
    """As in ``timm.list_models()``."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """``drop_rate``: share of features that are left out before the last layer."""
    drop_path: float = Field(0.0, ge=0, lt=1)
    """``drop_path_rate``: stochastic depth, for the networks that have it."""
