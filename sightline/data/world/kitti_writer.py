"""The world as KITTI's object benchmark: points, pictures, labels, calibration and the road as a plane.

::

    training/velodyne/000000.bin    float32 x, y, z, intensity of every point, LiDAR frame
    training/image_2/000000.png     the front camera
    training/label_2/000000.txt     what it sees; what it sees too little of is ``DontCare``
    training/calib/000000.txt       P0 to P3 are one camera; R0_rect is the unit matrix
    training/planes/000000.txt      a b c d of the ground, camera frame
    ImageSets/{train,val,trainval}.txt

KITTI's boxes stand upright in the camera frame, so the camera of these pictures looks level, 1.65 m above the ground;
that of other formats looks down a little. Cars, trucks, pedestrians and cyclists have KITTI's names, cones are its
``Misc``. The box in the picture is around the whole object, hidden parts too, cut off at the picture's last pixel.

Format: Geiger et al., "Are we ready for autonomous driving? The KITTI vision benchmark suite", CVPR 2012, and the
readme of its object development kit. Numbers have four decimals where KITTI's have two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from sightline.data.world.camera import Array, inverse_pose, standard_rig, transform
from sightline.data.world.config import CLASS_NAMES, LidarConfig, WorldConfig
from sightline.data.world.lidar import Sweep, sweep_scene
from sightline.data.world.render import Rendering, render_scene
from sightline.data.world.scene import Scene, make_scene
from sightline.ops.frames import Calibration, wrapped

PictureSuffix = Literal[".png", ".jpg"]

KITTI_NAMES = dict(zip(CLASS_NAMES, ("Car", "Truck", "Pedestrian", "Cyclist", "Misc"), strict=True))
CAMERA = "CAM_FRONT"
CAMERA_HEIGHT = 1.65
"""Metres above the ground."""
FULLY_VISIBLE, PARTLY_VISIBLE = 0.9, 0.5
"""Smallest share of an object that is seen at occlusion 0, and at 1; below it is 2."""

_DONT_CARE = "DontCare -1 -1 -10 {} -1 -1 -1 -1000 -1000 -1000 -10"
JPEG_QUALITY = 92


@dataclass(frozen=True)
class KittiFrame:
    """One frame with all that its files say."""

    rendering: Rendering
    sweep: Sweep
    calibration: Calibration
    labels: tuple[str, ...]
    """Lines of the label file."""
    num_labelled: Array
    """(K,) objects of every class in ``labels``."""


def kitti_frame(scene: Scene, config: WorldConfig, lidar: LidarConfig) -> KittiFrame:
    """A scene as the LiDAR and a level front camera see it.

    Args:
        scene: From ``make_scene``; its own cameras are not used.
        config: The config of the scene.
        lidar: What measures it.
    """
    scene = _with_level_cameras(scene, config)
    rendering = render_scene(scene, config, CAMERA)
    truth = rendering.truth
    return KittiFrame(
        rendering,
        sweep_scene(scene, lidar),
        _calibration(scene),
        tuple(_label_lines(rendering)),
        np.bincount(truth.labels[truth.is_labelled], minlength=len(CLASS_NAMES)),
    )


def write_kitti(
    out: Path,
    splits: Mapping[str, range],
    *,
    seed: int,
    config: WorldConfig,
    lidar: LidarConfig,
    pictures: PictureSuffix,
    progress: Callable[[int], None] | None = None,
) -> Array:
    """Write frames into an empty folder.

    Args:
        out: The folder; made if it is not there.
        splits: Which scenes belong to which split.
        seed: Which world.
        config: How it looks.
        lidar: What measures it.
        pictures: KITTI has PNG; JPEG takes a tenth of the room.
        progress: Called with the number of finished frames after each.

    Returns:
        (K,) labelled objects of every class in ``CLASS_NAMES``.
    """
    for kind in ("velodyne", "image_2", "label_2", "calib", "planes"):
        (out / "training" / kind).mkdir(parents=True)
    counts = np.zeros(len(CLASS_NAMES), dtype=np.int64)
    for done, index in enumerate((index for indices in splits.values() for index in indices), start=1):
        frame = kitti_frame(make_scene(seed, index, config), config, lidar)
        _write_frame(out / "training", f"{index:06d}", frame, pictures)
        counts += frame.num_labelled
        if progress is not None:
            progress(done)
    (out / "ImageSets").mkdir()
    everything = [index for indices in splits.values() for index in indices]
    for split, indices in {**splits, "trainval": everything}.items():
        (out / "ImageSets" / f"{split}.txt").write_text("".join(f"{index:06d}\n" for index in indices))
    return counts


def _with_level_cameras(scene: Scene, config: WorldConfig) -> Scene:
    rig = standard_rig(
        config.image_hw,
        field_of_view=float(np.radians(config.field_of_view_degrees)),
        camera_height=CAMERA_HEIGHT,
        pitch=0.0,
    )
    return replace(scene, calibration=rig)


def _calibration(scene: Scene) -> Calibration:
    camera = scene.calibration.camera(CAMERA)
    camera_from_lidar = camera.camera_from_ego @ scene.calibration.lidar.ego_from_sensor
    return Calibration(
        np.pad(camera.intrinsics, ((0, 0), (0, 1))).astype(np.float32),
        np.eye(3, dtype=np.float32),
        camera_from_lidar[:3].astype(np.float32),
    )


def _label_lines(rendering: Rendering) -> list[str]:
    """Lines of the labelled objects, then of the regions that nothing is said about."""
    scene, truth = rendering.scene, rendering.truth
    height, width = rendering.camera.image_hw
    camera_from_world = rendering.camera.camera_from_ego @ inverse_pose(scene.world_from_ego)
    ego_yaw = np.arctan2(scene.world_from_ego[1, 0], scene.world_from_ego[0, 0])
    boxes_xyxy = np.clip(truth.full_boxes_xyxy, 0, (width - 1, height - 1) * 2)
    lines, regions = [], []
    for row, number in enumerate(truth.object_index.tolist()):
        box_xyxy = _numbers(boxes_xyxy[row])
        if not truth.is_labelled[row]:
            regions.append(_DONT_CARE.format(box_xyxy))
            continue
        thing = scene.objects[number]
        length, wide, tall = thing.box3d[3:6]
        x, y, z = transform(thing.ground_position, camera_from_world)
        # 0 where the object heads to the right of the picture
        rotation = float(wrapped(np.asarray(ego_yaw - thing.yaw - np.pi / 2)))
        alpha = float(wrapped(rotation - np.arctan2(x, z)))
        seen = truth.visible_fraction[row]
        occlusion = 0 if seen >= FULLY_VISIBLE else 1 if seen >= PARTLY_VISIBLE else 2
        numbers = _numbers((tall, wide, length, x, y, z, rotation))
        head = f"{KITTI_NAMES[thing.kind]} {_numbers(truth.truncation[[row]])} {occlusion} {_numbers((alpha,))}"
        lines.append(f"{head} {box_xyxy} {numbers}")
    return lines + regions


def _write_frame(folder: Path, stem: str, frame: KittiFrame, pictures: PictureSuffix) -> None:
    (folder / "velodyne" / f"{stem}.bin").write_bytes(frame.sweep.points.astype("<f4").tobytes())
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if pictures == ".jpg" else []
    _, encoded = cv2.imencode(pictures, frame.rendering.image[:, :, ::-1], options)
    (folder / "image_2" / f"{stem}{pictures}").write_bytes(encoded.tobytes())
    (folder / "label_2" / f"{stem}.txt").write_text("".join(f"{line}\n" for line in frame.labels))
    lidar_from_ego = inverse_pose(frame.rendering.scene.calibration.lidar.ego_from_sensor)[:3]
    matrices = {
        **{f"P{number}": frame.calibration.image_from_rect for number in range(4)},
        "R0_rect": frame.calibration.rect_from_camera,
        "Tr_velo_to_cam": frame.calibration.camera_from_lidar,
        "Tr_imu_to_velo": lidar_from_ego,
    }
    rows = (
        f"{name}: {' '.join(f'{value + 0.0:.12e}' for value in m.ravel().tolist())}\n" for name, m in matrices.items()
    )
    (folder / "calib" / f"{stem}.txt").write_text("".join(rows))
    plane = " ".join(f"{value:.6e}" for value in (0.0, -1.0, 0.0, CAMERA_HEIGHT))
    (folder / "planes" / f"{stem}.txt").write_text(f"# Plane\nWidth 4\nHeight 1\n{plane}\n")


def _numbers(values: Array | tuple[float, ...]) -> str:
    return " ".join(f"{value:.4f}" for value in np.asarray(values).tolist())
