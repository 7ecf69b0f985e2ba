"""Batch norms that PyTorch has not: with a biased running variance, and of rows that count several times.

``BiasedBatchNorm`` is MXNet's: PyTorch normalises by the biased variance of a batch, and averages the unbiased one for
evaluation. The two differ by ``count / (count - 1)`` where ``count`` values of a channel are in a batch: nothing for a
map of many cells, 4 % for a dense layer and 24 samples. ``WeightedBatchNorm`` is for rows that stand for several equal
ones.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from sightline.ops.process_shares import sum_over_processes


class BiasedBatchNorm(_BatchNorm):
    """Batch norm of (B, C) or (B, C, ...) that averages the biased variance of its batches.

    Args:
        num_features: C.
        eps: Added to the variance.
        momentum: Share of the newest batch in the running averages.
        has_scale: Without it the scale is fixed at 1; it stays among the parameters, but is not trained.

    Attributes:
        keeps_biased_variance: Tells whoever computes over several processes.
    """

    keeps_biased_variance: Final = True
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, *, has_scale: bool = True) -> None:
        super().__init__(num_features, eps, momentum)
        self.weight.requires_grad_(has_scale)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2 or input.shape[1] != self.num_features:
            raise ValueError(f"input: expected (B, {self.num_features}, ...), got {tuple(input.shape)}.")

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape."""
        self._check_input_dim(input)
        if not self.training:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        count = input.numel() // self.num_features
        unbiased = torch.zeros_like(self.running_var)  # becomes momentum times the unbiased variance
        out = F.batch_norm(
            input, self.running_mean, unbiased, self.weight, self.bias, True, self.momentum, self.eps
        )  # refuses a single value a channel
        with torch.no_grad():
            self.running_var.mul_(1 - self.momentum).add_(unbiased, alpha=(count - 1) / count)
            self.num_batches_tracked.add_(1)
        return out


class WeightedBatchNorm(_BatchNorm):
    """Batch norm of rows, each of which counts as many times as its weight says.

    Args:
        num_features: C.
        eps: Added to the variance.
        momentum: Share of the newest batch in the running averages.

    Attributes:
        is_synchronised: Whether statistics in training are those of all processes; whoever computes over several
            processes sets it.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps, momentum)
        self.is_synchronised = False

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() != 2 or input.shape[1] != self.num_features:
            raise ValueError(f"input: expected (R, {self.num_features}), got {tuple(input.shape)}.")

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """(C,) each: in evaluation mode the norm is ``scale * x + shift``."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, input: Tensor, weights: Tensor | None = None) -> Tensor:
        """(R, C) rows and (R,) weights, 1 where there are none -> (R, C) in float32 or float64."""
        self._check_input_dim(input)
        rows = input if input.dtype == torch.float64 else input.float()
        if not self.training:
            scale, shift = self.scale_and_shift()
            return rows * scale + shift
        weights = rows.new_ones(len(rows)) if weights is None else weights.to(rows)
        count = self._over_processes(weights.sum())
        mean = self._over_processes((rows * weights[:, None]).sum(dim=0)) / count.clamp(min=1)
        centered = rows - mean
        squares = self._over_processes((centered.square() * weights[:, None]).sum(dim=0))
        variance = squares / count.clamp(min=1)
        with torch.no_grad():
            unbiased = squares / (count - 1).clamp(min=1)
            share = self.momentum * (count > 0).to(self.running_mean.dtype)  # a batch without rows leaves no trace
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)
            self.num_batches_tracked.add_(1)
        return centered * ((variance + self.eps).rsqrt() * self.weight) + self.bias

    def _over_processes(self, total: Tensor) -> Tensor:
        return sum_over_processes(total) if self.is_synchronised else total
