"""How long training pauses between two epochs, beside DataLoaders whose workers end with every epoch.

    python -m benchmarks epoch-gap [--peer-python PYTHON]

48 pictures of 64 pixels in batches of 8, so an epoch has six steps; two workers; nothing is evaluated. A gap goes from
the end of the optimizer's last step in an epoch to the start of the first forward pass of the next: all that the
engine, its callbacks and the loader do in between. The first gap of a run is left out, since files and memory are new
then. The figure is the median of ``ours``, in milliseconds by the clock.

Rows. ``ours``: YOLOv7-tiny as it comes, with threads as workers and a checkpoint after every epoch;
``ours_processes``: its workers are processes; ``ours_without_checkpoints``. ``torch``: a small network and a
``DataLoader`` that decodes the same pictures, without mosaics, in 2 processes; ``torch_persistent``: the same with
``persistent_workers=True``. ``peer``, where its interpreter is given: Ultralytics' yolo11n, without validation,
checkpoints and plots. On a CPU it loads in the training process, whatever ``workers`` says.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.startup import ROOT, peer_version
from benchmarks.timing import emit

SIDE = 64
BATCH_SIZE = 8
IMAGES = 48
WORKERS = 2


class Gaps:
    """Seconds from the last ``ended`` to the first ``begins`` of the next epoch."""

    def __init__(self, steps_per_epoch: int) -> None:
        self.steps_per_epoch = steps_per_epoch
        self.seconds: list[float] = []
        self._steps = 0
        self._ended_at = 0.0

    def begins(self) -> None:
        """A forward pass begins."""
        if self._steps and self._steps % self.steps_per_epoch == 0:
            self.seconds.append(time.perf_counter() - self._ended_at)

    def ended(self) -> None:
        """The optimizer's step has ended."""
        self._steps += 1
        self._ended_at = time.perf_counter()


def between(gaps: Gaps, before: Callable[..., Any] | None, after: Callable[..., Any] | None) -> Callable[..., Any]:
    """One of the two functions, with its note of the time."""

    def noted(*arguments: Any, **options: Any) -> Any:
        if before is not None:
            gaps.begins()
            return before(*arguments, **options)
        assert after is not None
        result = after(*arguments, **options)
        gaps.ended()
        return result

    return noted


def ours(data: Path, epochs: int, *changes: str) -> list[float]:
    """Gaps of a session as the command line would run it."""
    import io

    from sightline.api.configuration import resolve
    from sightline.engine.building import settle
    from sightline.engine.console import Console
    from sightline.engine.loop import Training
    from sightline.engine.session import run_session

    fixed = [f"image_size={SIDE}", f"batch_size={BATCH_SIZE}", f"workers={WORKERS}", f"epochs={epochs}", "threads=1"]
    fixed += ["device=cpu", "evaluate.every_epochs=0", f"accumulation.nominal_batch_size={BATCH_SIZE}"]
    config = settle(resolve("yolov7-tiny", [*fixed, *changes], data=data)[0])
    problem = config.open()
    assert problem.train_loader is not None
    gaps = Gaps(problem.train_loader.batches_per_epoch)

    def watch(training: Training) -> None:
        training.task.forward = between(gaps, training.task.forward, None)  # type: ignore[method-assign]
        training.optimizer.step = between(gaps, None, training.optimizer.step)  # type: ignore[method-assign]

    with tempfile.TemporaryDirectory() as folder:
        console = Console(io.StringIO(), is_terminal=False)
        run_session(config, problem, Path(folder), console=console, on_start=watch)
    return gaps.seconds


