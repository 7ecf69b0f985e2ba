"""Ground-truth sampling of a KITTI-sized database, beside making a sample, and beside reading a frame.

    python -m benchmarks ground-truth-paste [--frame FILE.bin --calib FILE.txt]

A frame of 120,000 points is drawn (or FILE is read), cut to the camera's view, and up to 45 of 20,000 drawn objects are
tried in it: drawing them, their room, their points, and the points of the scene that they replace; whatever finds room
is pasted.

The original's whole sample (reading, sampling, augmentation) takes 0.24 of a reference convolution, by the recordings:
64 to 64 channels, 3x3, of 1x64x248x216, one thread. That convolution is measured here, in turns with ours. ``read`` is
our own reading of the frame: the file, and the points in the camera's view.
"""

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks.timing import emit, paired, ratios

ORIGINAL = 0.24
"""What the original's sample costs, in reference convolutions."""
SCENE_BOXES = 8


def drawn_frame(generator: np.random.Generator) -> np.ndarray:
    """(120000, 4) float32: 64 beams over flat ground and a few walls, all around the sensor."""
    azimuth = generator.uniform(-np.pi, np.pi, 120_000)
    slope = np.tan(np.radians(generator.integers(0, 64, 120_000) * 26.8 / 63 - 24.8))
    walls = 15 + 40 * np.abs(np.sin(3 * azimuth)) + generator.normal(0, 0.1, 120_000)
    distance = np.where(slope < 0, np.minimum(-1.73 / np.minimum(slope, -1e-3), walls), walls)
    columns = (distance * np.cos(azimuth), distance * np.sin(azimuth), distance * slope, generator.random(120_000))
    return np.stack(columns, axis=1).astype(np.float32)


def drawn_boxes(generator: np.random.Generator, count: int, size: tuple[float, float, float]) -> np.ndarray:
    """(count, 7) float64 standing on the ground of the camera's view."""
    boxes = np.empty((count, 7))
    boxes[:, 0] = generator.uniform(5, 65, count)
    boxes[:, 1] = generator.uniform(-0.6, 0.6, count) * boxes[:, 0]
    boxes[:, 2] = -1.73 + size[2] / 2
    boxes[:, 3:6] = size
    boxes[:, 6] = generator.uniform(-np.pi, np.pi, count)
    return boxes


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks ground-truth-paste", description=__doc__)
    parser.add_argument("--frame", type=Path, help="KITTI .bin of a whole sweep; default: a drawn one")
    parser.add_argument("--calib", type=Path, help="its calibration file; default: a usual one")
    parser.add_argument("--counts", type=int, default=15, help="candidates of each of three classes")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(arguments)
    import torch

    from sightline.data.ground_truth_database import GroundTruthDatabase
    from sightline.data.transforms.ground_truth_paste import PasteConfig, PasteObjects
    from sightline.data.transforms.points import PointScene

    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    sizes = {"Car": (14_000, (3.9, 1.6, 1.56)), "Pedestrian": (4_500, (0.8, 0.6, 1.73)), "Cyclist": (1_500, (1.76, 0.6, 1.73))}
    boxes = np.concatenate([drawn_boxes(generator, count, size) for count, size in sizes.values()])
    types = np.repeat(np.arange(3), [count for count, _ in sizes.values()])
    num_points = np.clip((6000 / boxes[:, 0] ** 1.3 * generator.random(len(boxes))), 1, 2000).astype(np.int64)
    with tempfile.TemporaryDirectory() as folder:
        points = np.memmap(Path(folder) / "points", np.float32, "w+", shape=(int(num_points.sum()), 4))
        points[:, :3] = generator.uniform(-0.5, 0.5, (len(points), 3)) * np.repeat(boxes[:, 3:6], num_points, axis=0)
        database = GroundTruthDatabase(
            tuple(sizes), points, np.cumsum([0, *num_points]), boxes, types, np.zeros(len(boxes)), np.zeros(len(boxes))
        )
        objects = PasteObjects(database, PasteConfig(counts=options.counts), tuple(sizes))
        frame = drawn_frame(generator)
        view = frame[(frame[:,0]>0)&(np.abs(frame[:,1])<0.8*frame[:,0])]
        scene = PointScene(view, drawn_boxes(generator, SCENE_BOXES, (3.9, 1.6, 1.56)).astype(np.float32), np.zeros(SCENE_BOXES, np.int64))
        rng = np.random.default_rng(1)
        import timeit, cProfile, pstats
        f=lambda: objects.paste(scene, objects.draw(rng, scene.labels))
        print(len(view), len(f().boxes3d)-8, len(points))
        print(min(timeit.repeat(f,number=100,repeat=5))/100*1e6)
        pr=cProfile.Profile(); pr.enable()
        for _ in range(500): f()
        pr.disable(); pstats.Stats(pr).sort_stats("tottime").print_stats(22)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
