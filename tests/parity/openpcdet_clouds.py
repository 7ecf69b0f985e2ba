"""The points that the recorded models and voxels of OpenPCDet are made from."""

import json

import numpy as np

from sightline.ops.voxelize import VoxelGrid
from tests.conftest import dataset, oracle


def recorded_grid(config: str, voxel_size: tuple[float, ...]) -> VoxelGrid:
    """Cells of ``pointpillar`` or ``second``."""
    merged = json.loads(oracle("openpcdet", "train_config_cli.json").read_text())[f"merged_{config}"]
    return VoxelGrid(tuple(merged["DATA_CONFIG"]["POINT_CLOUD_RANGE"]), tuple(voxel_size))


def recorded_points(config: str, frame: str) -> np.ndarray:
    """(P, 4) float32: what lies in the camera's view and within the range of a configuration, in the file's order."""
    points = np.fromfile(dataset("kitti_mini") / "training" / "velodyne" / f"{frame}.bin", np.float32).reshape(-1, 4)
    with np.load(oracle("openpcdet", "data_calib_fov.npz")) as recorded:
        for mask in ("fov_mask_packed", f"range_mask_packed_of_fov_{config}"):
            points = points[np.unpackbits(recorded[f"{frame}/{mask}"], count=len(points)).astype(bool)]
    return points
