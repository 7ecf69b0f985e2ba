"""A data set of image classes so small that a classifier trains on it in seconds."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

SHAPES = ("disc", "square", "stripe")

TINY_CLASSES = (
    "image_size=16", "batch_size=8", "epochs=2", "device=cpu", "workers=0", "threads=1", "precision=fp32",
    "log.every_steps=1", "log.train_pictures=1", "log.eval_pictures=1", "log.trackers=[]",
)  # fmt: skip
"""What makes ``small-cnn`` train in a second on ``write_shapes``: 24 pictures, 3 steps an epoch."""


def write_shapes(folder: Path, *, train: int = 8, val: int = 4, names: tuple[str, ...] = SHAPES) -> Path:
    """Class folders of discs, squares and stripes of their own colours; ``train`` and ``val`` of each, in two sizes."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for label, name in enumerate(names):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                height, width = (40, 48) if number % 2 else (52, 36)
                image = random.integers(90, 110, (height, width, 3), dtype=np.uint8)
                x, y = (side // 2 + int(random.integers(-4, 5)) for side in (width, height))
                half = int(random.integers(8, 13))
                if label % 3 == 0:
                    cv2.circle(image, (x, y), half, (220, 60, 60), -1)
                elif label % 3 == 1:
                    cv2.rectangle(image, (x - half, y - half), (x + half, y + half), (60, 60, 220), -1)
                else:
                    cv2.line(image, (0, y - half), (width, y + half), (60, 220, 60), 5)
                cv2.imwrite(str(folder / split / name / f"{number}.png"), image)
    return folder
