"""Ground-truth sampling from a KITTI-sized database, beside reading the frame that it changes.

    python -m benchmarks ground-truth-paste [--frame FILE.bin --calib FILE.txt]

A frame of 120,000 points is drawn, or FILE is read: a whole sweep, which is cut to the camera's view. In each round, 15
objects of each of three classes are drawn out of 20,000, those that find room are pasted with their points, and the
points of the scene that they replace are removed.

Rows. ``paste``: that. ``read``: our reading of the frame, which is its file and the points that the camera sees.
``convolution``: the reference of the recordings, 64 to 64 channels, 3x3, of 1x64x248x216, one thread. The original's
whole sample (reading, sampling from a tiny database, augmentation) took 0.24 of it, so the figure is ``paste`` over
0.24 ``convolution``.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks.timing import emit, paired, ratios

Array = np.ndarray[Any, Any]
ORIGINAL = 0.24
"""What the original's sample costs, in reference convolutions."""
SIZE_HW = (375, 1242)
OBJECTS = {
    "Car": (14_000, (3.9, 1.6, 1.56)),
    "Pedestrian": (4_500, (0.8, 0.6, 1.73)),
    "Cyclist": (1_500, (1.76, 0.6, 1.73)),
}
"""How many, and how large."""
USUAL = {
    "P2": [721.54, 0, 609.56, 44.86, 0, 721.54, 172.85, 0.216, 0, 0, 1, 0.0027],
    "R0_rect": [1, 0, 0, 0, 1, 0, 0, 0, 1],
    "Tr_velo_to_cam": [0, -1, 0, 0, 0, 0, -1, -0.08, 1, 0, 0, -0.27],
}
"""A calibration like those of KITTI."""


def drawn_frame(generator: np.random.Generator) -> Array:
    """(120000, 4) float32: 64 beams over flat ground and walls, all around the sensor."""
    azimuth = generator.uniform(-np.pi, np.pi, 120_000)
    slope = np.tan(np.radians(generator.integers(0, 64, 120_000) * 26.8 / 63 - 24.8))
    walls = 15 + 40 * np.abs(np.sin(3 * azimuth)) + generator.normal(0, 0.1, 120_000)
    distance = np.where(slope < 0, np.minimum(-1.73 / np.minimum(slope, -1e-3), walls), walls)
    columns = (distance * np.cos(azimuth), distance * np.sin(azimuth), distance * slope, generator.random(120_000))
    return np.stack(columns, axis=1).astype(np.float32)


def drawn_boxes(generator: np.random.Generator, count: int, size: tuple[float, float, float]) -> Array:
    """(count, 7) float64 on the ground of the camera's view."""
    boxes = np.empty((count, 7))
    boxes[:, 0] = generator.uniform(5, 65, count)
    boxes[:, 1] = generator.uniform(-0.6, 0.6, count) * boxes[:, 0]
    boxes[:, 2] = -1.73 + size[2] / 2
    boxes[:, 3:6] = size
    boxes[:, 6] = generator.uniform(-np.pi, np.pi, count)
    return boxes


def drawn_database(generator: np.random.Generator, folder: Path) -> Any:
    """Objects with fewer points the farther they are, in a file that is mapped into memory."""
    from sightline.data.ground_truth_database import GroundTruthDatabase

    boxes = np.concatenate([drawn_boxes(generator, count, size) for count, size in OBJECTS.values()])
    num_points = np.clip(9000 / boxes[:, 0] ** 1.3 * generator.random(len(boxes)), 1, 2000).astype(np.int64)
    points = np.memmap(folder / "points", np.float32, "w+", shape=(int(num_points.sum()), 4))
    points[:, :3] = generator.uniform(-0.5, 0.5, (len(points), 3)) * np.repeat(boxes[:, 3:6], num_points, axis=0)
    return GroundTruthDatabase(
        type_names=tuple(OBJECTS),
        points=points,
        offsets=np.cumsum([0, *num_points]),
        boxes3d=boxes,
        types=np.repeat(np.arange(len(OBJECTS)), [count for count, _ in OBJECTS.values()]),
        levels=np.zeros(len(boxes)),
        frames=np.zeros(len(boxes)),
    )


def calibration_of(path: Path | None) -> Any:
    """That of a KITTI file, or a usual one."""
    from sightline.ops.frames import Calibration

    values: dict[str, Any] = dict(USUAL)
    if path is not None:
        lines = [line.split(":") for line in path.read_text().splitlines() if ":" in line]
        values |= {name: list(map(float, numbers.split())) for name, numbers in lines}
    image, rect, camera = (np.array(values[name], np.float32) for name in USUAL)
    return Calibration(image.reshape(3, 4), rect.reshape(3, 3), camera.reshape(3, 4))


def reference_convolution() -> Callable[[], object]:
    """The convolution that the recordings were timed beside."""
    import torch

    torch.set_num_threads(1)
    convolution = torch.nn.Conv2d(64, 64, 3, padding=1)
    image = torch.randn(1, 64, 248, 216)

    def run() -> object:
        with torch.no_grad():
            return convolution(image)

    return run


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks ground-truth-paste", description=__doc__)
    parser.add_argument("--frame", type=Path, help="KITTI .bin of a whole sweep; default: a drawn one")
    parser.add_argument("--calib", type=Path, help="its calibration file; default: a usual one")
    parser.add_argument("--counts", type=int, default=15, help="candidates of each of three classes")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(arguments)
    from sightline.data.transforms.ground_truth_paste import PasteConfig, PasteObjects
    from sightline.data.transforms.points import PointScene

    generator = np.random.default_rng(0)
    calibration = calibration_of(options.calib)
    with tempfile.TemporaryDirectory() as folder:
        path = options.frame
        if path is None:
            path = Path(folder) / "frame.bin"
            drawn_frame(generator).tofile(path)
        objects = PasteObjects(
            drawn_database(generator, Path(folder)), PasteConfig(counts=options.counts), tuple(OBJECTS)
        )

        def read() -> Array:
            points = np.fromfile(path, np.float32).reshape(-1, 4)
            seen: Array = points.take(np.flatnonzero(calibration.is_in_image(points, SIZE_HW)), axis=0)
            return seen

        view = read()
        cars = drawn_boxes(generator, 8, OBJECTS["Car"][1]).astype(np.float32)
        scene = PointScene(view, cars, np.zeros(len(cars), np.int64))

        def paste() -> PointScene:
            return objects.paste(scene, objects.draw(generator, scene.labels))

        pasted = float(np.mean([len(paste().labels) - len(cars) for _ in range(50)]))
        rows = {"paste": paste, "read": read, "convolution": reference_convolution()}
        samples = paired(rows, rounds=options.rounds, inner=8)
    to_convolution, to_read = ratios(samples, base="convolution"), ratios(samples, base="read")
    emit(
        "ground_truth_paste",
        figure=round(to_convolution["paste"]["cpu"] / ORIGINAL, 4),
        unit="of the CPU time of the original's whole sample",
        peer="OpenPCDet 0.6.0, as recorded beside the reference convolution",
        goal="<= 0.10",
        rounds=options.rounds,
        frame="drawn" if options.frame is None else options.frame.name,
        points_in_view=len(view),
        objects_pasted=round(pasted, 1),
        of_our_reading=to_read["paste"]["cpu"],
        rows=to_convolution,
    )


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
