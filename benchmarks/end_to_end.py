"""One epoch on a real data set, from the start of the process to its end, beside Ultralytics' yolo11n.

    python -m benchmarks end-to-end --data FOLDER [--peer-python PYTHON]

FOLDER holds ``data.yaml`` (YOLO). 320 pixels, 8 images a batch, one thread; everything else as both tools have it by
default: augmentation, evaluation, checkpoints, pictures, plots, report. Every run is a process of its own.

Rows. ``tiny``: YOLOv7-tiny in fp32; ``tiny_bf16``: in bf16. It has twice the operations of yolo11n, so
``twin`` and ``twin_bf16`` are YOLOv7-tiny with 0.6875 of its channels, which has 1.06 times those of yolo11n.
``peer``: yolo11n from its yaml in fp32, which is all it can do on a CPU.

Per row: CPU seconds of the run and of its training epoch, images per CPU second of the epoch, the share of the epoch
spent in forward, loss and backward (the efficiency of the engine), GFLOP (of the epoch's convolutions, three times the
forward ones) per CPU second of the run, and peak memory. The figure is ``twin_bf16`` over ``peer``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.startup import peer_version
from benchmarks.timing import emit

ROOT = Path(__file__).parents[1]
MODELS = {
    "twin_bf16": ("model.width=0.6875", "precision=bf16"),
    "twin": ("model.width=0.6875", "precision=fp32"),
    "tiny_bf16": ("precision=bf16",),
    "tiny": ("precision=fp32",),
}


class Clocks:
    """CPU seconds of a run's parts, taken from inside it."""

    def __init__(self) -> None:
        self.compute_s = 0.0
        """Forward, loss and backward; of this thread, so that loader threads do not count."""
        self.marks: dict[str, float] = {}
        self._is_inside = False

    def mark(self, name: str) -> None:
        """Note the CPU seconds of the process, at the first call for a name."""
        self.marks.setdefault(name, time.process_time())

    def timed(self, function: Any) -> Any:
        """The function, with its time added to the computation's; calls inside such a call are part of it."""

        def wrapped(*arguments: Any, **options: Any) -> Any:
            if self._is_inside:
                return function(*arguments, **options)
            start, self._is_inside = time.thread_time(), True
            try:
                return function(*arguments, **options)
            finally:
                self.compute_s, self._is_inside = self.compute_s + time.thread_time() - start, False

        return wrapped

    def write(self, path: Path, **more: float) -> None:
        """Leave everything for the parent."""
        path.write_text(json.dumps({"compute_s": self.compute_s, **self.marks, **more}))


def forward_gflop(network: Any, image_size: int) -> float:
    """GFLOP of one image's forward pass in training, as torch counts them; a multiplication and an addition are two."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.train()(torch.zeros(2, 3, image_size, image_size))
    return counter.get_total_flops() / 2e9


def run_ours(data: Path, out: Path, image_size: int, batch_size: int, changes: list[str]) -> None:
    """In a process of its own: ``sightline train`` with clocks at the doors of the engine."""
    from sightline.cli import main as cli
    from sightline.engine import session
    from sightline.engine.evaluation import Evaluator
    from sightline.engine.precision import Precision
    from sightline.tasks.detection2d import Detection2D

    clocks, seen = Clocks(), {}
    train, evaluate = session.train, Evaluator.on_epoch_end

    def marked_train(training: Any, loader: Any, **options: Any) -> str:
        clocks.mark("epoch_start")
        seen["task"], seen["batches"] = training.task, loader.batches_per_epoch
        return train(training, loader, **options)

    def marked_evaluate(self: Evaluator, *arguments: Any) -> None:
        clocks.mark("epoch_end")
        evaluate(self, *arguments)
        clocks.mark("evaluated")

    session.train, Evaluator.on_epoch_end = marked_train, marked_evaluate
    Detection2D.forward = clocks.timed(Detection2D.forward)
    Precision.backward = clocks.timed(Precision.backward)
    sizes = [f"image_size={image_size}", f"batch_size={batch_size}", "epochs=1", "device=cpu", "threads=1"]
    sys.argv[1:] = ["train", "yolov7-tiny", "--data", str(data), "--out", str(out / "run"), *sizes, *changes]
    try:
        cli.main()
    except SystemExit as done:
        assert done.code == 0, done.code
    clocks.mark("end")
    memory = peak_mb()
    network = seen["task"].detector.network
    clocks.write(out / "clocks.json", peak_mb=memory, gflop=forward_gflop(network, image_size))


def run_peer(data: Path, out: Path, image_size: int, batch_size: int) -> None:
    """In a process of its own: the peer's trainer with the same clocks."""
    import torch
    from ultralytics.models.yolo.detect import DetectionTrainer

    torch.set_num_threads(1)
    clocks, seen = Clocks(), {}

    def start(trainer: Any) -> None:
        torch.set_num_threads(1)
        clocks.mark("epoch_start")
        seen["model"] = trainer.model
        trainer.model.forward = clocks.timed(trainer.model.forward)

    def epoch_end(trainer: Any) -> None:
        clocks.mark("epoch_end")
        del trainer.model.forward

    torch.Tensor.backward = clocks.timed(torch.Tensor.backward)
    trainer = DetectionTrainer(
        overrides={
            "model": "yolo11n.yaml",
            "data": str(data / "data.yaml"),
            "imgsz": image_size,
            "batch": batch_size,
            "epochs": 1,
            "device": "cpu",
            "pretrained": False,
            "project": str(out),
            "name": "run",
        }
    )
    trainer.add_callback("on_train_epoch_start", start)
    trainer.add_callback("on_train_epoch_end", epoch_end)
    trainer.add_callback("on_fit_epoch_end", lambda trainer: clocks.mark("evaluated"))
    trainer.train()
    clocks.mark("end")
    memory = peak_mb()
    clocks.write(out / "clocks.json", peak_mb=memory, gflop=forward_gflop(seen["model"], image_size))


