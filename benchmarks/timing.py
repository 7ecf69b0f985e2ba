"""Paired timing: every variant runs once a round, so that a busy machine slows all of them alike."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

Samples = dict[str, list[tuple[float, float]]]
"""(wall seconds, CPU seconds of all threads) per round, by variant."""


def paired(fns: dict[str, Callable[[], object]], rounds: int, inner: int = 1) -> Samples:
    """Run every function once per round, in an order that rotates, after one round that is not counted.

    Args:
        fns: The variants.
        rounds: Rounds that count.
        inner: Calls of a function in a row; the figures are per call.

    Returns:
        Per variant one (wall seconds, CPU seconds) pair a round.
    """
    names = list(fns)
    for name in names:
        fns[name]()
    samples: Samples = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(inner):
                fns[name]()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            samples[name].append((wall / inner, cpu / inner))
    return samples


def ratios(samples: Samples, base: str) -> dict[str, dict[str, float]]:
    """Median over the rounds of each variant's time divided by the base's time in the same round.

    Returns:
        Per variant ``cpu`` and ``wall`` ratios, the quartiles ``cpu_q1`` and ``cpu_q3``, and ``cpu_ms``.
    """
    table = {}
    for name, times in samples.items():
        pairs = list(zip(times, samples[base], strict=True))
        cpu = [mine[1] / max(other[1], 1e-9) for mine, other in pairs]
        wall = [mine[0] / max(other[0], 1e-9) for mine, other in pairs]
        low, middle, high = statistics.quantiles(cpu, n=4) if len(cpu) > 1 else cpu * 3
        table[name] = {
            "cpu": round(middle, 4),
            "cpu_q1": round(low, 4),
            "cpu_q3": round(high, 4),
            "wall": round(statistics.median(wall), 4),
            "cpu_ms": round(1e3 * statistics.median(time[1] for time in times), 4),
        }
    return table


def machine() -> dict[str, object]:
    """What the figure was measured on, and how busy it was."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "processor": platform.processor() or platform.machine(),
        "system": platform.system(),
        "cpus": os.cpu_count(),
        "load": None if load is None else round(load, 2),
        "python": platform.python_version(),
    }


def emit(name: str, *, figure: float, unit: str, peer: str, goal: str, rounds: int, **details: Any) -> None:
    """Print the one JSON line of a script.

    Args:
        name: The script's name.
        figure: The number that we claim.
        unit: What it counts, e.g. ``"of the plain loss"``.
        peer: What it was measured against, with version.
        goal: The promise, e.g. ``"<= 3"``.
        rounds: Rounds behind the median.
        **details: Anything that helps to read the figure.
    """
    line = {"name": name, "figure": figure, "unit": unit, "peer": peer, "goal": goal, "rounds": rounds}
    print(json.dumps({**line, **details, "machine": machine()}), flush=True)
