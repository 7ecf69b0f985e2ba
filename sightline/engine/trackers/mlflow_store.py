"""Rows as metrics of an MLflow run, the configuration as its parameters. Runs in the tracker's own process.

Without MLFLOW_TRACKING_URI they go into an SQLite file, and the network is never used.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sightline.engine.trackers.tracker import TrackedRow
from sightline.files.atomic_file import WRITING, fsync_path

STORE_FILE = "mlflow.db"
ARTIFACTS = "mlartifacts"
RUN_TAG = "sightline.run"
"""Carries the run's id, by which a resumed run is found again."""
NOT_IN_NAMES = re.compile(r"[^\w\-. /]")
MOST_METRICS, MOST_PARAMS = 1000, 100
"""What MLflow takes at once."""
LONGEST_VALUE = 500
"""Characters of a parameter that every version of MLflow takes."""
STALE_SECONDS = 3600
"""A store that is in the making for so long was left behind by a kill."""
ENDS = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class MlflowTracker:
    """One run of an experiment.

    Args:
        id: The run's own id.
        name: What the run is called.
        recipe: The experiment's name where none is given.
        params: The configuration.
        folder: Where the embedded store lies.
        experiment: Name of the experiment.
    """

    def __init__(
        self, *, id: str, name: str, recipe: str, params: Mapping[str, Any], folder: str, experiment: str | None
    ) -> None:
        self.id, self.name, self.params = id, name, params
        self.folder = Path(folder)
        self.experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or recipe
        self._client: Any = None
        self._run_id = ""

    def open(self) -> None:
        """Begin the run, or go on with it."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.tracking import MlflowClient

        server = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = MlflowClient(tracking_uri=server or _sqlite(self._made_store()))
        artifacts = None if server else (self.folder / ARTIFACTS).as_uri()
        found = self._client.get_experiment_by_name(self.experiment)
        experiment = (
            found.experiment_id
            if found is not None
            else self._client.create_experiment(self.experiment, artifact_location=artifacts)
        )
        runs = self._client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{self.id}'", max_results=1)
        run = runs[0] if runs else self._client.create_run(experiment, run_name=self.name, tags={RUN_TAG: self.id})
        self._run_id = run.info.run_id
        if runs:
            self._client.update_run(self._run_id, status="RUNNING")
        self._write_params(run.data.params)

    def write(self, rows: Sequence[TrackedRow]) -> None:
        """Add all figures of the rows at their steps."""
        from mlflow.entities import Metric

        metrics = [
            Metric(NOT_IN_NAMES.sub("_", tag), value, int(row.time * 1000), row.step)
            for row in rows
            for tag, value in row.tagged().items()
        ]
        for start in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + MOST_METRICS])

    def close(self, outcome: str) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self._run_id, status=ENDS[outcome])

    def abandon(self) -> None:
        """Nothing is held."""

    def _write_params(self, there: Mapping[str, str]) -> None:
        """MLflow's parameters never change: what a resumed run has otherwise becomes a tag."""
        from mlflow.entities import Param, RunTag

        params = {NOT_IN_NAMES.sub("_", key): _text(value)[:LONGEST_VALUE] for key, value in self.params.items()}
        new = [Param(key, value) for key, value in params.items() if key not in there]
        for start in range(0, len(new), MOST_PARAMS):
            self._client.log_batch(self._run_id, params=new[start : start + MOST_PARAMS])
        changed = [RunTag(f"resumed.{key}", value) for key, value in params.items() if there.get(key, value) != value]
        for start in range(0, len(changed), MOST_PARAMS):
            self._client.log_batch(self._run_id, tags=changed[start : start + MOST_PARAMS])

    def _made_store(self) -> Path:
        """The store's file. A new one appears when all of its tables are there: a kill leaves no half of it."""
        path = self.folder / STORE_FILE
        if path.exists():
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(f"{WRITING}*-{STORE_FILE}*"):
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                left.unlink(missing_ok=True)
        temporary = self.folder / f"{WRITING}{os.getpid()}-{STORE_FILE}"
        try:
            _make_tables(temporary)
            with contextlib.suppress(FileExistsError):  # another run was quicker
                os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return path


def _make_tables(path: Path) -> None:
    """MLflow makes them in dozens of steps; to wait for the disk once, at the end, takes a third of the time."""
    from mlflow.tracking import MlflowClient
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def wait_for_no_disk(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", wait_for_no_disk)
    try:
        MlflowClient(tracking_uri=_sqlite(path)).search_experiments(max_results=1)
    finally:
        event.remove(Engine, "connect", wait_for_no_disk)
    fsync_path(path)


def _sqlite(path: Path) -> str:
    return f"sqlite:///{path}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
