"""Sun, sky and air of a scene: clear or overcast day, dusk, or night with street lamps; sometimes fog."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sightline.data.world.camera import Array


@dataclass(frozen=True)
class Light:
    """Colours are RGB, 1.0 is the white of the picture."""

    name: str
    """``clear``, ``overcast``, ``dusk`` or ``night``."""
    sun_direction: Array
    """(3,) unit vector towards the sun (or moon), world frame; z > 0."""
    sun: Array
    """(3,) colour of direct light."""
    ambient: Array
    """(3,) colour of light from everywhere."""
    sky_top: Array
    """(3,)."""
    sky_horizon: Array
    """(3,); also the colour of the haze."""
    cloudiness: float
    """Contrast of the clouds, 0 to 1."""
    visibility: float
    """Metres after which haze hides all but 1/e of a colour."""
    lamps: float
    """Strength of head lights, tail lights and lit windows, 0 to 1."""
    noise_sigma: float
    """Standard deviation of the sensor noise on mid grey, in levels of 255."""

    def shade(self, normals: Array, distances: Array, facing: Array) -> Array:
        """Light on surfaces.

        Args:
            normals: (F, 3) unit normals, world frame.
            distances: (F,) metres from the camera.
            facing: (F,) cosine between the normal and the direction to the camera: own head lights reach these.

        Returns:
            (F, 3) factor on the albedo.
        """
        direct = np.maximum(normals @ self.sun_direction, 0.0)[:, None] * self.sun
        level = (0.78 + 0.22 * normals[:, 2:]) * self.ambient
        return np.asarray(direct + level + self.beam(distances, facing)[:, None])

    def beam(self, distances: Array, facing: Array) -> Array:
        """(F,) what the ego vehicle's head lights add."""
        return 0.75 * self.lamps * np.maximum(facing, 0.0) / (1.0 + (distances / 14.0) ** 2)

    def haze(self, distances: Array) -> Array:
        """(F,) share of a colour that is replaced by the haze at these distances."""
        return 1.0 - np.exp(-distances / self.visibility)


_WHITE = np.ones(3)


def draw_light(rng: np.random.Generator) -> Light:
    """A light to see the city in."""
    name = ("clear", "overcast", "dusk", "night")[int(rng.choice(4, p=(0.48, 0.26, 0.16, 0.10)))]
    azimuth = rng.uniform(0, 2 * np.pi)
    low, high = {"clear": (25, 65), "overcast": (35, 70), "dusk": (12, 24), "night": (40, 70)}[name]
    elevation = np.radians(rng.uniform(low, high))
    direction = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    gain = rng.uniform(0.88, 1.12)
    tint = 1 + rng.uniform(-0.04, 0.04, 3)
    is_foggy = rng.random() < {"clear": 0.05, "overcast": 0.3, "dusk": 0.2, "night": 0.1}[name]
    visibility = float(rng.uniform(45, 110) if is_foggy else rng.uniform(250, 700))
    cloudiness = float(rng.uniform(0.1, 0.9))
    if name == "clear":
        sun, ambient = np.array([0.74, 0.70, 0.60]), np.array([0.50, 0.53, 0.60])
        top, horizon = np.array([0.30, 0.50, 0.82]), np.array([0.74, 0.82, 0.90])
    elif name == "overcast":
        sun, ambient = np.full(3, 0.14), np.array([0.78, 0.80, 0.83])
        top, horizon = np.array([0.62, 0.66, 0.71]), np.array([0.80, 0.82, 0.84])
    elif name == "dusk":
        sun, ambient = np.array([0.70, 0.45, 0.24]), np.array([0.42, 0.40, 0.48])
        top, horizon = np.array([0.28, 0.34, 0.56]), np.array([0.93, 0.68, 0.48])
    else:
        sun, ambient = np.array([0.05, 0.06, 0.09]), np.array([0.27, 0.28, 0.34])
        top, horizon = np.array([0.03, 0.04, 0.10]), np.array([0.17, 0.18, 0.26])
    if is_foggy:
        sun, ambient = 0.45 * sun, ambient + 0.2 * sun.mean()
        top, horizon = 0.35 * top + 0.65 * horizon, 0.85 * horizon + 0.15 * horizon.mean() * _WHITE
    return Light(
        name=name,
        sun_direction=direction,
        sun=sun * gain * tint,
        ambient=ambient * gain * tint,
        sky_top=top,
        sky_horizon=horizon,
        cloudiness=cloudiness,
        visibility=visibility,
        lamps={"clear": 0.0, "overcast": 0.1, "dusk": 0.5, "night": 1.0}[name],
        noise_sigma=float(rng.uniform(1.0, 3.0) * {"clear": 1.0, "overcast": 1.1, "dusk": 1.6, "night": 2.4}[name]),
    )
