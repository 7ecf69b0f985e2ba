"""The share of training epochs that is forward, loss and backward, at 320 and at 64 pixels, beside Ultralytics.

    python -m benchmarks efficiency --data FOLDER [--peer-python PYTHON]

FOLDER holds ``data.yaml`` (YOLO). One thread; three epochs of 8 images a batch at 320 pixels, and of 32 at 64. What
stands between epochs (evaluation, checkpoints) and pictures are off on both sides; everything else is as both tools
have it by default. Every run is a process of its own, and the rows take turns. CPU time, with all threads of loader
and trackers.

Rows. ``ours``: YOLOv7-tiny with 0.6875 of its channels in fp32, which has 1.06 times the operations of yolo11n;
``ours_nearby``: the same with ``augment.partners=nearby``, which keeps no more images in memory than the peer does;
``peer``, where its interpreter has Ultralytics: yolo11n from its yaml in fp32.

``efficiency`` is what forward, loss and backward took inside of the epochs after the first, over those epochs;
``first`` is the same of the first epoch, which decodes every image and imports what it needs, and ``all`` of all of
them. ``bound`` puts above the line what they took after the run, for the batches of the last epoch with nothing beside
them, and below it that epoch; it moves more, since the two are measured at different times. The figure is the
efficiency of ``ours`` at 320 pixels; ``small`` that at 64.
"""

import argparse
import copy
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

from benchmarks.end_to_end import Clocks
from benchmarks.startup import ROOT, peer_version
from benchmarks.timing import emit

SIZES = {320: 8, 64: 32}
"""Images a batch by image size."""
ROWS = {"ours": (), "ours_nearby": ("augment.partners=nearby",), "peer": ()}


class EpochClocks(Clocks):
    """CPU seconds of every epoch, and what of them is computation.

    Args:
        epochs: How many there will be; the batches of the last one are kept.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs: list[tuple[float, float]] = []
        """(all, forward, loss and backward)."""
        self._count = epochs
        self._begun = (0.0, 0.0)
        self._batches: list[Any] = []

    def begin(self) -> None:
        """An epoch begins."""
        self._begun = (time.process_time(), self.compute_s)

    def end(self) -> None:
        """It ends."""
        self.epochs.append((time.process_time() - self._begun[0], self.compute_s - self._begun[1]))

    def keep(self, batch: Any) -> None:
        """Copy a batch of the last epoch, since its memory is used again."""
        if len(self.epochs) == self._count - 1 and not self._is_inside:
            self._batches.append(copy.deepcopy(batch))

    def bound_s(self, compute: Callable[[Any], object]) -> float:
        """CPU seconds of ``compute(batch)`` for all batches that were kept."""
        start = time.process_time()
        for batch in self._batches:
            compute(batch)
        return time.process_time() - start

    def leave(self, path: Path, bound_s: float) -> None:
        """Write everything for the parent."""
        path.write_text(json.dumps({"epochs": self.epochs, "bound_s": bound_s}))


def run_ours(data: Path, out: Path, image_size: int, batch_size: int, epochs: int, changes: tuple[str, ...]) -> None:
    """In a process of its own."""
    import io

    import torch

    from sightline.api.configuration import resolve
    from sightline.engine.building import settle
    from sightline.engine.callback import Callback
    from sightline.engine.console import Console
    from sightline.engine.loop import Training
    from sightline.engine.precision import Precision
    from sightline.engine.session import run_session
    from sightline.tasks.detection2d import Detection2D

    torch.set_num_threads(1)
    clocks, seen = EpochClocks(epochs), []
    forward = clocks.timed(Detection2D.forward)

    def kept_forward(self: Detection2D, batch: Any) -> Any:
        clocks.keep(batch)
        return forward(self, batch)

    class Marks(Callback):
        def on_run_start(self, training: Training) -> None:
            seen.append(training)
            clocks.begin()

        def on_epoch_end(self, training: Training, epoch: int) -> None:
            clocks.end()
            clocks.begin()

    Detection2D.forward = kept_forward  # type: ignore[method-assign]
    Precision.backward = clocks.timed(Precision.backward)  # type: ignore[method-assign]
    fixed = [f"image_size={image_size}", f"batch_size={batch_size}", f"epochs={epochs}", "device=cpu", "threads=1"]
    fixed += ["model.width=0.6875", "precision=fp32"]
    fixed += ["evaluate.every_epochs=0", "checkpoint.every_epochs=0", "log.train_pictures=0"]
    config = settle(resolve("yolov7-tiny", [*fixed, *changes], data=data)[0])
    console = Console(io.StringIO(), is_terminal=True)
    run_session(config, config.open(), out, console=console, callbacks=[Marks()])
    (training,) = seen

    def compute(batch: Any) -> None:
        training.precision.backward(training.task(batch), 1.0)
        training.optimizer.zero_grad()

    training.task.train()
    clocks.leave(out / "clocks.json", clocks.bound_s(compute))


def run_peer(data: Path, out: Path, image_size: int, batch_size: int, epochs: int) -> None:
    """In a process of its own: the peer's trainer with the same clocks."""
    import torch
    from ultralytics.models.yolo.detect import DetectionTrainer

    clocks, seen = EpochClocks(epochs), []

    def start(trainer: Any) -> None:
        torch.set_num_threads(1)
        if not seen:
            seen.append(trainer.model)
        forward = clocks.timed(type(trainer.model).forward)

        def kept_forward(batch: Any, *arguments: Any, **options: Any) -> Any:
            clocks.keep(batch)
            return forward(trainer.model, batch, *arguments, **options)

        trainer.model.forward = kept_forward
        clocks.begin()

    def end(trainer: Any) -> None:
        clocks.end()
        del trainer.model.forward

    torch.Tensor.backward = clocks.timed(torch.Tensor.backward)
    lean = {"val": False, "save": False, "plots": False, "pretrained": False}
    sizes = {"imgsz": image_size, "batch": batch_size, "epochs": epochs, "device": "cpu"}
    places = {"model": "yolo11n.yaml", "data": str(data / "data.yaml"), "project": str(out), "name": "run"}
    trainer = DetectionTrainer(overrides={**lean, **sizes, **places})
    trainer.add_callback("on_train_epoch_start", start)
    trainer.add_callback("on_train_epoch_end", end)
    trainer.train()
    model = seen[0].train()

    def compute(batch: Any) -> None:
        model(batch)[0].sum().backward()
        model.zero_grad(set_to_none=True)

    clocks.leave(out / "clocks.json", clocks.bound_s(compute))


