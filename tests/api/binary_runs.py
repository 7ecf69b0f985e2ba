"""Small runs of binary classifiers on grey and coloured squares."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

import cv2
import numpy as np

import sightline
from tests.cli.tool import without_report
from tests.conftest import quiet

CLASS_NAMES = ("dark", "light")
LENET = (
    "model.channels=32", "model.hidden=40", "image_size=28", "batch_size=4", "epochs=2", "device=cpu", "workers=0",
    "threads=1", "log.trackers=[]",
)  # fmt: skip


def write_squares(folder: Path) -> Path:
    """Folders of two classes: 8 images of 28 x 28 pixels to train on, and 4 to evaluate on."""
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(CLASS_NAMES):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                image = random.integers(20 + 150 * label, 80 + 150 * label, (28, 28, 3), dtype=np.uint8)
                cv2.imwrite(str(folder / split / name / f"{number}.png"), image)
    return folder


def train(folder: Path, *changes: str) -> Path:
    """A run of LeNet on the squares of a folder."""
    changed = {text.partition("=")[0] for text in changes}
    base = [text for text in LENET if text.partition("=")[0] not in changed]
    with without_report(), chdir(folder):
        result = sightline.train(
            "lenet", data="squares", changes=[*base, *changes], out=folder / "run", console=quiet()
        )
    return result.run_dir
