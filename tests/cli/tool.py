"""The command line inside the test's process, and a folder with everything that a user may point it at."""

from __future__ import annotations

import io
import json
import os
import shlex
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import cv2
import numpy as np

from sightline.cli.main import main

RECIPE = "yolov7-tiny"
CLASS_NAMES = ("disc", "square")

TINY = (
    "model.width=0.125", "image_size=64", "batch_size=4", "epochs=2", "device=cpu", "workers=0", "threads=1",
    "log.every_steps=1", "log.train_pictures=1", "log.eval_pictures=1", "log.trackers=[]",
)  # fmt: skip
"""A real detector that trains in a second: 8 pictures, 2 steps an epoch."""


class Outcome(NamedTuple):
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


def sightline(*arguments: object, cwd: Path) -> Outcome:
    """Run a command. An exception that would be shown as a traceback passes through."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["sightline", *map(str, arguments)]
    with mock.patch.object(sys, "argv", argv), redirect_stdout(out), redirect_stderr(err), chdir(cwd):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code
    return Outcome(code, out.getvalue(), err.getvalue())


def typed(line: str, *, cwd: Path) -> Outcome:
    """Run a command as it is typed into a shell, without the program's name."""
    return sightline(*shlex.split(line), cwd=cwd)


def without_report():
    """Only note in a run's page which end it tells: plots take longer than everything else in so small a run."""

    def report(run: Path) -> Path:
        page = run / "report" / "index.html"
        page.parent.mkdir(exist_ok=True)
        ended = json.loads((run / "run.json").read_text())["sessions"][-1]["ended"]
        page.write_text(f'<meta name="run-ended" content="{ended}">')
        return page

    return mock.patch("sightline.api.session.report", report)


def files_in(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file, and every folder, by path; a lock that is held meanwhile aside."""
    found = {}
    for path, folders, names in os.walk(folder):
        for name in names:
            about = (Path(path) / name).lstat()
            found[str(Path(path, name).relative_to(folder))] = (about.st_size, about.st_mtime_ns)
        for name in folders:
            found[str(Path(path, name).relative_to(folder)) + "/"] = (0, 0)
    return {name: about for name, about in found.items() if not Path(name).name.startswith(".lock")}


def write_city(folder: Path, *, train: int = 8, val: int = 3) -> Path:
    """A YOLO data set of discs and squares, 64 x 48 pixels."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for number in range(count):
            image = random.integers(90, 110, (48, 64, 3), dtype=np.uint8)
            lines = []
            for label in (0, 1):
                x, y, half = 16 + 32 * label, int(random.integers(14, 34)), int(random.integers(8, 12))
                if label == 0:
                    cv2.circle(image, (x, y), half, (220, 60, 60), -1)
                else:
                    cv2.rectangle(image, (x - half, y - half), (x + half - 1, y + half - 1), (60, 60, 220), -1)
                lines.append(f"{label} {x / 64} {y / 48} {2 * half / 64} {2 * half / 48}")
            cv2.imwrite(str(folder / "images" / split / f"{number}.png"), image)
            (folder / "labels" / split / f"{number}.txt").write_text("\n".join(lines) + "\n")
    names = ", ".join(CLASS_NAMES)
    (folder / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\nnames: [{names}]\n")
    return folder
