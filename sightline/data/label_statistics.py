"""What a data set holds, in a few small tables: how many boxes of which class, where, and how large."""

from __future__ import annotations

from typing import Any

import numpy as np

from sightline.data.annotations import ImageAnnotations

CELLS = 32
"""Cells of the position and size tables along each side of an image."""
MOST_BOXES = 50
"""The last bin of ``boxes_per_image`` holds images with so many boxes or more."""


def label_statistics(annotations: ImageAnnotations) -> dict[str, Any]:
    """Counts of one split as plain values for JSON; crowds are left out of the tables.

    Returns:
        ``source``, ``num_images``, ``num_boxes``, ``num_empty_images``, ``num_crowds``; ``class_counts`` (K);
        ``boxes_per_image``, the number of images with 0, 1, ... ``MOST_BOXES`` boxes; ``centers`` and ``sizes``,
        tables of ``CELLS`` x ``CELLS`` boxes by relative (y, x) of the centre and relative (height, width).
    """
    counts, image_of_box = annotations.boxes_per_image, annotations.image_index
    is_counted = ~annotations.is_crowd & (annotations.sizes_hw[image_of_box] > 0).all(axis=1)
    boxes = annotations.boxes_xyxy[is_counted]
    heights_widths = annotations.sizes_hw[image_of_box[is_counted]]
    centers = (boxes[:, 1::-1] + boxes[:, 3:1:-1]) / 2 / heights_widths  # (n, 2) y, x
    sizes = (boxes[:, 3:1:-1] - boxes[:, 1::-1]) / heights_widths
    return {
        "source": str(annotations.source),
        "num_images": len(counts),
        "num_boxes": len(annotations.labels),
        "num_empty_images": int((counts == 0).sum()),
        "num_crowds": int(annotations.is_crowd.sum()),
        "class_counts": np.bincount(
            annotations.labels[~annotations.is_crowd], minlength=len(annotations.class_names)
        ).tolist(),
        "boxes_per_image": np.bincount(np.minimum(counts, MOST_BOXES), minlength=MOST_BOXES + 1).tolist(),
        "centers": _table(centers),
        "sizes": _table(sizes),
    }


def _table(values: np.ndarray[Any, Any]) -> list[list[int]]:
    """Number of (n, 2) values in [0, 1] by cell, row first."""
    cells = np.clip((values * CELLS).astype(np.int64), 0, CELLS - 1)
    flat = np.bincount(cells[:, 0] * CELLS + cells[:, 1], minlength=CELLS * CELLS)
    table: list[list[int]] = flat.reshape(CELLS, CELLS).tolist()
    return table
