"""The slowest steps of a training that takes a checkpoint every 20 steps, over those of one that takes none.

A net of 10.5 million parameters in ten square layers, batches of 64 ready in memory, SGD with momentum and an average
of the weights, so that a checkpoint holds 126 MB. Both sides are whole sessions on a run folder with TensorBoard.

A step goes from the start of its forward pass to the start of the next one, after the first 25, so all that a
checkpoint makes the trainer wait is in it, and so is what the thread that hashes and writes takes from the steps
beside it. The figure is the 99th percentile by the clock with checkpoints over that without, in the same round; the
median over the rounds. ``cpu`` are the same by the CPU time of the training thread alone, which knows the copy but no
waiting, and so moves less on a busy machine.
"""

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.ready import ReadyBatch, ReadyLoader
from benchmarks.timing import emit
from sightline.engine.console import Console
from sightline.engine.distributed.processes import WHOLE, Share
from sightline.engine.run_config import Problem, RunConfig
from sightline.engine.session import run_session
from sightline.engine.task import Task

SKIP = 25
LAYERS = 10
CLOCKS = (time.perf_counter, time.thread_time)
STAMPS: list[tuple[float, ...]] = []


class Classify(Task):
    """Square layers and cross-entropy; the forward pass notes the time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(*[nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(LAYERS)])

    def forward(self, batch: ReadyBatch) -> dict[str, Tensor]:
        """The one loss."""
        STAMPS.append(tuple(clock() for clock in CLOCKS))
        return {"entropy": F.cross_entropy(self.layers(batch.x), batch.y)}


class ReadyRun(RunConfig):
    """One epoch of so many batches."""

    batches: int = 200
    width: int = 1024

    def open(self, *, training: bool = True, share: Share = WHOLE) -> Problem:
        """Model and batches; nothing is evaluated."""
        random = torch.Generator().manual_seed(0)
        x = torch.randn(self.batch_size, self.width, generator=random)
        y = torch.randint(0, self.width, (self.batch_size,), generator=random)
        loader = ReadyLoader([ReadyBatch(x, y, tuple(range(self.batch_size)))], self.batches)
        return Problem(task=Classify(self.width), train_loader=loader, eval_loader=None)


def step_times(every_steps: int, options: argparse.Namespace) -> list[tuple[float, ...]]:
    """(wall, CPU of this thread) seconds of every step of a run that counts."""
    config = ReadyRun.model_validate(
        {
            "recipe": "checkpoint-steps",
            "batches": options.steps,
            "width": options.width,
            "epochs": 1,
            "batch_size": options.batch_size,
            "lr": 1e-4,
            "device": "cpu",
            "threads": 1,
            "optimizer": {"kind": "sgd", "momentum": 0.9},
            "ema": {"decay": 0.999},
            "max_grad_norm": 10.0,
            "log": {"train_pictures": 0, "eval_pictures": 0},
            "checkpoint": {"every_epochs": 0, "every_steps": every_steps},
        }
    )
    STAMPS.clear()
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        run_session(config, config.open(), Path(folder), console=Console(io.StringIO(), is_terminal=False))
    return [tuple(b - a for a, b in zip(*pair, strict=True)) for pair in pairwise(STAMPS[SKIP:])]


def percentile(times: Sequence[tuple[float, ...]], clock: int, share: float) -> float:
    """Seconds that ``share`` of the steps do not exceed, between the two nearest of them."""
    found = sorted(step[clock] for step in times)
    place = share * (len(found) - 1)
    low = int(place)
    return found[low] + (place - low) * (found[min(low + 1, len(found) - 1)] - found[low])


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks checkpoint-steps", description=__doc__)
    parser.add_argument("--steps", type=int, default=225, help=f"per run; the first {SKIP} do not count")
    parser.add_argument("--every", type=int, default=20, help="steps between checkpoints")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=1024, help="of each of the ten layers")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--dir", type=Path, help="a folder on the disk to measure; the system's temporary one")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)

    periods = {"without": 0, "with": options.every}
    runs: dict[str, list[list[tuple[float, ...]]]] = {name: [] for name in periods}
    for number in range(options.rounds):
        for name in list(periods) if number % 2 else reversed(periods):
            runs[name].append(step_times(periods[name], options))

    def ratio(share: float, clock: int) -> float:
        pairs = zip(runs["with"], runs["without"], strict=True)
        return round(
            statistics.median(percentile(ours, clock, share) / percentile(base, clock, share) for ours, base in pairs),
            3,
        )

    def milliseconds(name: str, clock: int) -> dict[str, float]:
        shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "slowest": 1.0}
        return {
            label: round(1e3 * statistics.median(percentile(run, clock, share) for run in runs[name]), 1)
            for label, share in shares.items()
        }

    emit(
        "checkpoint_steps",
        figure=ratio(0.99, 0),
        unit="of the 99th percentile of the step time without checkpoints, wall",
        peer="the same training without checkpoints",
        goal="<= 1.2",
        rounds=options.rounds,
        steps=options.steps,
        every=options.every,
        parameters=LAYERS * (options.width + 1) * options.width,
        cpu={"p99": ratio(0.99, 1), "p50": ratio(0.5, 1)},
        p50=ratio(0.5, 0),
        wall_ms={name: milliseconds(name, 0) for name in runs},
        cpu_ms={name: milliseconds(name, 1) for name in runs},
    )


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
