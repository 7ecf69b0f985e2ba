"""Trained models: which checkpoint a user means, its weights in a task, and evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sightline.api.configuration import PathLike, read_config
from sightline.api.output import check_output, naming, write_output
from sightline.api.table import Table
from sightline.config.errors import ConfigError, DataError, RunError
from sightline.config.override import parse_change
from sightline.config.printable import printable

if TYPE_CHECKING:
    from sightline.engine.checkpoint_reader import Checkpoint
    from sightline.engine.run_config import RunConfig
    from sightline.engine.task import Task

EVALUATION_KEYS = (
    "image_size", "batch_size", "eval_batch_size", "device", "precision", "channels_last", "deterministic", "workers",
    "threads", "data", "model",
)  # fmt: skip
"""Keys and groups that an evaluation uses."""


@dataclass(frozen=True)
class Figures(Mapping[str, float]):
    """Figures of an evaluation by name, with the tables behind them. ``str`` gives all of it as text."""

    figures: Mapping[str, float]
    details: Mapping[str, Any]
    title: str = ""
    notes: Sequence[str] = ()
    """What a reader must know to trust the figures."""
    titles: Mapping[str, str] = field(default_factory=dict)
    """Longer names of figures, for the table."""

    def __getitem__(self, name: str) -> float:
        """One figure."""
        return self.figures[name]

    def __iter__(self) -> Iterator[str]:
        """Names of the figures."""
        return iter(self.figures)

    def __len__(self) -> int:
        """Number of figures."""
        return len(self.figures)

    def tables(self) -> list[Table]:
        """The figures, and a row for each class."""
        rows = [(self.titles.get(name, name), _cell(value)) for name, value in self.figures.items()]
        tables = [Table(("figure", "value"), rows)]
        classes = [
            (
                printable(row["name"], limit=40),
                *(_cell(row[key]) for key in ("ap", "ap50", "ar")),
                f"{row['num_truths']:,}",
                f"{row['num_detections']:,}",
            )
            for row in self.details.get("classes", [])
        ]
        if classes:
            tables.append(Table(("class", "AP", "AP50", "AR", "truths", "detections"), classes))
        return tables

    def __str__(self) -> str:
        """Notes, title and tables."""
        parts = [*self.notes, *([self.title] if self.title else []), *(f"{table}\n" for table in self.tables())]
        return "\n".join(parts).rstrip()

    def write_json(self, path: PathLike) -> None:
        """Figures and tables to a file.

        Raises:
            RunError: If it cannot be written.
        """
        text = json.dumps({**self.details, "figures": dict(self.figures), "notes": list(self.notes)}, indent=1)
        write_output(path, text + "\n")


def _cell(value: float | None) -> str:
    """A figure; ``-`` where no truth defines it."""
    return "-" if value is None or math.isnan(value) or value < 0 else f"{value:.4f}"


def open_run(path: Path, checkpoint: str) -> tuple[Path, Checkpoint]:
    """The run folder and the checkpoint that a user means.

    Args:
        path: A run folder, or the folder of one of its checkpoints.
        checkpoint: ``best`` (``latest`` where no evaluation was made), ``latest``, or a step; of a run folder.

    Raises:
        RunError: If there is no such run or checkpoint, or it is damaged.
    """
    from sightline.engine.checkpoint import BEST, CHECKPOINTS_FOLDER, LATEST, STATE_FILE, DamagedCheckpointError
    from sightline.engine.checkpoint_reader import find_checkpoints, named_checkpoint, open_checkpoint
    from sightline.engine.run_folder import existing_run

    path = path.expanduser()
    if path.is_file() or (path / STATE_FILE).exists():
        found = open_checkpoint(path)
        return existing_run(found.path.absolute().parent.parent), found
    run_dir = existing_run(path)
    has_best = (run_dir / CHECKPOINTS_FOLDER / BEST).exists()
    there = ", ".join(str(int(one.name.removeprefix("step_"))) for one in reversed(find_checkpoints(run_dir)))

    def refuse(message: str) -> None:
        raise DamagedCheckpointError(message)

    try:
        name = LATEST if checkpoint == BEST and not has_best else checkpoint
        return run_dir, named_checkpoint(run_dir, name, refuse)
    except DamagedCheckpointError as error:
        raise RunError(f"{error} Choose another one: --checkpoint with one of the steps {there}.") from None


def class_names_of(run_dir: Path) -> tuple[str, ...]:
    """Names of the classes that a run's model knows, in the order of its labels.

    Raises:
        RunError: If the run's ``data.json`` is missing or broken.
    """
    from sightline.engine.run_folder import DATA_FILE

    path = run_dir / DATA_FILE
    try:
        return tuple(map(str, json.loads(path.read_text())["class_names"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{printable(path)}: the names of the classes cannot be read ({error}). Put the run's own file back."
        ) from error


def load_weights(task: Task, checkpoint: Checkpoint) -> str:
    """Averaged weights of a checkpoint, or its live ones, into a task of the same shape.

    Returns:
        ``averaged weights`` or ``live weights``.

    Raises:
        RunError: If they do not fit.
    """
    from sightline.engine.checkpoint_reader import load_tensors
    from sightline.engine.copying import copy_exactly

    group = "ema" if "ema.safetensors" in checkpoint.manifest.files else "model"
    tensors = load_tensors(checkpoint, group)[group]
    copy_exactly(
        task.state_dict(),
        tensors,
        where=str(checkpoint.path),
        what="weights",
        cure="The model was changed since; use the run's own configuration.",
    )
    return "averaged weights" if group == "ema" else "live weights"


def refuse_unused(changes: Sequence[str], used: Iterable[str], what: str) -> None:
    """Check that changes concern the work at hand.

    Args:
        changes: ``key=value`` texts.
        used: Keys and groups that the work uses.
        what: The work, for the message.

    Raises:
        ConfigError: If one does not; names those that do.
    """
    for change in map(parse_change, changes):
        group = change.key.split(".", 1)[0]
        if group not in used or change.key.startswith("model.loss"):
            raise ConfigError(
                f"{change.origin}: {change.key} has no effect on {what}. Keys and groups that have one: "
                f"{', '.join(used)}."
            )


def evaluate(
    run: PathLike,
    *,
    data: PathLike | None = None,
    split: str = "val",
    changes: Sequence[str] = (),
    checkpoint: str = "best",
    save: PathLike | None = None,
) -> Figures:
    """Evaluate a trained model.

    Args:
        run: Run folder, or the folder of one of its checkpoints.
        data: Another data set than the run's, with the same classes.
        split: Part of the data set.
        changes: ``key=value`` texts, e.g. ``image_size=640``.
        checkpoint: ``best``, ``latest``, or a step; of a run folder.
        save: Write the detections to this file in COCO's result format.

    Raises:
        UserError: If something does not fit.
    """
    import torch

    from sightline.data.formats.coco_results import write_coco_detections
    from sightline.engine.evaluation import evaluate as evaluate_task
    from sightline.engine.precision import Precision, to_channels_last
    from sightline.engine.session import pick_device, settle
    from sightline.tasks.detection2d import Detection2DMetric

    check_output(save)
    refuse_unused(changes, EVALUATION_KEYS, "an evaluation")
    run_dir, found = open_run(Path(run), checkpoint)
    config = settle(read_config(run_dir, changes, data=data, split=split))
    device = pick_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    problem = _with_own_names(config, run_dir).open(training=False)
    assert problem.eval_loader is not None
    assert config.precision != "auto", "settle() has chosen"
    try:
        _refuse_other_classes(run_dir, problem.facts["class_names"], config.data.path)  # type: ignore[attr-defined]
        which = load_weights(problem.task, found)
        task = problem.task.to(device)
        if config.channels_last:
            to_channels_last(task)
        precision = Precision(config.precision, device=device)
        metric = evaluate_task(task, problem.eval_loader, device=device, precision=precision)
    finally:
        problem.eval_loader.close()
    if save is not None:
        path = Path(save).expanduser()
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_coco_detections(path, *cast(Detection2DMetric, metric).coco_results())
    source = printable(config.data.path or "the built-in world")  # type: ignore[attr-defined]
    title = f"{printable(found.path)} ({which}) on {source}, {printable(split)}"
    return Figures(metric.compute(), metric.details(), title, tuple(problem.messages))


def _with_own_names(config: RunConfig, run_dir: Path) -> RunConfig:
    """Data without a list of classes (VOC) is read with the run's names in the run's order."""
    from sightline.recipes.detection2d import Detection2DRun

    if not isinstance(config, Detection2DRun) or config.data.path is None or config.data.class_names is not None:
        return config
    if config.open_data().format != "voc":
        return config
    return config.but(data=config.data.but(class_names=class_names_of(run_dir)))


def _refuse_other_classes(run_dir: Path, names: Sequence[str], data: Path | None) -> None:
    """A model cannot be judged on data whose labels mean something else."""
    own = class_names_of(run_dir)
    if list(own) != list(names):
        raise DataError(
            f"{printable(data)}: its classes are not those of the run.\n"
            f"  data: {printable(', '.join(names), limit=200)}\n  run:  {printable(', '.join(own), limit=200)}\n"
            "  Give data with the same names in the same order (data.class_names=[...] where the format has none)."
        )
