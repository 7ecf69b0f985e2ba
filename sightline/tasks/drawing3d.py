"""Boxes in space, drawn from above and into the camera's picture. Pictures are (H, W, 3) uint8 RGB.

Beside what was found, what is true is white; on its own it has the colours of its classes, as what was found always
has. Shapes: P points, N boxes with C >= 7 numbers as in ``ops.boxes3d``, LiDAR frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch

from sightline.ops.boxes3d import corners3d
from sightline.ops.frames import Calibration
from sightline.tasks.drawing import PALETTE, Pixels, draw_text, text_size

Array = np.ndarray[Any, Any]
Colour = tuple[int, int, int]

NEAR = 0.1
"""Metres before the camera where boxes are cut off."""
HEIGHTS = (-2.8, 1.2)
"""Metres, LiDAR frame: where the colours of points by height begin and end."""

_BACKGROUND: Colour = (15, 18, 26)
_GRID: Colour = (40, 47, 62)
_FAINT: Colour = (128, 140, 162)
_EGO: Colour = (205, 213, 228)
_TRUTH: Colour = (255, 255, 255)
_SHADE = 0.25
"""How much of a box's colour lies on its face."""
_SHIFT = 4
"""Fractional bits of places in pictures."""
_FAR_OUT = 1e6
"""Pixels. OpenCV cuts lines off at the border, but counts in 32 bits."""
_EDGES = np.array([(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)])
"""Pairs of ``corners3d``: the bottom, the top, the uprights."""
_FRONT = [0, 1, 5, 4]


class ShownBoxes(NamedTuple):
    """Boxes to draw; those with a number that is not finite are left out."""

    boxes3d: Array
    """(N, C)."""
    labels: Array
    """(N,) in 0..K-1."""
    scores: Array | None = None
    """(N,), written behind the names."""


