"""A tiny data set in KITTI's folders, whole and broken in every way."""

from pathlib import Path

import cv2
import numpy as np

FOCAL, MIDDLE_U, MIDDLE_V, HEIGHT, WIDTH = 100.0, 60.0, 20.0, 40, 120
CALIBRATION = f"""\
P0: 1 0 0 0 0 1 0 0 0 0 1 0
P2: {FOCAL} 0 {MIDDLE_U} 0 0 {FOCAL} {MIDDLE_V} 0 0 0 1 0
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0
"""
"""Camera and LiDAR in one place: x_camera = -y_lidar, y_camera = -z_lidar, z_camera = x_lidar."""
LABELS = """\
Car 0.00 0 -1.57 40.00 10.00 80.00 36.00 1.50 1.60 4.00 0.00 1.50 10.00 -1.5707963267948966
Van 0.20 1 0.00 10.00 10.00 40.00 35.00 2.00 1.80 5.00 -5.00 1.50 20.00 0.00
DontCare -1 -1 -10 1.00 2.00 30.00 20.00 -1 -1 -1 -1000 -1000 -1000 -10
Pedestrian 0.00 0 0.00 90.00 5.00 100.00 39.00 1.80 0.60 0.80 4.00 1.50 12.00 0.00
"""
"""The car is 10 m ahead with its bottom 1.5 m below, heading along x of the LiDAR: (10, 0, -0.75, 4, 1.6, 1.5, 0)."""
PLANE = "# Plane\nWidth 4\nHeight 1\n0 2 0 -3\n"
"""y = 1.5, written upside down and not of unit length."""


def cloud(seed: int = 0, count: int = 200) -> np.ndarray:
    """(count, 4) points: ten inside the car, ten inside the pedestrian, the others about."""
    rng = np.random.default_rng(seed)
    points = rng.uniform((0, -20, -2, 0), (50, 20, 1, 1), (count, 4))
    points[:10, :3] = rng.uniform((9.5, -0.5, -1.25), (10.5, 0.5, -0.25), (10, 3))
    points[10:20, :3] = rng.uniform((11.8, -4.2, -0.8), (12.2, -3.8, -0.4), (10, 3))
    return points[rng.permutation(count)].astype("<f4")


def write_kitti(
    root: Path,
    frames: tuple[str, ...] = ("000000", "000001", "000002"),
    *,
    images: bool = True,
    planes: bool = False,
    lists: dict[str, str] | None = None,
    num_points: int = 200,
) -> Path:
    """Write ``training`` with these frames; ``lists`` are contents of ``ImageSets``, by default train and val."""
    part = root / "training"
    for name in ("velodyne", "calib", "label_2", *(["image_2"] if images else []), *(["planes"] if planes else [])):
        (part / name).mkdir(parents=True)
    for number, frame in enumerate(frames):
        cloud(number, num_points).tofile(part / "velodyne" / f"{frame}.bin")
        (part / "calib" / f"{frame}.txt").write_text(CALIBRATION)
        (part / "label_2" / f"{frame}.txt").write_text(LABELS)
        if images:
            cv2.imwrite(str(part / "image_2" / f"{frame}.png"), np.full((HEIGHT, WIDTH, 3), number, np.uint8))
        if planes:
            (part / "planes" / f"{frame}.txt").write_text(PLANE)
    if lists is None:
        lists = {"train": "".join(f"{frame}\n" for frame in frames[:-1]), "val": f"{frames[-1]}\n"}
    for name, text in lists.items():
        (root / "ImageSets").mkdir(exist_ok=True)
        (root / "ImageSets" / f"{name}.txt").write_text(text)
    return root
