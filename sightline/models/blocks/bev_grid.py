"""The space that a LiDAR detector sees, cut into whole cells, and these into the cells of its map."""

from __future__ import annotations

from sightline.ops.voxelize import VoxelGrid

NEARLY_WHOLE = 0.01
"""A range may be off by this part of a cell: sizes such as 0.16 m are no whole binary numbers."""


def check_cells(grid: VoxelGrid, *, key: str, noun: str, divisor: int) -> None:
    """Raise ValueError unless a range is a whole number of cells, and those along x and y can be divided.

    Args:
        grid: The range and its cells.
        key: Key of the configuration that says how large a cell is.
        noun: What the cells are called: ``voxels``.
        divisor: Cells along x and y must be a multiple of it, so that every stride leaves whole cells.
    """
    low, high = grid.point_range[:3], grid.point_range[3:]
    for axis, cells in enumerate(reversed(grid.shape_zyx)):
        size, extent = grid.voxel_size[axis], high[axis] - low[axis]
        if abs(extent / size - cells) > NEARLY_WHOLE:
            raise ValueError(
                f"{key}: {'xyz'[axis]} from {low[axis]:g} to {high[axis]:g} m is not a whole number of {noun} of "
                f"{size:g} m; {extent / cells:g} m would be."
            )
        if axis < 2 and cells % divisor:
            raise ValueError(
                f"point_range, {key}: {cells} {noun} along {'xy'[axis]}, but all strides together need a multiple of "
                f"{divisor}."
            )
