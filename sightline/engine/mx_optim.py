"""SGD, Adam and RAdam as MXNet has them, which is not as PyTorch has them.

The learning rate is inside the momentum of SGD, so that a lower rate does not shrink the steps that are under way; and
the epsilon of Adam stands beside the root of the plain second moment, before its bias is corrected. Both run on the
kernels for PyTorch's rules, with other numbers.

Reference:
    MXNet 1.5, ``mxnet.optimizer``: SGD, NAG, Adam; RAdam as BMXNet v2 has it (Liu et al., "On the Variance of the
    Adaptive Learning Rate and Beyond", ICLR 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sightline.engine.optimizer import Bucket, Optimizer, Ready
from sightline.engine.parameter_groups import ParameterGroup
from sightline.engine.schedule import GroupValues

ANY_NUMBER_OF_STEPS = 1e30
"""After so many steps no moment has a bias, so PyTorch's kernels correct none."""
RECTIFIED_ABOVE = 5.0
"""Length of the moving average from which on RAdam divides by the second moment."""


class Factors(NamedTuple):
    """A step is ``-lr * (adaptive * m / (sqrt(v) + eps) + plain * m)``."""

    adaptive: float
    plain: float


class MxAdam(Optimizer):
    """``w -= lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps)``; decay adds ``weight_decay * w`` to ``g``.

    Args:
        groups: The parameter groups, from ``split_parameters``.
        beta2: Decay of the squared gradients.
        eps: Added to the root of the second moment.
        fused: Whether to use fused kernels where torch and the device have them.
    """

    slots = ("exp_avg", "exp_avg_sq")
    counts_steps = True
    counts_on_host = True
    kernel = "_fused_adam_"

    def __init__(
        self,
        groups: Sequence[ParameterGroup],
        *,
        beta2: float = 0.999,
        eps: float = 1e-8,
        fused: bool = True,
    ) -> None:
        super().__init__(groups, fused=fused)
        self.beta2 = beta2
        self.eps = eps

    def factors(self, step: int, beta1: float) -> Factors:
        """What the step of a number, from 1, is multiplied with."""
        return Factors(math.sqrt(1 - self.beta2**step) / (1 - beta1**step), 0.0)

    def _step_fused(
        self,
        kernel: Callable[..., Any],
        bucket: Bucket,
        ready: Ready,
        values: GroupValues,
        found_inf: Tensor | None,
    ) -> None:
        if found_inf is None or not found_inf.item():  # the host counts the steps, so it has to know
            self._step(kernel, bucket, ready, values)

    def _step_slowly(self, bucket: Bucket, ready: Ready, values: GroupValues) -> None:
        from torch.optim.adam import adam

        self._step(adam, bucket, ready, values)

    def _step(self, kernel: Callable[..., Any], bucket: Bucket, ready: Ready, values: GroupValues) -> None:
        many = torch.full((), ANY_NUMBER_OF_STEPS, device=bucket.device)
        for step, same in _by_step(bucket, ready):
            factors = self.factors(step, values.momentum)
            kernel(
                same.parameters,
                same.grads,
                same.slots["exp_avg"],
                same.slots["exp_avg_sq"],
                [],
                [many] * len(same.grads),
                lr=values.lr * factors.adaptive,
                beta1=values.momentum,
                beta2=self.beta2,
                weight_decay=self.groups[bucket.group].weight_decay,
                eps=self.eps,
                amsgrad=False,
                maximize=False,
            )
            if factors.plain:
                torch._foreach_add_(same.parameters, same.slots["exp_avg"], alpha=-values.lr * factors.plain)


class MxRAdam(MxAdam):
    """Adam that does not divide by the second moment while too few gradients went into it.

    With ``n = N - 2 t beta2^t / (1 - beta2^t)`` and ``N = 2 / (1 - beta2) - 1``: while ``n <= 5``, a step is
    ``w -= lr / (1 - beta1^t) m``; later ``w -= lr r / (1 - beta1^t) m / (sqrt(v) + eps)`` where ``r`` is the root of
    ``(1 - beta2^t) (n - 4) (n - 2) N / ((N - 4) (N - 2) n)``.
    """

    def factors(self, step: int, beta1: float) -> Factors:
        """What the step of a number, from 1, is multiplied with."""
        correction = 1 / (1 - beta1**step)
        kept = self.beta2**step
        longest = 2 / (1 - self.beta2) - 1
        length = longest - 2 * step * kept / (1 - kept)
        if length <= RECTIFIED_ABOVE:
            return Factors(0.0, correction)
        share = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        return Factors(math.sqrt((1 - kept) * share) * correction, 0.0)


def _by_step(bucket: Bucket, ready: Ready) -> Iterator[tuple[int, Ready]]:
    """Count one more step, and give the tensors by the number of theirs: all of them at once, as a rule."""
    if ready.places is None:
        bucket.counter.add_(1)
        steps = bucket.counter.tolist()
    else:
        bucket.counter[ready.places] += 1
        steps = bucket.counter[ready.places].tolist()
    if len(set(steps)) == 1:
        yield int(steps[0]), ready
        return
    for step in sorted(set(steps)):
        members = [number for number, own in enumerate(steps) if own == step]
        slots = {slot: [tensors[number] for number in members] for slot, tensors in ready.slots.items()}
        parameters = [ready.parameters[number] for number in members]
        grads = [ready.grads[number] for number in members]
        yield int(step), Ready(parameters, grads, slots, [ready.steps[number] for number in members], members)
