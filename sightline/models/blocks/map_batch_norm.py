"""Batch norm of large maps of which most cells are alike, such as those of point clouds.

PyTorch adds up the cells of a channels-last map on a CPU one after the other in float32. Where a hundred thousand cells
hold the same number, each addition is rounded the same way: variances of a map of pillars are wrong by a thousandth,
and losses of a whole network by as much. Here the cells of every column of the map are added up on their own, and the
columns in float64: errors of 1e-7, in the same time.

Shapes: B samples, C channels, H x W cells.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MapBatchNorm(nn.BatchNorm2d):
    """``BatchNorm2d`` with exact sums, also for channels-last maps on a CPU."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        is_inexact = input.device.type == "cpu" and input.dtype == torch.float32
        if not (self.training and is_inexact and _is_channels_last(input)):
            return super().forward(input)
        self._check_input_dim(input)
        out, mean, variance = _ByColumns.apply(input, self.weight, self.bias, self.eps)
        count = input.numel() // self.num_features
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / max(count - 1, 1)), self.momentum)
            self.num_batches_tracked.add_(1)
        return cast(Tensor, out)


def _is_channels_last(x: Tensor) -> bool:
    return x.numel() > 0 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


class _ByColumns(torch.autograd.Function):
    """Normalisation, with sums over the cells of a column first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance = _statistics(x)
        out = F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        columns, channels = x.shape[3], x.shape[1]
        ones, means, variances = torch.ones_like(mean), mean.repeat(columns), variance.repeat(columns)
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            _wide(grad),
            _wide(x),
            ones.repeat(columns),
            means,
            variances,
            means,
            variances,
            False,
            ctx.eps,
            (False, True, True),
        )  # as in evaluation: only the two sums are wanted
        grad_weight = of_weight.view(columns, channels).double().sum(dim=0)
        grad_bias = of_bias.view(columns, channels).double().sum(dim=0)
        # scale * (grad - of_bias / count - (x - mean) * inverse * of_weight / count), in two passes over the map
        count = x.numel() // channels
        inverse = (variance.double() + ctx.eps).rsqrt()
        scale = inverse * weight.double()
        slope = -scale * inverse * grad_weight / count
        shift = -scale * grad_bias / count - slope * mean.double()
        zeros = torch.zeros_like(mean)
        grad_x = F.batch_norm(x, zeros, ones, slope.float(), shift.float(), training=False, eps=0.0)
        grad_x.addcmul_(grad, scale.float()[:, None, None])
        return grad_x, grad_weight.float(), grad_bias.float(), None


def _wide(x: Tensor) -> Tensor:
    """Channels-last (B, C, H, W) as a map of one column with W * C channels; a view."""
    samples, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(1, samples * height, 1, width * channels)
    return rows.permute(0, 3, 1, 2)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (C,) of channels-last (B, C, H, W)."""
    columns, channels = x.shape[3], x.shape[1]
    kind = x.new_zeros(columns * channels)  # says in which type to compute
    means, variances = torch.batch_norm_update_stats(_wide(x), kind, kind.clone(), 0.0)
    means, variances = (one.view(columns, channels).double() for one in (means, variances))
    mean = means.mean(dim=0)
    variance = (variances + (means - mean).square()).mean(dim=0)
    return mean.float(), variance.float()
