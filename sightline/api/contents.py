"""What is in a checkpoint or a file of weights, read without loading a tensor."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.api.configuration import PathLike, read_config
from sightline.api.inference import cell
from sightline.api.output import finite, write_output
from sightline.api.table import Table
from sightline.config.errors import ConfigError, RunError, UserError
from sightline.config.printable import printable

if TYPE_CHECKING:
    from sightline.engine.checkpoint.layout import Manifest
    from sightline.engine.run_config import RunConfig


@dataclass(frozen=True)
class TensorKind:
    """One tensor of a file."""

    name: str
    dtype: str
    """As safetensors calls it: ``F32``, ``F16``, ``I64``, ..."""
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class FileContent:
    """One file, and what is wrong with it."""

    name: str
    num_bytes: int | None
    """On the disk; None where it is missing."""
    fault: str
    """Empty where it is as it was written."""
    tensors: tuple[TensorKind, ...]


@dataclass(frozen=True)
class Contents:
    """A checkpoint or a file of weights. ``str`` gives all of it as text."""

    path: Path
    kind: str
    """``checkpoint``, ``release`` or ``safetensors``."""
    facts: Mapping[str, Any]
    """Plain values: version, step, epoch, figures and the like."""
    files: Sequence[FileContent]
    groups: Sequence[Mapping[str, Any]] = field(default=())
    """Parameter groups of the run's optimizer, where its configuration can be read."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing is damaged."""
        return not any(file.fault for file in self.files)

    def tables(self, *, tensors: bool = False) -> list[Table]:
        """What it says of itself, its files, the optimizer's groups, and its tensors.

        Args:
            tensors: A row for each one, not for each part of the model.
        """
        told = {name: value for name, value in self.facts.items() if name != "config" and value not in ({}, "")}
        told |= {"metrics": {name: cell(value) for name, value in told["metrics"].items()}} if "metrics" in told else {}
        says = [(name.replace("_", " "), _shown(value)) for name, value in told.items()]
        rows = [(file.name, _bytes(file.num_bytes), file.fault or "whole") for file in self.files]
        tables = [Table(("", ""), says, title=printable(self.path)), Table(("file", "bytes", "state"), rows)]
        if self.groups:
            names = tuple(self.groups[0])
            values = [tuple(_shown(group[name]) for name in names) for group in self.groups]
            tables.append(Table(tuple(name.replace("_", " ") for name in names), values))
        return [*tables, *(_tensor_table(file, each=tensors) for file in self.files if file.tensors)]

    def __str__(self) -> str:
        """All tables as text."""
        return "\n\n".join(map(str, self.tables()))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, each tensor among them; figures that are not finite are None."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "is_whole": self.is_whole,
            **finite(self.facts),
            "optimizer_groups": finite(list(self.groups)),
            "files": [asdict(file) for file in self.files],
        }

    def write_json(self, path: PathLike) -> None:
        """All of it to a file.

        Raises:
            RunError: If it cannot be written.
        """
        write_output(path, json.dumps(self.as_dict(), indent=1) + "\n")


def show(path: PathLike, *, checkpoint: str = "latest") -> Contents:
    """What is in a checkpoint, a released file or any safetensors file.

    Damage is told, not raised, as far as it can be.

    Args:
        path: A checkpoint's folder, a run folder, a pointer (``checkpoints/best``), or a file.
        checkpoint: ``best``, ``latest``, or a step; of a run folder.

    Raises:
        UserError: If there is no such thing, or its ``state.json`` or header is damaged.
    """
    from sightline.engine.checkpoint.layout import BEST, LATEST, STATE_FILE, step_of
    from sightline.engine.checkpoint.reader import named_folder, pointed_to
    from sightline.engine.run_folder.folder import existing_run

    place = Path(path).expanduser()
    is_pointer = place.is_file() and place.name in (LATEST, BEST)
    is_folder = place.is_dir() and ((place / STATE_FILE).exists() or step_of(place.name) is not None)
    if checkpoint != LATEST and (place.is_file() or is_folder):
        raise ConfigError(f"--checkpoint is for run folders, and {printable(place)} is none. Leave it out.")
    if is_pointer:
        return _of_checkpoint(pointed_to(place))
    if place.is_file():
        return _of_file(place)
    return _of_checkpoint(place if is_folder else named_folder(existing_run(place), checkpoint))


def _of_checkpoint(folder: Path) -> Contents:
    from sightline.engine.checkpoint.layout import STATE_FILE, DamagedCheckpointError
    from sightline.engine.checkpoint.reader import check_file, described
    from sightline.engine.run_folder.folder import is_run

    manifest = described(folder)
    files = [FileContent(STATE_FILE, _size(folder / STATE_FILE), "", ())]
    for name, entry in manifest.files.items():
        fault = ""
        try:
            check_file(folder / name, entry)
        except DamagedCheckpointError as error:
            fault = str(error).removeprefix(f"{folder / name}: ").rstrip(".")
        files.append(FileContent(name, _size(folder / name), printable(fault), _tensors(folder / name, fault)))
    facts: dict[str, Any] = {
        "format": manifest.format,
        "version": manifest.version,
        "step": manifest.step,
        "epoch": manifest.epoch,
        "ends_epoch": manifest.ends_epoch,
        "reason": manifest.reason,
        "metrics": manifest.metrics,
        **_trained(files),
    }
    run_dir = folder.absolute().parent.parent
    if not is_run(run_dir):
        return Contents(folder, "checkpoint", facts, files)
    config = None
    with suppress(UserError):  # a program's own configuration, or a changed file: the checkpoint is shown all the same
        config = read_config(run_dir)
    facts |= {"written_by": _versions(run_dir, manifest), **_best(folder.parent, config)}
    groups = [] if config is None else config.optimizer.model_dump(mode="json")["groups"]
    return Contents(folder, "checkpoint", facts, files, groups)


