"""Numbers of few bits with gradients of their own: signs, steps, and windows through which a gradient passes.

It is made of vectorised passes: on a CPU, ``torch.where`` and ``torch.trunc`` take tens of times as long as a sum, so
neither is used.

Tensors may have any shape; results have the shape and dtype of the input. Where a function is not differentiable, its
gradient is an estimate, which the docstring states; a *window* is a closed interval of input values, outside of which
the gradient is 0. ``g`` is the gradient that arrives, ``k`` a number of bits, ``n = 2 ** k - 1`` the number of steps.

References:
    Courbariaux et al., "Binarized Neural Networks", 2016 (sign with a window); Liu et al., "Bi-Real Net", ECCV 2018
    (approximate sign); Zhou et al., "DoReFa-Net", 2016 (k bits). Where these leave a choice (the sign of 0, the ends
    of windows, halves), it is that of BMXNet v2 (Yang et al., "BMXNet", ACM MM 2017).
"""

from __future__ import annotations

import math
from typing import Any, Final, cast

import torch
from torch import Tensor
from torch.autograd import Function

EVERYWHERE: Final = math.inf
"""A threshold that lets every gradient through."""


def det_sign(x: Tensor, *, threshold: float = EVERYWHERE) -> Tensor:
    """-1 where ``x < 0``, else +1; both zeros give +1.

    Args:
        x: Any shape.
        threshold: Gradient: ``g`` where ``abs(x) <= threshold``, else 0.
    """
    return cast(Tensor, _Sign.apply(x, threshold))


def sign_approx_sign(x: Tensor) -> Tensor:
    """As ``det_sign``, with the gradient ``g * (2 - 2 abs(x))`` for every ``x``.

    It is not cut at 1 and so negative outside [-1, 1]; put a ``gradient_gate`` of at most 1 in front.
    """
    return cast(Tensor, _SignWithSlope.apply(x))


def gradient_gate(x: Tensor, threshold: float) -> Tensor:
    """The input itself; gradient: ``g`` where ``abs(x) <= threshold``, else 0, whatever the size of ``g``."""
    return cast(Tensor, _Gate.apply(x, threshold))


def round_half_away(x: Tensor) -> Tensor:
    """The nearest whole number, halves away from zero: 0.5 gives 1, -2.5 gives -3. Gradient: ``g``. ``x`` is finite."""
    return cast(Tensor, _Round.apply(x))


def clip(x: Tensor, low: float, high: float, *, threshold: float = EVERYWHERE) -> Tensor:
    """``x`` kept within [low, high].

    Args:
        x: Any shape.
        low: Smallest value.
        high: Largest value.
        threshold: Gradient: ``g`` where ``low <= x <= high``, ends included, and ``abs(x) <= threshold``; else 0.
    """
    return cast(Tensor, _Clip.apply(x, low, high, threshold))


def round_quantise(x: Tensor, bits: int, *, threshold: float = EVERYWHERE) -> Tensor:
    """One of ``2 ** k`` equal steps from 0 to 1: ``round(n * clip(x, 0, 1)) / n``, halves away from zero.

    Args:
        x: Any shape.
        bits: k.
        threshold: Gradient: ``g`` where ``0 <= x <= 1`` and ``abs(x) <= threshold``, else 0.
    """
    return cast(Tensor, _RoundSteps.apply(x, 2**bits - 1, threshold))


def dorefa_quantise(x: Tensor, bits: int) -> Tensor:
    """One of ``2 ** k`` equal steps from -1 to 1, of ``tanh(x)`` over its largest absolute value in the whole tensor.

    ``2 * round(n * z) / n - 1`` with ``z = tanh(x) / (2 * max(abs(tanh(x)))) + 1 / 2``. The rounding lets gradients
    through; they flow through the maximum too, and every one of equal maxima gets all of its gradient. A tensor of
    zeros has no such ``z`` and gives NaN.
    """
    steps = 2**bits - 1
    squashed = torch.tanh(_with_room(x, steps))
    z = squashed / (2 * cast(Tensor, _LargestAbsolute.apply(squashed))) + 0.5
    quantised: Tensor = round_half_away(z * steps) * (2 / steps) - 1
    return quantised.to(x.dtype)


