"""What a centre head should say: heat maps with a peak at every object, and the numbers of its box there.

Shapes: B samples, K classes, H x W cells, M true boxes of a batch, P of them that are trained, D numbers of a code.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sightline.ops.boxes3d import BoxTargets3D
from sightline.ops.heatmap import draw_gaussians, gaussian_radius


class CenterGrid(NamedTuple):
    """The cells of the map that a head looks at."""

    origin: tuple[float, float]
    """x and y of its lower corner, metres."""
    voxel_size: tuple[float, float]
    """Size of a voxel along x and y, metres."""
    stride: int
    """Voxels along a cell."""
    map_hw: tuple[int, int]
    """H and W: cells along y and x."""


class CenterTargets(NamedTuple):
    """Targets of a batch, for the classes of all heads."""

    heatmaps: Tensor
    """(B, K, H, W) float32 in [0, 1]; 1 at centres."""
    boxes: Tensor
    """(P,) int64: which true boxes are trained."""
    samples: Tensor
    """(P,) int64."""
    cells: Tensor
    """(P,) int64, flat."""
    codes: Tensor
    """(P, D), NaN where a velocity is not known."""


def center_targets(
    targets: BoxTargets3D, grid: CenterGrid, *, num_classes: int, min_overlap: float, min_radius: int, velocity: bool
) -> CenterTargets:
    """Draw the heat maps, and encode the boxes, of a whole batch at once.

    A box whose centre is beside of the map belongs to the outermost cell, as in the authors' program. Boxes without
    length, width or height are not trained, nor are those with a number that is not finite, velocities aside: their
    loss would not be finite either.

    Args:
        targets: The true boxes; at least 9 numbers each with ``velocity``.
        grid: The map.
        num_classes: K.
        min_overlap: See ``gaussian_radius``.
        min_radius: Of a peak, cells.
        velocity: Whether velocities are among the codes.

    Raises:
        ValueError: If velocities are wanted and the boxes have none.

    Reference:
        Yin et al., "Center-based 3D Object Detection and Tracking", CVPR 2021, section 4.1.
    """
    if velocity and targets.boxes3d.shape[1] < 9:
        raise ValueError(f"boxes3d: velocities are wanted, but boxes have {targets.boxes3d.shape[1]} numbers.")
    # A division by a number would be a multiplication by its rounded inverse on some devices.
    size = targets.boxes3d.new_tensor(grid.voxel_size)
    is_box = (targets.boxes3d[:, 3:6] > 0).all(dim=1) & targets.boxes3d[:, :7].isfinite().all(dim=1)
    boxes = (is_box & (targets.labels >= 0)).nonzero().squeeze(1)
    boxes3d, labels = targets.boxes3d[boxes], targets.labels[boxes]
    counts = torch.tensor(targets.counts, dtype=torch.int64, device=boxes.device)
    samples = torch.repeat_interleave(counts, output_size=len(targets.labels))[boxes]

    height, width = grid.map_hw
    last = boxes3d.new_tensor((width - 0.5, height - 0.5))
    places = (boxes3d[:, :2] - boxes3d.new_tensor(grid.origin)) / size / grid.stride
    places = torch.minimum(places.clamp(min=0), last)  # (P, 2) in cells
    columns_rows = places.long()
    sides = boxes3d[:, 3:5] / size / grid.stride
    radii = gaussian_radius(sides[:, 1], sides[:, 0], min_overlap=min_overlap).long()
    radii = radii.clamp(min=min_radius, max=max(height, width, min_radius))  # nonsense must not fill the memory
    samples_of_all = len(targets.counts)
    planes = samples * num_classes + labels
    heatmaps = draw_gaussians(planes, columns_rows, radii, shape=(samples_of_all * num_classes, height, width))
    yaw = boxes3d[:, 6:7]
    parts = [places - columns_rows, boxes3d[:, 2:3], boxes3d[:, 3:6].log(), yaw.cos(), yaw.sin()]
    if velocity:
        parts.append(boxes3d[:, 7:9])
    return CenterTargets(
        heatmaps.view(samples_of_all, num_classes, height, width),
        boxes,
        samples,
        columns_rows[:, 1] * width + columns_rows[:, 0],
        torch.cat(parts, dim=1),
    )
