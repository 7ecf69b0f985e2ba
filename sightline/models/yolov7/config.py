"""What decides a YOLOv7 model: which network, where detections are cut off, how its loss is weighted."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from sightline.config.base import Config
from sightline.models.yolov7.loss import YOLOv7LossConfig

Variant = Literal["tiny", "yolov7", "yolov7x", "w6", "e6", "d6", "e6e"]

THREE_LEVELS = ("tiny", "yolov7", "yolov7x")
"""Those with strides 8, 16 and 32; the others have 64 too, and auxiliary heads."""

AnchorsPx = tuple[tuple[tuple[PositiveFloat, PositiveFloat], ...], ...]
"""Per level, finest first: (width, height) of every anchor in input pixels."""


class YOLOv7Config(Config):
    """YOLOv7, an anchor-based single-stage detector (Wang et al., CVPR 2023)."""

    variant: Variant = "tiny"
    """Which network of the paper, with parameters for 80 classes: tiny (6.2 M), yolov7 (37.6 M), yolov7x (71 M);
    for large images, with a level of stride 64 and auxiliary heads: w6 (82 M), e6 (112 M), d6 (155 M), e6e (166 M)."""
    width: float = Field(1.0, gt=0, le=4)
    """Multiplies the channels of every layer; the product is rounded up to a multiple of 8."""
    anchors_px: AnchorsPx | None = None
    """Anchors in pixels of the network's input, per level from the finest; empty takes the variant's own."""
    score_threshold: float = Field(0.001, ge=0, le=1)
    """Detections need both a higher objectness and a higher score than this."""
    nms_iou_threshold: float = Field(0.65, ge=0, le=1)
    """Of two overlapping detections of a class, drop the weaker above this IoU."""
    is_class_agnostic: bool = False
    """Detections of different classes drop each other too."""
    is_multi_label: bool = True
    """A box may be detected as several classes; otherwise only as its most probable one."""
    max_candidates: PositiveInt = 30_000
    """At most so many of an image's best (box, class) pairs enter the suppression."""
    max_detections: PositiveInt = 300
    """At most so many detections an image."""
    loss: YOLOv7LossConfig = Field(default_factory=YOLOv7LossConfig)
    """Weights and matching of the training loss."""

    def without_effect(self) -> dict[str, str]:
        """The weight of auxiliary heads that the variant has not."""
        has_aux = self.variant not in THREE_LEVELS
        return {} if has_aux else {"loss.aux_gain": f"model.variant={self.variant} has no auxiliary heads"}

    @model_validator(mode="after")
    def _anchors_are_a_table(self) -> "YOLOv7Config":
        if self.anchors_px is not None:
            counts = {len(level) for level in self.anchors_px}
            if len(counts) != 1 or 0 in counts:
                raise ValueError(
                    f"anchors_px: every level needs the same number of anchors, got "
                    f"{[len(level) for level in self.anchors_px]}."
                )
            levels = 3 if self.variant in THREE_LEVELS else 4
            if len(self.anchors_px) != levels:
                raise ValueError(
                    f"anchors_px: {len(self.anchors_px)} levels, but variant {self.variant} has {levels}; give "
                    f"{levels} lists of anchors, the finest level first."
                )
        return self