def peak_mb() -> float:
    """Most memory that this process held."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def run_once(python: str, name: str, options: argparse.Namespace) -> dict[str, float]:
    """The figures of one run in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "YOLO_OFFLINE": "true"}
        environment["YOLO_CONFIG_DIR"] = folder
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        command = [python, "-m", "benchmarks", "end-to-end", "--data", str(options.data.absolute()), "--child", name]
        command += ["--out", folder, "--image-size", str(options.image_size), "--batch-size", str(options.batch_size)]
        with (place / "said.txt").open("w+") as said:
            code = subprocess.run(command, stdout=said, stderr=said, env=environment, cwd=place, check=False).returncode
            if code:
                said.seek(0)
                raise RuntimeError(f"{name} ended with code {code}: {said.read()[-2000:]}")
        times = json.loads((place / "clocks.json").read_text())
    epoch = times["epoch_end"] - times["epoch_start"]
    images = sum(1 for _ in (options.data / "images" / "train").iterdir())
    return {
        "cpu_s": times["end"],
        "before_s": times["epoch_start"],
        "epoch_s": epoch,
        "evaluation_s": times["evaluated"] - times["epoch_end"],
        "after_s": times["end"] - times["evaluated"],
        "images_per_cpu_s": images / epoch,
        "efficiency": times["compute_s"] / epoch,
        "gflop_per_cpu_s": 3 * images * times["gflop"] / times["end"],
        "gflop_forward": times["gflop"],
        "peak_mb": times["peak_mb"],
    }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks end-to-end", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="YOLO folder with data.yaml and images/train")
    parser.add_argument("--image-size", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", default=",".join(MODELS), help="ours, comma-separated")
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that has ultralytics")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child == "peer":
        run_peer(options.data, options.out, options.image_size, options.batch_size)
        return
    if options.child is not None:
        run_ours(options.data, options.out, options.image_size, options.batch_size, list(MODELS[options.child]))
        return

    peer = peer_version(options.peer_python)
    if peer is None:
        print(f"end-to-end: {options.peer_python} has no ultralytics. Run: make bench-peers", file=sys.stderr)
        raise SystemExit(2)
    pythons = dict.fromkeys(options.rows.split(","), sys.executable) | {"peer": options.peer_python}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in pythons}
    names = list(pythons)
    for number in range(options.rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            runs[name].append(run_once(pythons[name], name, options))

    def ratio(name: str, what: str) -> float:
        pairs = zip(runs[name], runs["peer"], strict=True)
        return round(statistics.median(mine[what] / other[what] for mine, other in pairs), 3)

    emit(
        "end_to_end",
        figure=ratio(names[0], "cpu_s"),
        unit=f"of the peer's CPU seconds for a run of one epoch ({names[0]})",
        peer=f"ultralytics {peer}, yolo11n in fp32",
        goal="<= 0.60",
        rounds=options.rounds,
        data=options.data.name,
        rows={
            name: {
                **{what: round(statistics.median(run[what] for run in found), 3) for what in found[0]},
                "cpu_of_peer": ratio(name, "cpu_s"),
                "epoch_of_peer": ratio(name, "epoch_s"),
                "evaluation_of_peer": ratio(name, "evaluation_s"),
                "gflop_per_cpu_s_of_peer": ratio(name, "gflop_per_cpu_s"),
                "peak_memory_of_peer": ratio(name, "peak_mb"),
            }
            for name, found in runs.items()
        },
    )


if __name__ == "__main__":
    main(sys.argv[1:])
