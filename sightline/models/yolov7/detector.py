"""YOLOv7 as a detector: network, loss and decoding in one module.

Shapes: B images of H x W pixels, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sightline.models.yolov7.config import YOLOv7Config
from sightline.models.yolov7.decode import decode_levels, postprocess
from sightline.models.yolov7.loss import YOLOv7Loss
from sightline.models.yolov7.model import YOLOv7Network
from sightline.ops.boxes2d import BoxTargets, Detections


class YOLOv7(nn.Module):
    """Losses for training, detections for use.

    Args:
        config: The whole model.
        num_classes: K.
        image_size: Side of the square training input, pixels; scales the weight of the objectness.
        class_names: (K,) for a loss with weights by name; their numbers by default.

    Attributes:
        network: Images to raw predictions; its state is the model's weights.
        loss: Raw predictions and true boxes to losses.
        stride: Heights and widths of inputs are multiples of it.

    Raises:
        ValueError: If there is no class.
        ConfigError: If the weights of classes do not fit.
    """

    def __init__(
        self, config: YOLOv7Config, *, num_classes: int, image_size: int, class_names: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.config = config
        self.network = YOLOv7Network(config, num_classes)
        self.loss = YOLOv7Loss(
            config.loss,
            anchors_px=self.network.anchors_px,
            strides=self.network.strides,
            num_classes=num_classes,
            image_size=image_size,
            class_names=class_names,
        )
        self.stride = self.network.stride

    def losses(self, images: Tensor, targets: BoxTargets) -> dict[str, Tensor]:
        """Weighted float32 scalars ``box``, ``objectness`` and ``class``, means over the images.

        The network runs in the caller's precision, the loss in float32.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            targets: The true boxes of the batch.
        """
        raw = self.network(images, with_aux=True)
        with torch.autocast(images.device.type, enabled=False):
            losses: dict[str, Tensor] = self.loss(raw, targets, (images.shape[2], images.shape[3]))
        return losses

    def decoded(self, images: Tensor) -> Tensor:
        """Boxes of all anchors before non-maximum suppression, (B, N, 5 + K), as ``decode_levels`` gives them.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
        """
        raw = self.network(images)
        with torch.autocast(images.device.type, enabled=False):
            return decode_levels(raw, self.network.anchors_px, self.network.strides)

    @torch.no_grad()
    def detect(self, images: Tensor) -> list[Detections]:
        """Detections of each image, best first, boxes in pixels of the input.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
        """
        decoded = self.decoded(images)
        with torch.autocast(images.device.type, enabled=False):
            return postprocess(
                decoded,
                score_threshold=self.config.score_threshold,
                iou_threshold=self.config.nms_iou_threshold,
                max_candidates=self.config.max_candidates,
                max_detections=self.config.max_detections,
                class_agnostic=self.config.is_class_agnostic,
                multi_label=self.config.is_multi_label,
            )

    def fuse(self) -> YOLOv7:
        """A copy for inference that gives the same detections with fewer operations; it can not be trained."""
        return copy.deepcopy(self, {id(self.network): self.network.fuse()})
