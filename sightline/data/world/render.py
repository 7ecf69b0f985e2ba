"""Pictures of a scene with their truth.

The picture is painted back to front at twice its size, together with the number of the object in a fourth channel,
and averaged. So occlusion, silhouettes and picture agree by construction.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from sightline.data.world.camera import Array, Camera, transform
from sightline.data.world.config import WorldConfig
from sightline.data.world.ground import paint_background
from sightline.data.world.light import Light
from sightline.data.world.mesh import face_normals
from sightline.data.world.painter_order import order_of_boxes, order_of_footprints
from sightline.data.world.scene import Scene, Thing, generator, make_scene
from sightline.data.world.sensor import expose
from sightline.data.world.truth import ImageTruth, measure
from sightline.data.world.view import SAMPLES, SHIFT, View

_LAMP_LIGHT = np.array([0.30, 0.25, 0.15])


@dataclass(frozen=True)
class Rendering:
    """One picture of a scene."""

    image: Array
    """(H, W, 3) uint8, RGB."""
    instances: Array
    """(H, W) uint8: 1 + index of the object seen in the pixel, 0 for anything else."""
    truth: ImageTruth
    camera: Camera
    scene: Scene


@dataclass
class _Faces:
    """Polygons in painting order. F faces."""

    pixels: list[Array | None]
    colours: list[list[int]]
    """Four bytes: red, green, blue and the number of the object."""


def render_scene(scene: Scene, config: WorldConfig, camera: str = "CAM_FRONT") -> Rendering:
    """What one camera of the ego vehicle sees.

    Args:
        scene: From ``make_scene``, possibly moved in time.
        config: The config of the scene: noise, blur, and what counts as visible.
        camera: Name of the camera.
    """
    chosen = scene.calibration.camera(camera)
    number = [c.name for c in scene.calibration.cameras].index(camera)
    rng = generator(scene.seed, scene.index, 16 + number)
    view = View(chosen, scene.world_from_ego)
    things = [*scene.objects, *scene.background]
    near = _in_view(things, view, margin=8.0)
    background = paint_background(scene, view, [things[i] for i in near], rng)
    seen = _in_view(things, view, margin=0.0)
    order = order_of_footprints(
        np.array([things[i].box3d[:2] for i in seen]).reshape(-1, 2),
        np.array([things[i].box3d[3:5] / 2 for i in seen]).reshape(-1, 2),
        np.array([things[i].yaw for i in seen]),
        view.position[:2],
    )
    canvas = cv2.resize(
        cv2.cvtColor(background, cv2.COLOR_RGB2RGBA), None, fx=SAMPLES, fy=SAMPLES, interpolation=cv2.INTER_NEAREST
    )
    canvas[:, :, 3] = 0
    sequence = [seen[k] for k in order]
    faces = _faces(
        [things[i] for i in sequence], [i + 1 if i < len(scene.objects) else 0 for i in sequence], view, scene.light
    )
    for polygon, colour in zip(faces.pixels, faces.colours, strict=True):
        if polygon is not None:
            cv2.fillConvexPoly(canvas, polygon, colour, cv2.LINE_8, SHIFT)
    height, width = chosen.image_hw
    image = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)[:, :, :3]
    numbers = cv2.extractChannel(canvas, 3)
    instances = _majority(numbers)
    silhouettes: dict[int, list[Array]] = {}
    for polygon, colour in zip(faces.pixels, faces.colours, strict=True):
        if polygon is not None and colour[3]:
            silhouettes.setdefault(colour[3] - 1, []).append(polygon)
    truth = measure(scene, view, numbers, instances, silhouettes, config)
    return Rendering(expose(image, scene.light, config, rng), instances, truth, chosen, scene)


def render_sample(seed: int, index: int, config: WorldConfig | None = None) -> tuple[Array, Array, Array, Rendering]:
    """The front camera's picture of scene ``index``, with its labelled boxes.

    Returns:
        image (H, W, 3) uint8 RGB; boxes_xyxy (N, 4) float64, whole pixels; labels (N,) int64; everything else.
    """
    config = config or WorldConfig()
    rendering = render_scene(make_scene(seed, index, config), config)
    truth = rendering.truth
    return rendering.image, truth.boxes_xyxy[truth.is_labelled], truth.labels[truth.is_labelled], rendering


def _in_view(things: list[Thing], view: View, margin: float) -> list[int]:
    """Indices of the things whose bounding sphere, ``margin`` metres larger, reaches into the picture."""
    boxes = np.array([thing.box3d for thing in things]).reshape(-1, 7)
    radius = np.linalg.norm(boxes[:, 3:6], axis=1) / 2 + margin
    centres = transform(boxes[:, :3], view.camera_from_world)
    half = (np.array(view.camera.image_hw[::-1]) / 2) / view.camera.intrinsics[[0, 1], [0, 1]]  # tangents
    beyond = np.abs(centres[:, :2]) - half * centres[:, 2:] > radius[:, None] * np.sqrt(1 + half**2)
    return np.flatnonzero((centres[:, 2] > -radius) & ~beyond.any(axis=1)).tolist()


def _faces(things: list[Thing], numbers: list[int], view: View, light: Light) -> _Faces:
    """All faces that look at the camera, shaded, things in the given order."""
    polygons, colours, gloss, glow, owner = [], [], [], [], []
    for thing, number in zip(things, numbers, strict=True):
        mesh = thing.mesh
        placed = mesh.placed(thing.ground_position, thing.yaw)
        if len(mesh.part_boxes) > 1:
            yaw_back = np.array([[np.cos(thing.yaw), np.sin(thing.yaw)], [-np.sin(thing.yaw), np.cos(thing.yaw)]])
            viewpoint = view.position - thing.ground_position
            viewpoint = np.array([*(yaw_back @ viewpoint[:2]), viewpoint[2]])
            rank = np.argsort(order_of_boxes(mesh.part_boxes, viewpoint))
            order = np.argsort(rank[mesh.part], kind="stable")
        else:
            order = np.arange(len(placed))
        polygons.append(placed[order])
        colours.append(mesh.colours[order])
        gloss.append(mesh.gloss[order])
        glow.append(mesh.glow[order])
        owner.append(np.full(len(order), number))
    if not polygons:
        return _Faces([], [])
    corners = np.concatenate(polygons)
    normals = face_normals(corners)
    to_camera = view.position - corners[:, 0]
    keep = (normals * to_camera).sum(axis=1) > 0
    corners, normals = corners[keep], normals[keep]
    to_camera = view.position - corners.mean(axis=1)
    distance = np.linalg.norm(to_camera, axis=1)
    facing = (normals * to_camera).sum(axis=1) / distance
    albedo, mirror = np.concatenate(colours)[keep], np.concatenate(gloss)[keep, None]
    lit = albedo * light.shade(normals, distance, facing)
    sky = light.sky_horizon * (0.35 + 0.65 * np.clip(normals[:, 2:] + 0.3, 0, 1))
    lit += mirror * (sky - 0.3 * lit)
    lit += light.lamps * np.concatenate(glow)[keep, None] * (0.6 * albedo + _LAMP_LIGHT)
    haze = light.haze(distance)[:, None]
    lit = lit * (1 - haze) + light.sky_horizon * haze
    painted = np.empty((len(lit), 4), dtype=np.uint8)
    painted[:, :3] = np.clip(lit * 255 + 0.5, 0, 255)
    painted[:, 3] = np.concatenate(owner)[keep]
    return _Faces(view.to_pixels(transform(corners, view.camera_from_world)), painted.tolist())


def _majority(numbers: Array) -> Array:
    """(2H, 2W) -> (H, W): the number that most of the four samples of a pixel have; of equal pairs, the upper one."""
    height, width = numbers.shape
    out = np.zeros((height // 2, width // 2), dtype=np.uint8)
    left, top, wide, tall = cv2.boundingRect(numbers)
    x0, y0, x1, y1 = left // 2, top // 2, (left + wide + 1) // 2, (top + tall + 1) // 2
    some = numbers[2 * y0 : 2 * y1, 2 * x0 : 2 * x1]
    a, b, c, d = (np.ascontiguousarray(some[i::2, j::2]) for i in (0, 1) for j in (0, 1))
    rest = np.where((b == c) | (b == d), b, np.where(c == d, c, a))
    out[y0:y1, x0:x1] = np.where((a == b) | (a == c) | (a == d), a, rest)
    return out
