"""Sizes of the small classifier."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from sightline.config.base import Config


class SmallCNNConfig(Config):
    """A few stages of 3 x 3 convolutions with shortcuts; it takes any image size."""

    width: PositiveInt = 32
    """Channels of the first stage; each later one has twice as many."""
    stages: int = Field(3, ge=1, le=6)
    """Each but the first halves height and width."""
    blocks: PositiveInt = 1
    """Pairs of convolutions in a stage."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of features that are left out before the last layer, in training."""
