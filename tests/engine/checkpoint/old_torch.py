"""A run that the oldest supported PyTorch began, kept in tests/data, and how it was made.

``python -c 'from tests.engine.checkpoint.old_torch import record; record()'`` writes it anew; to be run where that
PyTorch is installed (not by ``-m``: the files tell where the class of the run stands). It takes two of four epochs and
stops, and notes what the same PyTorch gives when it goes on to the end: every row of the metrics. What tells of the
machine is taken out of ``run.json``; files that no resume reads are left out.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import chdir
from pathlib import Path

import torch

import sightline
from sightline.engine.distributed.processes import WHOLE, Share
from sightline.engine.run_config import Problem, RunConfig
from sightline.engine.seed import seed_everything
from tests.cli.tool import without_report
from tests.conftest import ROOT, quiet
from tests.engine.toy import ToyLoader, ToyTask

OLDEST = "2.8"
FOLDER = ROOT / "tests" / "data" / "torch_2_8"
RUN, ROWS, RELEASE = FOLDER / "run", FOLDER / "rows_to_the_end.jsonl", FOLDER / "release.safetensors"
KEPT = ("config.yaml", "data.json", "metrics.jsonl", "run.json")
CHECKPOINT = "step_00000012"


class RecordedRun(RunConfig):
    """Without keys of its own: if its recorded ``config.yaml`` does not fit any more, neither do those of users."""

    def open(self, *, training: bool = True, share: Share = WHOLE) -> Problem:
        """22 samples to train on, 9 to evaluate."""
        seed_everything(self.seed)
        return Problem(
            task=ToyTask(),
            train_loader=ToyLoader(22, self.samples_per_batch, seed=self.seed, share=share),
            eval_loader=ToyLoader(9, 4, seed=1, shuffle=False, share=share),
            figures=("accuracy",),
        )


def recorded_run() -> RecordedRun:
    """Four epochs of six steps, of which two are taken."""
    return RecordedRun(
        recipe="recorded",
        epochs=4,
        batch_size=4,
        lr=0.05,
        device="cpu",
        threads=1,
        stop_at_epoch=2,
        ema={"decay": 0.9, "ramp": 5},
        optimizer={"kind": "sgd", "nesterov": True, "weight_decay": 1e-3},
        schedule={"kind": "cosine", "final": 0.1},
        checkpoint={"keep": [{"rule": "last", "count": 1}]},
        log={"every_steps": 4, "trackers": [], "train_pictures": 0, "eval_pictures": 0},
    )


def record() -> None:
    """Write the files of this folder's tests."""
    assert torch.__version__.startswith(f"{OLDEST}."), f"made by PyTorch {OLDEST}, not {torch.__version__}"
    torch.set_num_threads(1)
    shutil.rmtree(FOLDER, ignore_errors=True)
    with tempfile.TemporaryDirectory() as place, chdir(place), without_report():
        assert sightline.train(recorded_run(), out=Path("run"), console=quiet()).exit_code == 3
        (RUN / "checkpoints").mkdir(parents=True)
        for name in KEPT:
            shutil.copyfile(Path("run", name), RUN / name)
        for name in ("latest", "best"):
            (RUN / "checkpoints" / name).write_text(f"{CHECKPOINT}\n")
        shutil.copytree(Path("run", "checkpoints", CHECKPOINT), RUN / "checkpoints" / CHECKPOINT)
        sightline.release("run", out=RELEASE, checkpoint="latest")
        assert sightline.resume("run", ["stop_at_epoch=null"], console=quiet()).exit_code == 0
        shutil.copyfile(Path("run", "metrics.jsonl"), ROWS)
    record_path = RUN / "run.json"
    told = json.loads(record_path.read_text())
    for session in told["sessions"]:
        session |= {"command": ["python", "-m", "tests.engine.checkpoint.old_torch"], "environment": {}, "machine": {}}
        session["process"] |= {"host": "elsewhere", "boot": "unknown", "pid": 1}
    record_path.write_text(json.dumps(told, indent=1) + "\n")
