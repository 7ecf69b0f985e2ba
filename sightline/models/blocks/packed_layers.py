"""Binary layers that keep one bit a weight and count equal bits, and networks that are packed into them and back.

A packed layer stands in for the layer it was made from and gives the same numbers to the bit: counts are integers,
which floats below 2^24 hold exactly, and scales are multiplied in the same order. It is for inference only: no gradient
passes through it. Shapes: B samples, C channels, O outputs.

A network is packed as a whole: every layer with weights of one bit is replaced, and all others stay. Where activations
are not -1 and +1 (other methods than signs), there are no bits to count; packed layers then compute with the signs as
floats, in as much memory as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeGuard

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.config.errors import RunError
from sightline.models.blocks.binary_layers import (
    QuantisedActivation,
    QuantisedConv,
    QuantisedLayer,
    QuantisedLinear,
    is_autocast,
)
from sightline.models.blocks.packed_file import PackedNetwork, PackedWeight, pack_weight
from sightline.models.blocks.packed_file import Scaling as FileScaling
from sightline.models.blocks.quantisation import ONE_BIT, Scaling
from sightline.ops.bit_packing import (
    WordBits,
    Words,
    binary_conv,
    binary_dense,
    pack_conv_signs,
    pack_conv_words,
    pack_dense_words,
    pack_signs,
    unpack_conv_words,
    unpack_dense_words,
)

SIGNS = ("det_sign", "sign_approx_sign")
"""Activations that give -1 and +1."""

COUNTER = "num_batches_tracked"
"""Of batch norms; only training looks at it, so it is not stored."""


class PackedLinear(nn.Module):
    """Stands in for a dense layer with weights of one bit.

    Args:
        layer: The layer.
        weight: Its signs.
        counts_bits: Count equal bits, for inputs of -1 and +1; otherwise multiply by the signs in floats.
    """

    signs: Tensor
    bias: Tensor | None

    def __init__(self, layer: QuantisedLinear, weight: PackedWeight, *, counts_bits: bool) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.gives_counts = layer.offset
        self.counts_bits = counts_bits
        signs, bias = _operands(weight, counts_bits=counts_bits, gives_counts=self.gives_counts)
        self.register_buffer("signs", pack_signs(signs) if counts_bits else signs)
        self.register_buffer("bias", bias)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) with C values a sample -> (B, O)."""
        x = x.flatten(1)
        if not self.counts_bits:
            return _product(lambda bias: F.linear(x, self.signs, bias), self.bias, x.device.type)
        equal = binary_dense(x, self.signs)
        return _result(equal, self.in_features, x, torch.contiguous_format, gives_counts=self.gives_counts)

    def extra_repr(self) -> str:
        """For printing."""
        shape = f"{self.in_features}, {self.out_features}"
        return f"{shape}, gives_counts={self.gives_counts}, counts_bits={self.counts_bits}"