def run_once(python: str, name: str, data: Path, image_size: int, epochs: int) -> dict[str, float]:
    """The figures of one run in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "YOLO_OFFLINE": "true"}
        environment["YOLO_CONFIG_DIR"] = folder
        command = [python, "-m", "benchmarks", "efficiency", "--data", str(data.absolute()), "--child", name]
        command += ["--out", folder, "--sizes", str(image_size), "--epochs", str(epochs)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
        if done.returncode:
            raise RuntimeError(f"{name} ended with code {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
        times = json.loads((Path(folder) / "clocks.json").read_text())
    later = max(epochs - 1, 1)
    taken = [whole for whole, _ in times["epochs"]]
    inside = [compute for _, compute in times["epochs"]]
    return {
        "efficiency": sum(inside[-later:]) / sum(taken[-later:]),
        "first": inside[0] / taken[0],
        "all": sum(inside) / sum(taken),
        "bound": times["bound_s"] / taken[-1],
        "epoch_s": statistics.fmean(taken[-later:]),
    }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks efficiency", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="YOLO folder with data.yaml and images/train")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="image sizes, comma-separated")
    parser.add_argument("--rows", default=",".join(ROWS), help="comma-separated")
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that has ultralytics")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    sizes = [int(size) for size in options.sizes.split(",")]
    if options.child is not None:
        batch_size = SIZES.get(sizes[0], 8)
        if options.child == "peer":
            run_peer(options.data, options.out, sizes[0], batch_size, options.epochs)
        else:
            run_ours(options.data, options.out, sizes[0], batch_size, options.epochs, ROWS[options.child])
        return

    peer = peer_version(options.peer_python)
    names = [name for name in options.rows.split(",") if name != "peer" or peer is not None]
    runs: dict[int, dict[str, list[dict[str, float]]]] = {size: {name: [] for name in names} for size in sizes}
    for number in range(options.rounds):
        first = number % len(names)
        for size in sizes:
            for name in names[first:] + names[:first]:
                python = options.peer_python if name == "peer" else sys.executable
                runs[size][name].append(run_once(python, name, options.data, size, options.epochs))

    table = {
        str(size): {
            name: {
                **{what: round(statistics.median(run[what] for run in found), 3) for what in found[0]},
                "range": [round(edge(run["efficiency"] for run in found), 3) for edge in (min, max)],
            }
            for name, found in runs[size].items()
        }
        for size in sizes
    }
    emit(
        "efficiency",
        figure=table[str(sizes[0])][names[0]]["efficiency"],
        unit=f"of later epochs' CPU time is forward, loss and backward, at {sizes[0]} pixels",
        peer=f"ultralytics {peer}, yolo11n in fp32" if peer else "not installed",
        goal=">= 0.96, small >= 0.85",
        rounds=options.rounds,
        small=table[str(sizes[-1])][names[0]]["efficiency"],
        epochs=options.epochs,
        data=options.data.name,
        rows=table,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
