"""Batch norm over the whole batch of several processes, on a CPU as well as on a GPU.

PyTorch's own needs a GPU. This one gives the statistics that a single process would compute, also where the shares
are uneven or a process has no sample at all.

Reference:
    Ioffe and Szegedy, "Batch Normalization", ICML 2015, algorithm 1; variances are joined as in Chan et al.,
    "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm


def synchronise_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with every batch norm computing over all processes; parameters and buffers stay the same objects.

    Args:
        module: Changed in place, unless it is a batch norm itself.
        device: Where it computes; on a GPU the layers become PyTorch's own, unless they keep biased variances.
    """
    if isinstance(module, _BatchNorm):
        return _synchronised(module, device)
    for name, child in module.named_children():
        fresh = synchronise_batch_norm(child, device)
        if fresh is not child:
            setattr(module, name, fresh)
    return module


def has_batch_norm(module: nn.Module) -> bool:
    """Whether a layer of it keeps statistics of batches."""
    return any(isinstance(layer, _BatchNorm) for layer in module.modules())


def _synchronised(norm: _BatchNorm, device: torch.device) -> _BatchNorm:
    if "is_synchronised" in vars(norm):  # it sees to it itself
        vars(norm)["is_synchronised"] = True
        return norm
    is_biased = getattr(norm, "keeps_biased_variance", False)  # PyTorch's own keeps the unbiased one
    kind = nn.SyncBatchNorm if device.type == "cuda" and not is_biased else SyncBatchNorm
    fresh = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    fresh._parameters.update(norm._parameters)
    fresh._buffers.update(norm._buffers)
    fresh.training = norm.training
    if isinstance(fresh, SyncBatchNorm):
        fresh.keeps_biased_variance = is_biased
        fresh.exact_statistics = getattr(norm, "exact_statistics", None)
        fresh.exact_gradients = getattr(norm, "exact_gradients", None)
    return fresh


class SyncBatchNorm(_BatchNorm):
    """Batch norm whose statistics in training are those of all processes; any number of dimensions from (B, C) on.

    Attributes:
        keeps_biased_variance: Average the biased variance of the batches for evaluation, not the unbiased one.
        exact_statistics: Of the norm whose place it takes, if that does not leave it to PyTorch: (B, C, ...) to mean
            and biased variance (C,), or None where PyTorch's do.
        exact_gradients: The same of x, gradient of the output, mean, variance and epsilon to the gradients (C,) of
            weight and bias.
    """

    keeps_biased_variance = False
    exact_statistics: Callable[[Tensor], tuple[Tensor, Tensor] | None] | None = None
    exact_gradients: Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor] | None] | None = None

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"input: expected at least (B, C), got {tuple(input.shape)}.")

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape."""
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        out, mean, variance, count = _Normalise.apply(input, self.weight, self.bias, self)
        if self.track_running_stats:
            with torch.no_grad():
                running_mean, running_var = cast(Tensor, self.running_mean), cast(Tensor, self.running_var)
                if not self.keeps_biased_variance:
                    variance = variance * (count / (count - 1).clamp(min=1))
                running_mean.mul_(1 - momentum).add_(mean.to(running_mean.dtype), alpha=momentum)
                running_var.mul_(1 - momentum).add_(variance.to(running_var.dtype), alpha=momentum)
        return cast(Tensor, out)


class _Normalise(torch.autograd.Function):
    """Normalisation by the statistics of all processes, with the gradient that goes through them."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, norm: SyncBatchNorm
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance, count = _statistics(x, norm)
        out = functional.batch_norm(x, mean, variance, weight, bias, training=False, eps=norm.eps)
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.norm = norm
        ctx.mark_non_differentiable(mean, variance, count)
        return out, mean, variance, count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, count = ctx.saved_tensors
        norm = cast(SyncBatchNorm, ctx.norm)
        inverse = (variance + norm.eps).rsqrt()
        ones = torch.ones_like(mean) if weight is None else weight
        grad_weight, grad_bias = torch.zeros_like(mean), torch.zeros_like(mean)
        exact = norm.exact_gradients and norm.exact_gradients(x, grad, mean, variance, norm.eps)
        if exact:
            grad_weight, grad_bias = exact
        elif x.numel():
            _, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
                grad, x, ones, mean, variance, mean, inverse, False, norm.eps, (False, True, True)
            )
        sums = _of_all_processes(torch.cat((grad_bias, grad_weight))).sum(0)
        of_bias, of_weight = (sums / count.clamp(min=1)).chunk(2)
        # scale * (grad - of_bias - (x - mean) * inverse * of_weight), in two passes over the batch
        scale = inverse * ones
        slope = -scale * inverse * of_weight
        shift = -scale * of_bias - slope * mean
        if x.is_contiguous() and x.dtype == slope.dtype and x.numel():  # as below, where that is two times slower
            none, one = torch.zeros_like(slope), torch.ones_like(slope)
            grad_x = functional.batch_norm(x, none, one, slope, shift, training=False, eps=0.0)
        else:
            grad_x = torch.addcmul(_spread(shift, x), x, _spread(slope, x))
        grad_x = grad_x.addcmul_(grad, _spread(scale, x))
        own = (None, None) if weight is None else (grad_weight, grad_bias)
        return grad_x.to(x.dtype), *own, None


def _statistics(x: Tensor, norm: SyncBatchNorm) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance (C,) over all processes, and how many values of a channel they are of, ()."""
    channels = x.shape[1]
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    mean, variance = x.new_zeros((2, channels), dtype=exact)
    count = mean.new_full((1,), x.numel() // channels if channels else 0)
    own = norm.exact_statistics and norm.exact_statistics(x.detach())
    if own:
        mean, variance = own
    elif x.numel():  # the second and third argument only say in which type to compute
        mean, variance = torch.batch_norm_update_stats(x.detach(), mean, variance, 0.0)
    table = _of_all_processes(torch.cat((mean, variance, count)))  # (processes, 2 C + 1)
    means, variances, counts = table[:, :channels], table[:, channels:-1], table[:, -1:]
    total = counts.sum()
    shares_of_total = counts / total.clamp(min=1)
    mean = (means * shares_of_total).sum(0)
    variance = ((variances + (means - mean).square()) * shares_of_total).sum(0)
    return mean, variance, total


def _of_all_processes(own: Tensor) -> Tensor:
    """(N,) of each process to (processes, N); in gloo the quickest exchange, also where only the sum is wanted."""
    count = dist.get_world_size()
    rows = own.new_empty(count * len(own))
    dist.all_gather_into_tensor(rows, own)
    return rows.view(count, -1)


def _spread(values: Tensor, x: Tensor) -> Tensor:
    """(C,) to a shape that goes with (B, C, ...)."""
    return values.reshape(1, -1, *([1] * (x.dim() - 2)))
