"""The engine's loop with all its duties, in extra microseconds a step over the same duties done by hand.

The model is small (64-128-128-10, batches of 32, ready in memory), so that nothing hides the loop. Both sides do
SGD with momentum, clip at norm 10, average the weights, follow a schedule, read the loss and write a line every 50
steps. Ours is a whole session on a run folder: it also looks for non-finite losses, seeds every step, keeps
``status.json`` fresh, prints progress, and stands ready for a stop and for checkpoints.

The figure is that of ``ours_everything``: also the progress bar of a terminal, TensorBoard in its default arrangement,
early stopping and two callbacks of a user.

Rows. ``by_hand``: the base, as one writes it, with ``torch.optim.SGD``, ``LambdaLR`` and a ``DataLoader``.
``by_hand_fused``: the same without a ``DataLoader``, stepping with ``fused=True``. ``by_hand_kernels``: torch's private
kernels called directly on ready lists, the least that these duties cost. ``bare``: forward, backward and step by hand,
nothing else. ``ours``: as above, without what only ``ours_everything`` has; ``ours_bar`` with the progress bar;
``ours_tensorboard`` with event files. Peers, where they are installed: the loops of Accelerate, Fabric, Lightning,
mmengine, Ignite and Ultralytics, bare and with duties; ``loop_peers.py`` says what each row does. A bare one also has
``extra_cpu_us_over_bare``, its own price without the duties that it leaves out. All of them were seen to run with
torch 2.15: accelerate 1.15.0, lightning 2.6.6, mmengine 0.10.7, pytorch-ignite 0.5.5, ultralytics 8.4.190. One that
does not run is left out, and stderr and ``left_out`` say why.

A step's time is taken between the starts of two forward passes, after the first 50, so that set-up, evaluation and
the checkpoint at the end do not count. ``calls`` are the function calls of a step, which no other process on the
machine can change.
"""

import argparse
import contextlib
import copy
import cProfile
import io
import os
import pstats
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.loop_model import LOG_EVERY, STAMPS, Net, Ready, data_loader
from benchmarks.loop_peers import PEERS
from benchmarks.ready import ReadyBatch, ReadyLoader
from benchmarks.timing import emit
from sightline.engine.callback import Callback, StepReport
from sightline.engine.console import Console
from sightline.engine.distributed.processes import WHOLE, Share
from sightline.engine.loop import Training
from sightline.engine.run_config import Problem, RunConfig
from sightline.engine.session import run_session
from sightline.engine.task import Task

SKIP = 50


def from_memory(steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    pairs = Ready(steps).pairs
    for index in range(steps):
        yield pairs[index % 4]


def bare(steps: int, folder: Path) -> None:
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    for x, y in data_loader(steps):
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(x), y).backward()
        optimizer.step()


def by_hand(steps: int, folder: Path, *, fused: bool = False) -> None:
    net = Net()
    average = copy.deepcopy(net).requires_grad_(False)
    averaged = [value for value in average.state_dict().values() if value.is_floating_point()]
    live = [value for value in net.state_dict().values() if value.is_floating_point()]
    parameters = list(net.parameters())
    optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, fused=fused)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - 0.9 * step / steps)
    total = 0.0
    with (folder / "log.csv").open("w") as log:
        for step, (x, y) in enumerate(from_memory(steps) if fused else data_loader(steps)):
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 10.0, foreach=True)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                torch._foreach_lerp_(averaged, live, 0.001)
            total += loss.item()
            if step % LOG_EVERY == LOG_EVERY - 1:
                log.write(f"{step},{total / LOG_EVERY}\n")
                total = 0.0


