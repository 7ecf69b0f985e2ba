"""Batch norm as MXNet has it: its running variance is the biased one.

PyTorch normalises by the biased variance of a batch, and averages the unbiased one for evaluation. The two differ by
``count / (count - 1)`` where ``count`` values of a channel are in a batch: nothing for a map of many cells, 4 % for
a dense layer and 24 samples.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm


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