def _of_file(path: Path) -> Contents:
    from sightline.engine.checkpoint.layout import DamagedCheckpointError
    from sightline.engine.checkpoint.release import FORMAT, find_release

    try:
        release = find_release(path)
    except DamagedCheckpointError as error:
        fault = str(error).removeprefix(f"{printable(path)}: ").rstrip(".")
        return Contents(
            path, "release", {"format": FORMAT}, [FileContent(path.name, _size(path), fault, _tensors(path, fault))]
        )
    files = [FileContent(path.name, _size(path), "", _tensors(path, ""))]
    if release is None:
        return Contents(path, "safetensors", {"format": "safetensors"}, files)
    facts = release.header.model_dump(mode="python", exclude={"packed"}) | {"sha256": release.sha256}
    if signs := [math.prod(note.shape) for note in release.header.packed.values()]:
        facts["packed"] = {"binary_weights": len(signs), "signs": sum(signs), "bytes": sum(-(-n // 8) for n in signs)}
    return Contents(path, "release", facts, files)


def _tensors(path: Path, fault: str) -> tuple[TensorKind, ...]:
    """Tensors by name; of a damaged file those that its header still tells of, if it does.

    Raises:
        RunError: If a file that is not damaged is no safetensors file.
    """
    from sightline.engine.checkpoint.reader import tensor_kinds

    try:
        return tuple(TensorKind(name, *kind) for name, kind in sorted(tensor_kinds(path).items()))
    except RunError:
        if fault:
            return ()
        raise


def _trained(files: Sequence[FileContent]) -> dict[str, int]:
    """How many numbers the model has, and how many of them the optimizer has a state of."""
    held = {file.name.removesuffix(".safetensors"): file.tensors for file in files}
    stepped = {one.name.partition("/")[2] for one in held.get("optimizer", ())}
    model = held.get("model", ())
    if not model:  # it is damaged
        return {}
    return {
        "numbers_of_the_model": sum(one.count for one in model),
        "trained_parameters": sum(one.count for one in model if one.name in stepped),
    }


def _versions(run_dir: Path, manifest: Manifest) -> dict[str, str]:
    """Programs of the session that wrote it: the last one that began before its step."""
    from sightline.engine.run_folder.run_record import read_record

    try:
        sessions = [one for one in read_record(run_dir).sessions if one.from_step < max(1, manifest.step)]
    except RunError:
        return {}
    wanted = ("sightline", "torch", "python")
    return {name: sessions[-1].versions[name] for name in wanted if sessions and name in sessions[-1].versions}


def _best(checkpoints: Path, config: RunConfig | None) -> dict[str, Any]:
    """The checkpoint that the run holds for its best, and its figure."""
    from sightline.engine.checkpoint.layout import BEST
    from sightline.engine.checkpoint.reader import described, pointed_to

    try:
        manifest = described(pointed_to(checkpoints / BEST))
    except (RunError, OSError):
        return {}
    name = config.evaluate.best.metric if config is not None else None
    name = name or next(iter(manifest.metrics), "")
    figure = {name: manifest.metrics[name]} if name in manifest.metrics else {}
    return {"best": {"step": manifest.step, **figure}}


def _tensor_table(file: FileContent, *, each: bool) -> Table:
    title = f"{file.name}: {len(file.tensors)} tensors, {sum(one.count for one in file.tensors):,} numbers"
    if each:
        rows = [(printable(one.name, limit=120), one.dtype, str(list(one.shape))) for one in file.tensors]
        return Table(("tensor", "type", "shape"), rows, title=title)
    parts: dict[str, list[TensorKind]] = {}
    for one, part in zip(file.tensors, _parts(one.name for one in file.tensors), strict=True):
        parts.setdefault(part, []).append(one)
    lines = []
    for part, held in parts.items():
        dtypes = {one.dtype: sum(other.dtype == one.dtype for other in held) for one in held}
        kinds = ", ".join(f"{count} {dtype}" for dtype, count in dtypes.items())
        largest = max(held, key=lambda one: one.count)
        numbers = f"{sum(one.count for one in held):,}"
        lines.append((printable(part, limit=80), str(len(held)), numbers, kinds, str(list(largest.shape))))
    return Table(("part", "tensors", "numbers", "types", "largest"), lines, title=title)


def _parts(names: Iterable[str]) -> list[str]:
    """What each tensor belongs to: a part of the model, before it the kind of state where the file holds several."""
    from sightline.engine.tensor_names import group_of_name, shared_parts

    split = [name.rpartition("/") for name in names]
    shared = shared_parts(name for _, _, name in split)
    return [f"{kind}{slash}{group_of_name(name, shared)}" for kind, slash, name in split]


def _size(path: Path) -> int | None:
    try:
        return path.lstat().st_size
    except OSError:
        return None


def _bytes(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def _shown(value: object) -> str:
    """A value on one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{printable(name, limit=40)} {_shown(one)}" for name, one in value.items())
    if isinstance(value, tuple | list):
        return ", ".join(map(_shown, value)) or "-"
    return "-" if value is None else printable(value, limit=100)
