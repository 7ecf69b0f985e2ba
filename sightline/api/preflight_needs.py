"""What a run needs against what there is: memory, disk and time. Figures in, findings out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.config.printable import counted, printable
from sightline.engine.finding import Finding

if TYPE_CHECKING:
    from sightline.engine.evaluation import EvaluateConfig
    from sightline.engine.schedule import RunLength

LOG_ROW_BYTES = 2 << 10
"""Of a logged step in metrics.jsonl, timing.jsonl and the events of TensorBoard, generously."""
EVALUATION_BYTES = 16 << 10
"""Of the rows of an evaluation."""
REPORT_BYTES = 32 << 20
"""Of pictures, tables, curves and the report, which are written over."""


def amount(count: float) -> str:
    """``"340 MB"`` or ``"1.25 GB"``."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


@dataclass(frozen=True)
class MemoryNeed:
    """Memory of one place as a function of the batch size, which is a straight line."""

    place: str
    """``memory`` of the host or ``GPU memory``."""
    batch_size: int
    at_batch_size: int
    """Bytes of a step with the run's batch."""
    per_sample: float
    """Bytes that one more sample of a batch takes; 0 where it was not found out."""
    others: Mapping[str, int]
    """Bytes of everything beside the step, by what for."""
    free: int
    measured: bool
    """Whether the run's own batch was tried."""

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.at_batch_size + sum(self.others.values())

    @property
    def largest_batch(self) -> int | None:
        """The largest batch that fits; None where that was not found out, 0 where none fits."""
        if self.per_sample <= 0:
            return None
        return max(0, int(self.batch_size + (self.free - self.total) / self.per_sample))

    def finding(self) -> Finding:
        """Whether it fits."""
        how = "measured" if self.measured else "estimated from smaller batches"
        parts = [f"a step with {self.batch_size} samples {amount(self.at_batch_size)} ({how})"]
        parts += [f"{name} {amount(count)}" for name, count in self.others.items() if count]
        text = f"needs {amount(self.total)}, free are {amount(self.free)}: {', '.join(parts)}"
        if self.total <= 0.9 * self.free:
            return Finding(self.place, "ok", text)
        cures = []
        largest = self.largest_batch
        if largest is not None and 0 < largest < self.batch_size:
            cures.append(f"batch_size={largest}")
        elif largest is None or largest == 0:
            cures.append("a smaller model or smaller samples")
        if self.others.get("data.cache=ram"):
            cures.append("data.cache=disk")
        if self.total <= self.free:
            return Finding(self.place, "note", f"{text}; that is nearly all", ", or ".join(cures))
        return Finding(self.place, "problem", text, ", or ".join(cures))


def line_through(points: Sequence[tuple[int, float]], at: int, *, least_slope: float = 0.0) -> tuple[float, float]:
    """Value at ``at`` and slope of the line through the first and the last (x, y), which rises by ``least_slope``."""
    (x0, y0), (x1, y1) = points[0], points[-1]
    slope = max(least_slope, (y1 - y0) / (x1 - x0)) if x1 != x0 else max(least_slope, y1 / x1)
    return y1 + slope * (at - x1), slope


def long_duration(seconds: float) -> str:
    """``"2:03"``, ``"1:02:03"`` or, from two days on, ``"9.8 days"``."""
    from sightline.engine.console import duration

    return f"{seconds / 86400:.1f} days" if seconds >= 2 * 86400 else duration(seconds)


def busy(load: float, cores: int) -> str:
    """A warning for measured times where more programs want to compute than there are cores; else an empty text."""
    if load < 1.5 * cores:
        return ""
    return f". This machine is busy (load {load:.1f} on {counted(cores, 'core')}): less when it is not"


def number_of_evaluations(config: EvaluateConfig, length: RunLength) -> int:
    """Evaluations of a whole run; those that the clock brings are not counted."""
    ends = {length.epochs}
    if config.every_epochs:
        ends |= {epoch for epoch in range(config.first_epoch, length.epochs) if epoch % config.every_epochs == 0}
    return len(ends) + (length.steps // config.every_steps if config.every_steps else 0)


def disk_findings(run_folder: Path, needs: Mapping[str, int], data: Mapping[Path, int]) -> list[Finding]:
    """Whether everything that a run writes fits, file system by file system.

    Args:
        run_folder: Of the run; it need not exist.
        needs: Bytes that go into it, by what for.
        data: Bytes that go into other folders for the run's data.
    """
    wanted: dict[int, tuple[Path, dict[str, int]]] = {}
    for folder, parts in ((run_folder, needs), *((folder, {"data.cache=disk": size}) for folder, size in data.items())):
        there = nearest_folder(folder)
        of_disk = wanted.setdefault(there.stat().st_dev, (folder, {}))[1]
        for name, size in parts.items():
            of_disk[name] = of_disk.get(name, 0) + size
    findings = []
    for folder, parts in wanted.values():
        free = shutil.disk_usage(nearest_folder(folder)).free
        total = sum(parts.values())
        shown = ", ".join(f"{name} {amount(size)}" for name, size in parts.items())
        text = f"needs {amount(total)}, free are {amount(free)} in {printable(folder)}: {shown}"
        if total <= free:
            findings.append(Finding("disk", "ok", text))
            continue
        cure = "make room, name another folder with --out"
        if any(name.endswith("checkpoints") for name in parts):
            cure += ", or keep fewer checkpoints (checkpoint.keep)"
        findings.append(Finding("disk", "problem", text, cure))
    return findings


def nearest_folder(path: Path) -> Path:
    """The nearest part of a path that exists."""
    return next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
