"""The YOLOv7 network: images in, raw predictions out.

Shapes: B images of H x W pixels, L levels, A anchors a level, K classes.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from sightline.models.blocks.conv import folded
from sightline.models.yolov7.architectures import ARCHITECTURES
from sightline.models.yolov7.config import YOLOv7Config
from sightline.models.yolov7.graph import IMAGE, Graph, plan
from sightline.models.yolov7.layers import DetectionHead
from sightline.ops.checks import check_shape


class YOLOv7Network(nn.Module):
    """Images to raw predictions, one tensor a level.

    Args:
        config: Which network and which anchors.
        num_classes: K.

    Attributes:
        num_classes: K.
        strides: Input pixels per cell of every level, finest first.
        stride: The coarsest of them; image sides must be multiples of it.
        anchors_px: (L, A, 2) width and height in input pixels. The configuration decides them, so they are not
            saved with the weights.

    Raises:
        ValueError: If there is no class.
    """

    anchors_px: Tensor

    def __init__(self, config: YOLOv7Config, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes: a detector needs at least 1 class, got {num_classes}.")
        architecture = ARCHITECTURES[config.variant]
        graph = Graph(architecture.activation, config.width)
        lead, aux = architecture.draw(graph)
        self.num_classes = num_classes
        self.strides = tuple(feature.stride for feature in lead)
        self.stride = max(self.strides)
        anchors = config.anchors_px or architecture.anchors_px
        assert len(anchors) == len(lead), "the configuration has checked it"
        self.register_buffer("anchors_px", torch.tensor(anchors, dtype=torch.float32), persistent=False)
        self.layers = nn.ModuleList(graph.layers)
        new_head = partial(DetectionHead, num_anchors=len(anchors[0]), num_classes=num_classes)
        self.head = new_head([(f.channels, f.stride) for f in lead], has_implicit=True)
        self.aux_head = new_head([(f.channels, f.stride) for f in aux], has_implicit=False) if aux else None
        self._lead = [feature.layer for feature in lead]
        self._aux = [feature.layer for feature in aux]
        self._lead_steps = plan(graph.sources, self._lead)
        self._all_steps = plan(graph.sources, self._lead + self._aux)

    def forward(self, images: Tensor, *, with_aux: bool = False) -> list[Tensor]:
        """Raw predictions: x, y, w, h, objectness, classes, all before the sigmoid.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            with_aux: Append the outputs of the auxiliary heads, where the network has them.

        Returns:
            One (B, A, H / stride, W / stride, 5 + K) tensor a level, finest first; views, not contiguous.

        Raises:
            ValueError: If the shape is wrong or a side is not a multiple of ``stride``.
        """
        check_shape("images", images, ("B", 3, "H", "W"))
        height, width = images.shape[2:]
        if height % self.stride or width % self.stride:
            raise ValueError(
                f"images: {height} x {width} pixels, but both sides must be multiples of the stride {self.stride}."
            )
        outputs = {IMAGE.layer: images}
        for layer, reads, frees in self._all_steps if with_aux else self._lead_steps:
            outputs[layer] = self.layers[layer](*(outputs[source] for source in reads))
            for source in frees:
                del outputs[source]
        raw: list[Tensor] = self.head([outputs[layer] for layer in self._lead])
        if with_aux and self.aux_head is not None:
            raw += self.aux_head([outputs[layer] for layer in self._aux])
        return raw

    def fuse(self) -> YOLOv7Network:
        """A copy for inference: batch norms, branches and implicit tensors folded into the convolutions.

        Auxiliary heads and the layers that only they read are left out.
        """
        result = folded(self)
        result.head = result.head.folded()
        result.layers = result.layers[: 1 + max(step.layer for step in self._lead_steps)]
        result.aux_head, result._aux, result._all_steps = None, [], self._lead_steps
        return result