class Extent(NamedTuple):
    """The part of the ground that is shown, metres, LiDAR frame."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float


class _Drawn(NamedTuple):
    """One box as it is drawn."""

    corners: Array
    """(8, 3) as ``corners3d`` has them."""
    colour: Colour
    text: str
    """Empty where nothing is written."""
    is_shaded: bool


class _Plan:
    """From metres to pixels: x (ahead) is up, y (left) is left."""

    def __init__(self, extent: Extent, longest: int) -> None:
        length, width = extent.x_max - extent.x_min, extent.y_max - extent.y_min
        if not (length > 0 and width > 0):
            raise ValueError(f"extent: expected x_min < x_max and y_min < y_max, got {tuple(extent)}.")
        self.extent = extent
        self.pixels_per_metre = longest / max(length, width)
        self.height = max(1, round(length * self.pixels_per_metre))
        self.width = max(1, round(width * self.pixels_per_metre))

    def place(self, xy: Array) -> Array:
        """(..., 2) metres to (..., 2) pixels."""
        from_left, from_top = self.extent.y_max - xy[..., 1], self.extent.x_max - xy[..., 0]
        return np.asarray(np.stack([from_left, from_top], axis=-1) * self.pixels_per_metre)


def draw_from_above(
    points: Array,
    class_names: Sequence[str],
    *,
    extent: Extent,
    truths: ShownBoxes | None = None,
    found: ShownBoxes | None = None,
    colour_by: Literal["height", "intensity"] = "height",
    longest: int = 800,
) -> Pixels:
    """A map in true metres: points, boxes, a line every ten metres, and the vehicle at the origin. Ahead is up.

    Args:
        points: (P, F), F >= 3: x, y, z, and for ``intensity`` the intensity in [0, 1] behind them; LiDAR frame.
        class_names: Names by label.
        extent: What is shown.
        truths: What is true.
        found: What was found, with scores.
        colour_by: What the colour of a point says.
        longest: Pixels of the longer side.

    Raises:
        ValueError: If the extent is empty.
    """
    plan = _Plan(extent, longest)
    picture = np.full((plan.height, plan.width, 3), _BACKGROUND, np.uint8)
    _draw_points(picture, plan, points, colour_by)
    _draw_grid(picture, plan)
    _draw_ego(picture, plan)
    thickness = max(1, round(longest / 450))
    scale = longest / 1900
    drawn = list(_drawn(class_names, truths, found))
    for box in drawn:
        outline = plan.place(box.corners[:4, :2])  # (4, 2): ahead and left first, then clockwise
        if box.is_shaded:
            _shade(picture, outline, box.colour)
        middle, ahead = outline.mean(axis=0), outline[:2].mean(axis=0)
        starts = np.concatenate([outline, middle[None]])
        ends = np.concatenate([np.roll(outline, -1, axis=0), (ahead + 0.4 * (ahead - middle))[None]])
        _draw_lines(picture, starts, ends, box.colour, thickness)
    for box in drawn:  # above all boxes
        outline = plan.place(box.corners[:4, :2])
        if (outline.max(axis=0) > 0).all() and (outline.min(axis=0) < (plan.width, plan.height)).all():
            beside = (outline[:, 0].max() + 4, outline[:, 1].mean() - text_size(box.text, scale)[1] / 2)
            _tag(picture, box, np.array(beside), scale)
    _draw_legend(picture, class_names, truths, found, scale)
    return picture


def draw_in_camera(
    pixels: Pixels,
    calibration: Calibration,
    class_names: Sequence[str],
    *,
    truths: ShownBoxes | None = None,
    found: ShownBoxes | None = None,
) -> Pixels:
    """A copy of the picture with the edges of the boxes, the nearest drawn last. Fronts are shaded in class colours.

    What lies behind the camera is not drawn, and boxes that reach there are cut off before it.

    Args:
        pixels: (H, W, 3) RGB.
        calibration: Of the camera that took it.
        class_names: Names by label.
        truths: What is true.
        found: What was found, with scores.
    """
    picture = np.ascontiguousarray(pixels).copy()
    height, width = picture.shape[:2]
    scale = max(0.35, min(height, width) / 1000)
    thickness = max(1, round(min(height, width) / 300))
    drawn = [(box, calibration.lidar_to_rect(box.corners)) for box in _drawn(class_names, truths, found)]
    drawn = [(box, corners) for box, corners in drawn if corners[:, 2].max() > NEAR]
    drawn.sort(key=lambda pair: -float(pair[1][:, 2].mean()))
    tags = []
    for box, corners in drawn:
        front = _cut(np.stack([corners[_FRONT], corners[np.roll(_FRONT, -1)]], axis=1)).reshape(-1, 3)
        if box.is_shaded and len(front):
            _shade(picture, _hull(_pixels(front, calibration)), box.colour)
        edges = _pixels(_cut(corners[_EDGES]).reshape(-1, 3), calibration).reshape(-1, 2, 2)  # (E, 2 ends, 2)
        _draw_lines(picture, edges[:, 0], edges[:, 1], box.colour, thickness)
        low, high = edges.min(axis=(0, 1)), edges.max(axis=(0, 1))
        if (high > 0).all() and (low < (width, height)).all():
            tags.append((box, low - (0, text_size(box.text, scale)[1])))
    for box, place in tags:
        _tag(picture, box, place, scale)
    return picture


def one_above_the_other(top: Pixels, bottom: Pixels) -> Pixels:
    """Two pictures with a thin dark line between them; the narrower one stands in the middle."""
    width = max(top.shape[1], bottom.shape[1])
    rows = []
    for picture in (top, np.full((4, width, 3), _BACKGROUND, np.uint8), bottom):
        missing = width - picture.shape[1]
        margins = ((0, 0), (missing // 2, missing - missing // 2))
        rows.append(np.stack([np.pad(picture[..., k], margins, constant_values=_BACKGROUND[k]) for k in range(3)], -1))
    return np.concatenate(rows)


def _drawn(class_names: Sequence[str], truths: ShownBoxes | None, found: ShownBoxes | None) -> Iterator[_Drawn]:
    """All boxes, those that are true first."""
    for boxes in (truths, found):
        if boxes is None:
            continue
        is_plain = boxes is truths and found is not None
        corners = corners3d(torch.from_numpy(np.asarray(boxes.boxes3d, dtype=np.float64))).numpy()
        for row in np.flatnonzero(np.isfinite(corners).all(axis=(1, 2))).tolist():
            label = int(boxes.labels[row])
            score = "" if boxes.scores is None else f" {boxes.scores[row]:.2f}"
            text = "" if is_plain else class_names[label] + score
            yield _Drawn(corners[row], _TRUTH if is_plain else PALETTE[label % len(PALETTE)], text, not is_plain)


def _tag(picture: Pixels, box: _Drawn, place: Array, scale: float) -> None:
    """The text of a box at a place (2,), moved into the picture if it would reach out of it."""
    if box.text:
        wide, tall = text_size(box.text, scale)
        left, top = np.maximum(
            np.minimum(place, (picture.shape[1] - wide - 1, picture.shape[0] - tall - 1)), 0
        ).tolist()
        draw_text(picture, box.text, (left, top), box.colour, scale)


def _draw_points(picture: Pixels, plan: _Plan, points: Array, colour_by: Literal["height", "intensity"]) -> None:
    """One dot each, the highest (or brightest) above the others."""
    column, low, high = (2, *HEIGHTS) if colour_by == "height" else (3, 0.0, 1.0)
    places = plan.place(points[:, :2].astype(np.float64))
    inside = (
        np.isfinite(points[:, column]) & (places >= 0).all(axis=1) & (places < (plan.width, plan.height)).all(axis=1)
    )
    places, values = places[inside], points[inside, column]
    order = np.argsort(values, kind="stable")
    shares = np.clip((values[order] - low) / (high - low), 0, 1) ** (1.0 if colour_by == "height" else 0.5)
    colours = _ramp()[(shares * 255).astype(np.uint8)]
    x, y = places[order].astype(int).T
    size = 2 if plan.pixels_per_metre >= 10 else 1
    for right in range(size):
        for down in range(size):
            picture[np.minimum(y + down, plan.height - 1), np.minimum(x + right, plan.width - 1)] = colours


def _ramp() -> Array:
    """(256, 3) uint8: from the blue of the ground over green to a light yellow."""
    values = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_VIRIDIS)
    return np.asarray(values[0, :, ::-1])


def _draw_grid(picture: Pixels, plan: _Plan) -> None:
    """Lines every ten metres, below what is there already, with their metres."""
    extent, scale = plan.extent, max(plan.height, plan.width) / 2200
    lines = picture.copy()
    texts = []
    for metres in _tens(extent.x_min, extent.x_max):
        row = round(float(plan.place(np.array([metres, 0.0]))[1]))
        cv2.line(lines, (0, row), (plan.width, row), _GRID, 1)
        wide, tall = text_size(f"{metres} m", scale)
        texts.append((f"{metres} m", (plan.width - wide - 2, row - tall - 1)))
    for metres in _tens(extent.y_min, extent.y_max):
        column = round(float(plan.place(np.array([0.0, metres]))[0]))
        cv2.line(lines, (column, 0), (column, plan.height), _GRID, 1)
        texts.append((f"{metres} m", (column + 2, plan.height - text_size("0", scale)[1] - 1)))
    is_free = (picture == _BACKGROUND).all(axis=2)
    picture[is_free] = lines[is_free]
    for text, place in texts:
        if place[1] >= 0:
            draw_text(picture, text, place, None, scale, _FAINT)


def _tens(low: float, high: float) -> list[int]:
    """The multiples of ten strictly between two numbers."""
    return [metres for metres in range(10 * int(np.floor(low / 10)), int(high) + 10, 10) if low < metres < high]


def _draw_ego(picture: Pixels, plan: _Plan) -> None:
    """An arrow head where the LiDAR is, as long as a car."""
    shape = np.array([(1.8, 0.0), (-1.8, 1.0), (-1.1, 0.0), (-1.8, -1.0)])
    cv2.fillPoly(picture, [_fixed(plan.place(shape))], _EGO, cv2.LINE_AA, _SHIFT)


def _draw_legend(
    picture: Pixels, class_names: Sequence[str], truths: ShownBoxes | None, found: ShownBoxes | None, scale: float
) -> None:
    """The colours that are used, in the upper left corner."""
    used = sorted({int(label) for boxes in (truths, found) if boxes is not None for label in boxes.labels})
    lines = [(class_names[label], PALETTE[label % len(PALETTE)]) for label in used]
    if truths is not None and found is not None:
        lines.insert(0, ("truth", _TRUTH))
    if not lines:
        return
    sizes = np.array([text_size(text, scale) for text, _ in lines])
    wide, tall = sizes.max(axis=0)
    right, foot = 14 + tall + wide, 8 + len(lines) * (tall + 3)
    part = picture[4:foot, 4:right]
    part[:] = part // 4 + (np.array(_BACKGROUND) * 3 // 4).astype(np.uint8)
    for number, (text, colour) in enumerate(lines):
        top = 6 + number * (tall + 3)
        cv2.rectangle(picture, (8, top + 2), (8 + tall - 4, top + tall - 2), colour, cv2.FILLED)
        draw_text(picture, text, (8 + tall + 2, top), None, scale, _EGO)


def _cut(edges: Array) -> Array:
    """(E, 2, 3) edges in the rect frame, what lies before ``NEAR`` of them; fewer where some lie behind it."""
    depth = edges[..., 2]
    edges, depth = edges[depth.max(axis=1) > NEAR], depth[depth.max(axis=1) > NEAR]
    steps = depth[:, ::-1] - depth
    share = np.where(depth < NEAR, (NEAR - depth) / np.where(steps == 0, 1, steps), 0.0)
    return np.asarray(edges + share[..., None] * (edges[:, ::-1] - edges))


def _pixels(points: Array, calibration: Calibration) -> Array:
    """(P, 2) pixels of points (P, 3) before the camera, rect frame."""
    return calibration.rect_to_image(points)[0]


def _hull(places: Array) -> Array:
    return np.asarray(cv2.convexHull(places.astype(np.float32))[:, 0])


def _fixed(places: Array) -> Array:
    """(..., 2) pixels as OpenCV takes them with ``_SHIFT``."""
    return np.asarray(np.round((np.clip(places, -_FAR_OUT, _FAR_OUT) - 0.5) * (1 << _SHIFT)).astype(np.int32))


def _draw_lines(picture: Pixels, starts: Array, ends: Array, colour: Colour, thickness: int) -> None:
    for start, end in zip(_fixed(starts).tolist(), _fixed(ends).tolist(), strict=True):
        cv2.line(picture, start, end, colour, thickness, cv2.LINE_AA, _SHIFT)


def _shade(picture: Pixels, outline: Array, colour: Colour) -> None:
    """Lay a little of a colour over a convex polygon (K, 2)."""
    height, width = picture.shape[:2]
    low = np.clip(np.floor(outline.min(axis=0)) - 1, 0, (width, height)).astype(int)
    high = np.clip(np.ceil(outline.max(axis=0)) + 1, 0, (width, height)).astype(int)
    if (high <= low).any():
        return
    part = picture[low[1] : high[1], low[0] : high[0]]
    covered = np.zeros(part.shape[:2], np.uint8)
    cv2.fillConvexPoly(covered, _fixed(outline - low), 255, cv2.LINE_AA, _SHIFT)
    share = covered[..., None] * (_SHADE / 255)
    part[:] = np.round(part * (1 - share) + np.array(colour) * share).astype(np.uint8)
