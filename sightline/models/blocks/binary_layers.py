"""Layers whose weights and inputs have one bit, or a few.

Shapes: B samples, C channels, ... one to three axes of space. A layer keeps *latent* weights in full precision, which
are trained; what it computes with are the latent ones quantised anew in every pass.

With one bit, weights and inputs are -1 or +1. The sum of ``n`` products is then ``2 p - n`` where ``p`` of the pairs
are equal, and by default a layer returns ``p``, which a machine finds by counting bits: an integer from 0 to ``n``.

References:
    Yang et al., "BMXNet: An Open-Source Binary Neural Network Implementation Based on MXNet", ACM MM 2017;
    Rastegari et al., "XNOR-Net", ECCV 2016 (scaling); Bethge et al., "BinaryDenseNet", ICCV Workshops 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.models.blocks.quantisation import (
    ONE_BIT,
    ActivationMethod,
    Scaling,
    WeightMethod,
    check_activation,
    check_weight,
)
from sightline.ops.binarize import (
    clip,
    det_sign,
    dorefa_quantise,
    gradient_gate,
    leaky_clip,
    round_quantise,
    sign_approx_sign,
    smooth_sign,
)

Size = int | tuple[int, ...]
"""One number for all axes of space, or one for each."""


class QuantisedActivation(nn.Module):
    """A gate for gradients and then a quantiser.

    Args:
        method: Which quantiser.
        bits: Of its result.
        threshold: No gradient goes to values whose absolute value is above this.

    Raises:
        ValueError: If the method cannot have so many bits, or the threshold is not above 0.
    """

    def __init__(self, method: ActivationMethod = "det_sign", bits: int = ONE_BIT, *, threshold: float = 1.0) -> None:
        super().__init__()
        check_activation(method, bits)
        if not threshold > 0:
            raise ValueError(f"threshold: {threshold} would stop every gradient; it must be above 0.")
        self.method = method
        self.bits = bits
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        match self.method:  # these take the gate into their own window
            case "det_sign":
                return det_sign(x, threshold=self.threshold)
            case "round":
                return round_quantise(x, self.bits, threshold=self.threshold)
            case "clip":
                return clip(x, -1.0, 1.0, threshold=self.threshold)
        gated = gradient_gate(x, self.threshold)
        match self.method:
            case "sign_approx_sign":
                return sign_approx_sign(gated)
            case "dorefa":
                return dorefa_quantise(gated, self.bits)
            case "approx_sign":
                return smooth_sign(gated)
            case "leaky_clip":
                return leaky_clip(gated)
            case "relu":
                return gated.relu()
        return gated

    def extra_repr(self) -> str:
        """For printing."""
        return f"{self.method}, bits={self.bits}, threshold={self.threshold}"


def quantise_weight(weight: Tensor, method: WeightMethod, bits: int) -> Tensor:
    """A latent weight as the layer computes with it; same shape. No gate: every latent weight gets a gradient."""
    match method:
        case "det_sign":
            return det_sign(weight)
        case "sign_approx_sign":
            return sign_approx_sign(weight)
        case "dorefa":
            return dorefa_quantise(weight, bits)
    return weight


def is_autocast(device: str) -> bool:
    """Whether autocast is on for a kind of device; it never is for ``meta``, where torch does not know it."""
    return device != "meta" and torch.is_autocast_enabled(device)


class QuantisedLayer(nn.Module):
    """What dense layers and convolutions share: a latent weight (C_out, ...) and how it is quantised."""

    quantised_parameters: ClassVar[tuple[str, ...]] = ("weight",)
    """Names of latent weights, which training does not decay: only their sign, or their place among the others, counts.
    """

    def __init__(self, shape: tuple[int, ...], method: WeightMethod, bits: int) -> None:
        super().__init__()
        check_weight(method, bits)
        self.method = method
        self.bits = bits
        self.weight = nn.Parameter(torch.empty(shape))
        nn.init.normal_(self.weight, std=math.sqrt(2 / self.inputs_per_output))

    @property
    def inputs_per_output(self) -> int:
        """n: products in the sum that makes one output, padding included."""
        return self.weight[0].numel()

    def quantised_weight(self) -> Tensor:
        """The weight that the layer computes with, shaped as the latent one."""
        return quantise_weight(self.weight, self.method, self.bits)

    def _sum(self, product: Callable[[Tensor, Tensor | None], Tensor], device: str, *, counts: bool) -> Tensor:
        """The sum of products ``h`` by a function of weight and bias, or the count ``(h + n) / 2``.

        One pass gives the count: of halved weights, with ``n / 2`` as bias. In the half precision of autocast it would
        be rounded, since it lies around ``n / 2``; ``h`` lies around 0 and is exact up to 256 in bf16, up to 512 for
        an even ``n``.
        """
        weight, n = self.quantised_weight(), self.inputs_per_output
        if not counts:
            return product(weight, None)
        if is_autocast(device):
            return product(weight, None).float() * 0.5 + n / 2
        return product(weight * 0.5, weight.new_full((weight.shape[0],), n / 2))


class QuantisedLinear(QuantisedLayer):
    """A dense layer without bias: ``(x Wq^T + n) / 2``, which is a count of equal bits where both have one.

    Args:
        in_features: n; an input of more axes is flattened.
        out_features: Of the output.
        method: Quantiser of the weights.
        bits: Of the weights. The offset is applied for any number of them.
        offset: Otherwise the plain ``x Wq^T``.

    Raises:
        ValueError: If the method cannot have so many bits.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        method: WeightMethod = "det_sign",
        bits: int = ONE_BIT,
        offset: bool = True,
    ) -> None:
        super().__init__((out_features, in_features), method, bits)
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) with n values a sample -> (B, out_features)."""
        flat = x.flatten(1)
        return self._sum(lambda weight, bias: F.linear(flat, weight, bias), x.device.type, counts=self.offset)

    def extra_repr(self) -> str:
        """For printing."""
        out_features, in_features = self.weight.shape
        return f"{in_features}, {out_features}, {self.method}, bits={self.bits}, offset={self.offset}"


class QuantisedConv(QuantisedLayer):
    """A convolution without bias, padded with -1, since there is no 0.

    The output is ``(h + n) / 2`` where the weights have one bit, are not scaled, and ``offset`` is on; ``n`` counts
    padded places too. Otherwise it is ``h``, times the scale.

    Args:
        in_channels: C.
        out_channels: Of the output.
        kernel_size: Of the convolution, for all axes or for each.
        stride: Of the convolution.
        padding: Cells of -1 on both sides.
        dilation: Of the convolution.
        groups: Of the convolution.
        method: Quantiser of the weights.
        bits: Of the weights.
        offset: Whether to return counts of equal bits.
        scaling: Multiply each output channel by the mean of its absolute latent weights: ``binet`` with its gradient,
            ``xnor`` without. What XNOR-Net does with the input is the part of ``ActivatedConv``.

    Attributes:
        edges: The padding as ``torch.nn.functional.pad`` takes it: both sides of every axis, the last axis first.

    Raises:
        ValueError: If the method cannot have so many bits, or channels do not divide by the groups.
    """

    axes: ClassVar[int]
    convolve: ClassVar[Callable[..., Tensor]]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        *,
        method: WeightMethod = "det_sign",
        bits: int = ONE_BIT,
        offset: bool = True,
        scaling: Scaling = "none",
    ) -> None:
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"groups: {in_channels} and {out_channels} channels do not divide by {groups}.")
        self.kernel_size = self._each(kernel_size)
        super().__init__((out_channels, in_channels // groups, *self.kernel_size), method, bits)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = self._each(stride)
        self.padding = self._each(padding)
        self.dilation = self._each(dilation)
        self.groups = groups
        self.scaling = scaling
        self.offset = offset
        self.edges = [cells for cells in reversed(self.padding) for _ in range(2)]  # the last axis first

    @property
    def counts_bits(self) -> bool:
        """Whether the output is shifted to a count of equal bits."""
        return self.offset and self.bits == ONE_BIT and self.scaling == "none"

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C_out, ...)."""
        padded = F.pad(x, self.edges, value=-1) if any(self.edges) else x

        def convolve(weight: Tensor, bias: Tensor | None) -> Tensor:
            return type(self).convolve(padded, weight, bias, self.stride, 0, self.dilation, self.groups)

        out = self._sum(convolve, x.device.type, counts=self.counts_bits)
        # Scaling the sum and not the weights keeps the sum a whole number, which packed layers find by counting.
        return out if self.scaling == "none" else out * self.scale().transpose(0, 1)

    def scale(self) -> Tensor:
        """Mean absolute latent weight of each output channel, (C_out, 1, ...)."""
        latent = self.weight.detach() if self.scaling == "xnor" else self.weight
        return latent.abs().mean(dim=tuple(range(1, latent.dim())), keepdim=True)

    def extra_repr(self) -> str:
        """For printing."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, {self.method}, "
            f"bits={self.bits}, offset={self.offset}, scaling={self.scaling}"
        )

    def _each(self, size: Size) -> tuple[int, ...]:
        sizes = (size,) * self.axes if isinstance(size, int) else tuple(size)
        if len(sizes) != self.axes:
            raise ValueError(f"{type(self).__name__}: {size} has {len(sizes)} numbers, expected 1 or {self.axes}.")
        return sizes


class QuantisedConv1d(QuantisedConv):
    """(B, C, W) -> (B, C_out, W_out); see ``QuantisedConv`` for what it computes."""

    axes = 1
    convolve = staticmethod(F.conv1d)


class QuantisedConv2d(QuantisedConv):
    """(B, C, H, W) -> (B, C_out, H_out, W_out); see ``QuantisedConv`` for what it computes."""

    axes = 2
    convolve = staticmethod(F.conv2d)


class QuantisedConv3d(QuantisedConv):
    """(B, C, D, H, W) -> (B, C_out, D_out, H_out, W_out); see ``QuantisedConv`` for what it computes."""

    axes = 3
    convolve = staticmethod(F.conv3d)
