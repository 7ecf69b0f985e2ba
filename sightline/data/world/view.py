"""From the world into the pixels of one camera: clipping, projection, fixed-point polygons for OpenCV."""

from __future__ import annotations

import cv2
import numpy as np

from sightline.data.world.camera import Array, Camera, inverse_pose, transform

SHIFT = 4
"""Fractional bits of the polygons."""
SAMPLES = 2
"""The picture is painted this many times larger in both directions, then averaged."""
NEAR = 0.25
"""Metres before the camera where everything is cut off."""


class View:
    """One camera at one moment."""

    def __init__(self, camera: Camera, world_from_ego: Array) -> None:
        self.camera = camera
        self.samples = SAMPLES
        self.camera_from_world = camera.camera_from_ego @ inverse_pose(world_from_ego)
        self.position = inverse_pose(self.camera_from_world)[:3, 3]
        """(3,) of the camera, world frame."""

    @property
    def horizon_row(self) -> float:
        """Row (pixels) where the ground would end; the camera does not roll."""
        up = self.camera_from_world[:3, 2]  # the world's z axis in the camera frame: (0, -cos pitch, -sin pitch)
        slope = -up[2] / up[1]
        return float(slope * self.camera.intrinsics[1, 1] + self.camera.intrinsics[1, 2])

    def directions(self, columns: Array, row: float) -> Array:
        """(N, 3) unit vectors, world frame, through the pixels (columns, row)."""
        intrinsics = self.camera.intrinsics
        rays = np.stack(
            [
                (columns - intrinsics[0, 2]) / intrinsics[0, 0],
                np.full(len(columns), (row - intrinsics[1, 2]) / intrinsics[1, 1]),
                np.ones(len(columns)),
            ],
            axis=1,
        )
        rays = transform(rays, inverse_pose(self.camera_from_world), turn_only=True)
        return np.asarray(rays / np.linalg.norm(rays, axis=1, keepdims=True))

    def ground_distance(self, rows: Array) -> Array:
        """(R,) metres to the ground in the middle column of rows below the horizon."""
        up = self.camera_from_world[:3, 2]
        y = (rows - self.camera.intrinsics[1, 2]) / self.camera.intrinsics[1, 1]
        drop = -(up[1] * y + up[2]) / np.sqrt(1 + y**2)  # sine of the angle below the horizon
        return np.asarray(self.position[2] / np.maximum(drop, 1e-4))

    def ground_from_image(self) -> Array:
        """(3, 3) homography from pixels to (x, y) on the ground, world frame."""
        image_from_ground = self.camera.intrinsics @ self.camera_from_world[:3][:, [0, 1, 3]]
        return np.asarray(np.linalg.inv(image_from_ground))

    def to_pixels(self, polygons: Array, *, samples: int = SAMPLES, hull: bool = False) -> list[Array | None]:
        """Convex polygons in the camera frame as int32 fixed-point pixels, None where nothing is in the picture.

        Args:
            polygons: (F, K, 3), camera frame, metres.
            samples: Painted pixels per pixel of the picture.
            hull: The corners come in no order; take their convex hull. They must lie in one plane.
        """
        if not len(polygons):
            return []
        depth = polygons[..., 2]
        in_front = depth.min(axis=1) >= NEAR
        reaches = depth.max(axis=1) >= NEAR
        fixed = self._fixed(polygons, samples, in_front)
        height, width = self.camera.image_hw
        scale = samples << SHIFT
        low, high = fixed.min(axis=1), fixed.max(axis=1)
        outside = (high < 0).any(axis=1) | (low[:, 0] > width * scale) | (low[:, 1] > height * scale)
        out: list[Array | None] = []
        for face in range(len(polygons)):
            if in_front[face]:
                pixels = None if outside[face] else fixed[face]
            elif reaches[face]:
                cut = _cut(polygons[face], hull)
                pixels = self._fixed(cut[None], samples, np.ones(1, dtype=bool))[0] if len(cut) > 2 else None
            else:
                pixels = None
            if hull and pixels is not None:
                pixels = cv2.convexHull(pixels)[:, 0]
            out.append(pixels)
        return out

    def _fixed(self, points: Array, samples: int, valid: Array) -> Array:
        safe = np.where(valid[:, None, None], points, 1.0)
        pixels = self.camera.project(safe)
        return np.round((pixels * samples - 0.5) * (1 << SHIFT)).clip(-(2**27), 2**27).astype(np.int32)

    def bounds(self, polygons: Array) -> Array:
        """(4,) xyxy around (F, K, 3) convex polygons in the camera frame, in pixels; they may reach out of the picture.

        Only what lies before the near plane counts; some of it must.
        """
        depth = polygons[..., 2]
        in_front = depth.min(axis=1) >= NEAR
        points = [polygons[in_front].reshape(-1, 3)]
        points += [_cut(polygon, False) for polygon in polygons[~in_front & (depth.max(axis=1) >= NEAR)]]
        pixels = self.camera.project(np.concatenate(points))
        return np.concatenate([pixels.min(axis=0), pixels.max(axis=0)])


def _cut(polygon: Array, hull: bool) -> Array:
    """(K, 3) corners to those of the part before the near plane; with ``hull`` in no order."""
    if hull:  # cut every connection between corners: the hull of what is left is the cut hull
        inside, outside = polygon[polygon[:, 2] >= NEAR], polygon[polygon[:, 2] < NEAR]
        a, b = inside[:, None], outside[None]
        share = (NEAR - a[..., 2:]) / (b[..., 2:] - a[..., 2:])
        return np.concatenate([inside, (a + share * (b - a)).reshape(-1, 3)])
    kept = []
    for current, following in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if current[2] >= NEAR:
            kept.append(current)
        if (current[2] >= NEAR) != (following[2] >= NEAR):
            share = (NEAR - current[2]) / (following[2] - current[2])
            kept.append(current + share * (following - current))
    return np.array(kept)