def leaky_clip(x: Tensor, *, slope: float = 0.1) -> Tensor:
    """``x`` within [-1, 1], ends included, and ``slope * x`` outside: its value jumps at the ends, as BMXNet's does."""
    return cast(Tensor, _LeakyClip.apply(x, slope))


def smooth_sign(x: Tensor) -> Tensor:
    """A smooth approximation of the sign: -1, ``2x + x^2``, ``2x - x^2``, +1, on the ranges between -1, 0 and 1.

    Reference:
        Liu et al., "Bi-Real Net", ECCV 2018, eq. 6; its derivative is the gradient of ``sign_approx_sign`` within
        [-1, 1].
    """
    return cast(Tensor, _SmoothSign.apply(x))


def signs(x: Tensor) -> Tensor:
    """-1 where ``x < 0``, else +1, without a gradient."""
    return x.sign().add_(0.5).sign_()


def _with_room(x: Tensor, steps: int) -> Tensor:
    """As float32, if its type cannot hold the number of steps: fp16 ends below those of 16 bits."""
    return x.float() if steps > torch.finfo(x.dtype).max else x


def _rounded(x: Tensor) -> Tensor:
    """Halves away from zero. The difference is exact, so no number just below a half is lifted over it."""
    size = x.abs()
    whole = size.floor()
    return size.sub_(whole).mul_(2).floor_().add_(whole).copysign_(x)


def _leaking(values: Tensor, x: Tensor, slope: float) -> Tensor:
    """The values where ``x`` is within [-1, 1], and ``slope`` times them outside."""
    return torch.lerp(values, _within(values, x, -1.0, 1.0), 1 - slope)


def _within(grad: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """``grad`` where ``low <= x <= high``, else 0, in one pass.

    The kernel leaves out the ends of its window, so it is given the numbers just outside of ours.
    """
    if low == -math.inf and high == math.inf:
        return grad
    outside = -_just_above(-low, x.dtype), _just_above(high, x.dtype)
    return cast(Tensor, torch.ops.aten.hardtanh_backward(grad, x, *outside))


def _just_above(value: float, dtype: torch.dtype) -> float:
    """The next larger number of a dtype, after the value itself was rounded to it."""
    if math.isinf(value):
        return value
    limits = torch.finfo(dtype)
    spacing = limits.tiny * limits.eps  # of the numbers around 0
    if abs(value) >= limits.tiny:
        spacing = math.ldexp(limits.eps, math.frexp(value)[1] - 1)
    return (round(value / spacing) + 1) * spacing


class _Sign(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: float) -> Tensor:
        ctx.threshold = threshold
        if threshold != EVERYWHERE:
            ctx.save_for_backward(x)
        return signs(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.threshold == EVERYWHERE:
            return grad, None
        (x,) = ctx.saved_tensors
        return _within(grad, x, -ctx.threshold, ctx.threshold), None


class _SignWithSlope(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return signs(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        slope: Tensor = x.abs().mul_(-2).add_(2)
        return slope.mul_(grad)


class _Gate(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.threshold = threshold
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return _within(grad, x, -ctx.threshold, ctx.threshold), None


class _Round(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _rounded(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class _Clip(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float, threshold: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.window = max(low, -threshold), min(high, threshold)
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return _within(grad, x, *ctx.window), None, None, None


class _RoundSteps(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: int, threshold: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.high = min(1.0, threshold)
        return _rounded(_with_room(x.clamp(0, 1), steps).mul_(steps)).div_(steps).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return _within(grad, x, 0.0, ctx.high), None, None


class _LeakyClip(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        return _leaking(x, x, slope)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return _leaking(grad, x, ctx.slope), None


class _SmoothSign(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        clipped = x.clamp(-1, 1)
        return clipped.abs().neg_().add_(2).mul_(clipped)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        slope: Tensor = x.clamp(-1, 1).abs_().mul_(-2).add_(2)
        return slope.mul_(grad)


class _LargestAbsolute(Function):
    """The largest absolute value, (); every element that has it gets the whole gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        largest = x.abs().max()
        ctx.save_for_backward(x, largest)
        return largest

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, largest = ctx.saved_tensors
        signs_of_largest: Tensor = x.sign().mul_(x.abs() == largest)
        return signs_of_largest.mul_(grad)
