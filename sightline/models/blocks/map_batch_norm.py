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
    """``BatchNorm2d`` with exact sums, also for channels-last maps on a CPU.

    ``exact_statistics`` and ``exact_gradients`` are for whoever computes over several processes.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        if not (self.training and _is_inexact(input)):
            return super().forward(input)
        self._check_input_dim(input)
        out, mean, variance = _ByColumns.apply(input, self.weight, self.bias, self.eps)
        count = input.numel() // self.num_features
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / max(count - 1, 1)), self.momentum)
            self.num_batches_tracked.add_(1)
        return cast(Tensor, out)

    @staticmethod
    def exact_statistics(x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Mean and biased variance (C,) of (B, C, H, W); None where PyTorch's own are exact."""
        return _statistics(x) if _is_inexact(x) else None

    @staticmethod
    def exact_gradients(
        x: Tensor, grad: Tensor, mean: Tensor, variance: Tensor, eps: float
    ) -> tuple[Tensor, Tensor] | None:
        """Gradients (C,) of weight and bias, where that of the output (B, C, H, W) is ``grad``; None as above."""
        if not _is_inexact(x):
            return None
        of_weight, of_bias = _gradients(x, grad, mean, variance, eps)
        return of_weight.float(), of_bias.float()


def _is_inexact(x: Tensor) -> bool:
    """Whether PyTorch's own sums are those that are wrong."""
    is_plain = x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0
    return is_plain and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


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
        grad_weight, grad_bias = _gradients(x, grad, mean, variance, ctx.eps)
        # scale * (grad - of_bias / count - (x - mean) * inverse * of_weight / count), in two passes over the map
        count = x.numel() // x.shape[1]
        inverse = (variance.double() + ctx.eps).rsqrt()
        scale = inverse * weight.double()
        slope = -scale * inverse * grad_weight / count
        shift = -scale * grad_bias / count - slope * mean.double()
        zeros, ones = torch.zeros_like(mean), torch.ones_like(mean)
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


def _gradients(x: Tensor, grad: Tensor, mean: Tensor, variance: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Gradients (C,) float64 of weight and bias for channels-last (B, C, H, W)."""
    columns, channels = x.shape[3], x.shape[1]
    ones, means, variances = torch.ones_like(mean).repeat(columns), mean.repeat(columns), variance.repeat(columns)
    _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
        _wide(grad.contiguous(memory_format=torch.channels_last)),
        _wide(x),
        ones,
        means,
        variances,
        means,
        variances,
        False,
        eps,
        (False, True, True),
    )  # as in evaluation: only the two sums are wanted
    of_weight, of_bias = (one.view(columns, channels).double().sum(dim=0) for one in (of_weight, of_bias))
    return of_weight, of_bias
