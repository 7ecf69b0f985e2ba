"""Where the time of some steps goes, and how much memory they take: as a table, and in ``profile.json``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sightline.engine.callback import Callback, EvaluationReport, StepReport
from sightline.engine.loop import Training
from sightline.engine.memory import peak_memory
from sightline.engine.stopwatch import Stopwatch, Times
from sightline.files.atomic_file import replace_file

PROFILE_FILE = "profile.json"
PARTS = {
    "data": "data wait",
    "transfer": "transfer",
    "forward": "forward",
    "backward": "backward",
    "optimizer": "optimizer",
    "callbacks": "callbacks",
    "evaluation": "evaluation",
    "checkpoint": "checkpoint wait",
}
"""What the loop and some callbacks call their part of the work, and what people do."""
CALLBACK_PARTS = {"Evaluator": "evaluation", "Saver": "checkpoint"}
"""Callbacks that are a part of their own."""


class Profiler(Callback):
    """Profiles some steps of a session, then says what it found.

    The first steps of a session, which fill caches and start workers, are left out where there are enough.

    Args:
        steps: So many steps are measured.
        stopwatch: Is told by the loop and the crew who works.
        run_dir: Gets ``profile.json``.
        say: Shows the table.
        unit: What samples are called.
    """

    SLOW = 3

    def __init__(
        self, steps: int, stopwatch: Stopwatch, run_dir: Path, *, say: Callable[[str], None], unit: str
    ) -> None:
        self.steps = steps
        self.stopwatch = stopwatch
        self.run_dir = run_dir
        self.say = say
        self.unit = unit
        self._begin = self._end = 0
        self._samples = self._evaluations = 0
        self._last_step = 0

    def on_run_start(self, training: Training) -> None:
        """Choose the steps; where none can be spared, begin at once."""
        left = training.plan.length.steps - training.step
        slow = max(0, min(self.SLOW, left - self.steps))
        self._begin = training.step + slow
        self._end = self._begin + self.steps
        self._last_step = training.step
        if slow == 0:
            self.stopwatch.start(training.device)

    def on_step_end(self, training: Training, report: StepReport) -> None:
        """Begin, count, or end."""
        if self._begin < report.step <= self._end:
            self._samples += report.num_samples
            self._last_step = report.step
        if report.step == self._begin:
            self.stopwatch.start(training.device)
        elif report.step == self._end and report.step < training.plan.length.steps:
            self._tell(training)

    def on_evaluation_end(self, training: Training, report: EvaluationReport) -> None:
        """Count those that are measured."""
        self._evaluations += self._begin <= report.step <= self._end

    def on_run_end(self, training: Training, outcome: str) -> None:
        """Say what is known of a run that ends with or before the steps to profile."""
        if self._begin < self._last_step <= self._end:
            self._tell(training)

    def _tell(self, training: Training) -> None:
        times = self.stopwatch.stop()
        steps, self._end = self._last_step - self._begin, -1
        if steps == 0 or not times.host:
            return
        found = profile_of(times, steps=steps, samples=self._samples, unit=self.unit)
        found = {"first_step": self._begin + 1, **found, "evaluations": self._evaluations}
        found["memory"] = peak_memory(training.device)
        replace_file(self.run_dir / PROFILE_FILE, json.dumps(found, indent=1).encode() + b"\n")
        self.say(profile_text(found))


def profile_of(times: Times, *, steps: int, samples: int, unit: str) -> dict[str, Any]:
    """Shares and milliseconds a step of every part; of a GPU by its own clock, with the host's beside it."""
    clock = times.device or times.host
    total = sum(clock.values())
    return {
        "steps": steps,
        "ms_per_step": 1000 * total / steps,
        "samples_per_second": samples / total if total > 0 else 0.0,
        "unit": unit,
        "clock": "device" if times.device else "host",
        "parts": {
            name: {
                "share": seconds / total if total > 0 else 0.0,
                "ms_per_step": 1000 * seconds / steps,
                "host_ms_per_step": 1000 * _by_part(times.host).get(name, 0.0) / steps,
            }
            for name, seconds in _by_part(clock).items()
        },
        "callbacks": {
            name: {"share": seconds / total if total > 0 else 0.0, "ms_per_step": 1000 * seconds / steps}
            for name, seconds in sorted(_by_callback(clock).items(), key=lambda item: -item[1])
        },
    }


def _by_part(seconds: Mapping[str, float]) -> dict[str, float]:
    found = dict.fromkeys(PARTS, 0.0)
    for name, value in seconds.items():
        part = name if name in PARTS else CALLBACK_PARTS.get(name, "callbacks")
        found[part] += value
    return found


def _by_callback(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in seconds.items() if name not in PARTS and name not in CALLBACK_PARTS}


def profile_text(found: Mapping[str, Any]) -> str:
    """The table."""
    on_device = found["clock"] == "device"
    first, last = found["first_step"], found["first_step"] + found["steps"] - 1
    lines = [
        f"profile of {found['steps']} steps ({first} to {last}): {found['ms_per_step']:.2f} ms a step, "
        f"{found['samples_per_second']:.0f} {found['unit']}/s" + (", by the clock of the GPU" if on_device else ""),
        "  part                share  ms a step" + ("  on the host" if on_device else ""),
    ]
    for name, row in found["parts"].items():
        host = f"{row['host_ms_per_step']:13.2f}" if on_device else ""
        lines.append(f"  {PARTS[name]:<17}{100 * row['share']:6.1f} %{row['ms_per_step']:11.2f}{host}")
        if name == "callbacks":
            lines += [
                f"    {one:<15}{100 * part['share']:6.1f} %{part['ms_per_step']:11.2f}"
                for one, part in found["callbacks"].items()
                if part["share"] >= 0.001
            ]
    if not found["evaluations"]:
        lines.append("  no evaluation fell into these steps")
    memory = found["memory"]
    text = f"most memory: host {memory['host_memory_mib']:,.0f} MiB"
    if "device_memory_mib" in memory:
        text += f", GPU {memory['device_memory_mib']:,.0f} MiB ({memory['device_reserved_mib']:,.0f} set aside)"
    return "\n".join([*lines, text])
