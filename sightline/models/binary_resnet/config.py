"""What decides a binary ResNet."""

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from sightline.config.base import Config
from sightline.models.blocks.initialisation import Initialisation
from sightline.models.blocks.quantisation import QuantisationConfig
from sightline.models.blocks.stems import StemChoice

Variant = Literal["resnet18_v1", "resnet18_e1", "resnet18_e2", "resnet34_v1", "resnet34_e1", "resnet34_e2"]

CHANNELS = (64, 128, 256, 512)
"""Of the four stages; the stem has the first number too."""

STAGES: dict[str, tuple[int, ...]] = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
"""Pairs of convolutions in every stage."""


class ShortcutConfig(Config):
    """What stands beside a unit that changes the number of channels."""

    conv: Literal["binary", "full_precision"] = "binary"
    """Precision of the 1x1 convolution."""
    pool: bool = False
    """Average over 2 x 2 cells before it, in place of a stride of 2."""
    groups: PositiveInt = 1
    """Of the 1x1 convolution; only in full precision."""

    @model_validator(mode="after")
    def _groups_fit(self) -> Self:
        if self.groups > 1 and self.conv == "binary":
            raise ValueError(f"groups={self.groups} needs conv='full_precision'; a binary shortcut has 1 group.")
        if CHANNELS[0] % self.groups:
            raise ValueError(f"groups={self.groups} does not divide {CHANNELS[0]} channels; take 1, 2, 4, ... 64.")
        return self


class BinaryResNetConfig(Config):
    """Binary residual networks (Bethge et al., "Back to Simplicity", 2019; Liu et al., "Bi-Real Net", ECCV 2018)."""

    variant: Variant = "resnet18_e1"
    """Depth, and the unit: e1 normalises after every convolution, e2 before it, both with a shortcut around each; v1
    has a shortcut around two."""
    stem: StemChoice = "auto"
    """First layers; auto takes thumbnail below 50 pixels, else imagenet."""
    shortcut: ShortcutConfig = Field(default_factory=ShortcutConfig)
    """Where the number of channels changes."""
    slices: Literal[1, 2, 4, 8] = 1
    """Each unit changes one of so many slices of the channels, and there are so many times more units; not in v1."""
    quantisation: QuantisationConfig = Field(default_factory=QuantisationConfig)
    """Bits of the inner layers."""
    initialisation: Initialisation = "gaussian"
    """How the weights start: gaussian by the inputs of a layer, xavier by inputs and outputs, for PReLUs prelu_in or
    prelu_average, or small (0.01)."""

    @model_validator(mode="after")
    def _slices_have_units(self) -> Self:
        if self.slices > 1 and self.variant.endswith("v1"):
            raise ValueError(f"slices={self.slices} does nothing in {self.variant}; it belongs to e1 and e2.")
        return self
