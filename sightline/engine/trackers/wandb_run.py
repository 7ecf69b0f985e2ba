"""Rows as the history of a Weights & Biases run. Runs in the tracker's own process; offline unless asked otherwise."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from sightline.engine.trackers.tracker import TrackedRow

PROJECT = "sightline"
QUIET = {
    "silent": True,
    "console": "off",
    "disable_git": True,
    "save_code": False,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}
"""Only figures and the configuration: no command line, no addresses of repositories, no code, no output."""


class WandbTracker:
    """One run of a project, in the folder ``wandb`` of the run's own.

    Args:
        id: The run's own id, which is its id there too.
        name: What the run is called.
        recipe: The group of the run.
        params: The configuration.
        folder: The run's folder.
        mode: ``offline`` or ``online``.
        project: Name of the project.
    """

    def __init__(
        self,
        *,
        id: str,
        name: str,
        recipe: str,
        params: Mapping[str, Any],
        folder: str,
        mode: str | None,
        project: str | None,
    ) -> None:
        self.id, self.name, self.recipe, self.params, self.folder = id, name, recipe, params, folder
        self.mode = mode or os.environ.get("WANDB_MODE") or "offline"
        self.project = project or os.environ.get("WANDB_PROJECT") or PROJECT
        self._run: Any = None

    def open(self) -> None:
        """Begin the run, or go on with it."""
        import wandb

        known = wandb.Settings.model_fields
        self._run = wandb.init(
            project=self.project,
            group=self.recipe,
            name=self.name,
            id=self.id,
            resume="allow",
            dir=self.folder,
            mode=self.mode,
            settings=wandb.Settings(**{name: value for name, value in QUIET.items() if name in known}),
        )
        self._run.config.update(dict(self.params), allow_val_change=True)
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")  # its own counter refuses steps that a resume takes anew

    def write(self, rows: Sequence[TrackedRow]) -> None:
        """Add all figures of the rows, with their steps."""
        for row in rows:
            self._run.log({"step": row.step, "epoch": row.epoch, **row.tagged()})

    def close(self, outcome: str) -> None:
        """Say how the run ended; a stopped run is no failure."""
        self._run.finish(exit_code=1 if outcome == "failed" else 0)

    def abandon(self) -> None:
        """Nothing is held."""
