"""How long a checkpoint of 480 MB keeps the trainer waiting, beside torch.save of the same tensors.

40 million parameters in fp32 three times (weights, momentum, average) in 1200 tensors. The figure is the time
for which the training thread waits: all of ``torch.save``, and the copy into memory that ours takes before a
thread writes. ``safe_on_disk`` is the whole way to the disk, hashed, flushed and renamed, and serves as last and
best at once; ``peer_safe`` is ``torch.save``, flush and rename for last and again for best, without a hash. All
ratios are to one plain ``torch.save``.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.timing import emit
from sightline.engine.checkpoint.layout import CheckpointState
from sightline.engine.checkpoint.retention import CheckpointConfig, KeepLast
from sightline.engine.checkpoint.writer import CheckpointWriter

GROUPS = ("model", "optimizer", "ema")


def timed(work: Callable[[], object], clocks: tuple[Callable[[], float], ...]) -> list[float]:
    """Seconds by each clock."""
    before = [clock() for clock in clocks]
    work()
    return [clock() - start for clock, start in zip(clocks, before, strict=True)]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks checkpoint", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--params", type=float, default=40e6, help="numbers in each of the three groups")
    parser.add_argument("--tensors", type=int, default=400, help="tensors in each of the three groups")
    parser.add_argument("--dir", type=Path, help="a folder on the disk to measure; the system's temporary one")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)

    size = int(options.params / options.tensors)
    tensors = {group: {f"{n}": torch.randn(size) for n in range(options.tensors)} for group in GROUPS}
    state = CheckpointState(tensors)
    step = 0
    rows: dict[str, list[list[float]]] = {"peer": [], "ours": [], "safe": [], "peer_safe": []}
    with tempfile.TemporaryDirectory(dir=options.dir) as scratch:
        peer_file = Path(scratch) / "peer.pt"

        def save_peer() -> None:
            torch.save(tensors, peer_file)

        def save_peer_safely() -> None:
            for name in ("last.pt", "best.pt"):
                temporary = peer_file.with_name("temporary.pt")
                torch.save(tensors, temporary)
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                temporary.replace(peer_file.with_name(name))

        def save_ours() -> None:
            writer.save(state, step=step, epoch=step, ends_epoch=True, metrics={"AP": 0.5})

        config = CheckpointConfig(keep=(KeepLast(count=1),))
        with CheckpointWriter(Path(scratch) / "run", config) as writer:
            first = timed(lambda: (writer.reserve(tensors), writer.flush()), (time.perf_counter,))[0]
            for number in range(options.rounds + 1):
                thread, process = (time.perf_counter, time.thread_time), (time.perf_counter, time.process_time)
                found = {}
                step += 1
                found["peer"] = [] if number % 2 else timed(save_peer, thread)
                before = [clock() for clock in process]
                found["ours"] = timed(save_ours, thread)
                writer.flush()
                found["safe"] = [clock() - start for clock, start in zip(process, before, strict=True)]
                found["peer"] = found["peer"] or timed(save_peer, thread)
                found["peer_safe"] = timed(save_peer_safely, process)
                if number:  # the first round warms up
                    for name, times in found.items():
                        rows[name].append(times)

    def ratio(row: str, clock: int) -> float:
        pairs = zip(rows[row], rows["peer"], strict=True)
        return round(statistics.median(mine[clock] / other[clock] for mine, other in pairs), 4)

    def milliseconds(row: str, clock: int) -> float:
        return round(1e3 * statistics.median(times[clock] for times in rows[row]), 1)

    emit(
        "checkpoint",
        figure=ratio("ours", 0),
        unit="of the time that torch.save blocks",
        peer=f"torch.save {torch.__version__}",
        goal="<= 0.12",
        rounds=options.rounds,
        megabytes=round(4 * size * options.tensors * len(GROUPS) / 1e6, 1),
        blocked_ms=milliseconds("ours", 0),
        blocked_cpu_ratio=ratio("ours", 1),
        blocked_cpu_ms=milliseconds("ours", 1),
        peer_ms=milliseconds("peer", 0),
        peer_cpu_ms=milliseconds("peer", 1),
        safe_on_disk_ms=milliseconds("safe", 0),
        safe_on_disk_ratio=ratio("safe", 0),
        safe_on_disk_cpu_ms=milliseconds("safe", 1),
        safe_on_disk_cpu_ratio=ratio("safe", 1),
        peer_safe_ratio=ratio("peer_safe", 0),
        peer_safe_cpu_ratio=ratio("peer_safe", 1),
        reserve_ms=round(1e3 * first, 1),
    )


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
