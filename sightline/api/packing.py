"""A trained binary network as one small file: a bit for every binary weight."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sightline.api.configuration import PathLike, read_config
from sightline.api.inference import class_names_of, load_weights, open_model
from sightline.api.output import check_output
from sightline.api.own_runs import title_of
from sightline.api.releasing import (
    Released,
    check_choices,
    chosen_group,
    header_of,
    name_of,
    refuse_taken,
    write_file,
)
from sightline.api.table import Table
from sightline.config.errors import ConfigError
from sightline.config.printable import printable

if TYPE_CHECKING:
    from sightline.engine.checkpoint.reader import Checkpoint
    from sightline.engine.checkpoint.release import Half, Release, ReleaseHeader
    from sightline.engine.task import Task
    from sightline.models.blocks.packed_file import LayerSize


@dataclass(frozen=True)
class Packed(Released):
    """A packed file. ``str`` is a line about it."""

    sizes: tuple[LayerSize, ...]
    """What every tensor takes."""

    def table(self) -> Table:
        """Bits of a weight, bytes, bytes as float32 and their ratio of every layer, and of all.

        The bytes of a binary layer are those of its signs and its scale.
        """
        layers: dict[str, list[LayerSize]] = {}
        for row in self.sizes:
            layers.setdefault(row.name.rpartition(".")[0] or row.name, []).append(row)
        rows = [_row(name, held, str(held[0].bits)) for name, held in layers.items()]
        head = ("layer", "kind", "numbers", "bits", "bytes", "float32", "ratio")
        return Table(head, [*rows, _row("total", self.sizes, "-")])

    def __str__(self) -> str:
        """Path, size, and how much smaller than floats."""
        stored, plain = sum(row.bytes for row in self.sizes), sum(row.float_bytes for row in self.sizes)
        return f"{super().__str__()}; the weights take {stored:,} bytes, {plain / stored:.1f} times fewer than float32"


def pack(
    model: PathLike,
    *,
    out: PathLike | None = None,
    checkpoint: str = "best",
    weights: str | None = None,
    half: str | None = None,
    force: bool = False,
) -> Packed:
    """Write a trained binary network with one bit for each weight of its binary layers.

    The file is a released one, and ``evaluate``, ``predict`` and ``load`` take it: its binary layers count equal bits,
    and all outputs have the bits of the run's.

    Args:
        model: Run folder, the folder of one of its checkpoints, or a released file.
        out: The file, ``*.safetensors``. Default: one in the current folder, named after recipe, run and step, or
            after the released file.
        checkpoint: ``best``, ``latest``, or a step; of a run folder.
        weights: ``ema`` for the averaged ones, ``live``; of a run.
        half: ``fp16`` or ``bf16``: store the kernels and matrices that are not binary in 16 bits.
        force: Replace a file that is there.

    Raises:
        UserError: If there is no such model, it is damaged or packed already, has no binary layer or no such weights,
            or the file is there.
    """
    from sightline.engine.checkpoint.release import PackedNote, halved
    from sightline.models.blocks.packed_file import PackedNetwork, sizes, stored
    from sightline.models.blocks.packed_layers import pack_network

    check_choices(weights=weights, half=half)
    check_output(out, suffix=".safetensors")
    place, found = open_model(Path(model), checkpoint)
    path = Path(out if out is not None else _default_name(place, found, weights, half)).expanduser()
    refuse_taken(path, force=force)
    task = _fresh_task(place)
    header = _load(task, place, found, weights, half)
    _refuse_without_binary_layers(task, model)
    network = pack_network(task)
    if header.precision != "fp32":
        values = halved(network.values, header.precision, source=printable(found.path))
        network = PackedNetwork(network.weights, values)
    tensors, notes = stored(network)
    told = {name: PackedNote(**note) for name, note in notes.items()}
    written = write_file(path, header.but(version=2, packed=told), tensors)
    return Packed(**vars(written), sizes=tuple(sizes(network)))


def _fresh_task(place: Path | Release) -> Task:
    """The task of a run on images with fresh weights.

    Raises:
        UserError: If it is another kind of run, or its class names are missing.
    """
    from sightline.recipes.images import ImageRun

    config = read_config(place)
    if not isinstance(config, ImageRun):
        name = printable(place if isinstance(place, Path) else place.path)
        raise ConfigError(f"{name}: a run of {title_of(config)} is no network on images, and only these are packed.")
    return config.trained_model(class_names_of(place)).task.eval()


def _load(
    task: Task, place: Path | Release, found: Checkpoint | Release, weights: str | None, half: str | None
) -> ReleaseHeader:
    """Load the weights that a user asks for, and say what they are."""
    from sightline import __version__
    from sightline.engine.checkpoint.reader import Checkpoint

    if isinstance(place, Path):
        assert isinstance(found, Checkpoint), "open_model gives both of one kind"
        group = chosen_group(found, weights)
        load_weights(task, found, group=group)
        return header_of(place, found, group, half)
    if place.header.packed:
        raise ConfigError(f"{printable(place.path)}: is packed already. Give the run, or a file of sightline release.")
    if weights is not None:
        raise ConfigError(f"--weights is for runs, and {printable(place.path)} holds one set of weights.")
    there = place.header.precision
    if half is not None and there not in ("fp32", half):
        raise ConfigError(f"{printable(place.path)}: is stored in {there} already; leave out --half {half}.")
    load_weights(task, place)
    return place.header.but(sightline=__version__, precision=there if half is None else cast("Half", half))


def _refuse_without_binary_layers(task: Task, model: PathLike) -> None:
    from sightline.models.blocks.packed_layers import is_binary

    if not any(map(is_binary, task.modules())):
        raise ConfigError(
            f"{printable(model)}: its network has no layer with weights of one bit, so nothing would be packed. Write "
            f"it to one file with: sightline release {printable(model)}"
        )


def _default_name(place: Path | Release, found: Checkpoint | Release, weights: str | None, half: str | None) -> str:
    from sightline.engine.checkpoint.reader import Checkpoint

    more = [*(["live"] if weights == "live" else []), "packed", *([half] if half else [])]
    stem = name_of(place, found) if isinstance(place, Path) and isinstance(found, Checkpoint) else found.path.stem
    return "-".join([stem, *more]) + ".safetensors"


def _row(name: str, held: tuple[LayerSize, ...] | list[LayerSize], bits: str) -> tuple[str, ...]:
    stored, plain = sum(row.bytes for row in held), sum(row.float_bytes for row in held)
    count = sum(row.num_values for row in held if row.kind != "scale")
    kind = "" if bits == "-" else held[0].kind
    numbers = (f"{count:,}", bits, f"{stored:,}", f"{plain:,}", f"{plain / max(stored, 1):.1f}")
    return printable(name, limit=80), kind, *numbers
