"""From the start of the process to the end of the first training step: CPU time and peak memory, beside Ultralytics'.

    python -m benchmarks startup [--peer-python PYTHON]

Every sample is a fresh process that ends, without tidying up, when its first step is done; CPU time is user and system
time of the process. The data are eight drawn pictures, the input is 64 pixels wide, four images a batch, one thread, so
that little but starting up is measured. Compiled Python files are kept in a folder of their own, warm for everybody.

Rows. ``ours``: ``sightline train yolov7-tiny`` (6.0 M parameters) as it is by default, with pictures of the first
batches and buffers for checkpoints; ``peer``: Ultralytics' yolo11n (2.6 M) as it is by default, with its plots;
``ours_lean`` and ``peer_lean``: both without pictures. ``by_hand``: one step of a tiny net with ``torch.optim.SGD``,
which loads torch's compiler. ``torch``, ``sightline``: an import alone; ``help``: ``sightline --help``.
Without the peer its rows are left out, and the figure is our time over that of ``by_hand``.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.timing import emit

ROOT = Path(__file__).parents[1]

DRAW = "import sys; from pathlib import Path; from benchmarks.mosaic_sample import draw_pictures\n"
DRAW += "draw_pictures(Path(sys.argv[1]), 8)"

BY_HAND = """
import torch
from torch.nn import Linear, ReLU, Sequential
from torch.nn.functional import cross_entropy
torch.set_num_threads(1)
net = Sequential(Linear(64, 128), ReLU(), Linear(128, 10))
images, labels = torch.randn(32, 64), torch.randint(0, 10, (32,))
batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=32)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for x, y in batches:
    optimizer.zero_grad()
    cross_entropy(net(x), y).backward()
    optimizer.step()
import os
os._exit(0)
"""

OURS = """
import os, sys
from sightline.cli.main import main
from sightline.engine.console import Console
Console.on_step_end = lambda *ignored: os._exit(0)
folder, out, *more = sys.argv[1:]
sys.argv[1:] = ["train", "yolov7-tiny", "--data", folder, "--out", out, "image_size=64", "batch_size=4", "epochs=1",
                "device=cpu", "threads=1", *more]
main()
"""

PEER = """
import os, sys
import torch
torch.set_num_threads(1)
from ultralytics.models.yolo.detect import DetectionTrainer
trainer = DetectionTrainer(overrides=dict(
    model="yolo11n.yaml", data=sys.argv[1] + "/data.yaml", imgsz=64, batch=4, epochs=1, device="cpu", pretrained=False,
    project=sys.argv[2], name="run", plots=sys.argv[3] == "plots"))
trainer.add_callback("on_train_batch_end", lambda trainer: os._exit(0))
trainer.train()
"""


class Cost(NamedTuple):
    """What a process took."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def cost_of(command: list[str], scratch: Path) -> Cost:
    """Run a process to its end.

    Raises:
        RuntimeError: It failed; with the end of what it said.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "YOLO_OFFLINE": "true"}
    environment |= {"YOLO_CONFIG_DIR": str(scratch), "PYTHONPYCACHEPREFIX": str(scratch / "compiled")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with (scratch / "said.txt").open("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment, cwd=scratch)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{command[:2]} ended with code {process.returncode}: {said.read()[-2000:]}")
    per_mb = 2**20 if sys.platform == "darwin" else 2**10
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / per_mb)


def rows(folder: Path, out: Path, peer_python: str | None) -> dict[str, list[str]]:
    """Command of every row; ``out`` is a folder that does not exist yet."""
    python = [sys.executable, "-c"]
    commands = {
        "ours": [*python, OURS, str(folder), str(out)],
        "ours_lean": [*python, OURS, str(folder), str(out), "log.train_pictures=0"],
        "by_hand": [*python, BY_HAND],
        "torch": [*python, "import os, torch; os._exit(0)"],
        "sightline": [*python, "import os, sightline; os._exit(0)"],
        "help": [sys.executable, "-m", "sightline.cli.main", "--help"],
    }
    if peer_python is not None:
        commands["peer"] = [peer_python, "-c", PEER, str(folder), str(out), "plots"]
        commands["peer_lean"] = [peer_python, "-c", PEER, str(folder), str(out), "lean"]
    return commands


def peer_version(python: str) -> str | None:
    """Version of the peer that an interpreter has; None where it has none."""
    code = "from importlib.metadata import version; print(version('ultralytics'))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks startup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that has ultralytics")
    options = parser.parse_args(arguments)
    peer = peer_version(options.peer_python)

    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        cost_of([sys.executable, "-c", DRAW, str(scratch / "data")], scratch)
        costs: dict[str, list[Cost]] = {}
        for number in range(-1, options.rounds):  # the first round compiles and fills the page cache
            out = scratch / f"out{number}"
            commands = rows(scratch / "data", out, options.peer_python if peer else None)
            names = list(commands)
            first = number % len(names)
            for name in names[first:] + names[:first]:
                command = [word if word != str(out) else f"{out}_{name}" for word in commands[name]]
                cost = cost_of(command, scratch)
                if number >= 0:
                    costs.setdefault(name, []).append(cost)

    def ratio(name: str, base: str, what: str) -> float:
        pairs = zip(costs[name], costs[base], strict=True)
        return round(statistics.median(getattr(mine, what) / getattr(other, what) for mine, other in pairs), 3)

    base = "peer" if peer else "by_hand"
    emit(
        "startup",
        figure=ratio("ours", base, "cpu_s"),
        unit=f"of the CPU time of {'the peer' if peer else 'one step by hand'} up to the end of the first step",
        peer=f"ultralytics {peer}" if peer else "not installed",
        goal="<= 0.70, memory <= 1.0",
        rounds=options.rounds,
        peak_memory=ratio("ours", base, "peak_mb"),
        lean={what: ratio("ours_lean", "peer_lean", what) for what in ("cpu_s", "peak_mb")} if peer else None,
        rows={
            name: {
                "cpu_s": round(statistics.median(cost.cpu_s for cost in found), 3),
                "wall_s": round(statistics.median(cost.wall_s for cost in found), 3),
                "peak_mb": round(statistics.median(cost.peak_mb for cost in found), 1),
                "cpu_of_by_hand": ratio(name, "by_hand", "cpu_s"),
            }
            for name, found in costs.items()
        },
    )


if __name__ == "__main__":
    main(sys.argv[1:])
