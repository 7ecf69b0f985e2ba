"""Layers of sparse convolution, of PyTorch alone or of spconv. Shapes: V sites, C channels.

Both kinds have weights of (C_out, k_z, k_y, k_x, C_in) by the same names, so that a checkpoint of one fits the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sightline.config.errors import ConfigError
from sightline.ops.sparse import (
    KernelMap,
    Sites,
    SparseTensor,
    Triple,
    sparse_convolution,
    strided_map,
    submanifold_map,
)

SparseBackend = Literal["torch", "spconv"]


class _SparseConv(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel: Triple, map_name: str, has_bias: bool) -> None:
        super().__init__()
        self.kernel = kernel
        self.map_name = map_name
        self.weight = nn.Parameter(torch.empty(out_channels, *kernel, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if has_bias else None
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # as PyTorch's own convolutions begin
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    def _apply_map(self, input: SparseTensor, kernel_map: KernelMap) -> SparseTensor:
        features = sparse_convolution(input.features, self.weight, kernel_map)
        if self.bias is not None:
            features = features + self.bias
        return SparseTensor(features, kernel_map.sites_out, input.maps)

    def _named_map(
        self, input: SparseTensor, stride: Triple, padding: Triple, *, make: Callable[[], KernelMap]
    ) -> KernelMap:
        known = input.maps.get(self.map_name)
        if known is None:
            known = input.maps[self.map_name] = make()
        same = (known.kernel, known.stride, known.padding) == (self.kernel, stride, padding)
        if not same or known.sites_in is not input.sites:
            raise ValueError(f"The kernel map {self.map_name!r} was made for another layer or for other sites.")
        return known


class SubmanifoldConv3d(_SparseConv):
    """A convolution whose output has the sites of its input.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        kernel: Odd sizes along z, y, x; the input is padded by half of them.
        map_name: Layers with the same kernel on the same sites share the map of this name.
        has_bias: Whether something is added to every site.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: Triple, *, map_name: str, has_bias: bool = False
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, map_name, has_bias)

    def forward(self, input: SparseTensor) -> SparseTensor:
        """(V, C_in) -> (V, C_out) at the same sites."""
        half = (self.kernel[0] // 2, self.kernel[1] // 2, self.kernel[2] // 2)
        kernel_map = self._named_map(input, (1, 1, 1), half, make=lambda: submanifold_map(input.sites, self.kernel))
        return self._apply_map(input, kernel_map)


class SparseConv3d(_SparseConv):
    """A convolution whose output has a site wherever its kernel meets a site of the input.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        kernel: Sizes along z, y, x.
        stride: Cells of the input along one of the output.
        padding: Cells added on every side.
        map_name: By this name ``SparseInverseConv3d`` finds the way back.
        has_bias: Whether something is added to every site.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Triple,
        *,
        stride: Triple,
        padding: Triple,
        map_name: str,
        has_bias: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, map_name, has_bias)
        self.stride = stride
        self.padding = padding

    def forward(self, input: SparseTensor) -> SparseTensor:
        """(V, C_in) -> (V', C_out) on the coarser grid."""
        kernel_map = self._named_map(
            input,
            self.stride,
            self.padding,
            make=lambda: strided_map(input.sites, self.kernel, self.stride, self.padding),
        )
        return self._apply_map(input, kernel_map)


class SparseInverseConv3d(_SparseConv):
    """From the output sites of a ``SparseConv3d`` back to the sites of its input.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        kernel: Sizes along z, y, x, those of the convolution that is undone.
        map_name: Its name.
        has_bias: Whether something is added to every site.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: Triple, *, map_name: str, has_bias: bool = False
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, map_name, has_bias)

    def forward(self, input: SparseTensor) -> SparseTensor:
        """(V', C_in) -> (V, C_out).

        Raises:
            ValueError: If no convolution of that name and kernel came out at these sites.
        """
        known = input.maps.get(self.map_name)
        if known is None or known.kernel != self.kernel or known.sites_out is not input.sites:
            raise ValueError(f"There is no convolution {self.map_name!r} with a kernel of {self.kernel} to undo here.")
        return self._apply_map(input, known.reversed())


class SiteNorm(nn.BatchNorm1d):
    """Batch norm over sites. Fewer than two have no variance: they are normalised as in evaluation, without a trace."""

    def forward(self, input: Tensor) -> Tensor:
        """(V, C) -> (V, C)."""
        if self.training and len(input) < 2:
            return nn.functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


@dataclass(frozen=True)
class SparseLayers:
    """The layers of one backend. Between ``enter`` and ``leave`` its own kind of tensor goes through them."""

    submanifold: Callable[..., nn.Module]
    """As ``SubmanifoldConv3d``."""
    strided: Callable[..., nn.Module]
    """As ``SparseConv3d``."""
    inverse: Callable[..., nn.Module]
    """As ``SparseInverseConv3d``."""
    enter: Callable[[SparseTensor], Any]
    leave: Callable[[Any], SparseTensor]
    with_features: Callable[[Any, Tensor], Any]
    """The same sites with other features."""


def sparse_layers(backend: SparseBackend) -> SparseLayers:
    """The layers of a backend.

    Raises:
        ConfigError: If spconv is asked for and is not there, or is older than 2.0.
    """
    if backend == "torch":
        return SparseLayers(
            SubmanifoldConv3d, SparseConv3d, SparseInverseConv3d, _same, _same, SparseTensor.with_features
        )
    if find_spec("spconv") is None:
        raise ConfigError(
            "model.encoder.backend: spconv is asked for, but not installed. Install the package of your CUDA version "
            "(such as pip install spconv-cu120), or use backend=torch, which needs nothing and gives the same results."
        )
    import spconv
    import spconv.pytorch as layers

    if int(spconv.__version__.partition(".")[0]) < 2:
        raise ConfigError(f"model.encoder.backend: spconv {spconv.__version__} is too old; 2.0 or newer is needed.")

    def submanifold(
        in_channels: int, out_channels: int, kernel: Triple, *, map_name: str, has_bias: bool = False
    ) -> Any:
        half = [size // 2 for size in kernel]
        return layers.SubMConv3d(
            in_channels, out_channels, list(kernel), padding=half, bias=has_bias, indice_key=map_name
        )

    def strided(
        in_channels: int,
        out_channels: int,
        kernel: Triple,
        *,
        stride: Triple,
        padding: Triple,
        map_name: str,
        has_bias: bool = False,
    ) -> Any:
        return layers.SparseConv3d(
            in_channels, out_channels, list(kernel), list(stride), list(padding), bias=has_bias, indice_key=map_name
        )

    def inverse(in_channels: int, out_channels: int, kernel: Triple, *, map_name: str, has_bias: bool = False) -> Any:
        return layers.SparseInverseConv3d(in_channels, out_channels, list(kernel), bias=has_bias, indice_key=map_name)

    def enter(tensor: SparseTensor) -> Any:
        sites = tensor.sites
        return layers.SparseConvTensor(
            tensor.features, sites.coords.int().contiguous(), list(sites.shape_zyx), sites.num_samples
        )

    def leave(tensor: Any) -> SparseTensor:
        depth, height, width = tensor.spatial_shape
        return SparseTensor(
            tensor.features, Sites(tensor.indices.long(), (int(depth), int(height), int(width)), tensor.batch_size)
        )

    def with_features(tensor: Any, features: Tensor) -> Any:
        return tensor.replace_feature(features)

    return SparseLayers(submanifold, strided, inverse, enter, leave, with_features)


def _same(tensor: SparseTensor) -> SparseTensor:
    return tensor
