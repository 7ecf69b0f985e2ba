"""What decides an anchor head: its anchors, the weights of its loss, and which detections are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt, model_validator

from sightline.config.base import Config
from sightline.config.errors import ConfigError, did_you_mean
from sightline.config.printable import printable

Length = Annotated[FiniteFloat, Field(gt=0)]
Weight = Annotated[FiniteFloat, Field(ge=0)]

BOX_CODE = 7
"""Numbers of a box's code."""


class AnchorConfig(Config):
    """The anchors of one class: one for every size and every rotation, at every cell of the map."""

    class_name: str = ""
    """Class of the data that these anchors answer for; empty: they belong to the classes in their order."""
    sizes: tuple[tuple[Length, Length, Length], ...] = Field(min_length=1)
    """(dx, dy, dz) of each, metres."""
    rotations: tuple[FiniteFloat, ...] = Field((0.0, 1.57), min_length=1)
    """Yaw of each, radians."""
    bottom: FiniteFloat
    """Height of their lower face, metres, LiDAR frame."""
    matched_iou: float = Field(gt=0, le=1)
    """Anchors whose bird's-eye IoU with a box of the class reaches this answer for it."""
    unmatched_iou: float = Field(gt=0, le=1)
    """Anchors whose IoU with all boxes of the class is below this are background; those between are not trained."""

    @model_validator(mode="after")
    def _thresholds_are_in_order(self) -> Self:
        if self.unmatched_iou > self.matched_iou:
            raise ValueError(f"unmatched_iou {self.unmatched_iou} is above matched_iou {self.matched_iou}.")
        return self

    @property
    def num_per_cell(self) -> int:
        """Anchors of the class at one cell."""
        return len(self.sizes) * len(self.rotations)


def _kitti_anchors() -> tuple[AnchorConfig, ...]:
    return (
        AnchorConfig(class_name="Car", sizes=((3.9, 1.6, 1.56),), bottom=-1.78, matched_iou=0.6, unmatched_iou=0.45),
        AnchorConfig(
            class_name="Pedestrian", sizes=((0.8, 0.6, 1.73),), bottom=-0.6, matched_iou=0.5, unmatched_iou=0.35
        ),
        AnchorConfig(
            class_name="Cyclist", sizes=((1.76, 0.6, 1.73),), bottom=-0.6, matched_iou=0.5, unmatched_iou=0.35
        ),
    )


class AnchorLossConfig(Config):
    """Weights of the parts of the loss."""

    class_weight: Weight = 1.0
    """Of the focal loss of the classes."""
    box_weight: Weight = 2.0
    """Of the smooth L1 loss of the boxes."""
    direction_weight: Weight = 0.2
    """Of the cross-entropy of the directions."""
    code_weights: tuple[Weight, ...] = Field((1.0,) * BOX_CODE, min_length=BOX_CODE, max_length=BOX_CODE)
    """Factors of the differences in x, y, z, dx, dy, dz and yaw, before the loss is taken."""
    focal_alpha: float = Field(0.25, ge=0, le=1)
    """Weight of positives in the focal loss; negatives have the rest."""
    focal_gamma: Weight = 2.0
    """Damping of easy answers in the focal loss."""
    smooth_l1_beta: Weight = 1 / 9
    """Below this difference the loss of the boxes is quadratic."""


class AnchorHead3DConfig(Config):
    """Anchors, loss, and which detections are kept; the values are those published for KITTI."""

    anchors: tuple[AnchorConfig, ...] = Field(default_factory=_kitti_anchors, min_length=1)
    """One entry for each class, by its name, or all without names in the order of the classes."""
    is_centered: bool = False
    """Anchors stand in the middle of their cells; otherwise the outermost ones stand on the edge of the range."""
    direction_bins: NonNegativeInt = 2
    """Into so many parts a turn is divided, and which part is right is predicted apart from the yaw; 0: not at all."""
    direction_offset: FiniteFloat = 0.78539
    """Where the first direction bin begins, radians."""
    direction_limit_offset: FiniteFloat = 0.0
    """Where a period of the decoded yaw begins, in periods."""
    loss: AnchorLossConfig = Field(default_factory=AnchorLossConfig)
    """Weights of the loss."""
    score_threshold: float = Field(0.1, ge=0, le=1)
    """Detections need at least this score."""
    nms_iou_threshold: float = Field(0.01, ge=0, le=1)
    """Of two detections that overlap more than this in the bird's-eye view, drop the weaker."""
    max_candidates: PositiveInt = 4096
    """At most so many of the best enter the suppression."""
    max_detections: PositiveInt = 500
    """At most so many detections a sample."""

    @model_validator(mode="after")
    def _names_are_all_or_none(self) -> Self:
        names = [anchor.class_name for anchor in self.anchors]
        if any(names) and (not all(names) or len(set(names)) != len(names)):
            raise ValueError(f"anchors: give every entry a class_name of its own, or none of them; got {names}.")
        return self

    def without_effect(self) -> dict[str, str]:
        """What belongs to directions where none are predicted."""
        if self.direction_bins:
            return {}
        keys = ("direction_offset", "direction_limit_offset", "loss.direction_weight")
        return dict.fromkeys(keys, "no direction is predicted (model.head.direction_bins=0)")

    def anchors_of(self, class_names: Sequence[str]) -> tuple[AnchorConfig, ...]:
        """(K,) the anchors of each class.

        Raises:
            ConfigError: If a class has none.
        """
        by_name = {anchor.class_name: anchor for anchor in self.anchors}
        if "" in by_name:
            if len(self.anchors) != len(class_names):
                told = printable(", ".join(class_names), limit=200)
                raise ConfigError(
                    f"model.head.anchors: {len(self.anchors)} entries for {len(class_names)} classes ({told}). Give "
                    "one for each class in this order."
                )
            return self.anchors
        for name in class_names:
            if name not in by_name:
                near = did_you_mean(name, list(by_name)) or f" There are: {printable(', '.join(by_name))}."
                raise ConfigError(
                    f"model.head.anchors: no anchors for the class {printable(name)!r} of the data.{near} Give it "
                    "an entry with its size, bottom and thresholds, or leave the class out."
                )
        return tuple(by_name[name] for name in class_names)
