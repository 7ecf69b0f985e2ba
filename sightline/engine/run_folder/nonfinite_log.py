"""``nonfinite.jsonl``: every step of a run that was not finite, one JSON object per line, and part of the run's state.

``{"step": 5, "found": ["entropy"], "first": "output of net.0 (Linear)", "samples": [3, 17], "action": "skip"}``: see
``BadStep``. The file appears with the first such step.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from sightline.engine.finite import BadStep
from sightline.files.atomic_file import naming

NONFINITE_FILE = "nonfinite.jsonl"


class NonFiniteLog:
    """Writes bad steps down, and tells of the first in full.

    Args:
        run_dir: The run's folder.
        say: Tells the user.
    """

    def __init__(self, run_dir: Path, say: Callable[[str], None]) -> None:
        self.path = run_dir / NONFINITE_FILE
        self.length = self.path.stat().st_size if self.path.exists() else 0
        self._say = say
        self._has_told = False

    def add(self, bad: BadStep) -> None:
        """Take one.

        Raises:
            OSError: The disk refused.
        """
        line = json.dumps(asdict(bad)).encode() + b"\n"
        with naming(self.path), self.path.open("ab") as file:
            file.write(line)
        self.length += len(line)
        if bad.action == "stop":  # the error that follows says it
            return
        if not self._has_told:
            done = "this step is left out" if bad.action == "skip" else bad.action
            self._say(f"{bad}: {done}. Every such step is listed in {self.path.name}")
        elif bad.action != "skip":
            self._say(f"not finite again at step {bad.step}: {bad.action}")
        self._has_told = True
