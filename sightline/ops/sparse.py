"""Convolution of space that is nearly everywhere empty: only sites that hold something are computed.

Shapes: V sites, C channels, B samples, K taps of a kernel, D x H x W cells along z, y, x.

Which site sees which other one through which tap is found once, by sorting cell numbers, and kept in a ``KernelMap``;
layers on the same sites share it. A convolution then gathers, multiplies and adds, tap after tap. No site is met twice
in a tap, so the same bits come out on every run, on the CPU and on a GPU.

Reference:
    Graham et al., "3D Semantic Segmentation with Submanifold Sparse Convolutional Networks", CVPR 2018; Yan et al.,
    "SECOND: Sparsely Embedded Convolutional Detection", Sensors 2018, section 3.1.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from sightline.ops.checks import check_shape
from sightline.ops.filled_cells import FilledCells

Triple = tuple[int, int, int]
"""Of z, y, x."""


@dataclass(frozen=True, eq=False)
class Sites:
    """The cells that hold something.

    Raises:
        ValueError: If a shape is wrong.
    """

    coords: Tensor
    """(V, 4) int64: sample, z, y, x; none twice."""
    shape_zyx: Triple
    """D, H, W."""
    num_samples: int
    """B."""

    def __post_init__(self) -> None:
        check_shape("coords", self.coords, ("V", 4))
        if min(self.shape_zyx) < 1:
            raise ValueError(f"shape_zyx: expected at least one cell along each axis, got {self.shape_zyx}.")

    def __len__(self) -> int:
        return len(self.coords)


@dataclass(frozen=True, eq=False)
class KernelMap:
    """Which sites a convolution takes, and to which sites it adds; one entry for each tap, the last axis fastest."""

    sources: tuple[Tensor, ...]
    """K times (P_k,) int64: places among ``sites_in``, none twice."""
    targets: tuple[Tensor, ...]
    """K times (P_k,) int64: places among ``sites_out``, none twice."""
    sites_in: Sites
    sites_out: Sites
    kernel: Triple
    stride: Triple
    padding: Triple

    @property
    def num_pairs(self) -> int:
        """Rows that are multiplied in all."""
        return sum(map(len, self.sources))

    def reversed(self) -> KernelMap:
        """From ``sites_out`` back to ``sites_in``, through the same taps."""
        return replace(
            self, sources=self.targets, targets=self.sources, sites_in=self.sites_out, sites_out=self.sites_in
        )


@dataclass(frozen=True, eq=False)
class SparseTensor:
    """Features of sites.

    Raises:
        ValueError: If there are not as many features as sites.
    """

    features: Tensor
    """(V, C)."""
    sites: Sites
    maps: dict[str, KernelMap] = field(default_factory=dict)
    """Kernel maps by name, as far as layers have asked for them; shared by all tensors that come from one."""

    def __post_init__(self) -> None:
        check_shape("features", self.features, (len(self.sites), "C"))

    def with_features(self, features: Tensor) -> SparseTensor:
        """Other features of the same sites."""
        return replace(self, features=features)

    def to_dense(self) -> Tensor:
        """(B, C, D, H, W), zero where there is no site; channels are the innermost in memory."""
        sites = self.sites
        depth, height, width = sites.shape_zyx
        cells = sites.num_samples * depth * height * width
        dense = self.features.new_zeros(cells, self.features.shape[1])
        dense = dense.index_copy(0, _numbers(sites.coords, sites.shape_zyx), self.features)
        return dense.view(sites.num_samples, depth, height, width, dense.shape[1]).permute(0, 4, 1, 2, 3)

    def to_columns(self) -> FilledCells:
        """The bird's-eye view: (B, C * D, H, W), those D of a channel side by side, by its filled columns."""
        sites = self.sites
        depth, height, width = sites.shape_zyx
        batch, z, y, x = sites.coords.unbind(1)
        flat = torch.stack((batch, torch.zeros_like(z), y, x), dim=1)
        numbers, column = _numbers(flat, (1, height, width)).unique(return_inverse=True)  # type: ignore[no-untyped-call]
        features = self.features.new_zeros(len(numbers), self.features.shape[1], depth)
        features[column, :, z] = self.features
        coords = _coords(numbers, (1, height, width))
        return FilledCells(features.flatten(1), coords, sites.num_samples, (height, width))


