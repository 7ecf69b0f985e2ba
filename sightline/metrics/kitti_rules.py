"""What KITTI's evaluation asks of which class: overlaps, difficulties, neighbours, and the places of a curve.

Official source: the object development kit of Geiger et al., "Are we ready for autonomous driving? The KITTI vision
benchmark suite", CVPR 2012, https://www.cvlibs.net/datasets/kitti/eval_object.php; 40 recall positions since 2019,
after Simonelli et al., "Disentangling monocular 3D object detection", ICCV 2019.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

METRICS = ("image", "bev", "3d")
"""Where boxes overlap: in the picture, on the ground seen from above, in space."""
DIFFICULTIES = ("easy", "moderate", "hard")
NUM_RECALLS = 41
"""Places of a curve: recall 0, 1/40 ... 1."""


class Difficulty(NamedTuple):
    """What an object must be to count."""

    min_height: float
    """Pixels; the box in the picture must be higher. Detections that are lower are ignored."""
    max_occlusion: int
    max_truncation: float


LIMITS = (Difficulty(40, 0, 0.15), Difficulty(25, 1, 0.3), Difficulty(25, 2, 0.5))
"""Of the three difficulties."""

VEHICLES = frozenset(
    {
        "bus", "car", "construction_vehicle", "misc_vehicle", "pickup", "suv", "trailer", "train", "tram", "truck",
        "van", "vehicle",
    }
)  # fmt: skip
"""Types that must overlap as cars must; everything else as pedestrians and cyclists."""

NEIGHBOURS = {"car": frozenset({"van"}), "pedestrian": frozenset({"person_sitting"})}
"""Types so alike that finding one in place of the other is neither right nor wrong."""

DONT_CARE = "dontcare"
"""Regions without labels: detections inside of one are not wrong."""


def min_overlaps(class_name: str) -> Array:
    """(2, 3) overlaps that a detection of the class must exceed: strict, then loose; by ``METRICS``.

    KITTI asks 0.7 of cars, 0.5 of pedestrians and cyclists. The loose ones (0.7 in the picture, else 0.5, of cars; 0.5,
    else 0.25, of the others) stand beside them in most tables. Other vehicles are judged as cars are, all else as
    pedestrians.
    """
    if class_name.casefold() in VEHICLES:
        return np.array(((0.7, 0.7, 0.7), (0.7, 0.5, 0.5)))
    return np.array(((0.5, 0.5, 0.5), (0.5, 0.25, 0.25)))


def recall_thresholds(scores: Array, num_truths: int) -> Array:
    """(T,) scores, falling, at which precision is looked at: those nearest to the recalls 0, 1/40, 2/40 ...

    Args:
        scores: (N,) of the detections that found one of the objects, in any order.
        num_truths: Objects that count.
    """
    falling = np.sort(np.asarray(scores, dtype=np.float64))[::-1]
    last = len(falling) - 1
    chosen: list[int] = []
    wanted, next_one = 0.0, 0
    while next_one <= last:
        # The wanted recall lies between those of detection i and of the one after it; if near to the latter, go on.
        i = min(max(next_one, int(wanted * num_truths) - 3), last)
        while i < last and (i + 2) / num_truths - wanted < wanted - (i + 1) / num_truths:
            i += 1
        chosen.append(i)
        wanted, next_one = wanted + 1 / (NUM_RECALLS - 1), i + 1
    return falling[chosen]


def average_precision(curves: Array, positions: int) -> Array:
    """(...) mean precision in percent of curves (..., 41): over 11 recalls from 0, or over 40 without recall 0.

    Raises:
        ValueError: If ``positions`` is neither 11 nor 40.
    """
    if positions not in (11, 40):
        raise ValueError(f"positions: expected 11 or 40, got {positions}.")
    chosen = curves[..., ::4] if positions == 11 else curves[..., 1:]
    mean: Array = chosen.sum(axis=-1) / positions * 100
    return mean
