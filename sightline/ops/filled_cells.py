"""Maps that are nearly everywhere zero. Shapes: V cells that are not, C channels, B samples, H x W cells.

On a map of pillars about one cell in thirty is filled. A usual convolution multiplies all the zeros too, and its
gradient is taken at all of them; here only filled cells are multiplied, and only they get a gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from sightline.ops.checks import check_shape


class FilledCells(NamedTuple):
    """A map that is given by its filled cells."""

    features: Tensor
    """(V, C)."""
    coords: Tensor
    """(V, 4) int64 of each: sample, z (there is one), y, x; no cell twice."""
    num_samples: int
    """B."""
    map_hw: tuple[int, int]
    """H and W, cells along y and x."""

    def to_map(self) -> Tensor:
        """(B, C, H, W) with zeros in all other cells; in channels-last memory."""
        height, width = self.map_hw
        cell = (self.coords[:, 0] * height + self.coords[:, 2]) * width + self.coords[:, 3]
        canvas = self.features.new_zeros(self.num_samples * height * width, self.features.shape[1])
        canvas = canvas.index_copy(0, cell, self.features)
        return canvas.view(self.num_samples, height, width, canvas.shape[1]).permute(0, 3, 1, 2)


def conv_of_cells(cells: FilledCells, weight: Tensor, *, stride: int) -> Tensor:
    """A 2D convolution without bias, padded by half its kernel, of a map of filled cells.

    Args:
        cells: The map, C_in channels.
        weight: (C_out, C_in, k, k), k odd, as for ``conv2d``.
        stride: Of the convolution.

    Returns:
        (B, C_out, H', W'), as ``conv2d`` of the full map up to the order of additions; in channels-last memory.
    """
    features, coords = cells.features, cells.coords
    check_shape("coords", coords, (len(features), 4))
    size = weight.shape[2]
    check_shape("weight", weight, ("C_out", features.shape[1], size, size))
    out_h, out_w = (_outputs(extent, size, stride) for extent in cells.map_hw)
    sources, targets = [], []
    for row in range(size):
        y = coords[:, 2] + size // 2 - row
        for column in range(size):
            x = coords[:, 3] + size // 2 - column
            meets = (y % stride == 0) & (x % stride == 0) & (y >= 0) & (x >= 0)
            meets &= (y < out_h * stride) & (x < out_w * stride)
            source = meets.nonzero().squeeze(1)
            line = coords[source, 0] * out_h + y[source] // stride
            sources.append(source)
            targets.append(line * out_w + x[source] // stride)
    taps = weight.permute(2, 3, 1, 0).flatten(0, 1)  # (k k, C_in, C_out)
    with torch.autocast(features.device.type, enabled=False):
        taps = taps.to(features.dtype)
        out = cast(Tensor, _TapByTap.apply(features, taps, cells.num_samples * out_h * out_w, *sources, *targets))
    return out.view(cells.num_samples, out_h, out_w, len(weight)).permute(0, 3, 1, 2)


def _outputs(cells: int, size: int, stride: int) -> int:
    return (cells + 2 * (size // 2) - size) // stride + 1


class _TapByTap(torch.autograd.Function):
    """For every weight of the kernel: take the cells that it sees, multiply, add to where it puts them."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, taps: Tensor, cells: int, *places: Tensor) -> Tensor:
        ctx.save_for_backward(features, taps, *places)
        out = features.new_zeros(cells, taps.shape[2])
        for tap, source, target in zip(taps, places[: len(taps)], places[len(taps) :], strict=True):
            out.index_add_(0, target, features.index_select(0, source) @ tap)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        features, taps, *places = ctx.saved_tensors
        grad_features, grad_taps = torch.zeros_like(features), torch.empty_like(taps)
        for number, (source, target) in enumerate(zip(places[: len(taps)], places[len(taps) :], strict=True)):
            seen = grad.index_select(0, target)
            grad_features.index_add_(0, source, seen @ taps[number].T)
            torch.mm(features.index_select(0, source).T, seen, out=grad_taps[number])
        return grad_features, grad_taps, None, *(None for _ in places)
