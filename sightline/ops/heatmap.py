"""Heat maps of object centres. Shapes: M objects, P planes of H x W cells, B samples, K classes, C channels.

A cell is (x, y), column before row. A flat cell is ``y * W + x``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sightline.ops.checks import check_shape


def gaussian_radius(heights: Tensor, widths: Tensor, *, min_overlap: float) -> Tensor:
    """How far a corner may be off so that the box still has the IoU ``min_overlap`` with the true one.

    The smallest of three cases: both corners moved the same way, both moved inwards, both moved outwards. The roots
    are taken as in the authors' program, over 2 instead of over 2a, so that the radius is what networks were trained
    with.

    Args:
        heights: (M,) of the boxes, cells, >= 0.
        widths: (M,) of the boxes, cells, >= 0.
        min_overlap: Wanted IoU, in (0, 1).

    Returns:
        (M,) in cells, not rounded.

    Raises:
        ValueError: If a shape or the overlap is wrong.

    Reference:
        Law and Deng, "CornerNet: Detecting Objects as Paired Keypoints", ECCV 2018, section 3.2.
    """
    check_shape("heights", heights, ("M",))
    check_shape("widths", widths, (len(heights),))
    if not 0 < min_overlap < 1:
        raise ValueError(f"min_overlap: expected a number between 0 and 1, got {min_overlap}.")
    total, area = heights + widths, widths * heights

    def root(a: float, b: Tensor, c: Tensor) -> Tensor:
        return (b + (b**2 - 4 * a * c).sqrt()) / 2

    shifted = root(1, total, area * (1 - min_overlap) / (1 + min_overlap))
    inside = root(4, 2 * total, (1 - min_overlap) * area)
    outside = root(4 * min_overlap, -2 * min_overlap * total, (min_overlap - 1) * area)
    return torch.minimum(torch.minimum(shifted, inside), outside)


def draw_gaussians(planes: Tensor, cells_xy: Tensor, radii: Tensor, *, shape: tuple[int, int, int]) -> Tensor:
    """A peak of height 1 at each object's cell; where peaks meet, the higher value counts.

    A peak is ``exp(-d^2 / (2 s^2))`` with ``s = (2 radius + 1) / 6`` inside of the square of ``2 radius + 1`` cells,
    and 0 outside. All objects are drawn at once, and only the cells of their squares on the map are visited.

    Args:
        planes: (M,) int64 in 0..P-1: where each object is drawn. A negative one is drawn nowhere.
        cells_xy: (M, 2) int64: column and row of the centre. May lie outside of the map.
        radii: (M,) int64 >= 0.
        shape: (P, H, W).

    Returns:
        (P, H, W) float32 in [0, 1].

    Raises:
        ValueError: If a shape is wrong.
    """
    check_shape("planes", planes, ("M",))
    check_shape("cells_xy", cells_xy, (len(planes), 2))
    check_shape("radii", radii, (len(planes),))
    num_planes, height, width = shape
    reach = radii[:, None]
    first = (cells_xy - reach).clamp(min=0)  # (M, 2) the part of each square that lies on the map
    last = torch.minimum(cells_xy + reach, cells_xy.new_tensor((width - 1, height - 1)))
    columns, rows = (last - first + 1).clamp(min=0).unbind(1)
    counts = columns * rows * (planes >= 0)
    ends = counts.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0  # waits for the device: the number of cells decides a shape
    number = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts, output_size=total)
    place = torch.arange(total, device=counts.device) - (ends - counts)[number]
    x = first[number, 0] + place % columns[number]
    y = first[number, 1] + torch.div(place, columns[number], rounding_mode="floor")
    # In float64 and rounded once, as in the authors' program. (Apple's GPUs have no float64.)
    exact = torch.float32 if planes.device.type == "mps" else torch.float64
    sigma = (2 * radii[number] + 1).to(exact) / 6
    off_x, off_y = x - cells_xy[number, 0], y - cells_xy[number, 1]
    values = torch.exp(-(off_x**2 + off_y**2) / (2 * sigma * sigma)).float()
    flat = (planes[number] * height + y) * width + x
    drawn = torch.zeros(num_planes * height * width, device=planes.device).scatter_reduce_(0, flat, values, "amax")
    return drawn.view(shape)


class Peaks(NamedTuple):
    """The N highest values of each sample's heat maps, best first."""

    scores: Tensor
    """(B, N)."""
    labels: Tensor
    """(B, N) int64: which of the K maps."""
    cells: Tensor
    """(B, N) int64, flat."""


def top_peaks(heatmaps: Tensor, limit: int) -> Peaks:
    """The highest values over all classes and cells.

    Args:
        heatmaps: (B, K, H, W).
        limit: At most so many a sample, >= 1.

    Raises:
        ValueError: If a shape or the limit is wrong.
    """
    check_shape("heatmaps", heatmaps, ("B", "K", "H", "W"))
    if limit < 1:
        raise ValueError(f"limit: expected at least 1, got {limit}.")
    num_cells = heatmaps.shape[2] * heatmaps.shape[3]
    flat = heatmaps.flatten(1)
    scores, index = flat.topk(min(limit, flat.shape[1]), dim=1)
    return Peaks(scores, torch.div(index, num_cells, rounding_mode="floor"), index % num_cells)


def gather_cells(maps: Tensor, samples: Tensor, cells: Tensor) -> Tensor:
    """What maps say at some cells.

    Args:
        maps: (B, C, H, W).
        samples: (M,) int64 in 0..B-1.
        cells: (M,) int64, flat.

    Returns:
        (M, C).

    Raises:
        ValueError: If a shape is wrong.
    """
    check_shape("maps", maps, ("B", "C", "H", "W"))
    check_shape("samples", samples, ("M",))
    check_shape("cells", cells, (len(samples),))
    return maps.flatten(2)[samples, :, cells]
