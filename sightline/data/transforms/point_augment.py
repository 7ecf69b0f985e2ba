"""What augmentation does to the point clouds of a training run: its settings, and their order.

The order is fixed: ground-truth sampling, noise and changes of single objects, parts that are missing from them, then
mirroring, turning, scaling and moving the whole scene, parts that are missing from it; at last the objects that are not
trained leave, yaws are wrapped, what is out of range is cut off, and the points are shuffled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, FiniteFloat, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from sightline.config.base import Config, as_list
from sightline.data.transforms.ground_truth_paste import PasteConfig, PasteObjects
from sightline.data.transforms.points import (
    PointScene,
    Side,
    cropped,
    draw_object_moves,
    draw_object_noise,
    draw_shares,
    draw_world_move,
    drop_from_objects,
    drop_from_world,
    move_objects,
    move_world,
    shuffled,
)
from sightline.data.transforms.pyramids import PyramidConfig, change_pyramids
from sightline.ops.frames import Calibration, wrapped

Array = np.ndarray[Any, Any]
Share = Annotated[float, Field(ge=0, le=1)]
Range = tuple[FiniteFloat, FiniteFloat]
Deviations = tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat]
Sides = Annotated[tuple[Side, ...], BeforeValidator(as_list)]
Step = Literal[
    "paste", "object_noise", "local_rotate", "local_scale", "local_translate", "local_drop", "local_pyramids",
    "flip_x", "flip_y", "rotate", "scale", "translate_std", "drop",
]  # fmt: skip

_OFF: dict[str, Any] = {
    "paste": None,
    "object_noise": None,
    "local_rotate": (0, 0),
    "local_scale": (1, 1),
    "local_translate": (0, 0),
    "local_drop": (),
    "local_pyramids": None,
    "flip_x": 0,
    "flip_y": 0,
    "rotate": (0, 0),
    "scale": (1, 1),
    "translate_std": (0, 0, 0),
    "drop": (),
}
"""The value of each key that does nothing."""


class ObjectNoiseConfig(Config):
    """Noise of single objects, which run into no other. The defaults are those of SECOND's paper."""

    translate_std: Deviations = (1.0, 1.0, 0.0)
    """Standard deviations of the shift along x, y and z, metres."""
    rotate: Annotated[float, Field(ge=0, le=math.pi)] = math.pi / 2
    """Turn by +- this angle, radians."""
    tries: PositiveInt = 20
    """Draws for an object until one does not run into another box; after the last it stays where it is."""


