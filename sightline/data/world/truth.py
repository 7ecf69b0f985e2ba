"""What can be seen of each object in a picture, measured in the pixels that show it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from sightline.data.world.camera import Array, transform
from sightline.data.world.config import WorldConfig
from sightline.data.world.scene import Scene
from sightline.data.world.view import SHIFT, View


@dataclass(frozen=True)
class ImageTruth:
    """The objects that can be seen in a picture, labelled or not, in the order of the scene. M objects.

    The box of an object is the tight box around the pixels in which it can be seen, as in COCO; what is hidden or
    outside does not count. Pixels as in ``camera``; the box around one pixel is 1 wide.
    """

    object_index: Array
    """(M,) int64 into ``Scene.objects``."""
    labels: Array
    """(M,) int64 into ``CLASS_NAMES``."""
    boxes_xyxy: Array
    """(M, 4) float64, whole pixels: around what can be seen."""
    full_boxes_xyxy: Array
    """(M, 4) float64: around the whole object, seen or not; may reach out of the picture."""
    visible_pixels: Array
    """(M,) int64."""
    visible_fraction: Array
    """(M,) in (0, 1]: seen area over the area inside the picture without the things before it."""
    truncation: Array
    """(M,) in [0, 1): share of ``full_boxes_xyxy`` outside of the picture."""
    distance: Array
    """(M,) metres from the camera to the middle of the object."""
    is_labelled: Array
    """(M,) bool: enough of it can be seen (``WorldConfig.min_visible_...``)."""


def measure(
    scene: Scene,
    view: View,
    samples: Array,
    instances: Array,
    silhouettes: dict[int, list[Array]],
    config: WorldConfig,
) -> ImageTruth:
    """The truth of a picture.

    Args:
        scene: What was painted.
        view: From where.
        samples: (2H, 2W) uint8: 1 + index of the object in every painted sample, 0 for anything else.
        instances: (H, W) uint8: the same for every pixel.
        silhouettes: The polygons painted for each object, by its index, in fixed-point samples.
        config: How much must be seen.
    """
    height, width = instances.shape
    index = [number for number in sorted(silhouettes) if (instances == number + 1).any()]
    boxes, pixels, fractions, full_boxes, distances = [], [], [], [], []
    for number in index:
        thing = scene.objects[number]
        shown = (instances == number + 1).astype(np.uint8)
        left, top, wide, tall = cv2.boundingRect(shown)
        boxes.append((left, top, left + wide, top + tall))
        pixels.append(np.count_nonzero(shown))
        fractions.append(np.count_nonzero(samples == number + 1) / _area(silhouettes[number], samples.shape))
        polygons = thing.mesh.placed(thing.ground_position, thing.yaw)
        full_boxes.append(view.bounds(transform(polygons, view.camera_from_world)))
        distances.append(np.linalg.norm(thing.box3d[:3] - view.position))
    full = np.array(full_boxes, dtype=np.float64).reshape(-1, 4)
    inside = full.clip(0, (width, height, width, height))
    visible_pixels = np.array(pixels, dtype=np.int64)
    visible_fraction = np.array(fractions, dtype=np.float64)
    return ImageTruth(
        object_index=np.array(index, dtype=np.int64),
        labels=scene.labels[index],
        boxes_xyxy=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        full_boxes_xyxy=full,
        visible_pixels=visible_pixels,
        visible_fraction=visible_fraction,
        truncation=1 - (inside[:, 2:] - inside[:, :2]).prod(axis=1) / (full[:, 2:] - full[:, :2]).prod(axis=1),
        distance=np.array(distances, dtype=np.float64),
        is_labelled=(visible_pixels >= config.min_visible_pixels) & (visible_fraction >= config.min_visible_fraction),
    )


def _area(polygons: list[Array], shape: tuple[int, ...]) -> int:
    """Samples inside the picture that the polygons cover together, painted as in the picture."""
    corners = np.concatenate(polygons) >> SHIFT
    x0, y0 = np.maximum(corners.min(axis=0) - 1, 0).tolist()
    x1, y1 = np.minimum(corners.max(axis=0) + 2, shape[::-1]).tolist()
    covered = np.zeros((y1 - y0, x1 - x0), dtype=np.uint8)
    origin = np.array([x0 << SHIFT, y0 << SHIFT])
    for polygon in polygons:
        cv2.fillConvexPoly(covered, (polygon - origin).astype(np.int32), 1, cv2.LINE_8, SHIFT)
    return int(np.count_nonzero(covered))
