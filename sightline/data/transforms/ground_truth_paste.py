"""Objects of other scenes, with their points, put where there is room: ground-truth sampling.

Letters: P points of F numbers, M boxes of C numbers, n candidates, K classes. Yan et al., "SECOND: sparsely embedded
convolutional detection", Sensors 2018, section 3.2.

Which objects are tried is drawn (``PasteObjects.draw``); which of them find room, and what becomes of the scene,
follows from that (``PasteObjects.paste``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt

from sightline.config.base import Config
from sightline.config.errors import ConfigError, did_you_mean
from sightline.config.printable import counted, printable
from sightline.data.ground_truth_database import GroundTruthDatabase
from sightline.data.transforms.points import PointScene
from sightline.ops.frames import Calibration
from sightline.ops.point_pairs import inside_pairs
from sightline.ops.rotated_overlap import rotated_overlaps

Array = np.ndarray[Any, Any]
Rows = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

Counts = int | tuple[int, ...] | tuple[tuple[str, int], ...]


def _known_counts(given: object) -> object:
    if _is_count(given):
        return given
    found = list(given) if isinstance(given, list | tuple) else []
    pairs = [one for one in found if isinstance(one, list | tuple) and len(one) == 2 and isinstance(one[0], str)]
    counts = [pair[1] for pair in pairs] if pairs else found
    if not found or (pairs and len(pairs) != len(found)) or not all(map(_is_count, counts)):
        raise ValueError(
            "give one number for all classes (15), one for each ([15, 10, 10]), or some by name ([[Car, 15]]), "
            f"not {given!r}"
        )
    names = [pair[0] for pair in pairs]
    if len(set(names)) != len(names):
        raise ValueError(f"a class has two numbers in {given!r}")
    return given


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


class PasteConfig(Config):
    """Ground-truth sampling. The defaults are those of PointPillars on KITTI."""

    counts: Annotated[Counts, BeforeValidator(_known_counts)] = 15
    """Objects of each class that are tried in a scene: one number for all classes, one for each in their order
    ([20, 15, 15]), or some by name, which then also says who comes first ([[Car, 15], [Cyclist, 10]]). Those that
    would stand in another box, or in another candidate of their class, are left out."""
    fill_up: bool = False
    """Try only as many as the scene lacks: ``counts`` less the objects of the class that it has."""
    min_points: NonNegativeInt = 5
    """Objects with fewer points are never pasted."""
    without_levels: tuple[Annotated[int, Field(ge=-1, le=2)], ...] = (-1,)
    """Levels of difficulty that are never pasted: 0 easy, 1 moderate, 2 hard, -1 none of them."""
    onto_plane: bool = True
    """Set objects onto the ground plane of the scene, where it has one; else they keep the height that they had."""
    extra_size: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat] = (0.0, 0.0, 0.0)
    """Points of the scene are cleared from pasted boxes made longer, wider and higher by so much in all, metres."""

    def counts_of(self, class_names: Sequence[str]) -> dict[int, int]:
        """Number of candidates by label, in the order in which the classes are pasted.

        Raises:
            ConfigError: If ``counts`` are not those of the classes.
        """
        given, key = self.counts, "augment.paste.counts"
        if isinstance(given, int):
            return dict.fromkeys(range(len(class_names)), given)
        known = printable(", ".join(class_names), limit=200)
        by_label = {}
        for number, one in enumerate(given):
            name, count = one if isinstance(one, tuple) else (None, one)
            if name is not None and name not in class_names:
                near = did_you_mean(name, list(class_names)) or f" There are: {known}."
                raise ConfigError(f"{key}: the data has no class {printable(name)!r}.{near}")
            by_label[number if name is None else class_names.index(name)] = count
        if not isinstance(given[0], tuple) and len(given) != len(class_names):
            raise ConfigError(
                f"{key}: {counted(len(given), 'number')} for {counted(len(class_names), 'class')} ({known}). Give one "
                f"for all without brackets, one for each in this order, or some by name: "
                f"[[{printable(class_names[0])}, 15]]."
            )
        return by_label


class Candidates(NamedTuple):
    """Objects of one class that are tried, in this order."""

    label: int
    objects: Rows
    """(n,) into the database."""


class PasteObjects:
    """The objects of a database that may be pasted, by class.

    Args:
        database: Objects of the training split.
        config: Which of them, and how many.
        class_names: (K,) classes that are trained, in the order of the labels.

    Raises:
        ConfigError: If the counts are not those of the classes.
    """

    def __init__(self, database: GroundTruthDatabase, config: PasteConfig, class_names: Sequence[str]) -> None:
        self.database = database
        self.config = config
        is_worth = (database.num_points >= config.min_points) & ~np.isin(database.levels, config.without_levels)
        is_worth &= np.isfinite(database.boxes3d).all(axis=1)
        self.counts = config.counts_of(class_names)
        self.objects = {}
        """By label, in the order of the database."""
        lacking = []
        for label, count in self.counts.items():
            of_class = database.of_type(class_names[label])
            self.objects[label] = of_class[is_worth[of_class]]
            if count and not len(self.objects[label]):
                lacking.append(f"{printable(class_names[label])} (of {len(of_class):,})")
        self.messages: tuple[str, ...] = ()
        """Classes of which nothing is pasted: what a run should tell once."""
        if lacking:
            self.messages = (
                f"augment.paste: nothing is pasted of {', '.join(lacking)}: no object in the database is left with "
                f"min_points={config.min_points} and without_levels={list(config.without_levels)}.",
            )

    def messages_about(self, planes: Array) -> tuple[str, ...]:
        """Frames whose ground is not known, where it is asked for: what a run should tell once.

        Args:
            planes: (N, 4) ground of each frame; NaN where it is not known.
        """
        unknown = np.isnan(planes.sum(axis=1))
        if not self.config.onto_plane or not unknown.any():
            return ()
        some = f"{unknown.sum():,} of {counted(len(unknown), 'frame')} have no"
        frames = "no frame has a" if unknown.all() else some
        return (
            f"augment.paste.onto_plane: {frames} known ground plane; objects pasted there keep the height at which "
            "they were recorded.",
        )

    def draw(self, generator: np.random.Generator, labels: Array) -> list[Candidates]:
        """Who is tried in a scene: drawn from all objects of a class without repeats, by this generator alone.

        Args:
            generator: Of this sample.
            labels: (M,) of the scene.
        """
        drawn = []
        for label, count in self.counts.items():
            objects = self.objects[label]
            wanted = count - int((labels == label).sum()) if self.config.fill_up else count
            if len(objects) and wanted > 0:
                chosen = generator.choice(len(objects), min(wanted, len(objects)), replace=False)
                drawn.append(Candidates(label, objects[chosen]))
        return drawn

    def accepted(self, boxes3d: Array, drawn: Sequence[Candidates]) -> list[Candidates]:
        """The candidates that find room.

        A candidate is left out if it overlaps, seen from above, any box of the scene, an accepted one of a class
        before, or any other candidate of its own class, accepted or not.

        Args:
            boxes3d: (M, C) of the scene, also those that are not trained.
            drawn: Class after class.
        """
        objects, groups = _joined(drawn)
        boxes = self.database.boxes3d[objects]
        overlaps = rotated_overlaps(boxes, np.concatenate((boxes3d[:, :7], boxes)))
        with_scene, overlaps = overlaps[:, : len(boxes3d)].any(axis=1), overlaps[:, len(boxes3d) :]
        np.fill_diagonal(overlaps, val=False)
        is_accepted = np.zeros(len(objects), np.bool_)
        for number in range(len(drawn)):
            mine = groups == number
            in_the_way = with_scene | (overlaps & (mine | is_accepted)).any(axis=1)
            is_accepted |= mine & ~in_the_way
        return [Candidates(one.label, one.objects[is_accepted[groups == number]]) for number, one in enumerate(drawn)]

    def paste(
        self,
        scene: PointScene,
        drawn: Sequence[Candidates],
        *,
        calibration: Calibration | None = None,
        plane: Array | None = None,
    ) -> PointScene:
        """The scene with all candidates that find room: their points in front of the others, their boxes behind them.

        Args:
            scene: With the boxes that are not trained.
            drawn: Class after class.
            calibration: Of the scene; needed for its plane.
            plane: (4,) a, b, c, d of the ground a x + b y + c z + d = 0 in the rect frame; None or NaN: not known.

        Raises:
            ValueError: If a point of the scene has other numbers than one of the database.
        """
        num_features = self.database.points.shape[1]
        if scene.points.shape[1] != num_features:
            has = scene.points.shape[1]
            raise ValueError(f"points: expected {num_features} numbers as in the database, got {has}.")
        found = self.accepted(scene.boxes3d, drawn)
        objects, groups = _joined(found)
        if not len(objects):
            return scene
        labels = np.array([one.label for one in found], np.int64)[groups]
        boxes = self.database.boxes3d[objects]
        lift = np.zeros(len(boxes))
        if self.config.onto_plane and calibration is not None and plane is not None:
            lift = ground_heights(boxes, calibration, plane) - (boxes[:, 2] - boxes[:, 5] / 2)
            lift[~np.isfinite(lift)] = 0
            boxes[:, 2] += lift
        new_boxes = np.zeros((len(boxes), scene.boxes3d.shape[1]), np.float32)  # without velocity
        new_boxes[:, :7] = boxes
        cleared = new_boxes.copy()
        cleared[:, 3:6] += np.array(self.config.extra_size, np.float32)
        rows, _ = inside_pairs(scene.points, cleared)
        return PointScene(
            points=self._joined_points(scene.points, rows, objects, lift),
            boxes3d=np.concatenate((scene.boxes3d, new_boxes)),
            labels=np.concatenate((scene.labels, labels)),
        )

    def _joined_points(self, points: Array, cleared: Array, objects: Rows, lift: Array) -> Array:
        """Points of the objects at their places, then those of the scene but for the cleared rows."""
        is_left = np.ones(len(points), np.bool_)
        is_left[cleared] = False
        left = np.flatnonzero(is_left)
        first = self.database.offsets[objects]
        counts = self.database.offsets[objects + 1] - first
        total = int(counts.sum())
        rows = np.arange(total) + np.repeat(first - counts.cumsum() + counts, counts)
        joined = np.empty((total + len(left), points.shape[1]), np.float32)
        pasted = joined[:total]
        self.database.points.take(rows, axis=0, out=pasted, mode="clip")
        pasted[:, :3] += np.repeat(self.database.boxes3d[objects, :3], counts, axis=0)
        pasted[:, 2] += np.repeat(lift, counts)
        points.take(left, axis=0, out=joined[total:], mode="clip")
        return joined


def ground_heights(boxes3d: Array, calibration: Calibration, plane: Array) -> Array:
    """Height of the ground below (or above) the centres of boxes.

    Straight below means along y of the rect frame, as for the reference system; it differs from z of the LiDAR by the
    tilt between the two.

    Args:
        boxes3d: (M, C), LiDAR frame.
        calibration: Of the scene.
        plane: (4,), rect frame.

    Returns:
        (M,) z in the LiDAR frame; not finite where the plane is unknown or upright.
    """
    a, b, c, d = np.asarray(plane, np.float64)
    ground = calibration.lidar_to_rect(boxes3d)
    with np.errstate(divide="ignore", invalid="ignore"):
        ground[:, 1] = -(a * ground[:, 0] + c * ground[:, 2] + d) / b
        heights: Array = calibration.rect_to_lidar(ground)[:, 2]
    return heights


def _joined(drawn: Sequence[Candidates]) -> tuple[Rows, Rows]:
    """(n,) all objects, and the number of the group of each."""
    counts = [len(one.objects) for one in drawn]
    objects = np.concatenate([np.zeros(0, np.int64), *(one.objects for one in drawn)])
    return objects, np.repeat(np.arange(len(drawn)), counts)
