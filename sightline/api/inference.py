"""Trained models: which checkpoint a user means, its weights in a task, and evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from sightline.api.configuration import PathLike, read_config
from sightline.api.kitti_tables import kitti_tables
from sightline.api.output import check_output, check_output_folder, naming, write_output
from sightline.api.table import Table
from sightline.config.errors import ConfigError, RunError
from sightline.config.override import parse_change
from sightline.config.printable import printable

if TYPE_CHECKING:
    from sightline.engine.checkpoint.reader import Checkpoint
    from sightline.engine.checkpoint.release import Release
    from sightline.engine.task import Metric, Task
    from sightline.models.blocks.packed_file import PackedNetwork


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
        if "kitti" in self.details:
            return kitti_tables(self.figures, self.details)
        rows = [(self.titles.get(name, name), cell(value)) for name, value in self.figures.items()]
        tables = [Table(("figure", "value"), rows)]
        rows_of_classes = self.details.get("classes", [])
        if rows_of_classes:
            names = [name for name, value in rows_of_classes[0].items() if not isinstance(value, str)]
            head = ("class", *(_WORDS.get(name, name.replace("_", " ")) for name in names))
            classes = [
                (printable(row["name"], limit=40), *(cell(row[name]) for name in names)) for row in rows_of_classes
            ]
            tables.append(Table(head, classes))
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


_WORDS = {"ap": "AP", "ap50": "AP50", "ar": "AR", "num_truths": "truths", "num_detections": "detections"}
"""Heads of the columns whose names of figures read badly."""


def cell(value: float | int | None) -> str:
    """A count, or a figure; ``-`` where no truth defines it."""
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if value is None or math.isnan(value) or value < 0 else f"{value:.4f}"


def open_model(path: Path, checkpoint: str) -> tuple[Path, Checkpoint] | tuple[Release, Release]:
    """The trained model that a user means: where its configuration and its weights are.

    Args:
        path: A run folder, the folder of one of its checkpoints, or a released file.
        checkpoint: As in ``open_run``.

    Raises:
        ConfigError: If a checkpoint of a file is asked for.
        RunError: If there is no such model, or it is damaged.
    """
    from sightline.engine.checkpoint.layout import BEST, LATEST
    from sightline.engine.checkpoint.release import read_release

    path = path.expanduser()
    if not path.is_file() or path.name in (LATEST, BEST):
        return open_run(path, checkpoint)
    release = read_release(path)
    if checkpoint != BEST:
        raise ConfigError(f"--checkpoint is for run folders, and {printable(path)} holds one set of weights.")
    return release, release


def open_run(path: Path, checkpoint: str) -> tuple[Path, Checkpoint]:
    """The run folder and the checkpoint that a user means.

    Args:
        path: A run folder, or the folder of one of its checkpoints.
        checkpoint: ``best`` (``latest`` where no evaluation was made), ``latest``, or a step; of a run folder.

    Raises:
        RunError: If there is no such run or checkpoint, or it is damaged.
    """
    from sightline.engine.checkpoint.layout import BEST, CHECKPOINTS_FOLDER, LATEST, STATE_FILE, DamagedCheckpointError
    from sightline.engine.checkpoint.reader import find_checkpoints, named_checkpoint, open_checkpoint
    from sightline.engine.run_folder.folder import existing_run

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


def facts_of(run: Path | Release) -> dict[str, Any]:
    """What a run, or a released file of it, says about its data.

    Raises:
        RunError: If the run's ``data.json`` is missing or broken.
    """
    from sightline.engine.run_folder.folder import DATA_FILE

    if not isinstance(run, Path):
        return dict(run.header.facts)
    path = run / DATA_FILE
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{printable(path)}: cannot be read ({error}). Put the run's own file back.") from error


def class_names_of(run: Path | Release) -> tuple[str, ...]:
    """Names of the classes that a run's model knows, in the order of its labels.

    Raises:
        RunError: If they are missing.
    """
    names = facts_of(run).get("class_names")
    if not isinstance(names, list):
        place = f"{printable(run)}: its data.json" if isinstance(run, Path) else f"{printable(run.path)}: its header"
        raise RunError(f"{place} does not name the classes. Put the file back as it was written.")
    return tuple(map(str, names))


def load_weights(task: Task, given: Checkpoint | Release, *, group: str | None = None, count_bits: bool = True) -> str:
    """Averaged weights of a checkpoint, or its live ones, or those of a released file, into a task of the same shape.

    Of a packed file, packed layers take the place of the binary ones.

    Args:
        task: Is written to.
        given: Where the weights are.
        group: ``ema`` or ``model`` of a checkpoint; the averaged ones where there are any when left out.
        count_bits: Whether packed layers count equal bits, which is for CPUs, or multiply signs, to the same results.

    Returns:
        ``averaged weights`` or ``live weights``, and in what they were stored if not in full.

    Raises:
        RunError: If they do not fit.
    """
    from sightline.engine.checkpoint.reader import Checkpoint, load_tensors
    from sightline.engine.copying import copy_exactly

    own = task.state_dict()
    if isinstance(given, Checkpoint):
        group = group or best_group(given)
        tensors, which = load_tensors(given, group)[group], WHICH[group]
    elif given.header.packed:
        _load_packed(task, given, count_bits=count_bits)
        return given.which
    else:
        tensors, which = given.tensors_for(own), given.which
    copy_exactly(
        own,
        tensors,
        where=printable(given.path),
        what="weights",
        cure="The model was changed since; use the run's own configuration.",
    )
    return which


def packed_network(given: Release) -> PackedNetwork:
    """The tensors of a packed file.

    Raises:
        RunError: If they contradict its header.
    """
    from sightline.engine.checkpoint.release import HALVES
    from sightline.models.blocks.packed_file import from_stored

    halves = set(HALVES.values())
    tensors = {name: one.float() if one.dtype in halves else one for name, one in given.tensors_for({}).items()}
    notes = {name: note.model_dump() for name, note in given.header.packed.items()}
    return from_stored(tensors, notes, source=printable(given.path))


def _load_packed(task: Task, given: Release, *, count_bits: bool) -> None:
    from sightline.models.blocks.packed_layers import load_packed

    device = next(task.parameters()).device
    task.cpu()
    load_packed(task, packed_network(given), count_bits=count_bits, source=printable(given.path))
    task.to(device)


WHICH = {"ema": "averaged weights", "model": "live weights"}
"""What the files of a checkpoint hold."""


def best_group(checkpoint: Checkpoint) -> str:
    """``ema`` where there are averaged weights, else ``model``."""
    return "ema" if "ema.safetensors" in checkpoint.manifest.files else "model"


def refuse_unused(changes: Sequence[str], used: Iterable[str], what: str) -> None:
    """Check that changes concern the work at hand.

    Args:
        changes: ``key=value`` texts.
        used: Keys and groups that the work uses.
        what: The work, for the message.

    Raises:
        ConfigError: If one does not; names those that do.
    """
    from sightline.engine.device import device_name, gpus_of

    for change in map(parse_change, changes):
        group = change.key.split(".", 1)[0]
        if not {group, change.key} & set(used) or change.key.startswith("model.loss"):
            raise ConfigError(
                f"{change.origin}: {change.key} has no effect on {what}. Keys and groups that have one: "
                f"{', '.join(used)}."
            )
        if change.key == "device" and len(gpus_of(device_name(change.value))) > 1:
            raise ConfigError(
                f"{change.origin}: device={printable(change.value)} names several GPUs, and {what} uses one. "
                "Name one of them."
            )


class Judge:
    """The task and the data of a run, opened once to evaluate any of its checkpoints. A context: closes the data.

    Args:
        run: The run's folder, or a released file of it.
        changes: ``key=value`` texts.
        data: Another data set than the run's.
        split: Another part of it than the run's.

    Raises:
        UserError: If something does not fit.
    """

    def __init__(
        self,
        run: Path | Release,
        changes: Sequence[str] = (),
        *,
        data: PathLike | None = None,
        split: str | None = None,
    ) -> None:
        import torch

        from sightline.engine.building import settle
        from sightline.engine.device import pick_device
        from sightline.engine.precision import Precision, choose_kernels, to_channels_last

        config = read_config(run, changes, data=data, split=split)
        refuse_unused(changes, config.evaluation_keys, "an evaluation")
        if not isinstance(run, Path):
            _refuse_missing_places(run, config.evaluation_keys, changes, data)
        self.config = settle(config)
        self.device = pick_device(self.config.device)
        if self.device.type == "cuda":
            choose_kernels(deterministic=self.config.deterministic, benchmark=self.config.cudnn_benchmark)
        if self.config.threads is not None:
            torch.set_num_threads(self.config.threads)
        assert self.config.precision != "auto", "settle() has chosen"
        self.precision = Precision(self.config.precision, device=self.device)
        self.problem = self.config.open_trained(facts_of(run))
        self.task = self.problem.task.to(self.device)
        if self.config.channels_last:
            to_channels_last(self.task)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.problem.eval_loader is not None:
            self.problem.eval_loader.close()

    def evaluate(self, checkpoint: Checkpoint | Release) -> Judged:
        """Load the weights of a checkpoint, or of a released file, and evaluate them.

        Raises:
            RunError: If they do not fit.
        """
        from sightline.engine.evaluation import ValidationLosses
        from sightline.engine.evaluation import evaluate as evaluate_task

        assert self.problem.eval_loader is not None, "a problem opened for evaluation has its loader"
        which = load_weights(self.task, checkpoint, count_bits=self.device.type == "cpu")
        losses = ValidationLosses() if self.config.evaluate.loss else None
        metric = evaluate_task(
            self.task, self.problem.eval_loader, device=self.device, precision=self.precision, losses=losses
        )
        return Judged(which, metric, {**metric.compute(), **(losses.compute() if losses is not None else {})})


def _refuse_missing_places(
    release: Release, used: Sequence[str], changes: Sequence[str], data: PathLike | None
) -> None:
    """What a released file leaves out, since it was a place on another machine, and an evaluation needs.

    Raises:
        ConfigError: If it is not given.
    """
    given = {change.key for change in map(parse_change, changes)} | ({"data.path"} if data is not None else set())
    for key in release.header.left_out:
        if key not in given and {key, key.split(".", 1)[0]} & set(used):
            cure = "--data DATA" if key == "data.path" else f"{key}=..."
            raise ConfigError(
                f"{printable(release.path)}: does not say where the data of the training lies ({key}). "
                f"Say what to evaluate on: {cure}"
            )


class Judged(NamedTuple):
    """An evaluated checkpoint."""

    weights: str
    """What ``load_weights`` said."""
    metric: Metric
    figures: dict[str, float]


def evaluate(
    run: PathLike,
    *,
    data: PathLike | None = None,
    split: str | None = None,
    changes: Sequence[str] = (),
    checkpoint: str = "best",
    save: PathLike | None = None,
) -> Figures:
    """Evaluate a trained model.

    Args:
        run: Run folder, the folder of one of its checkpoints, or a released file.
        data: Another data set than the run's, with the same classes. A released file of a run on data needs it.
        split: Part of the data set; the run's own when left out.
        changes: ``key=value`` texts, e.g. ``image_size=640``.
        checkpoint: ``best``, ``latest``, or a step; of a run folder.
        save: Write the predictions to this file, in the format of their field: COCO results for boxes, a CSV
            table for classes; of a LiDAR detector to this folder, as text files of KITTI's.

    Raises:
        UserError: If something does not fit.
    """
    model, found = open_model(Path(run), checkpoint)
    with Judge(model, changes, data=data, split=split) as judge:
        if save is not None and judge.config.saves_folder:
            check_output_folder(Path(save).expanduser())
        else:
            check_output(save)
        judged = judge.evaluate(found)
    if save is not None:
        path = Path(save).expanduser()
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            judged.metric.save(path)
    source = f" on {judge.problem.source}" if judge.problem.source else ""
    title = f"{printable(found.path)} ({judged.weights}){source}"
    details = judged.metric.details()
    notes = [f"note: {note}" for note in details.get("kitti", {}).get("notes", ())]
    return Figures(judged.figures, details, title, (*judge.problem.messages, *notes))
