"""Sky, ground, markings and shadows: the picture before anything stands in it."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from sightline.data.world.camera import Array, inverse_pose, transform
from sightline.data.world.light import Light
from sightline.data.world.mesh import Colour
from sightline.data.world.scene import Scene, Thing
from sightline.data.world.street import CROSS_HALF, FAR_END, NEAR_END, Street
from sightline.data.world.view import SHIFT, View

Rectangle = tuple[float, float, float, float, Colour]


def paint_background(scene: Scene, view: View, things: list[Thing], rng: np.random.Generator) -> Array:
    """(H, W, 3) uint8 RGB: sky, skyline, ground with texture, haze, cast and contact shadows.

    Args:
        scene: What to paint.
        view: The camera.
        things: What may cast a shadow into the picture.
        rng: For clouds.
    """
    height, width = view.camera.image_hw
    canvas = np.empty((height * view.samples, width * view.samples, 3), dtype=np.uint8)
    light = scene.light
    level = light.shade(np.array([[0.0, 0.0, 1.0]]), np.array([1e9]), np.zeros(1))[0]
    whole = (0, 0, canvas.shape[1], canvas.shape[0])
    cv2.rectangle(canvas, whole, _bytes(np.array(scene.street.grass) * level).tolist(), cv2.FILLED)
    for polygon, colour in _ground_polygons(scene.street, view):
        cv2.fillConvexPoly(canvas, polygon, _bytes(np.array(colour) * level).tolist(), cv2.LINE_8, SHIFT)
    image = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)

    horizon = view.horizon_row
    first = int(np.clip(np.ceil(horizon), 0, height))
    if first < height:
        rows = np.arange(first, height) + 0.5
        image[first:] = _lit_ground(scene, view, image[first:], rows, first, things)
    if first > 0:
        image[:first] = _sky(light, first, width, rng)
        _paint_skyline(image, scene, view, horizon)
    return image


def ground_albedo(street: Street, xy: Array) -> Array:
    """(N, 3) RGB albedo of the ground at (N, 2) places in the street frame, metres: what the cameras see there."""
    albedo = np.tile(np.array(street.grass), (len(xy), 1))
    for x0, x1, y0, y1, colour in _pieces(street):
        inside = (xy[:, 0] >= x0) & (xy[:, 0] <= x1) & (xy[:, 1] >= y0) & (xy[:, 1] <= y1)
        albedo[inside] = colour
    return albedo


def _bytes(colour: Array) -> Array:
    return np.clip(colour * 255 + 0.5, 0, 255).astype(np.uint8)


def _ground_polygons(street: Street, view: View) -> list[tuple[Array, Colour]]:
    """Pieces of the ground in painting order, as pixels."""
    pieces = _pieces(street)
    corners = np.array([[(x0, y0, 0.0), (x1, y0, 0.0), (x1, y1, 0.0), (x0, y1, 0.0)] for x0, x1, y0, y1, _ in pieces])
    polygons = view.to_pixels(transform(corners, view.camera_from_world @ street.world_from_street))
    return [(polygon, piece[4]) for polygon, piece in zip(polygons, pieces, strict=True) if polygon is not None]


def _pieces(street: Street) -> list[Rectangle]:
    """Rectangles (x_min, x_max, y_min, y_max, albedo) of pavements, roads and markings, later ones on top."""
    left, right, half = street.curb_left, street.curb_right, street.half_road
    asphalt, paint = street.asphalt, street.marking
    kerb: Colour = (0.70, 0.69, 0.66)
    rng = np.random.Generator(np.random.Philox(street.texture_seed))
    worn = float(rng.uniform(0.55, 0.95))
    line: Colour = tuple(a + (p - a) * worn for a, p in zip(asphalt, paint, strict=True))  # type: ignore[assignment]
    pieces: list[Rectangle] = [
        (NEAR_END, FAR_END, right - street.sidewalk, left + street.sidewalk, street.paving),
        (NEAR_END, FAR_END, right - 0.18, left + 0.18, kerb),
        (NEAR_END, FAR_END, right, left, asphalt),
    ]
    cross = street.cross_x
    if cross is not None:
        walk = CROSS_HALF + street.sidewalk
        pieces += [
            (cross - walk, cross + walk, left + 0.18, 160.0, street.paving),
            (cross - walk, cross + walk, -160.0, right - 0.18, street.paving),
            (cross - CROSS_HALF - 0.18, cross + CROSS_HALF + 0.18, -160.0, 160.0, kerb),
            (NEAR_END, FAR_END, right, left, asphalt),
            (cross - CROSS_HALF, cross + CROSS_HALF, -160.0, 160.0, asphalt),
        ]
        for y in np.arange(-40.0, 40.0, 5.0).tolist():
            if not right - 1 < y < left + 1:
                pieces.append((cross - 0.07, cross + 0.07, y, y + 2.5, line))
    for _ in range(7):  # patches of another tar, and manhole covers
        x, y = float(rng.uniform(-10, 45)), float(rng.uniform(right + 1, left - 1))
        tone = float(rng.uniform(0.72, 1.15))
        wide = 0.6 if rng.random() < 0.4 else float(rng.uniform(1, 5))
        dark: Colour = (asphalt[0] * tone, asphalt[1] * tone, asphalt[2] * tone)
        pieces.append((x, x + wide, max(y - 0.4, right), min(y + 0.4, left), dark))
    for start in np.arange(-30.0, 75.0, 6.0).tolist():
        if street.is_crossing(start + 1.5, 3.0):
            continue
        pieces.append((start, start + 3.0, -0.07, 0.07, line))
        for lane in range(1, street.lanes_each_way):
            y = lane * street.lane_width
            pieces += [(start, start + 3.0, y - 0.06, y + 0.06, line), (start, start + 3.0, -y - 0.06, -y + 0.06, line)]
    gap = [NEAR_END, FAR_END] if cross is None else [NEAR_END, cross - CROSS_HALF - 1, cross + CROSS_HALF + 1, FAR_END]
    for x0, x1 in zip(gap[::2], gap[1::2], strict=True):
        pieces += [(x0, x1, y - 0.06, y + 0.06, line) for y in (-half + 0.15, half - 0.15)]
    if street.crosswalk_x is not None:
        x = street.crosswalk_x
        for y in np.arange(right + 0.3, left - 0.5, 1.0).tolist():
            pieces.append((x - 1.6, x + 1.6, y, y + 0.5, line))
        pieces.append((x - 3.0, x - 2.7, right + 0.2, -0.1, line))
    return pieces


@lru_cache(maxsize=1)
def _texture() -> Array:
    """(256, 256) float32, tileable, mean 0 and deviation 1: grain and blotches."""
    rng = np.random.Generator(np.random.Philox(20))
    frequency = np.fft.fftfreq(256)
    radius = np.hypot(frequency[:, None], frequency[None, :])
    spectrum = np.fft.fft2(rng.standard_normal((256, 256))) / (0.02 + radius)
    spectrum[0, 0] = 0
    tile = np.fft.ifft2(spectrum).real
    return np.asarray(tile / tile.std(), dtype=np.float32)


def _lit_ground(scene: Scene, view: View, flat: Array, rows: Array, first: int, things: list[Thing]) -> Array:
    """The ground below the horizon with texture, shadows, head lights and haze."""
    light = scene.light
    height, width = flat.shape[:2]
    distance = view.ground_distance(rows)  # (R,)
    world_from_image = view.ground_from_image()
    street_from_world = inverse_pose(scene.street.world_from_street)[np.ix_([0, 1, 3], [0, 1, 3])]
    shift = np.array([[1, 0, 0.5], [0, 1, first + 0.5], [0, 0, 1]])
    offset = scene.street.texture_seed % 251
    gain = np.ones((height, width), dtype=np.float32)
    for scale, strength, fade, coarse in ((14.0, 0.05, 9.0, 1), (1.3, 0.055, 60.0, 4)):  # grain, blotches
        texture_from_street = np.array([[scale, 0, offset], [0, scale, offset * 3], [0, 0, 1]])
        matrix = texture_from_street @ street_from_world @ world_from_image @ shift @ np.diag([coarse, coarse, 1])
        grain = cv2.warpPerspective(
            _texture(),
            matrix,
            (-(-width // coarse), -(-height // coarse)),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_WRAP,
        )
        if coarse > 1:
            grain = cv2.resize(grain, (width, height), interpolation=cv2.INTER_LINEAR)
        gain += grain * (strength * np.exp(-distance / fade)).astype(np.float32)[:, None]
    gain *= _shadow_gain(light, view, things)[first:]
    direct = (light.sun_direction[2] * light.sun + light.ambient).mean()
    gain *= (1.0 + light.beam(distance, np.full(len(rows), 0.45)) / direct).astype(np.float32)[:, None]
    haze = light.haze(distance)
    gain *= (1 - haze).astype(np.float32)[:, None]
    lit = cv2.multiply(flat, cv2.merge([gain, gain, gain]), dtype=cv2.CV_8U)
    veil = _bytes(haze[:, None, None] * light.sky_horizon)  # (R, 1, 3)
    return np.asarray(cv2.add(lit, cv2.resize(veil, (width, height), interpolation=cv2.INTER_NEAREST)))


def _shadow_gain(light: Light, view: View, things: list[Thing]) -> Array:
    """(H, W) float32 factor: cast shadows take away the sun, contact shadows some of the rest."""
    height, width = view.camera.image_hw
    cast = np.zeros((height, width), dtype=np.uint8)
    contact = np.zeros((height, width), dtype=np.uint8)
    slope = light.sun_direction[:2] / light.sun_direction[2]
    if things:
        upright = np.concatenate([_part_corners(thing) for thing in things])  # (Q, 8, 3)
        cast_by = upright.copy()
        cast_by[..., :2] -= upright[..., 2:] * slope
        for mask, solids in ((cast, cast_by), (contact, upright[upright[:, 0, 2] < 0.35])):
            solids[..., 2] = 0.0
            for polygon in view.to_pixels(transform(solids, view.camera_from_world), samples=1, hull=True):
                if polygon is not None:
                    cv2.fillConvexPoly(mask, polygon, 255, cv2.LINE_8, SHIFT)
    sun = light.sun_direction[2] * light.sun.mean()
    share = np.float32(0.92 * sun / (sun + light.ambient.mean()) / 255)
    reach = 2 * round(2.5 * width / 640) + 1
    soft = cv2.blur(contact, (reach, reach))
    return np.asarray((1 - share * cv2.blur(cast, (3, 3))) * (1 - np.float32(0.5 / 255) * soft))


def _part_corners(thing: Thing) -> Array:
    """(Q, 8, 3) corners of the boxes around all parts, world frame; the first corner is a lowest one."""
    if thing.kind == "building":
        boxes = np.array([np.concatenate([-thing.box3d[3:6], thing.box3d[3:6]]) / 2])
        boxes[:, 2::3] += thing.box3d[5] / 2
    else:
        boxes = thing.mesh.part_boxes
    picks = np.array([[0, 1, 2], [3, 1, 2], [3, 4, 2], [0, 4, 2], [0, 1, 5], [3, 1, 5], [3, 4, 5], [0, 4, 5]])
    corners = boxes[:, picks]
    cosine, sine = np.cos(thing.yaw), np.sin(thing.yaw)
    turned = corners.copy()
    turned[..., 0] = corners[..., 0] * cosine - corners[..., 1] * sine
    turned[..., 1] = corners[..., 0] * sine + corners[..., 1] * cosine
    return np.asarray(turned + thing.ground_position)


def _sky(light: Light, rows: int, width: int, rng: np.random.Generator) -> Array:
    """(rows, W, 3) uint8: from the top colour to the colour of the horizon, with clouds."""
    small_rows, small_width = -(-rows // 3), width // 3  # it is smooth: a third of the size will do
    share = ((np.arange(small_rows, dtype=np.float32) + 0.5) / small_rows)[:, None] ** 1.5
    sky = light.sky_top * (1 - share) + light.sky_horizon * share  # (rows, 3)
    lumps = np.zeros((small_rows, small_width), dtype=np.float32)
    for cells, strength in ((5, 0.6), (11, 0.4)):
        grid = rng.random((cells, 2 * cells), dtype=np.float32)
        lumps += strength * cv2.resize(grid, (small_width, small_rows), interpolation=cv2.INTER_CUBIC)
    cover = np.clip((lumps - 0.5) * 2.2, 0, 1) * np.float32(light.cloudiness) * (1 - share)
    cloud = np.minimum(light.sky_horizon * 1.12, 1.0)
    coloured = _bytes(sky[:, None, :] * (1 - cover[:, :, None]) + cloud * cover[:, :, None])
    return np.asarray(cv2.resize(coloured, (width, rows), interpolation=cv2.INTER_LINEAR))


def _paint_skyline(image: Array, scene: Scene, view: View, horizon: float) -> None:
    """Far hills, trees and roofs, so that the ground does not end at the sky."""
    width = image.shape[1]
    columns = np.linspace(0, width, 65)
    directions = view.directions(columns, horizon)
    azimuth = np.arctan2(directions[:, 1], directions[:, 0])
    rng = np.random.Generator(np.random.Philox(scene.street.texture_seed + 1))
    table = rng.uniform(0.4, 1.0, 180) * np.repeat(rng.uniform(0.25, 1.0, 20), 9)
    heights = np.interp(azimuth, np.linspace(-np.pi, np.pi, 180), table, period=2 * np.pi)
    top = horizon - heights * 0.075 * view.camera.intrinsics[0, 0]
    outline = np.stack([np.r_[columns, width, 0], np.r_[top, horizon + 1, horizon + 1]], axis=1)
    light = scene.light
    haze = float(light.haze(np.array([280.0]))[0])
    far = np.array([0.33, 0.37, 0.33]) * (0.6 * light.sun + light.ambient) * (1 - haze) + light.sky_horizon * haze
    points = np.round(outline * (1 << SHIFT)).astype(np.int32)
    cv2.fillPoly(image, [points], _bytes(far).tolist(), cv2.LINE_AA, SHIFT)
