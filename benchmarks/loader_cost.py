"""What the loader costs over the work itself: decode, resize and pad at 640, in batches of 16.

    python -m benchmarks loader-cost [--data FOLDER]

``by_hand`` is the work in a plain loop over OpenCV calls, without any of our checks, into one slab. The other rows do
the same work: our loader with the caller, threads or processes as workers, and torch's DataLoader with worker processes
that send uint8 images. CPU counts all threads and child processes; where processes are used, their start and end too.
"""

import argparse
import functools
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.mosaic_sample import draw_pictures
from benchmarks.timing import Samples, emit, ratios
from sightline.data.annotations import ImageAnnotations
from sightline.data.formats import open_dataset
from sightline.data.image_source import ImageEvalSource
from sightline.data.loader import BatchLoader


def decode_resize_pad(path: str, planes: Any) -> None:
    """The work: an RGB image in the middle of (3, S, S) planes, the rest grey."""
    image = cv2.imread(path, cv2.IMREAD_COLOR_RGB)
    side, (height, width) = planes.shape[1], image.shape[:2]
    ratio = side / max(height, width)
    if ratio != 1:
        image = cv2.resize(image, (int(width * ratio), int(height * ratio)))
        height, width = image.shape[:2]
    y, x = (side - height) // 2, (side - width) // 2
    planes.fill(114)
    cv2.split(image, [plane[y : y + height, x : x + width] for plane in planes])


def by_hand(paths: list[str], side: int, batch_size: int) -> Callable[[], None]:
    """All images through one slab."""
    slab = np.empty((batch_size, 3, side, side), np.uint8)

    def run() -> None:
        for i, path in enumerate(paths):
            decode_resize_pad(path, slab[i % batch_size])

    return run


class Images(Dataset[Any]):
    """The same work for torch's DataLoader."""

    def __init__(self, paths: list[str], side: int) -> None:
        self.paths, self.side = paths, side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        planes = np.empty((3, self.side, self.side), np.uint8)
        decode_resize_pad(self.paths[index], planes)
        return torch.from_numpy(planes)


def data_loader(paths: list[str], side: int, batch_size: int, workers: int) -> None:
    """One epoch of torch's DataLoader."""
    for images in DataLoader(Images(paths, side), batch_size, num_workers=workers):
        images[0, 0, 0, 0].item()


def ours(annotations: ImageAnnotations, side: int, batch_size: int, **options: Any) -> Callable[[], None]:
    """One epoch of our loader, whose threads live from one to the next."""
    source = ImageEvalSource(annotations, side, rectangular=False)
    loader = BatchLoader(source, source.sampler(batch_size), **options)

    def run() -> None:
        for fetched in loader.iterate(epochs=1):
            fetched.batch.images[0, 0, 0, 0].item()
        if options.get("kind") == "processes":
            loader.close()  # the CPU time of children counts when they have ended

    return run


def cpu_seconds() -> float:
    """Of this process and its ended children."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in usage)


def measure(rows: dict[str, Callable[[], None]], rounds: int) -> Samples:
    """(wall, CPU) seconds of every row in every round, in an order that rotates; the first round does not count."""
    samples: Samples = {name: [] for name in rows}
    names = list(rows)
    for number in range(rounds + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            wall, cpu = time.perf_counter(), cpu_seconds()
            rows[name]()
            if number:
                samples[name].append((time.perf_counter() - wall, cpu_seconds() - cpu))
    return samples


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks loader-cost", description=__doc__)
    parser.add_argument("--data", type=Path, help="YOLO folder with data.yaml; default: drawn pictures")
    parser.add_argument("--image-size", type=int, default=640)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    side, batch_size = options.image_size, options.batch_size
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.data
        if folder is None:
            folder = Path(scratch) / "pictures"
            draw_pictures(folder, options.images)
        annotations = open_dataset(folder).read("train")
        annotations = annotations.select(i % len(annotations) for i in range(options.images))
        paths = list(annotations.paths)
        make = functools.partial(ours, annotations, side, batch_size)
        rows: dict[str, Callable[[], None]] = {
            "by_hand": by_hand(paths, side, batch_size),
            "ours_caller": make(workers=0),
            "ours_1_thread": make(workers=1),
            "ours_2_threads": make(workers=2),
            "ours_2_processes": make(workers=2, kind="processes", start_method="fork"),
            "torch_0_workers": functools.partial(data_loader, paths, side, batch_size, 0),
            "torch_2_workers": functools.partial(data_loader, paths, side, batch_size, 2),
        }
        table = ratios(measure(rows, options.rounds), base="by_hand")
    emit(
        "loader_cost",
        figure=table["ours_2_threads"]["cpu"],
        unit="of the CPU time of the work by hand",
        peer=f"torch {torch.__version__}: {table['torch_2_workers']['cpu']}",
        goal="<= 1.25",
        rounds=options.rounds,
        image_size=side,
        batch_size=batch_size,
        images=options.images,
        rows=table,
    )


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
