"""Cameras, mounts of other sensors, and the matrices between frames (numpy; ``ops`` works on tensors).

Frames, all right-handed, metres: *world* and *ego* have z up, ego x forward, y left, its origin on the ground;
*camera* has x right, y down, z forward. ``a_from_b`` is the (4, 4) matrix that takes points of b into a.
Pixels: the origin is the top-left corner of the top-left pixel, so that pixel (0, 0) has its centre at (0.5, 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def pose_matrix(position: tuple[float, float, float], yaw: float) -> Array:
    """(4, 4) parent_from_child of a level child frame at ``position``, turned left by ``yaw`` radians."""
    cosine, sine = np.cos(yaw), np.sin(yaw)
    return np.array(
        [
            [cosine, -sine, 0, position[0]],
            [sine, cosine, 0, position[1]],
            [0, 0, 1, position[2]],
            [0, 0, 0, 1],
        ],
        dtype=np.float64,
    )


def inverse_pose(matrix: Array) -> Array:
    """Inverse of a rotation-and-translation matrix (4, 4)."""
    inverse = np.eye(4)
    inverse[:3, :3] = matrix[:3, :3].T
    inverse[:3, 3] = -matrix[:3, :3].T @ matrix[:3, 3]
    return inverse


def transform(points: Array, matrix: Array, *, turn_only: bool = False) -> Array:
    """(..., 3) points through a (4, 4) pose; ``turn_only`` for directions."""
    turned: Array = points @ matrix[:3, :3].T
    return turned if turn_only else turned + matrix[:3, 3]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion, fixed to the ego vehicle."""

    name: str
    image_hw: tuple[int, int]
    intrinsics: Array
    """(3, 3) image_from_camera: focal lengths and principal point in pixels."""
    camera_from_ego: Array
    """(4, 4)."""

    def project(self, points_camera: Array) -> Array:
        """(..., 3) points with z > 0 in the camera frame to (..., 2) pixels (x, y)."""
        focal = np.array([self.intrinsics[0, 0], self.intrinsics[1, 1]])
        pixels: Array = points_camera[..., :2] / points_camera[..., 2:] * focal + self.intrinsics[:2, 2]
        return pixels


@dataclass(frozen=True)
class Mount:
    """Where a LiDAR or radar sits; its frame has x forward, y left, z up."""

    name: str
    ego_from_sensor: Array
    """(4, 4)."""


@dataclass(frozen=True)
class Calibration:
    """All sensors of the ego vehicle."""

    cameras: tuple[Camera, ...]
    lidar: Mount
    radars: tuple[Mount, ...]

    def camera(self, name: str) -> Camera:
        """The camera called ``name``.

        Raises:
            ValueError: If there is none.
        """
        for camera in self.cameras:
            if camera.name == name:
                return camera
        raise ValueError(f"no camera {name!r}; there are {', '.join(c.name for c in self.cameras)}")


_CAMERAS: tuple[tuple[str, float, float, float], ...] = (  # name, x, y (metres), yaw (degrees)
    ("CAM_FRONT", 1.70, 0.0, 0.0),
    ("CAM_FRONT_RIGHT", 1.55, -0.49, -56.0),
    ("CAM_BACK_RIGHT", 1.02, -0.48, -110.0),
    ("CAM_BACK", 0.03, 0.0, 180.0),
    ("CAM_BACK_LEFT", 1.04, 0.48, 108.0),
    ("CAM_FRONT_LEFT", 1.52, 0.49, 55.0),
)
_RADARS: tuple[tuple[str, float, float, float], ...] = (
    ("RADAR_FRONT", 3.41, 0.0, 0.0),
    ("RADAR_FRONT_LEFT", 2.42, 0.80, 90.0),
    ("RADAR_FRONT_RIGHT", 2.42, -0.80, -90.0),
    ("RADAR_BACK_LEFT", -0.56, 0.63, 175.0),
    ("RADAR_BACK_RIGHT", -0.56, -0.62, -175.0),
)


def standard_rig(image_hw: tuple[int, int], *, field_of_view: float, camera_height: float, pitch: float) -> Calibration:
    """Six cameras around, one LiDAR on the roof, five radars; names and places as in nuScenes.

    Args:
        image_hw: Height and width of every image, pixels.
        field_of_view: Horizontal, radians.
        camera_height: Above the ground, metres.
        pitch: How far all cameras look down, radians.
    """
    height, width = image_hw
    focal = width / 2 / np.tan(field_of_view / 2)
    intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    cameras = []
    for name, x, y, yaw_degrees in _CAMERAS:
        yaw = np.radians(yaw_degrees)
        forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), -np.sin(pitch)])
        right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
        ego_from_camera = np.eye(4)
        ego_from_camera[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
        ego_from_camera[:3, 3] = (x, y, camera_height)
        cameras.append(Camera(name, image_hw, intrinsics, inverse_pose(ego_from_camera)))
    lidar = Mount("LIDAR_TOP", pose_matrix((0.94, 0.0, 1.84), 0.0))
    radars = tuple(Mount(name, pose_matrix((x, y, 0.5), np.radians(yaw))) for name, x, y, yaw in _RADARS)
    return Calibration(tuple(cameras), lidar, radars)
