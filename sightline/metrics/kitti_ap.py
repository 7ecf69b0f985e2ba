"""KITTI's average precision in the picture (with orientation), from above and in space, and recall of boxes in space.

Official source: the object development kit, https://www.cvlibs.net/datasets/kitti/eval_object.php (see
``kitti_rules``). Variant: 40 recall positions (R40), and the older 11 (R11); objects of a neighbouring type, too small,
too hidden or cut off are ignored, and so are detections that are too low; detections on regions without labels count in
no way in the picture. All figures are percent. Overlaps of rotated boxes are exact for equal boxes too.

With n < 41 objects that count, a detector without fault comes to (n - 1) / 40 in R40: so few places of the curve are
ever reached. The figures are left as they are everywhere, and the result says where that is so.

Shapes: N detections, M truths, P pairs of both, K classes, D = 3 difficulties, S = 2 sets of overlaps, T thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from sightline.metrics.kitti_boxes import NO_DETECTIONS, NO_TRUTHS, KittiDetections, KittiTruths, checked, joined
from sightline.metrics.kitti_curves import KittiCurves
from sightline.metrics.kitti_rules import DIFFICULTIES, NUM_RECALLS, average_precision, min_overlaps

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class KittiResult:
    """Everything that one evaluation yields; precisions are in [0, 1], what ``figures`` and ``ap`` give is percent."""

    class_names: tuple[str, ...]
    curves: dict[str, Array]
    """``image``, ``bev``, ``3d`` and, where detections have angles, ``aos``: (K, D, S, 41) precision, or similarity of
    orientation, at the recalls 0, 1/40 ... 1; strict overlaps, then loose ones."""
    num_valid: Array
    """(K, D) objects that count."""
    num_truths: Array
    """(K,) objects of each class."""
    num_detections: Array
    """(K,)."""
    recall: dict[float, float]
    """Percent of all objects of the classes that some detection overlaps by more, in space; 0 without objects."""

    def ap(self, metric: str, *, positions: int = 40) -> Array:
        """(K, D, S) percent."""
        return average_precision(self.curves[metric], positions)

    @property
    def figures(self) -> dict[str, float]:
        """All figures by name, in percent.

        ``3d_moderate_R40`` and ``bev_moderate_R40`` are means over the classes that have objects that count, 0 where
        none has; then ``Car/3d/moderate_R40`` for each class, way and difficulty (``aos`` where detections have
        angles), and ``recall/0.5`` of all classes together.
        """
        has_truth = self.num_valid[:, 1] > 0
        figures = {}
        for metric in ("3d", "bev"):
            moderate = self.ap(metric)[has_truth, 1, 0]
            figures[f"{metric}_moderate_R40"] = float(moderate.mean()) if len(moderate) else 0.0
        ways = {metric: self.ap(metric) for metric in ("3d", "bev", "image", "aos") if metric in self.curves}
        for label, name in enumerate(self.class_names):
            for metric, ap in ways.items():
                for place, difficulty in enumerate(DIFFICULTIES):
                    figures[f"{name}/{metric}/{difficulty}_R40"] = float(ap[label, place, 0])
        return figures | {f"recall/{at:g}": value for at, value in self.recall.items()}

    def notes(self) -> list[str]:
        """What a reader must know to trust the figures."""
        few = []
        for name, counts in zip(self.class_names, self.num_valid.tolist(), strict=True):
            low = [f"{d} {count}" for d, count in zip(DIFFICULTIES, counts, strict=True) if count < NUM_RECALLS]
            few += [f"{name} ({', '.join(low)})"] if low else []
        if not few:
            return []
        return [
            f"Fewer than {NUM_RECALLS} objects count: {', '.join(few)}. Where n count, a detector that finds all of "
            "them and nothing else comes to 100 (n - 1) / 40 percent in R40, not to 100."
        ]

    def details(self) -> dict[str, Any]:
        """The table of classes, AP by all rules, and curves, as plain values.

        Returns:
            ``class_names``; ``classes``, an object a class with ``name``, ``num_truths``, ``num_detections`` and
            ``3d_easy`` ... ``aos_hard`` (R40, strict, percent); ``kitti`` with ``num_valid`` (K, D), ``min_overlaps``
            (K, S, 3), ``R11`` and ``R40`` (for each way (K, D, S)), ``curves`` (for each way (K, D, S, 41)) and
            ``notes``.
        """
        rows = [
            {
                "name": name,
                **{
                    f"{metric}_{difficulty}": round(float(ap[label, place, 0]), 5)
                    for metric, ap in ((metric, self.ap(metric)) for metric in self.curves)
                    for place, difficulty in enumerate(DIFFICULTIES)
                },
                "num_truths": int(self.num_truths[label]),
                "num_detections": int(self.num_detections[label]),
            }
            for label, name in enumerate(self.class_names)
        ]
        return {
            "class_names": list(self.class_names),
            "classes": rows,
            "kitti": {
                "difficulties": list(DIFFICULTIES),
                "num_valid": self.num_valid.tolist(),
                "min_overlaps": [min_overlaps(name).tolist() for name in self.class_names],
                "R11": {metric: self.ap(metric, positions=11).tolist() for metric in self.curves},
                "R40": {metric: self.ap(metric).tolist() for metric in self.curves},
                "curves": {metric: np.round(curve, 5).tolist() for metric, curve in self.curves.items()},
                "notes": self.notes(),
            },
        }


class KittiAP:
    """KITTI's figures over frames that arrive in any order and in any number of processes.

    The result depends on the boxes and the numbers of the frames alone, not on who saw a frame when.
    """

    def __init__(self, class_names: Sequence[str], type_names: Sequence[str]) -> None:
        """Start empty.

        Args:
            class_names: (K,) of the labels of detections.
            type_names: Of the ``types`` of truths; upper and lower case are the same to KITTI.
        """
        self.class_names = tuple(class_names)
        self.type_names = tuple(type_names)
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        self._frames: list[Array] = []
        self._truths: list[KittiTruths] = []
        self._detections: list[KittiDetections] = []
        self._result: KittiResult | None = None

    def update(self, frames: Array | Sequence[int], truths: KittiTruths, detections: KittiDetections) -> None:
        """Add whole frames; each frame once.

        Args:
            frames: (B,) numbers of all frames looked at, those without objects and detections included.
            truths: Of these frames.
            detections: Of these frames, any number.

        Raises:
            ValueError: If a shape is wrong, a value is not finite, a label or type unknown, or a frame not among them.
        """
        numbers = np.asarray(frames, dtype=np.int64).reshape(-1)
        truths, detections = checked(truths), checked(detections)
        for name, side in (("truths", truths), ("detections", detections)):
            unknown = np.flatnonzero(~np.isin(side.frames, numbers))
            if len(unknown):
                raise ValueError(f"{name}: frame {side.frames[unknown[0]]} is none of the frames added.")
        for name, numbered, lowest, names in (
            ("types", truths.types, 0, self.type_names),
            ("labels", detections.labels, -1, self.class_names),
        ):
            outside = numbered[(numbered < lowest) | (numbered >= len(names))]
            if len(outside):
                raise ValueError(f"{name}: {outside[0]}, but they are {lowest} to {len(names) - 1}.")
        self._frames.append(numbers)
        self._truths.append(truths)
        self._detections.append(detections)
        self._result = None

    def merge(self, others: Sequence[Self]) -> None:
        """Take in the frames of other processes; the result is that of one process that saw them all.

        Raises:
            ValueError: If the other metric has other classes or types.
        """
        for other in others:
            if (other.class_names, other.type_names) != (self.class_names, self.type_names):
                raise ValueError("merge: the metrics have different classes or types.")
            self._frames += other._frames
            self._truths += other._truths
            self._detections += other._detections
        self._result = None

    def compute(self) -> dict[str, float]:
        """``KittiResult.figures`` of the frames since ``reset``."""
        return self.evaluate().figures

    def evaluate(self) -> KittiResult:
        """All figures, tables and curves of the frames since ``reset``; made once, whatever is asked of them.

        Raises:
            ValueError: If a frame was added twice.
        """
        if self._result is None:
            frames, counts = np.unique(np.concatenate([np.zeros(0, np.int64), *self._frames]), return_counts=True)
            if (counts > 1).any():
                raise ValueError(f"frame {frames[counts > 1][0]} was added more than once.")
            curves = KittiCurves(
                self.class_names,
                self.type_names,
                joined([NO_TRUTHS, *self._truths]),
                joined([NO_DETECTIONS, *self._detections]),
            )
            self._result = KittiResult(
                class_names=self.class_names,
                curves=curves.all_curves(),
                num_valid=curves.num_valid(),
                num_truths=curves.num_truths(),
                num_detections=curves.num_detections(),
                recall=curves.recall(),
            )
        return self._result
