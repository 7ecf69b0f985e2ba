"""Two processes of one thread over one process of two threads: images a second of YOLOv7-tiny at 320 pixels.

    python -m benchmarks processes --data FOLDER

Four epochs of 12 batches of 8 images, without evaluation, checkpoints and pictures between them. Wall time of all but
the first and the last, as the run's ``timing.jsonl`` tells it, so it wants a machine with two cores and nothing else
to do.

Rows. ``two_processes``: ``devices=2 threads=1``, with batch norm over the whole batch, as it comes;
``two_processes_own_norm``: each with the batch norm of its own half; ``two_threads``: ``threads=2``, the base;
``one_thread``: ``threads=1``. The figure is ``two_processes`` over ``two_threads``, the median over the rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.startup import ROOT
from benchmarks.timing import emit

ROWS = {
    "two_processes": ("devices=2", "threads=1"),
    "two_processes_own_norm": ("devices=2", "threads=1", "sync_batch_norm=false"),
    "two_threads": ("threads=2",),
    "one_thread": ("threads=1",),
}


def images_per_second(changes: tuple[str, ...], options: argparse.Namespace) -> float:
    """Of all epochs but the first and the last, to which the evaluation at the end of the run belongs."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        fixed = [f"image_size={options.image_size}", f"batch_size={options.batch_size}", f"epochs={options.epochs}"]
        fixed += ["device=cpu", f"limit_batches={options.batches}", "evaluate.every_epochs=0"]
        fixed += ["checkpoint.every_epochs=0", "log.train_pictures=0", "log.eval_pictures=0", *options.changes]
        command = [sys.executable, "-m", "sightline.cli.main", "train", "yolov7-tiny", "--data", str(options.data)]
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        environment["PYTHONPATH"] = str(ROOT)
        done = subprocess.run(
            [*command, "--out", str(out), *fixed, *changes],
            capture_output=True,
            text=True,
            env=environment,
            cwd=folder,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{changes} ended with code {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
        rows = [json.loads(line) for line in (out / "timing.jsonl").read_text().splitlines()]
    seconds = [row["values"]["epoch_seconds"] for row in rows if row["kind"] == "epoch"]
    return options.batches * options.batch_size / statistics.fmean(seconds[1:-1])


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks processes", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="YOLO folder with data.yaml and images/train")
    parser.add_argument("--image-size", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--batches", type=int, default=12, help="per epoch")
    parser.add_argument("--epochs", type=int, default=4, help="per run; the first and the last do not count")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", default=",".join(ROWS), help="comma-separated; the first is over two_threads")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="for all rows, e.g. precision=bf16")
    options = parser.parse_args(arguments)
    options.data = options.data.absolute()
    if options.epochs < 3:
        parser.error("--epochs: give at least 3; the first and the last do not count")
    names = list(dict.fromkeys([*options.rows.split(","), "two_threads"]))
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(options.rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            speeds[name].append(images_per_second(ROWS[name], options))

    def ratio(name: str) -> float:
        pairs = zip(speeds[name], speeds["two_threads"], strict=True)
        return round(statistics.median(mine / other for mine, other in pairs), 3)

    emit(
        "processes",
        figure=ratio(names[0]),
        unit=f"of the images a second of one process with two threads ({names[0]})",
        peer="the same run in one process of two threads",
        goal=">= 1.0",
        rounds=options.rounds,
        data=options.data.name,
        changes=options.changes,
        rows={
            name: {
                "images_per_s": round(statistics.median(found), 2),
                "range": [round(min(found), 2), round(max(found), 2)],
                "of_two_threads": ratio(name),
            }
            for name, found in speeds.items()
        },
    )


if __name__ == "__main__":
    main(sys.argv[1:])
