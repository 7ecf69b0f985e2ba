"""All trackers of a run, joined: the one callback that a session knows. It follows the run and never holds it up."""

from __future__ import annotations

import importlib.util
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.config.errors import ConfigError
from sightline.engine.callback import Callback
from sightline.engine.run_folder.folder import RUNS
from sightline.engine.run_folder.secrets import without_secrets
from sightline.engine.trackers.apart import TrackerApart
from sightline.engine.trackers.background import BackgroundTracker
from sightline.engine.trackers.csv_table import CSV_FILE, CsvTracker
from sightline.engine.trackers.tensorboard import TensorBoardTracker
from sightline.engine.trackers.tracker import Histogram, TrackedPicture, TrackedRow, Tracker
from sightline.files.atomic_file import replace_file

if TYPE_CHECKING:
    from sightline.config.base import Config
    from sightline.engine.log import LogConfig, LogRow
    from sightline.engine.loop import Training
    from sightline.engine.run_config import RunConfig
    from sightline.engine.run_folder.metrics_log import MetricsLog

ID_FILE = "trackers.json"
"""By what MLflow and Weights & Biases know the run, so that a resumed one is the same one there."""
PATIENCE_SECONDS = 5.0
"""How long the end of a run waits for all trackers together."""
DRAIN_SECONDS = 5.0
"""How long all checkpoints of a session together wait for trackers that write into the run's folder."""
PACKAGES = {"mlflow": ("mlflow", "sqlalchemy", "alembic"), "wandb": ("wandb",)}
"""What the trackers that are not part of the installation import."""
_ID_LOCK = threading.Lock()


class Trackers(Callback):
    """Hands the logger's rows to every tracker, and says once what became of one that fails.

    Args:
        trackers: Each in a thread of its own.
        tell: Takes a message to the user.
        patience_s: Seconds that the run's end waits for all of them together.
    """

    def __init__(
        self,
        trackers: Sequence[BackgroundTracker],
        *,
        tell: Callable[[str], None] = lambda text: None,
        patience_s: float,
    ) -> None:
        self.trackers = list(trackers)
        self.tell = tell
        self.patience_s = patience_s
        self._drain_s = DRAIN_SECONDS

    def on_run_start(self, training: Training) -> None:
        """Let them open."""
        for tracker in self.trackers:
            tracker.start()

    def write(self, row: LogRow) -> None:
        """Pass on a row. Returns at once, whatever the trackers do."""
        if not self.trackers:
            return
        tracked = TrackedRow(row.kind, row.step, row.epoch, row.values, row.timing, time.time())
        for tracker in self.trackers:
            tracker.write(tracked)
            self._tell_trouble(tracker)

    def write_histograms(self, step: int, epoch: int, histograms: Mapping[str, Histogram]) -> None:
        """Pass on histograms to the tracker that shows them. Returns at once."""
        for tracker in self.trackers:
            if isinstance(tracker.tracker, TensorBoardTracker):
                tracker.write(TrackedRow("histograms", step, epoch, {}, {}, time.time(), histograms))

    def write_pictures(self, step: int, epoch: int, pictures: Mapping[str, TrackedPicture]) -> None:
        """Pass on pictures to the tracker that shows them. Returns at once."""
        for tracker in self.trackers:
            if isinstance(tracker.tracker, TensorBoardTracker):
                tracker.write(TrackedRow("pictures", step, epoch, {}, {}, time.time(), pictures=pictures))

    def state(self) -> dict[str, Any]:
        """Nothing; but a checkpoint is being taken, and what a kill must not lose after it is to be in the files."""
        for tracker in self.trackers:
            if isinstance(tracker.tracker, TensorBoardTracker | CsvTracker) and self._drain_s > 0:
                begun = time.monotonic()
                tracker.drained(self._drain_s)
                self._drain_s -= time.monotonic() - begun
        return {}

    def on_run_end(self, training: Training, outcome: str) -> None:
        """Wait for the rows that are on their way, a few seconds at most, and say what is missing."""
        for tracker in self.trackers:
            tracker.end(outcome)
        deadline = time.monotonic() + self.patience_s
        for tracker in self.trackers:
            has_ended = tracker.join(deadline - time.monotonic())
            self._tell_trouble(tracker)
            if tracker.missing:
                why = "" if has_ended else f", not taken {self.patience_s:g} s after the run's end"
                self.tell(f"{tracker.name}: {tracker.missing} of {tracker.given} rows are missing{why}")

    def _tell_trouble(self, tracker: BackgroundTracker) -> None:
        trouble = tracker.trouble()
        if trouble is not None:
            self.tell(f"{tracker.name}: {trouble}. The run goes on")


