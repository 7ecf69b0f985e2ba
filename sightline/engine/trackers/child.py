"""The process of a tracker: reads requests, one a line of JSON, and answers each. It ends when its input does."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from typing import IO, Any

from sightline.engine.trackers.tracker import TrackedRow, Tracker

FAREWELL_SECONDS = 30.0
"""What a tracker may take to finish after its run was killed."""
NICENESS = 10
"""Once a tracker is open, a run comes first where processors are few."""


def main() -> None:
    """Answer requests until the input ends."""
    answers = _quiet_output()
    tracker: Tracker | None = None
    has_ended = False
    for line in sys.stdin:
        request = json.loads(line)
        error = None
        try:
            if "open" in request:
                tracker = _made(request["open"], request["settings"])
                tracker.open()
                if hasattr(os, "nice"):
                    os.nice(NICENESS)
            elif "rows" in request:
                assert tracker is not None
                tracker.write([TrackedRow(**row) for row in request["rows"]])
            else:
                assert tracker is not None
                has_ended = True
                tracker.close(request["end"])
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
        answers.write(json.dumps({"error": error}).encode() + b"\n")
    if tracker is not None and not has_ended:
        farewell = threading.Timer(FAREWELL_SECONDS, os._exit, [1])
        farewell.daemon = True
        farewell.start()
        with contextlib.suppress(Exception):
            tracker.close("failed")
    os._exit(0)  # foreign packages may hang in their exit hooks


def _quiet_output() -> IO[bytes]:
    """Where answers go. Whatever else is printed goes nowhere."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    return answers


def _made(name: str, settings: dict[str, Any]) -> Tracker:
    if name == "mlflow":
        from sightline.engine.trackers.mlflow_store import MlflowTracker

        return MlflowTracker(**settings)
    from sightline.engine.trackers.wandb_run import WandbTracker

    return WandbTracker(**settings)
