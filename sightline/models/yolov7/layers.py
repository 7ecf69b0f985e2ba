"""The parts that only YOLOv7's networks use.

Shapes: B images, C channels, H x W cells, A anchors a level, K classes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.models.blocks.conv import Activation, ConvNormAct

NORM_EPS = 1e-3
NORM_MOMENTUM = 0.03

conv_norm_act = partial(ConvNormAct, eps=NORM_EPS, momentum=NORM_MOMENTUM)


def pool_same(kernel_size: int) -> nn.MaxPool2d:
    """Max pooling that keeps the size."""
    return nn.MaxPool2d(kernel_size, stride=1, padding=kernel_size // 2)


class SpatialPyramidCSP(nn.Module):
    """Spatial pyramid pooling inside a cross-stage partial block (SPPCSPC in the paper).

    The windows of 5, 9 and 13 cells are three 5-cell poolings in a row, which give the same maxima for a
    quarter of the comparisons.

    Args:
        in_channels: Of the input.
        out_channels: Of the output, and of all convolutions inside.
        activation: Makes the activation layers.
    """

    def __init__(self, in_channels: int, out_channels: int, *, activation: Activation) -> None:
        super().__init__()
        conv = partial(conv_norm_act, activation=activation)
        self.enter = conv(in_channels, out_channels, 1)
        self.skip = conv(in_channels, out_channels, 1)
        self.before_mix = conv(out_channels, out_channels, 3)
        self.before = conv(out_channels, out_channels, 1)
        self.pool = pool_same(5)
        self.after = conv(4 * out_channels, out_channels, 1)
        self.after_mix = conv(out_channels, out_channels, 3)
        self.leave = conv(2 * out_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        pyramid = [self.before(self.before_mix(self.enter(x)))]
        for _ in range(3):
            pyramid.append(self.pool(pyramid[-1]))
        main = self.after_mix(self.after(torch.cat(pyramid, dim=1)))
        out: Tensor = self.leave(torch.cat((main, self.skip(x)), dim=1))
        return out


class DownBlock(nn.Module):
    """Halves the resolution twice, by a strided convolution and by pooling, and joins both (DownC).

    Args:
        in_channels: Of the input.
        out_channels: Of the output; each way gives half of them.
        activation: Makes the activation layers.
    """

    def __init__(self, in_channels: int, out_channels: int, *, activation: Activation) -> None:
        super().__init__()
        conv = partial(conv_norm_act, activation=activation)
        self.enter = conv(in_channels, in_channels, 1)
        self.strided = conv(in_channels, out_channels // 2, 3, 2)
        self.pooled = conv(in_channels, out_channels // 2, 1)
        self.pool = nn.MaxPool2d(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / 2, W / 2)."""
        return torch.cat((self.strided(self.enter(x)), self.pooled(self.pool(x))), dim=1)


class PixelPhases(nn.Module):
    """Space to depth: the four pixels of a 2x2 block become channels (ReOrg).

    The order of (row, column) is (0, 0), (1, 0), (0, 1), (1, 1).
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 4 C, H / 2, W / 2)."""
        return torch.cat((x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]), dim=1)


class DetectionHead(nn.Module):
    """A 1x1 convolution a level, between a learned offset of its input and a learned factor of its output.

    Offset and factor are the "implicit knowledge" of the paper. Both are folded into the convolution's weight
    and bias before it runs, so they cost nothing per cell: ``m * (W (x + a) + b) = (m W) x + m (b + W a)``.

    Args:
        levels: (channels, input pixels per cell) of each feature map, finest first. The latter decide how
            biases start.
        num_anchors: A, per cell.
        num_classes: K.
        has_implicit: With offset and factor.

    Reference:
        Wang et al., "You Only Learn One Representation", 2021 (implicit knowledge); Lin et al., "Focal Loss for
        Dense Object Detection", ICCV 2017, section 3.3 (bias start).
    """

    def __init__(
        self,
        levels: Sequence[tuple[int, int]],
        *,
        num_anchors: int,
        num_classes: int,
        has_implicit: bool,
    ) -> None:
        super().__init__()
        self.num_anchors = num_anchors
        self.num_outputs = 5 + num_classes
        out_channels = num_anchors * self.num_outputs
        self.convs = nn.ModuleList(nn.Conv2d(channels, out_channels, 1) for channels, _ in levels)
        self.implicit_offset: nn.ParameterList | None = None
        self.implicit_factor: nn.ParameterList | None = None
        if has_implicit:
            self.implicit_offset = nn.ParameterList(0.02 * torch.randn(1, channels, 1, 1) for channels, _ in levels)
            self.implicit_factor = nn.ParameterList(1 + 0.02 * torch.randn(1, out_channels, 1, 1) for _ in levels)
        self._start_biases([stride for _, stride in levels], num_classes)

    @torch.no_grad()
    def _start_biases(self, strides: Sequence[int], num_classes: int) -> None:
        """Let an untrained head expect 8 objects in a 640-pixel image, and 0.6 classes in a box."""
        for conv, stride in zip(self.convs, strides, strict=True):
            assert isinstance(conv.bias, nn.Parameter)
            bias = conv.bias.view(self.num_anchors, self.num_outputs)
            bias[:, 4] += math.log(8 / (640 / stride) ** 2)
            bias[:, 5:] += math.log(0.6 / (num_classes - 0.99))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """One (B, C, H, W) a level -> one (B, A, H, W, 5 + K) a level; a view, not contiguous."""
        raw = []
        for level, feature in enumerate(features):
            weight, bias = self._weight_and_bias(level)
            out = F.conv2d(feature, weight, bias)  # (B, A * (5 + K), H, W)
            split = out.view(out.shape[0], self.num_anchors, self.num_outputs, *out.shape[2:])
            raw.append(split.permute(0, 1, 3, 4, 2))
        return raw

    def _weight_and_bias(self, level: int) -> tuple[Tensor, Tensor]:
        """Weight (A * (5 + K), C, 1, 1) and bias (A * (5 + K),) with offset and factor folded in."""
        conv = self.convs[level]
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        if self.implicit_offset is None or self.implicit_factor is None:
            return conv.weight, conv.bias
        factor = self.implicit_factor[level].flatten()
        bias = (conv.bias + (conv.weight * self.implicit_offset[level]).sum(dim=(1, 2, 3))) * factor
        return conv.weight * factor[:, None, None, None], bias

    @torch.no_grad()
    def folded(self) -> DetectionHead:
        """The same function without the implicit tensors."""
        result = copy.deepcopy(self)
        for level, conv in enumerate(result.convs):
            weight, bias = self._weight_and_bias(level)
            conv.weight = nn.Parameter(weight.clone(), requires_grad=False)
            conv.bias = nn.Parameter(bias.clone(), requires_grad=False)
        result.implicit_offset = result.implicit_factor = None
        return result