class PackedConv(nn.Module):
    """Stands in for a convolution with weights of one bit, over one to three axes.

    Args:
        layer: The layer.
        weight: Its signs and scale.
        counts_bits: Count equal bits, for inputs of -1 and +1; otherwise multiply by the signs in floats.
    """

    signs: Tensor
    bias: Tensor | None
    scale: Tensor | None

    def __init__(self, layer: QuantisedConv, weight: PackedWeight, *, counts_bits: bool) -> None:
        super().__init__()
        self.kernel_size, self.stride = layer.kernel_size, layer.stride
        self.padding, self.dilation, self.groups = layer.padding, layer.dilation, layer.groups
        self.edges = layer.edges
        self.scaling: Scaling = layer.scaling
        self.gives_counts = layer.counts_bits
        self.num_products = weight.num_weights // weight.shape[0]
        self.counts_bits = counts_bits
        self.convolve = type(layer).convolve
        signs, bias = _operands(weight, counts_bits=counts_bits, gives_counts=self.gives_counts)
        self.register_buffer("signs", pack_conv_signs(signs) if counts_bits else signs)
        self.register_buffer("bias", bias)
        axes = len(self.kernel_size)
        self.register_buffer("scale", None if weight.scale is None else weight.scale.reshape(-1, *[1] * axes))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> (B, O, ...)."""
        sums = self._counted(x) if self.counts_bits else self._summed(x)
        return sums if self.scale is None else sums * self.scale

    def _counted(self, x: Tensor) -> Tensor:
        equal = binary_conv(
            x, self.signs, stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups
        )
        return _result(equal, self.num_products, x, _layout(x), gives_counts=self.gives_counts)

    def _summed(self, x: Tensor) -> Tensor:
        if any(self.edges):
            x = F.pad(x, self.edges, value=-1)

        def convolve(bias: Tensor | None) -> Tensor:
            return self.convolve(x, self.signs, bias, self.stride, 0, self.dilation, self.groups)

        return _product(convolve, self.bias, x.device.type)

    def extra_repr(self) -> str:
        """For printing."""
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"groups={self.groups}, scaling={self.scaling}, counts_bits={self.counts_bits}"
        )


def is_binary(layer: nn.Module) -> TypeGuard[QuantisedLayer]:
    """Whether it is a dense layer or a convolution with weights of one bit."""
    return isinstance(layer, QuantisedLayer) and layer.bits == ONE_BIT


def pack_network(model: nn.Module) -> PackedNetwork:
    """Signs and scales of all binary layers, and all other tensors as they are.

    Raises:
        RunError: It has no binary layer, or a weight that is not finite; names the layer.
    """
    weights = {}
    for name, layer in _binary_layers(model):
        try:
            weights[f"{name}.weight"] = pack_weight(layer.weight, _scaling(layer), _scale(layer))
        except ValueError as error:
            raise RunError(f"{name}.weight: {error} Pack an earlier checkpoint.") from error
    if not weights:
        raise RunError("The network has no layer with weights of one bit, so nothing would be packed.")
    values = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items() if name not in weights}
    return PackedNetwork(weights, {name: values[name] for name in values if not name.endswith(COUNTER)})


def load_packed(
    model: nn.Module, packed: PackedNetwork, *, count_bits: bool = True, source: str = "packed network"
) -> None:
    """Put packed layers in the place of a network's binary ones, and load its other tensors; for evaluation.

    Args:
        model: A network of the same configuration, on the CPU; changed in place.
        packed: Its tensors.
        count_bits: Otherwise signs are multiplied as floats, in 32 times the memory, to the same results.
        source: What messages call it.

    Raises:
        RunError: The tensors are not those of this network; names them. The network is unchanged then.
    """
    layers = _check_fits(model, packed, source)
    activations = [one for one in model.modules() if isinstance(one, QuantisedActivation)]
    counts_bits = count_bits and all(one.method in SIGNS for one in activations)
    model.load_state_dict(packed.values, strict=False)
    for key, (name, layer) in layers.items():
        model.set_submodule(name, _packed(layer, packed.weights[key], counts_bits=counts_bits))
    model.eval().requires_grad_(False)


def load_unpacked(model: nn.Module, packed: PackedNetwork, *, source: str = "packed network") -> None:
    """Load all tensors into the binary layers themselves, with signs times scales as their weights.

    Without scaling the outputs are those of ``load_packed`` to the bit; a scale is the mean of equal numbers, which may
    differ from them in its last digit.

    Args:
        model: A network of the same configuration; changed in place.
        packed: Its tensors.
        source: What messages call it.

    Raises:
        RunError: As ``load_packed``.
    """
    _check_fits(model, packed, source)
    weights = {}
    for name, weight in packed.weights.items():
        signs = weight.unpacked()
        scale = 1.0 if weight.scale is None else weight.scale.reshape(-1, *[1] * (signs.dim() - 1))
        weights[name] = signs * scale
    model.load_state_dict({**packed.values, **weights}, strict=False)


def bmxnet_words(layer: QuantisedLayer, word_bits: WordBits = 32) -> Words:
    """A binary layer's signs in BMXNet's layout: (O, C / word_bits, kH, kW), or (O, C / word_bits) for a dense layer.

    Raises:
        ValueError: BMXNet has no packed layer like this one; says why.
    """
    check_bmxnet_packs(layer)
    weight = layer.weight.detach().cpu().numpy()
    if not np.isfinite(weight).all():
        raise ValueError("holds a value that is not finite, which has no sign.")
    if isinstance(layer, QuantisedConv):
        return pack_conv_words(weight, word_bits)
    words = pack_dense_words(weight, word_bits)
    return words.reshape(weight.shape[0], -1)  # a label: the words lie as of the transposed weight


def check_bmxnet_packs(layer: QuantisedLayer) -> None:
    """Refuse a binary layer that BMXNet cannot hold as words.

    Raises:
        ValueError: Says why.
    """
    if isinstance(layer, QuantisedConv):
        if layer.axes != 2:
            raise ValueError(f"has {layer.axes} spatial axes; BMXNet's packed convolutions have 2.")
        if layer.groups != 1:
            raise ValueError(f"has {layer.groups} groups; BMXNet's packed convolutions have 1.")
        if layer.scaling != "none":
            raise ValueError(f"is scaled ({layer.scaling}); BMXNet's packed layers return plain counts.")
    if isinstance(layer, QuantisedConv | QuantisedLinear) and not layer.offset:
        raise ValueError("returns sums (offset=False); BMXNet's packed layers return counts.")


def weight_of_words(layer: QuantisedLayer, words: Words) -> Tensor:
    """The weight, as +1 and -1, of words from ``bmxnet_words``."""
    if isinstance(layer, QuantisedConv):
        return torch.from_numpy(unpack_conv_words(words))
    return torch.from_numpy(unpack_dense_words(words, layer.weight.shape[0]))


def _check_fits(model: nn.Module, packed: PackedNetwork, source: str) -> dict[str, tuple[str, QuantisedLayer]]:
    """Binary layers with their names, by the name of their weight; of a network that has these tensors."""
    layers = {f"{name}.weight": (name, layer) for name, layer in _binary_layers(model)}
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if not name.endswith(COUNTER)}
    given = {name: weight.shape for name, weight in packed.weights.items()}
    given |= {name: tuple(value.shape) for name, value in packed.values.items()}
    faults = [f"{name} is missing" for name in own.keys() - given.keys()]
    faults += [f"{name} has no place in it" for name in given.keys() - own.keys()]
    faults += [
        f"{name} is {given[name]}, expected {own[name]}"
        for name in own.keys() & given.keys()
        if given[name] != own[name]
    ]
    for name in own.keys() & given.keys():
        scaling = _scaling(layers[name][1]) if name in layers else None
        stored = packed.weights[name].scaling if name in packed.weights else None
        if scaling != stored:
            faults.append(f"{name} is stored with scaling {stored!r}, the network has {scaling!r}")
    if faults:
        shown = "; ".join(sorted(faults)[:4])
        raise RunError(f"{source}: {len(faults)} tensors do not fit the network: {shown}. Build it as it was packed.")
    return layers


def _binary_layers(model: nn.Module) -> Iterator[tuple[str, QuantisedLayer]]:
    for name, layer in model.named_modules():
        if is_binary(layer):
            yield name, layer


def _packed(layer: QuantisedLayer, weight: PackedWeight, *, counts_bits: bool) -> nn.Module:
    if isinstance(layer, QuantisedLinear):
        return PackedLinear(layer, weight, counts_bits=counts_bits)
    assert isinstance(layer, QuantisedConv)
    return PackedConv(layer, weight, counts_bits=counts_bits)


def _scaling(layer: QuantisedLayer) -> FileScaling:
    """As the file writes it: an empty text for none."""
    return "" if not isinstance(layer, QuantisedConv) or layer.scaling == "none" else layer.scaling


def _scale(layer: QuantisedLayer) -> Tensor | None:
    """(O,)."""
    if not isinstance(layer, QuantisedConv) or layer.scaling == "none":
        return None
    return layer.scale().detach().reshape(-1).cpu()


def _operands(weight: PackedWeight, *, counts_bits: bool, gives_counts: bool) -> tuple[Tensor, Tensor | None]:
    """Signs and bias; for counts in floats, halves of the signs and of ``n``, as in the layer that trains."""
    signs = weight.unpacked()
    if counts_bits or not gives_counts:
        return signs, None
    return signs * 0.5, signs.new_full((len(signs),), signs[0].numel() / 2)


def _product(product: Callable[[Tensor | None], Tensor], bias: Tensor | None, device: str) -> Tensor:
    """The product with a bias, which is added in float32 where autocast computes in half precision."""
    if bias is None or not is_autocast(device):
        return product(bias)
    return product(None).float() + bias[0]  # n / 2 for every output


def _result(equal: Tensor, n: int, x: Tensor, layout: torch.memory_format, *, gives_counts: bool) -> Tensor:
    """Counts of equal bits, or sums, as the layer that trains gives them: in autocast its sums are rounded."""
    if not is_autocast(x.device.type):
        return (equal if gives_counts else 2 * equal - n).to(x.dtype, memory_format=layout)
    sums = (2 * equal - n).to(torch.get_autocast_dtype(x.device.type), memory_format=layout)
    return sums.float() * 0.5 + n / 2 if gives_counts else sums


def _layout(x: Tensor) -> torch.memory_format:
    is_last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format