def open_trackers(config: RunConfig, run_dir: Path, *, log: MetricsLog, from_step: int | None) -> Trackers:
    """The trackers that a run asks for. They open when the run starts.

    Args:
        config: The run.
        run_dir: Its folder.
        log: Its ``metrics.jsonl``, cut back to where the run goes on.
        from_step: Steps that were taken before; None in a new run.

    Raises:
        ConfigError: If a package is missing.
    """
    check_trackers(config.log, run_dir)
    made: list[BackgroundTracker] = []
    for name in config.log.trackers:
        tracker: Tracker
        if name == "tensorboard":
            tracker = TensorBoardTracker(run_dir, purge_step=None if from_step is None else from_step + 1)
        elif name == "csv":
            tracker = CsvTracker(run_dir / CSV_FILE, log=log.path, log_length=log.length)
        else:
            tracker = TrackerApart(name, partial(_settings, name, config, run_dir))
        made.append(BackgroundTracker(name, tracker))
    return Trackers(made, patience_s=PATIENCE_SECONDS)


def check_trackers(log: LogConfig, run_dir: Path, *, data: Path | None = None) -> None:
    """See early whether the trackers can work.

    Args:
        log: Names them.
        run_dir: The run's folder, which need not exist yet.
        data: The data set, into which nothing is written.

    Raises:
        ConfigError: If a package is missing, or the folder of MLflow's store cannot be used.
    """
    has_server = bool(os.environ.get("MLFLOW_TRACKING_URI"))
    for name in log.trackers:
        needed = PACKAGES.get(name, ())[: 1 if has_server else None]
        missing = [package for package in needed if not _is_installed(package)]
        if missing:
            raise ConfigError(
                f"log.trackers: {name} needs a package that is not installed: {', '.join(missing)}.\n"
                f"  pip install 'sightline[{name}]', or leave {name} out of log.trackers."
            )
    if "mlflow" in log.trackers and not has_server:
        folder = _folder_of_mlflow(log, run_dir)
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"log.mlflow.folder: {folder} is a file. Give a folder: log.mlflow.folder=DIR")
        home = None if data is None else (data if data.is_dir() else data.parent).resolve()
        if home is not None and folder.resolve().is_relative_to(home):
            raise ConfigError(
                f"log.mlflow.folder: {folder} lies in the data set, {home}, into which nothing is written. "
                "Give another one: log.mlflow.folder=DIR"
            )


def params_of(config: Config) -> dict[str, str | int | float | bool | None]:
    """Every value of a configuration by its dotted key; lists as JSON texts, secrets hidden."""
    params: dict[str, str | int | float | bool | None] = {}

    def add(value: Any, key: str) -> None:
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                add(inner, f"{key}.{name}" if key else name)
        elif value is None or isinstance(value, bool | int | float):
            params[key] = value
        elif isinstance(value, Path):
            params[key] = without_secrets(str(value.absolute()))
        else:
            params[key] = without_secrets(value if isinstance(value, str) else json.dumps(value, default=str))

    add(config.model_dump(), "")
    return params


def _folder_of_mlflow(log: LogConfig, run_dir: Path) -> Path:
    return (log.mlflow.folder or _beside_runs(run_dir)).absolute()


def _beside_runs(run_dir: Path) -> Path:
    """Where ``runs`` lies; the folder above a run that is not in one."""
    above = run_dir.absolute().parents
    return next((folder.parent for folder in above if folder.name == RUNS.name), above[0])


def _settings(name: str, config: RunConfig, run_dir: Path) -> dict[str, Any]:
    """What a tracker in a process of its own is told."""
    recipe = config.recipe or "run"
    settings = {"id": _kept_id(run_dir), "name": run_dir.resolve().name, "recipe": recipe, "params": params_of(config)}
    if name == "mlflow":
        return {
            **settings,
            "folder": str(_folder_of_mlflow(config.log, run_dir)),
            "experiment": config.log.mlflow.experiment,
        }
    return {
        **settings,
        "folder": str(run_dir.absolute()),
        "mode": config.log.wandb.mode,
        "project": config.log.wandb.project,
    }


def _kept_id(run_dir: Path) -> str:
    """The run's name for the trackers, made at its first start. Two threads that ask at once get the same."""
    path = run_dir / ID_FILE
    with _ID_LOCK:
        try:
            kept = json.loads(path.read_bytes())["id"]
            if isinstance(kept, str) and kept.isalnum():
                return kept
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            pass
        made = uuid.uuid4().hex[:16]
        replace_file(path, json.dumps({"id": made}).encode() + b"\n")
        return made


def _is_installed(package: str) -> bool:
    """Whether there is such a package, found without importing it; a folder of that name is none."""
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return False
    return found is not None and found.origin is not None
