"""From the LiDAR to the camera and into the picture, and back: KITTI's calibration.

Frames: LiDAR (x forward, y left, z up); camera and rect (x right, y down, z forward), rect being the camera frame after
rectification; image (u right, v down, pixels). NumPy; all in metres and pixels. Shapes: P points, N boxes.

``boxes3d`` is as in ``ops.boxes3d``. ``boxes_camera`` is (x, y, z, length, height, width, rotation_y) in the rect
frame: the middle of the bottom, and the angle around y that turns x away from z. Results are float32 for float32 and
float64 for float64.

Format: the object development kit of Geiger et al., "Are we ready for autonomous driving? The KITTI vision benchmark
suite", CVPR 2012, https://www.cvlibs.net/datasets/kitti/setup.php.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]


class Calibration(NamedTuple):
    """Where camera and LiDAR of one frame are, relative to each other."""

    image_from_rect: Array
    """(3, 4) float32, KITTI's P2."""
    rect_from_camera: Array
    """(3, 3) float32, KITTI's R0_rect."""
    camera_from_lidar: Array
    """(3, 4) float32, KITTI's Tr_velo_to_cam."""

    @property
    def rect_from_lidar(self) -> Array:
        """(4, 4) float32."""
        rect_from_camera, camera_from_lidar = np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32)
        rect_from_camera[:3, :3] = self.rect_from_camera
        camera_from_lidar[:3] = self.camera_from_lidar
        return rect_from_camera @ camera_from_lidar

    def lidar_to_rect(self, points: Array) -> Array:
        """Points (P, >= 3) of the LiDAR frame in the rect frame, (P, 3)."""
        return _moved(points, self.rect_from_lidar)

    def rect_to_lidar(self, points: Array) -> Array:
        """Points (P, >= 3) of the rect frame in the LiDAR frame, (P, 3)."""
        return _moved(points, np.linalg.inv(self.rect_from_lidar))

    def rect_to_image(self, points: Array) -> tuple[Array, Array]:
        """Pixels (P, 2) and depths (P,) of points (P, >= 3) of the rect frame.

        As OpenPCDet reckons: pixels over z of the rect frame, which is millimetres less than the depth of the camera
        that took the picture. Points at z = 0 have no finite pixel.
        """
        flat = points[:, :3] @ self.image_from_rect[:, :3].T + self.image_from_rect[:, 3]  # (P, 3)
        with np.errstate(divide="ignore", invalid="ignore"):
            return flat[:, :2] / points[:, 2:3], flat[:, 2] - self.image_from_rect[2, 3]

    def image_to_rect(self, pixels: Array, depths: Array) -> Array:
        """Points (P, 3) of the rect frame that are seen at pixels (P, 2) at z = depths (P,)."""
        focal = self.image_from_rect[(0, 1), (0, 1)]
        center, shift = self.image_from_rect[:2, 2], -self.image_from_rect[:2, 3] / focal
        return np.concatenate(((pixels - center) * depths[:, None] / focal + shift, depths[:, None]), axis=1)

    def is_in_image(self, points: Array, size_hw: tuple[int, int]) -> Array:
        """(P,) which points (P, >= 3) of the LiDAR frame the camera sees: in front of it, inside of the picture."""
        pixels, depths = self.rect_to_image(self.lidar_to_rect(points))
        height, width = size_hw
        u, v = pixels[:, 0], pixels[:, 1]
        seen: Array = (u >= 0) & (u < width) & (v >= 0) & (v < height) & (depths >= 0)
        return seen


def boxes_camera_to_lidar(boxes_camera: Array, calibration: Calibration) -> Array:
    """Boxes3d (N, 7) of ``boxes_camera`` (N, 7). Headings are not wrapped."""
    center = calibration.rect_to_lidar(boxes_camera[:, :3])
    length, height, width, rotation = boxes_camera[:, 3:7].T
    x, y, bottom = center.T
    return np.stack((x, y, bottom + height / 2, length, width, height, -(rotation + np.pi / 2)), axis=1)


