"""The objects of the world, cut out of its pictures: class folders with ``{train,val}/{car,...}/000000_03.jpg``.

A crop is a square round the box of what can be seen, with some of the street around it, resized to one size. At the
edge of the picture the square is moved inwards, and made smaller where it does not fit. A name says the scene and the
object's number in it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from sightline.config.errors import ConfigError
from sightline.data.transforms.image import resize
from sightline.data.world.camera import Array
from sightline.data.world.config import CLASS_NAMES, EmbeddedCropsConfig
from sightline.data.world.render import render_sample
from sightline.data.world.truth import ImageTruth
from sightline.data.world.writers import split_scenes, whole_folder, write_jpeg


def write_crops(
    out: Path, config: EmbeddedCropsConfig, *, progress: Callable[[int], None] | None = None
) -> dict[str, dict[str, int]]:
    """Render the pictures of a city and write its objects as class folders.

    Args:
        out: Folder to make; it must not exist, or be empty.
        config: Which pictures, which objects, how large.
        progress: Called with the number of finished pictures after each.

    Returns:
        Crops of every class in every split.

    Raises:
        UserError: If the folder has something in it or cannot be written, or a split has no object large enough.
    """
    out = out.expanduser().absolute()
    counts: dict[str, dict[str, int]] = {}
    with whole_folder(out) as unfinished:
        for split, scenes in split_scenes(config.city.scenes, config.city.val_fraction).items():
            counts[split] = dict.fromkeys(CLASS_NAMES, 0)
            for name in CLASS_NAMES:
                (unfinished / split / name).mkdir(parents=True)
            for scene in scenes:
                image, _, _, rendering = render_sample(config.city.seed, scene, config.city.world)
                for number in np.flatnonzero(is_wanted(rendering.truth, config)).tolist():
                    name = CLASS_NAMES[rendering.truth.labels[number]]
                    crop = crop_of(image, rendering.truth.boxes_xyxy[number], config)
                    write_jpeg(unfinished / split / name / f"{scene:06d}_{number:02d}.jpg", crop)
                    counts[split][name] += 1
                if progress is not None:
                    progress(scene + 1)
            if not any(counts[split].values()):
                raise ConfigError(
                    f"no object of the {len(scenes):,} scenes of {split!r} has a side of {config.min_side} pixels and "
                    f"shows {config.min_visible_fraction:g} of itself. Use more scenes, or a smaller min_side."
                )
    return counts


def is_wanted(truth: ImageTruth, config: EmbeddedCropsConfig) -> Array:
    """(M,) which objects are large enough and seen well enough."""
    sides = (truth.boxes_xyxy[:, 2:] - truth.boxes_xyxy[:, :2]).max(axis=1, initial=0)
    is_seen = truth.is_labelled & (truth.visible_fraction >= config.min_visible_fraction)
    return np.asarray(is_seen & (sides >= config.min_side))


def crop_of(image: Array, box_xyxy: Array, config: EmbeddedCropsConfig) -> Array:
    """The square (crop_size, crop_size, 3) around a box of whole pixels."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = box_xyxy.astype(int).tolist()
    longest = max(x1 - x0, y1 - y0)
    side = min(longest + 2 * round(config.context * longest), height, width)
    left = min(max((x0 + x1 - side) // 2, 0), width - side)
    top = min(max((y0 + y1 - side) // 2, 0), height - side)
    part = np.ascontiguousarray(image[top : top + side, left : left + side])
    return resize(part, (config.crop_size, config.crop_size), area=True)