def by_hand_kernels(steps: int, folder: Path) -> None:
    """The leanest that we can write: ready lists of tensors, torch's kernels called directly, all duties."""
    net = Net()
    average = copy.deepcopy(net).requires_grad_(False)
    averaged, live = list(average.parameters()), list(net.parameters())
    momentum = [torch.zeros_like(parameter, requires_grad=False) for parameter in live]
    total = 0.0
    with (folder / "log.csv").open("w") as log, torch.no_grad():
        for step, (x, y) in enumerate(from_memory(steps)):
            with torch.enable_grad():
                loss = F.cross_entropy(net(x), y)
            loss.backward()
            gradients = [parameter.grad for parameter in live]
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))).item()
            if norm > 10.0:
                torch._foreach_mul_(gradients, 10.0 / (norm + 1e-6))
            torch._fused_sgd_(
                live,
                gradients,
                momentum,
                weight_decay=0.0,
                momentum=0.9,
                lr=1e-3 * (1.0 - 0.9 * step / steps),
                dampening=0.0,
                nesterov=False,
                maximize=False,
                is_first_step=False,
            )
            for parameter in live:
                parameter.grad = None
            torch._foreach_lerp_(averaged, live, 0.001)
            total += loss.item()
            if step % LOG_EVERY == LOG_EVERY - 1:
                log.write(f"{step},{total / LOG_EVERY}\n")
                total = 0.0


class Classify(Task):
    """Cross-entropy of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, batch: ReadyBatch) -> dict[str, Tensor]:
        """The one loss."""
        return {"entropy": F.cross_entropy(self.net(batch.x), batch.y)}


class LoopRun(RunConfig):
    """One epoch of so many batches."""

    batches: int = 1000

    def open(self, *, training: bool = True, share: Share = WHOLE) -> Problem:
        """Model and batches; nothing is evaluated."""
        pairs = Ready(self.batches).pairs
        batches = [ReadyBatch(x, y, tuple(range(32 * k, 32 * k + 32))) for k, (x, y) in enumerate(pairs)]
        return Problem(task=Classify(), train_loader=ReadyLoader(batches, self.batches), eval_loader=None)


class StepCounter(Callback):
    """A user's callback, as small as they come."""

    def __init__(self) -> None:
        self.steps = 0

    def on_step_end(self, training: Training, report: StepReport) -> None:
        """One more."""
        self.steps += 1


def ours(
    steps: int,
    folder: Path,
    *,
    bar: bool = False,
    trackers: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
    **changes: Any,
) -> None:
    config = LoopRun.model_validate(
        {
            "recipe": "loop",
            "batches": steps,
            "epochs": 1,
            "batch_size": 32,
            "lr": 1e-3,
            "device": "cpu",
            "optimizer": {"kind": "sgd", "momentum": 0.9},
            "schedule": {"kind": "linear", "final": 0.1},
            "ema": {"decay": 0.999},
            "max_grad_norm": 10.0,
            "log": {"every_steps": LOG_EVERY, "trackers": trackers, "train_pictures": 0, "eval_pictures": 0},
            **changes,
        }
    )
    console = Console(io.StringIO(), is_terminal=bar)
    run_session(config, config.open(), folder, console=console, callbacks=callbacks)


def ours_everything(steps: int, folder: Path) -> None:
    """Whatever a run can have that by itself does not cost computation."""
    crew = [StepCounter(), StepCounter()]
    ours(steps, folder, bar=True, trackers=["tensorboard"], callbacks=crew, early_stopping={"patience": 10})


Row = Callable[[int, Path], None]
"""Trains for so many steps; what it writes goes to the folder."""

