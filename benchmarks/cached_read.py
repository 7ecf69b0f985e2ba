"""Reading a 640x480 image back from the cache, beside decoding its JPEG file.

    python -m benchmarks cached-read [--data FOLDER]

Every row reads every byte of every image once, by a copy, with all files in the page cache. ``npy`` is the usual cache,
one file per image.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np

from benchmarks.mosaic_sample import draw_pictures
from benchmarks.timing import emit, paired, ratios
from sightline.data.cache import open_images
from sightline.data.formats import open_dataset
from sightline.data.image_reader import ImageReader


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks cached-read", description=__doc__)
    parser.add_argument("--data", type=Path, help="YOLO folder with data.yaml; default: drawn pictures")
    parser.add_argument("--image-size", type=int, default=640)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(arguments)
    side = options.image_size
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.data
        if folder is None:
            folder = Path(scratch) / "pictures"
            draw_pictures(folder, options.images)
        annotations = open_dataset(folder).read("train")
        annotations = annotations.select(range(min(options.images, len(annotations))))
        paths, indices = list(annotations.paths), range(len(annotations))
        reader = ImageReader(annotations, side)
        packed = open_images(reader, cache="disk", folder=Path(scratch) / "cache")
        memory = open_images(reader, cache="ram")
        copy = np.empty((side, side, 3), np.uint8)
        for i in indices:
            with memory.borrow([i]) as (image,):
                np.save(f"{scratch}/{i}.npy", image)

        def use(image: Any) -> None:
            copy[: image.shape[0], : image.shape[1]] = image

        def decode() -> None:
            for path in paths:
                image = cv2.imread(path)
                ratio = side / max(image.shape[:2])
                use(image if ratio == 1 else cv2.resize(image, None, fx=ratio, fy=ratio))

        def npy() -> None:
            for i in indices:
                use(np.load(f"{scratch}/{i}.npy"))

        def borrow(images: Any) -> Callable[[], None]:
            def run() -> None:
                for i in indices:
                    with images.borrow([i]) as (image,):
                        use(image)

            return run

        rows = {"decode": decode, "npy": npy, "ours_packed": borrow(packed), "ours_ram": borrow(memory)}
        table = ratios(paired(rows, rounds=options.rounds), base="decode")
    emit(
        "cached_read",
        figure=table["ours_packed"]["cpu"],
        unit="of the CPU time of decoding",
        peer=f"OpenCV {cv2.__version__}",
        goal="<= 0.08",
        rounds=options.rounds,
        image_size=side,
        images=len(annotations),
        rows=table,
    )


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