class PointAugmentConfig(Config):
    """Random changes of training scenes. The defaults are those of PointPillars on KITTI."""

    paste: PasteConfig | None = PasteConfig()
    """Objects of other scenes; null: none."""
    object_noise: ObjectNoiseConfig | None = None
    """Noise of single objects; null: none."""
    local_rotate: Range = (0.0, 0.0)
    """Smallest and largest turn of a single object, radians; others may be in the way, as for the next two."""
    local_scale: Range = (1.0, 1.0)
    """Smallest and largest factor of the size of a single object."""
    local_translate: Range = (0.0, 0.0)
    """Smallest and largest shift of a single object, along each axis by itself, metres."""
    local_translate_axes: Literal["x", "y", "z", "xy", "xz", "yz", "xyz"] = "xyz"
    """Axes of these shifts."""
    local_drop: Sides = ()
    """Sides of each object that lose points (frustum drop-out): ``top``, ``bottom``, ``left``, ``right``."""
    local_drop_share: tuple[Share, Share] = (0.0, 0.2)
    """Smallest and largest share of its height or width that is lost."""
    local_pyramids: PyramidConfig | None = None
    """Sides of single objects lost, thinned out or exchanged (the shape-aware augmentation of SE-SSD); null: none."""
    flip_x: Share = 0.5
    """Probability of mirroring at the x axis: left and right change places."""
    flip_y: Share = 0.0
    """Probability of mirroring at the y axis: front and back change places."""
    rotate: Range = (-math.pi / 4, math.pi / 4)
    """Smallest and largest turn of the scene, radians."""
    scale: Range = (0.95, 1.05)
    """Smallest and largest factor of the scene's size."""
    translate_std: Deviations = (0.0, 0.0, 0.0)
    """Standard deviations of the scene's shift along x, y and z, metres."""
    drop: Sides = ()
    """Sides of the scene that are lost (frustum drop-out): ``top``, ``bottom``, ``left``, ``right``."""
    drop_share: tuple[Share, Share] = (0.0, 0.2)
    """Smallest and largest share of the cloud's height or width that is lost."""
    shuffle: bool = True
    """Shuffle the points: what a full voxel keeps then differs from epoch to epoch."""
    close_epochs: NonNegativeInt = 0
    """Without what ``close`` names in this many last epochs."""
    close: Annotated[tuple[Step, ...], BeforeValidator(as_list)] = ("paste",)
    """Keys of this group that are off in the last epochs."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("local_rotate", "local_translate", "local_drop_share", "rotate", "drop_share"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must be (smallest, largest), got {(low, high)}.")
        for name in ("local_scale", "scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 10:
                wanted = "(smallest, largest) with 0 < smallest <= largest <= 10"
                raise ValueError(f"{name} must be {wanted}, got {(low, high)}.")
        for name in ("local_drop", "drop", "close"):
            given = getattr(self, name)
            if len(set(given)) != len(given):
                raise ValueError(f"{name} names something twice: {list(given)}.")
        for name in self.useless({key: getattr(self, key) for key in ("close_epochs", "close", *_OFF)}):
            raise ValueError(
                f"{name}={getattr(self, name)} closes what is off already: close is {list(self.close)}. Leave it out, "
                "or close something else."
            )
        return self

    @classmethod
    def useless(cls, values: Mapping[str, Any]) -> tuple[str, ...]:
        """There is nothing to close where all that ``close`` names is off."""

        def is_on(name: str) -> bool:
            default = cls.model_fields[name].get_default() if name in cls.model_fields else None
            value = values.get(name, default)
            return (tuple(value) if isinstance(value, list) else value) != _OFF.get(name)

        names = values.get("close", cls.model_fields["close"].get_default())
        is_idle = values.get("close_epochs") and isinstance(names, list | tuple) and not any(map(is_on, names))
        return ("close_epochs",) if is_idle else ()

    def without_effect(self) -> dict[str, str]:
        """What belongs to changes that are off."""
        idle = {}
        if self.local_translate == (0.0, 0.0):
            idle["local_translate_axes"] = "objects are not shifted (augment.local_translate=[0, 0])"
        if not self.local_drop:
            idle["local_drop_share"] = "objects lose no points (augment.local_drop=[])"
        if not self.drop:
            idle["drop_share"] = "scenes lose no side (augment.drop=[])"
        if self.close_epochs == 0:
            idle["close"] = "nothing is closed (augment.close_epochs=0)"
        return idle

    def closed(self) -> Self:
        """The settings of the last epochs."""
        return self.but(close_epochs=0, **{name: _OFF[name] for name in self.close})


def augment_scene(
    scene: PointScene,
    config: PointAugmentConfig,
    rng: np.random.Generator,
    *,
    closing: bool = False,
    database: PasteObjects | None = None,
    calibration: Calibration | None = None,
    plane: Array | None = None,
    point_range: Sequence[float] | None = None,
) -> PointScene:
    """One augmented training scene.

    Args:
        scene: As it was read, with the objects that are not trained.
        config: Probabilities and ranges.
        rng: Of this sample.
        closing: Whether this is one of the last epochs, without what ``config.close`` names.
        database: What may be pasted; None: nothing is.
        calibration: Of the scene; needed to set pasted objects onto its plane.
        plane: (4,) ground of the scene in the rect frame, None or NaN where it is not known.
        point_range: What is outside of it is left out, as ``cropped`` says; None: nothing is.

    Returns:
        A scene of its own, with trained objects alone, and yaws in [-pi, pi).
    """
    if closing:
        config = config.closed()
    if config.paste is not None and database is not None:
        drawn = database.draw(rng, scene.labels)
        scene = database.paste(scene, drawn, calibration=calibration, plane=plane)
    scene = _with_objects_changed(scene, config, rng)
    move = draw_world_move(
        rng,
        flip_x=config.flip_x,
        flip_y=config.flip_y,
        rotate=config.rotate,
        scale=config.scale,
        translate_std=config.translate_std,
    )
    scene = move_world(scene, move)
    if config.drop:
        scene = drop_from_world(scene, config.drop, draw_shares(rng, config.drop, config.drop_share, 1)[0])
    scene = scene.keep_boxes(scene.labels >= 0)
    scene.boxes3d[:, 6] = wrapped(scene.boxes3d[:, 6])
    if point_range is not None:
        scene = cropped(scene, point_range)
    return shuffled(scene, rng) if config.shuffle else scene


def _with_objects_changed(scene: PointScene, config: PointAugmentConfig, rng: np.random.Generator) -> PointScene:
    """Trained objects one by one; the others stay, and are in the way of the noise."""
    is_trained = scene.labels >= 0
    noise = config.object_noise
    if noise is not None:
        moves = draw_object_noise(
            rng,
            scene.boxes3d,
            is_trained,
            rotate=noise.rotate,
            translate_std=noise.translate_std,
            tries=noise.tries,
        )
        scene = move_objects(scene, moves)
    if (config.local_rotate, config.local_scale, config.local_translate) != ((0, 0), (1, 1), (0, 0)):
        moves = draw_object_moves(
            rng,
            is_trained,
            rotate=config.local_rotate,
            scale=config.local_scale,
            translate=config.local_translate,
            axes=config.local_translate_axes,
        )
        scene = move_objects(scene, moves)
    if config.local_drop:
        shares = draw_shares(rng, config.local_drop, config.local_drop_share, len(scene.labels))
        scene = drop_from_objects(scene, config.local_drop, shares * is_trained[:, None])
    if config.local_pyramids is not None:
        scene = change_pyramids(scene, config.local_pyramids, rng, is_trained)
    return scene
