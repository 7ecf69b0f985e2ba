"""Moments in the life of a run, seen from outside."""

from __future__ import annotations

import json
from pathlib import Path


def is_locked(run: Path, pid: int) -> bool:
    """The process has taken the run's folder."""
    return _of(run / ".lock.json").get("process", {}).get("pid") == pid


def is_evaluating(run: Path, pid: int) -> bool:
    """The process is evaluating, or just begins to."""
    status = _of(run / "status.json")
    return status.get("state") == "evaluating" and status["process"]["pid"] == pid


def is_writing(run: Path, pid: int) -> bool:
    """A checkpoint of the process is half written."""
    return any((run / "checkpoints").glob(f".writing-{pid}-step_*"))


def _of(path: Path) -> dict[str, dict[str, int]]:
    try:
        return json.loads(path.read_bytes())
    except OSError:
        return {}
