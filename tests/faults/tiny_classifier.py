"""Classifiers so small that they train in seconds: one in full precision with every random change, one of one bit."""

from __future__ import annotations

from pathlib import Path

from sightline import api
from sightline.engine.run_folder.folder import is_run
from tests.cli.tool import without_report
from tests.conftest import quiet

COMMON = (
    "batch_size=4",
    "device=cpu",
    "workers=0",
    "threads=1",
    "precision=fp32",
    "seed=3",
    "ema.decay=0.9",
    "checkpoint.every_steps=2",
    "log.every_steps=1",
    "log.heartbeat_seconds=0.01",
)
"""On a data set of 3 x 3 pictures: 3 steps an epoch."""

CLASSIFIERS = {
    "small-cnn": (
        "image_size=16", "model.width=8", "model.dropout=0.2", "augment.crop=resized", "augment.mix=0.8",
        "augment.mixup_alpha=0.4", "augment.cutmix_alpha=1", "augment.randaugment_ops=2", "augment.erase=0.5",
        "schedule.warmup.epochs=1",
    ),
    "lenet": ("image_size=20", "batch_size=3", "model.channels=8", "model.hidden=16", "augment.randaugment_ops=1"),
}  # fmt: skip
"""Changes by recipe. The second one has a binary convolution and a binary dense layer, which mx_adam trains."""


def changes_with(recipe: str, data: Path, *changes: str) -> list[str]:
    """The changes of a tiny run of a recipe, and more of them, which win."""
    given = dict(change.split("=", 1) for change in (*COMMON, *CLASSIFIERS[recipe], *changes))
    return [f"data.path={data}", *(f"{key}={value}" for key, value in given.items())]


def live(recipe: str, run: Path, data: Path, *changes: str) -> int:
    """Begin, or go on where something was begun. Returns the exit code."""
    with without_report():
        if is_run(run):
            return api.resume(run, console=quiet()).exit_code
        return api.train(recipe, changes=changes_with(recipe, data, *changes), out=run, console=quiet()).exit_code
