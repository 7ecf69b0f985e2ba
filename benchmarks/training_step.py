"""YOLOv7-tiny's training step in bf16 and channels-last memory order, beside fp32 in row-major order.

    python -m benchmarks training-step [--data FOLDER]

The engine's own loop takes the steps: forward, OTA loss, backward, SGD with Nesterov momentum, average; of the same
ready batches (mosaics of the data set, or of drawn pictures) for every row. Weights, loss, optimizer and average stay
in fp32. GFLOP are those of the convolutions, forward and backward, as torch counts them; ``auto`` is what
``precision=auto`` takes on this machine.
"""

import argparse
import copy
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.mosaic_sample import draw_pictures
from benchmarks.ready import ReadyLoader
from benchmarks.timing import emit, paired, ratios
from sightline.engine.accumulation import AccumulationConfig
from sightline.engine.building import build_training
from sightline.engine.loop import Training, train
from sightline.engine.precision import fastest_precision
from sightline.engine.task import Loader
from sightline.recipes.yolov7 import YOLOv7Run, yolov7_tiny

ROWS: dict[str, dict[str, Any]] = {
    "fp32": {"precision": "fp32", "channels_last": False},
    "channels_last": {"precision": "fp32", "channels_last": True},
    "bf16": {"precision": "bf16", "channels_last": False},
    "bf16_channels_last": {"precision": "bf16", "channels_last": True},
}


def ready(loader: Loader, count: int) -> ReadyLoader:
    """The first few batches of an epoch in turn, for ever."""
    fetched = loader.iterate(epochs=1)
    return ReadyLoader([copy.deepcopy(next(fetched).batch) for _ in range(count)], loader.batches_per_epoch)


def stepper(training: Training, loader: Loader, steps: int) -> Callable[[], object]:
    """A function that takes so many steps from where the training stands."""

    def run() -> None:
        end = training.step + steps
        train(training, loader, should_stop=lambda: training.step >= end)
        assert training.step == end

    return run


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks training-step", description=__doc__)
    parser.add_argument("--data", type=Path, help="data set; default: drawn pictures")
    parser.add_argument("--image-size", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2, help="per round and row")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as scratch:
        folder = options.data
        if folder is None:
            folder = Path(scratch) / "pictures"
            draw_pictures(folder, 64)
        base = yolov7_tiny()
        config: YOLOv7Run = base.but(
            data=base.data.but(path=folder),
            image_size=options.image_size,
            batch_size=options.batch_size,
            accumulation=AccumulationConfig(),  # an update after every batch
            device="cpu",
            workers=0,
        )
        runs, loader = {}, None
        for name, changes in ROWS.items():
            problem = config.but(**changes).open()
            assert problem.train_loader is not None
            loader = ready(problem.train_loader, 4) if loader is None else loader
            runs[name] = build_training(config.but(**changes), problem)
        assert loader is not None
        with FlopCounterMode(display=False) as counter:
            sum(runs["fp32"].task(loader.batches[0]).values()).backward()
        runs["fp32"].optimizer.zero_grad()
        gflop = counter.get_total_flops() / 1e9
        steppers = {name: stepper(training, loader, options.steps) for name, training in runs.items()}
        samples = paired(steppers, options.rounds)
    table: dict[str, dict[str, float]] = {}
    for name, row in ratios(samples, "fp32").items():
        cpu_ms = row["cpu_ms"] / options.steps
        table[name] = {**row, "cpu_ms": round(cpu_ms, 1), "gflop_per_cpu_s": round(1e3 * gflop / cpu_ms, 1)}
    emit(
        "training_step",
        figure=table["bf16_channels_last"]["cpu"],
        unit="of the CPU time of the step in fp32",
        peer=f"fp32 in row-major order, torch {torch.__version__}",
        goal="<= 0.55",
        rounds=options.rounds,
        shape={"image_size": options.image_size, "batch_size": options.batch_size},
        gflop_per_step=round(gflop, 1),
        auto=fastest_precision(torch.device("cpu")),
        rows=table,
    )


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
