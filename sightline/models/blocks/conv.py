"""Convolution, batch norm and activation as one block, its re-parametrised sibling, and folding them for inference.

Shapes: B images, C channels, H x W cells. Folding gives the same function with fewer operations: batch norm in
evaluation mode is a scale and a shift per channel, which the convolution before it can carry.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Callable[[], nn.Module]
"""Makes a new activation layer, e.g. ``nn.SiLU``."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def fold_batch_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution that equals ``norm(conv(x))`` in evaluation mode.

    Computed in float64, so that folding adds no rounding of its own.

    Returns:
        Weight, shaped as the convolution's, and bias (C_out,), both in the convolution's dtype.
    """
    scale, shift = _scale_and_shift(norm)
    weight = conv.weight.detach().double() * scale[:, None, None, None]
    if conv.bias is not None:
        shift = shift + conv.bias.detach().double() * scale
    return weight.to(conv.weight.dtype), shift.to(conv.weight.dtype)


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Batch norm in evaluation mode is ``scale * x + shift``; both (C,) float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.detach().double() - norm.running_mean.double() * scale


def folded(module: ModuleT) -> ModuleT:
    """A copy for inference in which every block of this file, at any depth, became one biased convolution."""
    result = copy.deepcopy(module).eval()
    for parent in list(result.modules()):
        for name, child in parent.named_children():
            if isinstance(child, (ConvNormAct, RepConv)):
                setattr(parent, name, child.folded())
    return result


class ConvAct(nn.Module):
    """A biased convolution and an activation: what the other blocks become when folded."""

    def __init__(self, conv: nn.Conv2d, activation: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""
        out: Tensor = self.activation(self.conv(x))
        return out


class ConvNormAct(nn.Module):
    """Convolution without bias, batch norm, activation; padded so that stride 1 keeps the size.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        kernel_size: Odd.
        stride: Of the convolution.
        groups: Of the convolution.
        activation: Makes the activation layer.
        eps: Of the batch norm.
        momentum: Of the batch norm's running averages.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        activation: Activation,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels, eps=eps, momentum=momentum)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""
        out: Tensor = self.activation(self.norm(self.conv(x)))
        return out

    def folded(self) -> ConvAct:
        """The same function in evaluation mode as one biased convolution."""
        weight, bias = fold_batch_norm(self.conv, self.norm)
        return _conv_act(self.conv, weight, bias, self.activation)


class RepConv(nn.Module):
    """Trains as 3x3 plus 1x1 (plus identity where shapes allow), each with its batch norm; runs as one 3x3.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        stride: Of the convolutions. The identity branch exists for stride 1 and equal channels.
        activation: Makes the activation layer, which follows the sum.
        eps: Of the batch norms.
        momentum: Of the batch norms' running averages.

    Reference:
        Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        activation: Activation,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        has_identity = in_channels == out_channels and stride == 1
        self.identity = nn.BatchNorm2d(in_channels, eps=eps, momentum=momentum) if has_identity else None
        self.dense = ConvNormAct(
            in_channels, out_channels, 3, stride, activation=nn.Identity, eps=eps, momentum=momentum
        )
        self.pointwise = ConvNormAct(
            in_channels, out_channels, 1, stride, activation=nn.Identity, eps=eps, momentum=momentum
        )
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""
        total: Tensor = self.dense(x) + self.pointwise(x)
        if self.identity is not None:
            total = total + self.identity(x)
        out: Tensor = self.activation(total)
        return out

    def folded(self) -> ConvAct:
        """The same function in evaluation mode as one biased 3x3 convolution."""
        weight, bias = fold_batch_norm(self.dense.conv, self.dense.norm)
        point_weight, point_bias = fold_batch_norm(self.pointwise.conv, self.pointwise.norm)
        weight = weight + F.pad(point_weight, (1, 1, 1, 1))
        bias = bias + point_bias
        if self.identity is not None:
            scale, shift = _scale_and_shift(self.identity)
            weight[:, :, 1, 1] += torch.diag(scale).to(weight.dtype)
            bias = bias + shift.to(bias.dtype)
        return _conv_act(self.dense.conv, weight, bias, self.activation)


def _conv_act(like: nn.Conv2d, weight: Tensor, bias: Tensor, activation: nn.Module) -> ConvAct:
    """A block with the geometry of ``like`` and the given weight and bias."""
    conv = copy.deepcopy(like)
    conv.weight = nn.Parameter(weight, requires_grad=False)
    conv.bias = nn.Parameter(bias, requires_grad=False)
    return ConvAct(conv, activation).eval()


class Concat(nn.Module):
    """Joins feature maps of one size along the channels."""

    def forward(self, *features: Tensor) -> Tensor:
        """Several (B, C_i, H, W) -> (B, sum of C_i, H, W)."""
        return torch.cat(features, dim=1)


class Sum(nn.Module):
    """Adds two feature maps of one shape."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Two (B, C, H, W) -> (B, C, H, W)."""
        return a + b