ROWS: dict[str, Row] = {
    "by_hand": by_hand,
    "ours": ours,
    "ours_everything": ours_everything,
    "by_hand_fused": lambda steps, folder: by_hand(steps, folder, fused=True),
    "by_hand_kernels": by_hand_kernels,
    "ours_bar": lambda steps, folder: ours(steps, folder, bar=True),
    "ours_tensorboard": lambda steps, folder: ours(steps, folder, trackers=["tensorboard"]),
    "bare": bare,
}


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that lasts for one run, in which nothing is printed."""
    torch.set_num_threads(1)  # a peer may have changed it
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as silence:
        silence.enter_context(contextlib.redirect_stdout(io.StringIO()))
        silence.enter_context(contextlib.redirect_stderr(io.StringIO()))
        yield Path(folder)


def run_once(row: Row, steps: int) -> tuple[float, float]:
    """(wall, CPU of all threads) seconds a step of one run.

    Raises:
        RuntimeError: The model was not called once a step.
    """
    STAMPS.clear()
    with scratch() as folder:
        row(steps, folder)
    if len(STAMPS) != steps:
        raise RuntimeError(f"{len(STAMPS)} forward passes in {steps} steps")
    (wall, cpu), (wall_end, cpu_end) = STAMPS[SKIP], STAMPS[-1]
    count = steps - 1 - SKIP
    return (wall_end - wall) / count, (cpu_end - cpu) / count


def calls_a_step(row: Row, steps: int = 200) -> float:
    """Function calls, of Python and from Python, that a step takes."""
    run_once(row, SKIP + 2)  # what a process does once, as importing, is no part of a step
    totals = []
    for count in (steps, 2 * steps):
        profile = cProfile.Profile()
        with scratch() as folder:
            profile.runcall(row, count, folder)
        totals.append(pstats.Stats(profile).total_calls)
    return (totals[1] - totals[0]) / steps


def why_not(name: str, steps: int) -> str | None:
    """Run a peer once; what keeps it from running here, or None."""
    peer = PEERS[name]
    if peer.version is None:
        return f"{peer.distribution} is not installed; make bench-peers installs it"
    try:
        run_once(peer.train, steps)
    except Exception as error:  # whatever another project's code raises: the other rows go on
        said = str(error).strip().partition("\n")[0]
        return f"{peer.distribution} {peer.version} with torch {torch.__version__}: {type(error).__name__}: {said}"
    return None


def rows_that_run(wanted: set[str] | None, steps: int) -> tuple[dict[str, Row], dict[str, str]]:
    """The rows that are wanted (all, where that is None), each run once, and why others are left out."""
    rows, left_out = {name: row for name, row in ROWS.items() if wanted is None or name in wanted}, {}
    for row in rows.values():
        run_once(row, steps)
    for name in PEERS if wanted is None else [name for name in PEERS if name in wanted]:
        reason = why_not(name, steps)
        if reason is None:
            rows[name] = PEERS[name].train
        else:
            left_out[name] = reason
            print(f"loop: without {name}: {reason}", file=sys.stderr)
    return rows, left_out


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks loop", description=__doc__)
    parser.add_argument("--steps", type=int, default=500, help="per run")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument(
        "--rows", help="only these, comma-separated; by_hand, ours and ours_everything are always there"
    )
    options = parser.parse_args(arguments)
    wanted = None
    if options.rows is not None:
        wanted = {"by_hand", "ours", "ours_everything", *options.rows.split(",")}
        if unknown := wanted - {*ROWS, *PEERS}:
            parser.error(f"no row {', '.join(sorted(unknown))}; there are: {', '.join([*ROWS, *PEERS])}")
    if options.steps < SKIP + 2:
        parser.error(f"--steps {options.steps}: at least {SKIP + 2}, the first {SKIP} do not count")
    rows, left_out = rows_that_run(wanted, options.steps)  # this first round warms up and does not count

    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
    names = list(rows)
    for number in range(options.rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            samples[name].append(run_once(rows[name], options.steps))

    def extra(name: str, base: str, clock: int) -> float:
        pairs = zip(samples[name], samples[base], strict=True)
        return round(1e6 * statistics.median(mine[clock] - other[clock] for mine, other in pairs), 1)

    table: dict[str, dict[str, float]] = {
        name: {
            "cpu_us": round(1e6 * statistics.median(time_[1] for time_ in times), 1),
            "extra_cpu_us": extra(name, "by_hand", 1),
            "extra_wall_us": extra(name, "by_hand", 0),
            "calls": round(calls_a_step(rows[name])),
        }
        for name, times in samples.items()
    }
    for name in names:
        if "bare" in rows and name in PEERS and not name.endswith("_duties"):
            table[name]["extra_cpu_us_over_bare"] = extra(name, "bare", 1)
    emit(
        "loop",
        figure=table["ours_everything"]["extra_cpu_us"],
        unit="extra CPU microseconds a step over the same duties by hand",
        peer=f"a loop written by hand, torch {torch.__version__}",
        goal="<= 25",
        rounds=options.rounds,
        steps=options.steps,
        over={name: extra("ours_everything", name, 1) for name in names if name.startswith("by_hand_")},
        rows=table,
        peers={PEERS[name].distribution: PEERS[name].version for name in names if name in PEERS},
        left_out=left_out,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
