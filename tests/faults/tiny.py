"""A real detector so small that it trains in seconds, and what a run of it leaves behind."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from sightline import api
from sightline.engine.run_folder.folder import is_run
from tests.cli.tool import RECIPE, without_report
from tests.conftest import quiet

STEPS_PER_EPOCH = 3

CHANGES = (
    "model.width=0.125",
    "image_size=64",
    "batch_size=2",
    "device=cpu",
    "workers=0",
    "threads=1",
    "seed=3",
    "accumulation.nominal_batch_size=4",
    "accumulation.ramp=false",
    "schedule.warmup.iterations=6",
    "schedule.warmup.epochs=1",
    "ema.ramp=10",
    "data.world.scenes=12",
    "data.world.world.image_hw=[64,96]",
    "checkpoint.every_steps=2",
    "log.every_steps=1",
    "log.heartbeat_seconds=0.01",
)
"""10 pictures to train on and 2 to evaluate: 5 batches and 3 steps an epoch, the last step half as large."""

DIFFERS = (
    "timing.jsonl", "status.json", "run.json", "config.yaml", "log.txt", ".lock", "events.out", "report", "set_aside_",
)  # fmt: skip
"""Starts of names that tell of clocks, processes, paths and faults: all else of two equal runs is equal."""


def changes_with(*changes: str) -> list[str]:
    """The changes of every tiny run, and more of them, which win."""
    given = dict(change.split("=", 1) for change in (*CHANGES, *changes))
    return [f"{key}={value}" for key, value in given.items()]


def train(run: Path, *changes: str) -> int:
    """A whole run. Returns the exit code."""
    with without_report():
        return api.train(RECIPE, changes=changes_with(*changes), out=run, console=quiet()).exit_code


def live(run: Path, *changes: str) -> int:
    """What a person or a scheduler does after a kill: go on, or begin where nothing was begun yet."""
    if not is_run(run):
        return train(run, *changes)
    with without_report():
        return api.resume(run, console=quiet()).exit_code


def left_by(run: Path) -> dict[str, str]:
    """SHA-256 of every file of a run that its configuration alone decides, checkpoints included, by path."""
    files = {}
    for folder, _, names in os.walk(run):
        for path in (Path(folder, name) for name in names):
            name = str(path.relative_to(run))
            if not any(part.startswith(DIFFERS) for part in Path(name).parts):
                files[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return files


def assert_same_bits(run: Path, unbroken: Path, note: str = "") -> None:
    """Weights, average, optimizer, everything else in checkpoints, figures, tables and pictures are equal."""
    found, wanted = left_by(run), left_by(unbroken)
    kinds = {Path(name).name for name in wanted}
    assert {"model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json", "metrics.jsonl"} <= kinds
    different = {name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)}
    assert not different, f"{note} differs from the unbroken run in {sorted(different)}"


def logged_step(run: Path) -> int:
    """Step of the newest whole row of metrics.jsonl; 0 without one."""
    try:
        rows = (run / "metrics.jsonl").read_bytes().split(b"\n")[:-1]
    except OSError:
        return 0
    return int(json.loads(rows[-1])["step"]) if rows else 0


def is_past(run: Path, step: int) -> bool:
    """Whether a step was logged."""
    return logged_step(run) >= step


def shown_steps(run: Path) -> list[int]:
    """Steps of the loss curve that TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    return [event.step for event in events.Scalars("train/loss")]
