"""What the world looks like, and how much of it a recipe trains on."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from sightline.config.base import Config

CLASS_NAMES = ("car", "truck", "pedestrian", "cyclist", "cone")

WORLD_VERSION = 1
"""Raised whenever the same numbers would give another scene or picture."""

LIDAR_VERSION = 1
"""Raised whenever the same scenes would give other points or labels."""

CROPS_VERSION = 1
"""Raised whenever the same pictures would give other crops."""

Share = Annotated[float, Field(ge=0, le=1)]
CountRange = tuple[NonNegativeInt, NonNegativeInt]


class WorldConfig(Config):
    """The synthetic city and its cameras. A scene is a function of these values, a seed and an index."""

    image_hw: tuple[Annotated[int, Field(ge=64, le=4096)], Annotated[int, Field(ge=64, le=4096)]] = (256, 416)
    """Height and width of the pictures, pixels."""
    field_of_view_degrees: float = Field(62.0, ge=20, le=110)
    """Horizontal field of view of every camera."""
    objects_ahead: CountRange = (4, 9)
    """Fewest and most labelled objects that are put in the front camera's view; some may be hidden."""
    objects_behind: CountRange = (1, 4)
    """The same for the objects elsewhere, which other cameras, LiDAR and radar see."""
    class_weights: tuple[Share, Share, Share, Share, Share] = (0.24, 0.17, 0.22, 0.19, 0.18)
    """How often cars, trucks, pedestrians, cyclists and cones are drawn, relative to each other."""
    reach: PositiveFloat = 1.0
    """Factor on the largest distance of every class: larger means smaller and harder objects."""
    noise: float = Field(1.0, ge=0)
    """Factor on the sensor noise."""
    blur: float = Field(1.0, ge=0)
    """Factor on defocus and motion blur."""
    min_visible_pixels: PositiveInt = 40
    """An object is labelled if at least this many of its pixels can be seen ..."""
    min_visible_fraction: Share = 0.2
    """... and they are at least this share of what would be seen without the things before it."""

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> WorldConfig:
        for name in ("objects_ahead", "objects_behind"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the fewest ({low}) are more than the most ({high})")
            if high > 100:
                raise ValueError(f"{name}: {high} objects do not fit into a street; at most 100")
        if not sum(self.class_weights) > 0:
            raise ValueError("class_weights: at least one must be above 0")
        return self


class LidarConfig(Config):
    """A spinning LiDAR on the roof, 1.84 m above the ground."""

    beams: int = Field(48, ge=1, le=256)
    """Rays above each other, at equal angles."""
    elevation_degrees: tuple[Annotated[float, Field(ge=-60, le=45)], Annotated[float, Field(ge=-60, le=45)]] = (
        -24.8,
        2.0,
    )
    """Elevation of the lowest and the highest beam."""
    steps_per_turn: int = Field(1800, ge=8, le=20_000)
    """Azimuth steps of a whole turn."""
    sweep_degrees: float = Field(360.0, gt=0, le=360)
    """Part of the turn that is kept, around straight ahead."""
    max_range: PositiveFloat = 80.0
    """Metres."""
    range_noise: float = Field(0.02, ge=0, le=1)
    """Standard deviation along the ray, metres; cut off at four of them."""
    half_range: PositiveFloat = 60.0
    """Metres from where every second ray comes back that meets a surface which scatters a tenth of the light."""
    dropout: Share = 0.03
    """Share of all rays that are lost wherever they go."""

    @model_validator(mode="after")
    def _beams_are_ordered(self) -> LidarConfig:
        low, high = self.elevation_degrees
        if low > high:
            raise ValueError(f"elevation_degrees: the lowest beam ({low}) is above the highest ({high})")
        return self


class EmbeddedWorldConfig(Config):
    """The world as a data set: what a recipe trains on when the user names no data."""

    seed: NonNegativeInt = 0
    """Which city; it stays the same when the run's seed changes."""
    scenes: PositiveInt = 500
    """Pictures in all."""
    val_fraction: Share = 0.2
    """Share of the pictures that validates; the last ones."""
    world: WorldConfig = WorldConfig()


class EmbeddedLidarConfig(Config):
    """The world as a LiDAR data set: what a recipe trains on when the user names no data."""

    seed: NonNegativeInt = 0
    """Which city; it stays the same when the run's seed changes."""
    scenes: PositiveInt = 400
    """Frames in all."""
    val_fraction: Share = 0.25
    """Share of the frames that validates; the last ones."""
    world: WorldConfig = WorldConfig(image_hw=(320, 640))
    """The city and the front camera."""
    lidar: LidarConfig = LidarConfig(sweep_degrees=72.0)
    """The LiDAR; by default a little more than the camera sees."""


class EmbeddedCropsConfig(Config):
    """The objects of the world, cut out, as a data set of image classes."""

    city: EmbeddedWorldConfig = EmbeddedWorldConfig()
    """The pictures that the objects are cut from."""
    crop_size: int = Field(64, ge=8, le=512)
    """Side of the crops, pixels."""
    context: float = Field(0.15, ge=0, le=2)
    """What is seen around an object, on every side, as a share of the longer side of its box."""
    min_side: PositiveInt = 16
    """Objects whose longer side has fewer pixels are left out ..."""
    min_visible_fraction: Share = 0.5
    """... and those of which less than this can be seen."""
