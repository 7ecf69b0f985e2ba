"""Small image data sets on disk, for tests."""

from pathlib import Path

import cv2
import numpy as np

from sightline.data.annotations import ImageAnnotations, PackedStrings
from sightline.data.transforms.augment import ImageAugmentConfig

NO_AUGMENTATION = ImageAugmentConfig(mosaic=0, hsv_h=0, hsv_s=0, hsv_v=0, translate=0, scale=(1, 1), flip_lr=0)
"""Images as they are, resized and padded."""


def smooth_image(seed, height, width):
    """(H, W, 3) uint8 without sharp edges, so that resampling in two ways gives nearly the same."""
    coarse = np.random.default_rng(seed).integers(40, 216, (max(2, height // 16), max(2, width // 16), 3))
    return cv2.resize(coarse.astype(np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


def annotations_of(paths, sizes_hw, boxes, labels, *, is_crowd=None, source=Path("pictures")):
    """Annotations of images with a list of boxes and labels each."""
    counts = [len(part) for part in boxes]
    flat = np.concatenate([np.asarray(part, np.float64).reshape(-1, 4) for part in boxes] or [np.zeros((0, 4))])
    num = len(flat)
    return ImageAnnotations(
        class_names=("a", "b", "c"),
        paths=PackedStrings(str(path) for path in paths),
        sizes_hw=np.asarray(sizes_hw, np.int32).reshape(-1, 2),
        offsets=np.cumsum([0, *counts]),
        boxes_xyxy=flat,
        labels=np.array([label for part in labels for label in part], np.int32),
        is_crowd=np.zeros(num, bool) if is_crowd is None else np.asarray(is_crowd),
        areas=np.ones(num),
        image_ids=np.arange(len(counts)),
        category_ids=np.arange(3),
        faults=(),
        name="pictures/train",
        source=source,
    )


def write_pictures(folder, sizes_hw, *, seed=0, num_boxes=3):
    """Write one smooth PNG per size to ``folder``; boxes at random places."""
    random = np.random.default_rng(seed)
    paths, boxes, labels = [], [], []
    for i, (height, width) in enumerate(sizes_hw):
        paths.append(folder / f"{i:04}.png")
        cv2.imwrite(str(paths[-1]), smooth_image(1000 * seed + i, height, width))
        low = random.uniform(0, 0.5, (num_boxes, 2)) * (width, height)
        high = low + random.uniform(0.2, 0.5, (num_boxes, 2)) * (width, height)
        boxes.append(np.concatenate((low, high), axis=1))
        labels.append(random.integers(0, 3, num_boxes))
    return annotations_of(paths, sizes_hw, boxes, labels, source=folder)


MIXED_SIZES = [(48, 64), (64, 48), (64, 64), (30, 64), (100, 128), (40, 30), (64, 20), (50, 64)]