def boxes_lidar_to_camera(boxes3d: Array, calibration: Calibration) -> Array:
    """``boxes_camera`` (N, 7) of boxes3d (N, >= 7). Angles are not wrapped."""
    bottom = boxes3d[:, :3].copy()
    dx, dy, dz, yaw = boxes3d[:, 3:7].T
    bottom[:, 2] -= dz / 2
    x, y, z = calibration.lidar_to_rect(bottom).T
    return np.stack((x, y, z, dx, dz, dy, -yaw - np.pi / 2), axis=1)


def camera_corners(boxes_camera: Array) -> Array:
    """Corners (N, 8, 3) in the rect frame of ``boxes_camera`` (N, 7): the four of the bottom, then those of the top.

    Seen along y the first is ahead and on the side of positive width; they go on around the box.
    """
    length, height, width, rotation = (column[:, None] for column in boxes_camera[:, 3:7].T)  # (N, 1)
    signs = np.array([(1, 1), (1, -1), (-1, -1), (-1, 1)] * 2, dtype=boxes_camera.dtype)
    ahead, aside = length / 2 * signs[:, 0], width / 2 * signs[:, 1]  # (N, 8)
    down = -height * (np.arange(8) >= 4)
    cos, sin = np.cos(rotation), np.sin(rotation)
    offsets = np.stack((ahead * cos + aside * sin, down, aside * cos - ahead * sin), axis=2)  # (N, 8, 3)
    corners: Array = (boxes_camera[:, None, :3] + offsets).astype(boxes_camera.dtype, copy=False)
    return corners


def image_boxes(boxes_camera: Array, calibration: Calibration, size_hw: tuple[int, int] | None = None) -> Array:
    """Boxes_xyxy (N, 4), pixels, around the eight corners of ``boxes_camera`` (N, 7) in the picture.

    Args:
        boxes_camera: (N, 7). Of a box that reaches behind the camera the result has no meaning.
        calibration: Of the camera.
        size_hw: Cut to the pixels of a picture of this size, 0 to size - 1; None cuts nothing.
    """
    pixels, _ = calibration.rect_to_image(camera_corners(boxes_camera).reshape(-1, 3))
    pixels = pixels.reshape(-1, 8, 2)
    boxes_xyxy = np.concatenate((pixels.min(axis=1), pixels.max(axis=1)), axis=1)
    if size_hw is not None:
        height, width = size_hw
        limit = np.array((width, height, width, height), dtype=boxes_xyxy.dtype) - 1
        boxes_xyxy = np.clip(boxes_xyxy, 0, limit)
    return boxes_xyxy


def observation_angles(boxes3d: Array, boxes_camera: Array) -> Array:
    """(N,) radians under which the camera sees boxes, KITTI's alpha: rotation_y less the direction to the box.

    Args:
        boxes3d: (N, >= 7), which tell the direction, as in OpenPCDet.
        boxes_camera: (N, 7), the same boxes, which tell the rotation.

    Returns:
        Not wrapped.
    """
    angles: Array = -np.arctan2(-boxes3d[:, 1], boxes3d[:, 0]) + boxes_camera[:, 6]
    return angles


def wrapped(angles: Array) -> Array:
    """The same angles up to whole turns, in [-pi, pi] and of the same type; NaN where one is not finite."""
    with np.errstate(invalid="ignore"):
        turns: Array = np.floor(angles.astype(np.float64) / (2 * np.pi) + 0.5)
        return (angles - turns * 2 * np.pi).astype(angles.dtype)


def _moved(points: Array, matrix: Array) -> Array:
    """Points (P, >= 3) by a matrix (4, 4): (P, 3)."""
    moved: Array = points[:, :3] @ matrix[:3, :3].T + matrix[:3, 3]
    return moved