def torch_loop(data: Path, epochs: int, *, persistent: bool) -> list[float]:
    """Gaps of a loop by hand."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader

    from benchmarks.loader_cost import Images

    paths = sorted(map(str, (data / "images" / "train").iterdir()))
    loader = DataLoader(Images(paths, SIDE), BATCH_SIZE, num_workers=WORKERS, persistent_workers=persistent)
    network = nn.Sequential(nn.Conv2d(3, 32, 3, 2), nn.ReLU(), nn.Conv2d(32, 64, 3, 2), nn.ReLU(), nn.Conv2d(64, 8, 3))
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    gaps = Gaps(len(loader))
    for _ in range(epochs):
        for images in loader:
            gaps.begins()
            optimizer.zero_grad()
            network(images / 255).square().mean().backward()
            optimizer.step()
            gaps.ended()
    return gaps.seconds


def run_peer(data: Path, epochs: int, out: Path) -> None:
    """In a process of the peer's interpreter: leaves the gaps in a file."""
    import torch
    from ultralytics.models.yolo.detect import DetectionTrainer

    torch.set_num_threads(1)
    gaps = Gaps(-(-IMAGES // BATCH_SIZE))
    lean = {"val": False, "save": False, "plots": False, "pretrained": False, "workers": WORKERS, "nbs": BATCH_SIZE}
    sizes = {"imgsz": SIDE, "batch": BATCH_SIZE, "epochs": epochs, "device": "cpu"}
    places = {"model": "yolo11n.yaml", "data": str(data / "data.yaml"), "project": str(out), "name": "run"}
    trainer = DetectionTrainer(overrides={**lean, **sizes, **places})
    trainer.add_callback("on_train_epoch_start", lambda trainer: torch.set_num_threads(1))
    trainer.add_callback("on_train_batch_start", lambda trainer: gaps.begins())
    trainer.add_callback("on_train_batch_end", lambda trainer: gaps.ended())
    trainer.train()
    (out / "gaps.json").write_text(json.dumps(gaps.seconds))


def peer_gaps(python: str, data: Path, epochs: int) -> list[float]:
    """Gaps of the peer."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "YOLO_OFFLINE": "true", "YOLO_CONFIG_DIR": folder}
        command = [python, "-m", "benchmarks", "epoch-gap", "--child", str(data), "--epochs", str(epochs)]
        command += ["--out", folder]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
        if done.returncode:
            raise RuntimeError(f"the peer ended with code {done.returncode}: {done.stderr[-2000:]}")
        found: list[float] = json.loads((Path(folder) / "gaps.json").read_text())
        return found


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks epoch-gap", description=__doc__)
    parser.add_argument("--epochs", type=int, default=12, help="per run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", help="only these, comma-separated; ours is always there")
    parser.add_argument("--peer-python", help="an interpreter that has ultralytics")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child is not None:
        run_peer(options.child, options.epochs, options.out)
        return

    import torch

    from benchmarks.mosaic_sample import draw_pictures

    torch.set_num_threads(1)
    epochs = options.epochs
    rows: dict[str, Callable[[Path], list[float]]] = {
        "ours": lambda data: ours(data, epochs),
        "ours_processes": lambda data: ours(data, epochs, "data.loader=processes"),
        "ours_without_checkpoints": lambda data: ours(data, epochs, "checkpoint.every_epochs=0"),
        "torch": lambda data: torch_loop(data, epochs, persistent=False),
        "torch_persistent": lambda data: torch_loop(data, epochs, persistent=True),
    }
    peer = peer_version(options.peer_python) if options.peer_python else None
    if peer is not None:
        rows["peer"] = lambda data: peer_gaps(options.peer_python, data, epochs)
    if options.rows is not None:
        rows = {name: row for name, row in rows.items() if name in {"ours", *options.rows.split(",")}}
    gaps: dict[str, list[float]] = {name: [] for name in rows}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "pictures"
        draw_pictures(data, IMAGES)
        names = list(rows)
        for number in range(options.rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                gaps[name] += rows[name](data)[1:]

    def milliseconds(seconds: list[float]) -> dict[str, float]:
        middle = statistics.median(seconds)
        return {
            label: round(1e3 * value, 2)
            for label, value in {"median": middle, "least": min(seconds), "most": max(seconds)}.items()
        }

    table = {name: milliseconds(found) for name, found in gaps.items()}
    emit(
        "epoch_gap",
        figure=table["ours"]["median"],
        unit="milliseconds between the last step of an epoch and the first of the next",
        peer=f"torch {torch.__version__} DataLoader" + (f", ultralytics {peer}" if peer else ""),
        goal="< 50",
        rounds=options.rounds,
        epochs=epochs,
        rows=table,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
