"""From the LiDAR to the camera and into the picture, and back: KITTI's calibration.

Frames: LiDAR (x forward, y left, z up); camera and rect (x right, y down, z forward), rect being the camera frame after
rectification; image (u right, v down, pixels). NumPy; all in metres and pixels.

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
