"""Other programs' trained networks as released files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.api.configuration import PathLike, portable, resolve
from sightline.api.output import check_output
from sightline.api.own_runs import title_of
from sightline.api.releasing import Released, refuse_taken, write_file
from sightline.api.table import Table
from sightline.config.errors import ConfigError, RunError
from sightline.config.printable import counted, printable

if TYPE_CHECKING:
    from sightline.importers.bmxnet import Match
    from sightline.importers.mxnet_params import Array
    from sightline.recipes.classification import ClassificationRun


@dataclass(frozen=True)
class Imported(Released):
    """A file that was made of another program's. ``str`` is a line about it."""

    match: Match
    """What went where."""
    class_names: tuple[str, ...]
    notes: tuple[str, ...]

    def table(self) -> Table:
        """Each layer of the file beside the one of ours that it went to."""
        rows = [
            (printable(row.source, limit=80), row.target, str(row.shape), str(row.word_bits) if row.word_bits else "-")
            for row in self.match.rows
        ]
        return Table(("in the file", "here", "shape", "bits of a word"), rows)

    def __str__(self) -> str:
        """Path, size, and what it holds."""
        size, layers = f"{self.num_bytes / 1e6:.1f} MB", counted(len(self.match.rows), "layer")
        return f"{printable(self.path)}: {size}, {layers} and {counted(len(self.class_names), 'class')}"


def import_bmxnet(
    file: PathLike,
    *,
    recipe: str,
    changes: Sequence[str] = (),
    data: PathLike | None = None,
    out: PathLike | None = None,
    force: bool = False,
) -> Imported:
    """Make a released file of the parameters of a network that BMXNet v2 trained.

    ``evaluate``, ``predict``, ``load`` and ``weights=`` take it. Binary weights may be floats or packed words; words
    become weights of +1 and -1.

    Args:
        file: MXNet's parameters, ``*.params``.
        recipe: Of a classifier with the same network, such as ``resnet-e18-cifar``.
        changes: ``key=value`` texts that make its network the one that was trained.
        data: Data set with the names of the classes, in their order; they are called ``0``, ``1``, ... without it.
        out: The file to write, ``*.safetensors``. Default: one in the current folder, named after ``file``.
        force: Replace a file that is there.

    Raises:
        UserError: If the file cannot be read, its layers are not those of the network, or the output is there already.
    """
    from sightline import __version__
    from sightline.engine.checkpoint.release import ReleaseHeader
    from sightline.engine.going_on import class_name
    from sightline.importers.bmxnet import import_network
    from sightline.importers.mxnet_params import read_params

    check_output(out, suffix=".safetensors")
    source = Path(file).expanduser()
    path = Path(out).expanduser() if out is not None else Path(f"{source.stem}.safetensors")
    refuse_taken(path, force=force)
    config = _classifier(recipe, changes, data)
    arrays = read_params(source)
    with source.open("rb") as parameters:
        digest = hashlib.file_digest(parameters, "sha256").hexdigest()
    names, notes = _class_names(config, arrays, source)
    task = config.trained_model(names).classifier
    try:
        match = import_network(task.network, arrays)
    except RunError as error:
        raise RunError(f"{printable(source)}: {error}") from error
    values, left_out = portable(config)
    header = ReleaseHeader(
        sightline=__version__,
        recipe=printable(config.recipe),
        configuration=class_name(type(config)),
        config=values,
        left_out=left_out,
        facts={"class_names": list(names)},
        weights="live",
        precision="fp32",
        run=printable(source.name),
        step=0,
        epoch=0,
        metrics={},
        source_sha256=digest,
    )
    written = write_file(path, header, task.state_dict())
    return Imported(**vars(written), match=match, class_names=names, notes=notes)


def _classifier(recipe: str, changes: Sequence[str], data: PathLike | None) -> ClassificationRun:
    from sightline.recipes.classification import ClassificationRun

    config, _ = resolve(recipe, changes, data=data)
    if not isinstance(config, ClassificationRun):
        raise ConfigError(f"{title_of(config)}: is no classifier, and BMXNet's networks are. See: sightline list")
    return config


def _class_names(
    config: ClassificationRun, arrays: Mapping[str, Array], source: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the classes, and what is to be said about them.

    Raises:
        RunError: If the data has another number of classes than the file.
    """
    from sightline.importers.bmxnet import num_outputs

    try:
        count = num_outputs(arrays)
    except RunError as error:
        raise RunError(f"{printable(source)}: {error}") from None
    if config.data.path is None:
        names = tuple(map(str, range(count)))
        return names, (f"the classes are called 0 to {count - 1}; --data DATA takes the names of a data set",)
    names = config.open_data().class_names
    if len(names) != count:
        raise RunError(
            f"{printable(source)}: its network has {counted(count, 'output')}, and {printable(config.data.path)} has "
            f"{counted(len(names), 'class')}. Give the data that it was trained on."
        )
    return names, ()
