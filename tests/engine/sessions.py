"""Sessions as tests have them, and what they leave behind."""

import hashlib
import io
from pathlib import Path
from typing import Any, TextIO

import torch

from sightline.engine.callback import Callback
from sightline.engine.checkpoint.reader import load_tensors, newest_whole
from sightline.engine.console import Console
from sightline.engine.distributed.processes import ALONE, Processes
from sightline.engine.run_config import Problem, RunConfig
from sightline.engine.session import SessionResult, run_session


def session(
    config: RunConfig,
    folder: Path,
    *,
    problem: Problem | None = None,
    processes: Processes = ALONE,
    said: TextIO | None = None,
    **options: Any,
) -> SessionResult:
    """A session in a folder, which the first process makes; ``said`` gets what it prints."""
    if processes.is_first:
        folder.mkdir(exist_ok=True)
    problem = config.open(share=processes.share) if problem is None else problem
    console = Console(io.StringIO() if said is None else said, is_terminal=False)
    return run_session(config, problem, folder, console=console, processes=processes, **options)


def final_state(folder: Path) -> dict[str, str]:
    """SHA-256 of every tensor of the newest checkpoint and of the metrics file."""
    tensors = load_tensors(newest_whole(folder, print))
    hashes = {
        f"{group}/{name}": hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
        for group, members in tensors.items()
        for name, tensor in ((n, t.reshape(-1)) for n, t in members.items())
    }
    hashes["metrics.jsonl"] = hashlib.sha256((folder / "metrics.jsonl").read_bytes()).hexdigest()
    return hashes


class StopAt(Callback):
    """Raises in a chosen step, as a crash would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, training, report):
        if report.step == self.step:
            raise ZeroDivisionError("crash")
