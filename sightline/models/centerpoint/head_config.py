"""What decides a centre head: its groups of classes, the weights of its loss, and which detections are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt, model_validator

from sightline.config.base import Config
from sightline.config.errors import ConfigError, did_you_mean
from sightline.config.printable import printable

Weight = Annotated[FiniteFloat, Field(ge=0)]

BOX_CODES = 8
"""Numbers told at a centre: offset x, y; z; logarithms of dx, dy, dz; cosine and sine of the yaw."""
VELOCITY_CODES = 2


class CenterLossConfig(Config):
    """Weights of the parts of the loss."""

    heatmap_weight: Weight = 1.0
    """Of the focal loss of the heat maps."""
    box_weight: Weight = 2.0
    """Of the absolute differences of the boxes."""
    code_weights: tuple[Weight, ...] | None = None
    """Factors of the differences in offset x, y, in z, in the logarithms of dx, dy, dz, in cosine and sine of the yaw
    and, with velocity, in vx, vy; 1 each, and 0.2 for the velocities, when left out."""


class CenterHeadConfig(Config):
    """Groups, layers, loss, and which detections are kept."""

    groups: tuple[tuple[str, ...], ...] = ()
    """Classes that share their layers, by name: one head for each group; empty: one head for all classes."""
    velocity: bool = False
    """Boxes have velocities, which are predicted too."""
    channels: PositiveInt = 64
    """Of all layers before the last ones."""
    layers: PositiveInt = 2
    """3x3 convolutions of each part of a box."""
    heatmap_layers: PositiveInt = 2
    """3x3 convolutions of the heat maps."""
    bias_before_norm: bool = True
    """Convolutions have a bias also where a norm, which takes it away again, follows."""
    min_overlap: float = Field(0.1, gt=0, lt=1)
    """A peak reaches as far as the box can be moved and still overlap the true one by this IoU."""
    min_radius: NonNegativeInt = 2
    """A peak reaches at least so many cells."""
    loss: CenterLossConfig = Field(default_factory=CenterLossConfig)
    """Weights of the loss."""
    score_threshold: float = Field(0.1, ge=0, le=1)
    """Detections need more than this score."""
    center_range: tuple[float, float, float, float, float, float] = (-80.0, -80.0, -10.0, 80.0, 80.0, 10.0)
    """x_min, y_min, z_min, x_max, y_max, z_max of the centres of detections, metres, LiDAR frame."""
    max_peaks: PositiveInt = 500
    """At most so many of the highest peaks of each head become boxes."""
    nms_iou_threshold: float = Field(0.2, ge=0, le=1)
    """Of two detections of a head that overlap more than this from above, drop the weaker."""
    max_candidates: PositiveInt = 1000
    """At most so many of the best of each head enter the suppression."""
    max_detections: PositiveInt = 500
    """At most so many detections of each head in a sample."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        names = [name for group in self.groups for name in group]
        if len(set(names)) != len(names) or not all(self.groups):
            raise ValueError(f"groups: every class in one group, and no group without any; got {self.groups}.")
        weights = self.loss.code_weights
        if weights is not None and len(weights) != self.num_codes:
            raise ValueError(
                f"loss.code_weights: expected {self.num_codes} numbers (velocity={self.velocity}), got {len(weights)}."
            )
        low, high = self.center_range[:3], self.center_range[3:]
        if not all(a < b for a, b in zip(low, high, strict=True)):
            raise ValueError(f"center_range: expected x, y, z from low to high, got {self.center_range}.")
        return self

    @property
    def num_codes(self) -> int:
        """Numbers told at a centre."""
        return BOX_CODES + (VELOCITY_CODES if self.velocity else 0)

    @property
    def code_weights(self) -> tuple[float, ...]:
        """Of each number told at a centre."""
        velocities = (0.2,) * VELOCITY_CODES if self.velocity else ()
        return (1.0,) * BOX_CODES + velocities if self.loss.code_weights is None else self.loss.code_weights

    def labels_of(self, class_names: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """Labels of the classes of each head.

        Raises:
            ConfigError: If a class is in no group, or a group names one that the data have not.
        """
        if not self.groups:
            return (tuple(range(len(class_names))),)
        known = list(class_names)
        grouped = [name for group in self.groups for name in group]
        for name in grouped:
            if name not in known:
                near = did_you_mean(name, known) or f" There are: {printable(', '.join(known), limit=200)}."
                raise ConfigError(f"model.head.groups: the data have no class {printable(name)!r}.{near}")
        for name in known:
            if name not in grouped:
                raise ConfigError(
                    f"model.head.groups: the class {printable(name)!r} of the data is in no group. Add it to one, "
                    "leave it out of data.class_names, or give no groups for one head of all classes."
                )
        return tuple(tuple(known.index(name) for name in group) for group in self.groups)