def submanifold_map(sites: Sites, kernel: Triple) -> KernelMap:
    """The map of a convolution whose output has the sites of its input.

    Args:
        sites: Those of input and output.
        kernel: Odd sizes; the input is padded by half of them.

    Raises:
        ValueError: If a size is even, a site lies outside of the grid or is there twice, or there are too many cells.
    """
    if any(size < 1 or size % 2 == 0 for size in kernel):
        raise ValueError(f"kernel: a submanifold convolution needs odd sizes, got {kernel}.")
    half = cast(Triple, tuple(size // 2 for size in kernel))
    # With a margin beside each grid no step of half a kernel leads into another line.
    margin = cast(Triple, tuple(cells + 2 * h for cells, h in zip(sites.shape_zyx, half, strict=True)))
    _check_places(sites, margin)
    numbers, order = _numbers(sites.coords, margin).sort()
    if bool((numbers[1:] == numbers[:-1]).any()):
        raise ValueError("coords: a site is there twice.")
    everything = torch.arange(len(sites), device=order.device)
    num_taps = math.prod(kernel)
    sources, targets = [everything] * num_taps, [everything] * num_taps
    steps = itertools.product(*(range(-h, h + 1) for h in half))
    for tap, (z, y, x) in enumerate(itertools.islice(steps, num_taps // 2)):
        found, place = _find(numbers, numbers + ((z * margin[1] + y) * margin[2] + x))
        near, here = order[place], order[found]
        sources[tap], targets[tap] = near, here
        sources[-1 - tap], targets[-1 - tap] = here, near  # the opposite tap looks back
    return KernelMap(tuple(sources), tuple(targets), sites, sites, kernel, (1, 1, 1), half)


def strided_map(sites: Sites, kernel: Triple, stride: Triple, padding: Triple) -> KernelMap:
    """The map of a usual convolution, whose output has a site wherever its kernel meets a site of the input.

    Args:
        sites: Those of the input. The output's are sorted by sample, z, y, x.
        kernel: Sizes.
        stride: Cells of the input along one of the output.
        padding: Cells added on every side.

    Raises:
        ValueError: If the grid is smaller than the kernel, a site lies outside of it, or there are too many cells.
    """
    rows = zip(sites.shape_zyx, kernel, stride, padding, strict=True)
    shape = cast(Triple, tuple((cells + 2 * pad - size) // step + 1 for cells, size, step, pad in rows))
    if min(shape) < 1:
        raise ValueError(f"A kernel of {kernel} does not fit into {sites.shape_zyx} cells padded by {padding}.")
    _check_places(sites, shape)
    batch, *axes = sites.coords.unbind(1)
    reached = [
        [_reached(axis, tap, kernel[i], stride[i], padding[i], shape[i]) for tap in range(kernel[i])]
        for i, axis in enumerate(axes)
    ]
    sources, numbers = [], []
    for (z, meets_z), (y, meets_y), (x, meets_x) in itertools.product(*reached):
        source = (meets_z & meets_y & meets_x).nonzero().squeeze(1)
        line = (batch[source] * shape[0] + z[source]) * shape[1] + y[source]
        sources.append(source)
        numbers.append(line * shape[2] + x[source])
    cells, place = torch.cat(numbers).unique(return_inverse=True)  # type: ignore[no-untyped-call]
    targets = torch.split(place, [len(source) for source in sources])
    sites_out = Sites(_coords(cells, shape), shape, sites.num_samples)
    return KernelMap(tuple(sources), tuple(targets), sites, sites_out, kernel, stride, padding)


def sparse_convolution(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """Sum over the taps of what each site sees, times the tap's weights: cross-correlation, as ``conv3d`` does it.

    It is computed in the type of the features, also under autocast: a site's sum has up to K parts.

    Args:
        features: (V, C_in) of ``kernel_map.sites_in``.
        weight: (C_out, k_z, k_y, k_x, C_in).
        kernel_map: Which site sees which.

    Returns:
        (V', C_out) of ``kernel_map.sites_out``.

    Raises:
        ValueError: If shapes do not fit.
    """
    check_shape("features", features, (len(kernel_map.sites_in), "C_in"))
    check_shape("weight", weight, ("C_out", *kernel_map.kernel, features.shape[1]))
    with torch.autocast(features.device.type, enabled=False):
        return cast(Tensor, _TapByTap.apply(features, weight.to(features.dtype), kernel_map))


class _TapByTap(torch.autograd.Function):
    """Keeps nothing but its inputs, and gathers again on the way back."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.kernel_map = kernel_map
        taps = weight.flatten(1, 3).unbind(1)  # K times (C_out, C_in)
        out = features.new_zeros(len(kernel_map.sites_out), len(weight))
        for tap, source, target in zip(taps, kernel_map.sources, kernel_map.targets, strict=True):
            out.index_add_(0, target, features.index_select(0, source) @ tap.T)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, weight = ctx.saved_tensors
        kernel_map: KernelMap = ctx.kernel_map
        for_features, for_weight = ctx.needs_input_grad[:2]
        taps = weight.flatten(1, 3).unbind(1)
        grad_features = torch.zeros_like(features) if for_features else None
        grad_taps = []
        for tap, source, target in zip(taps, kernel_map.sources, kernel_map.targets, strict=True):
            seen = grad.index_select(0, target)
            if grad_features is not None:
                grad_features.index_add_(0, source, seen @ tap)
            if for_weight:
                grad_taps.append(seen.T @ features.index_select(0, source))
        grad_weight = torch.stack(grad_taps, dim=1).view_as(weight) if for_weight else None
        return grad_features, grad_weight, None


def _check_places(sites: Sites, numbered: Triple) -> None:
    """All sites lie in their grid, and the cells of grids ``numbered`` can be."""
    if sites.num_samples * math.prod(numbered) >= 2**62:
        raise ValueError(f"{sites.num_samples} grids of {numbered} cells cannot be numbered.")
    limit = torch.tensor((sites.num_samples, *sites.shape_zyx), device=sites.coords.device)
    if not bool(((sites.coords >= 0) & (sites.coords < limit)).all()):
        raise ValueError(f"coords: a site lies outside of {sites.num_samples} grids of {sites.shape_zyx} cells.")


def _numbers(coords: Tensor, shape_zyx: Triple) -> Tensor:
    """(V,) numbers of the cells (V, 4)."""
    batch, z, y, x = coords.unbind(1)
    return ((batch * shape_zyx[0] + z) * shape_zyx[1] + y) * shape_zyx[2] + x


def _coords(numbers: Tensor, shape_zyx: Triple) -> Tensor:
    """(V, 4) cells of the numbers (V,)."""
    depth, height, width = shape_zyx
    lines = numbers // width
    planes = lines // height
    batch = planes // depth
    return torch.stack((batch, planes - batch * depth, lines - planes * height, numbers - lines * width), dim=1)


def _find(numbers: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the ``wanted`` are among the ascending ``numbers``, and where: (n,) places in each."""
    if wanted.is_cuda:
        place = torch.searchsorted(numbers, wanted)
    else:  # several times faster
        place = torch.from_numpy(np.searchsorted(numbers.numpy(), wanted.numpy()))
    place = place.clamp_(max=max(len(numbers) - 1, 0))
    found = (numbers[place] == wanted).nonzero().squeeze(1)
    return found, place[found]


def _reached(axis: Tensor, tap: int, size: int, stride: int, padding: int, cells: int) -> tuple[Tensor, Tensor]:
    """Along one axis: which of the output's cells each site is added to through a tap, and whether there is one."""
    shifted = axis + (padding - tap)
    cell = torch.div(shifted, stride, rounding_mode="floor")
    return cell, (cell * stride == shifted) & (cell >= 0) & (cell < cells)
