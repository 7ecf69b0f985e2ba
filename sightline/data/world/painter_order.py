"""In which order to paint solids so that the nearer ones cover the farther ones (painter's algorithm).

Two solids with a plane between them have a right order from every viewpoint: the one on the viewer's side is painted
later. N solids.
"""

from __future__ import annotations

import numpy as np

from sightline.data.world.camera import Array

_GAP = 1e-6


def order_of_boxes(boxes: Array, viewpoint: Array) -> list[int]:
    """Back-to-front order of axis-aligned boxes.

    Args:
        boxes: (N, 6) x_min, y_min, z_min, x_max, y_max, z_max; no two overlap.
        viewpoint: (3,).

    Returns:
        The N indices, farthest first. Boxes that overlap are ordered by distance.
    """
    low, high = boxes[:, :3], boxes[:, 3:]
    b_is_above = low[None, :, :] >= high[:, None, :] - _GAP  # (N, N, 3)
    viewer_is_above = viewpoint >= high[:, None, :]  # (N, 1, 3)
    b_is_below = high[None, :, :] <= low[:, None, :] + _GAP
    viewer_is_below = viewpoint <= low[:, None, :]
    before = np.any(b_is_above & viewer_is_above | b_is_below & viewer_is_below, axis=2)
    before = before | np.any(b_is_above & ~viewer_is_above | b_is_below & ~viewer_is_below, axis=2).T
    distance = (((low + high) / 2 - viewpoint) ** 2).sum(axis=1)
    return _back_to_front(before, distance)


def order_of_footprints(centres: Array, half_sizes: Array, yaws: Array, viewpoint: Array) -> list[int]:
    """Back-to-front order of upright solids by their rectangles on the ground.

    Args:
        centres: (N, 2).
        half_sizes: (N, 2) half length and half width.
        yaws: (N,) radians.
        viewpoint: (2,).

    Returns:
        The N indices, farthest first. Solids that overlap are ordered by distance.
    """
    cosine, sine = np.cos(yaws), np.sin(yaws)
    axes = np.stack([np.stack([cosine, sine], -1), np.stack([-sine, cosine], -1)], axis=1)  # (N, 2 axes, 2)
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    corners = centres[:, None] + (half_sizes[:, None] * signs) @ axes  # (N, 4, 2)
    offsets = corners[None, :] - centres[:, None, None]  # (N of a, N of b, 4, 2): corners of b around a
    along = np.einsum("abcx,akx->abkc", offsets, axes)  # (N, N, 2, 4)
    viewer = np.einsum("ax,akx->ak", viewpoint - centres, axes)  # (N, 2)
    size = half_sizes[:, :, None]
    before = np.zeros((len(centres), len(centres)), dtype=bool)
    for b_is_beyond, viewer_is_beyond in (
        ((along >= size[:, None] - _GAP).all(axis=3), (viewer >= half_sizes)[:, None]),
        ((along <= -size[:, None] + _GAP).all(axis=3), (viewer <= -half_sizes)[:, None]),
    ):
        before |= (b_is_beyond & viewer_is_beyond).any(axis=2)  # b and the viewer stand before the same face of a
        before |= (b_is_beyond & ~viewer_is_beyond).any(axis=2).T  # a lies between the viewer and b, or beside
    return _back_to_front(before, ((centres - viewpoint) ** 2).sum(axis=1))


def _back_to_front(before: Array, distance: Array) -> list[int]:
    """Repeatedly takes the farthest solid that must not wait for another; a ring of solids starts at the farthest.

    ``before[a, b]`` says that a cannot hide b. Where b cannot hide a either, their order is free.
    """
    before = before & ~before.T
    blockers = before.sum(axis=0)
    waiting = np.ones(len(distance), dtype=bool)
    order: list[int] = []
    for _ in range(len(distance)):
        free = waiting & (blockers == 0)
        candidates = np.flatnonzero(free if free.any() else waiting)
        chosen = int(candidates[np.argmax(distance[candidates])])
        order.append(chosen)
        waiting[chosen] = False
        blockers = blockers - before[chosen]
    return order
