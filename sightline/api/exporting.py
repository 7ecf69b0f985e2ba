"""A trained model in another program's format: ONNX, or BMXNet's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from sightline.api.configuration import PathLike, read_config
from sightline.api.inference import class_names_of, load_weights, open_model, packed_network
from sightline.api.output import check_output, naming
from sightline.api.own_runs import title_of
from sightline.api.releasing import name_of, refuse_taken
from sightline.config.errors import ConfigError, RunError
from sightline.config.printable import printable

if TYPE_CHECKING:
    from sightline.engine.checkpoint.reader import Checkpoint
    from sightline.engine.checkpoint.release import Release
    from sightline.recipes.data_run import DataRun
    from sightline.tasks.graph import PixelType
    from sightline.tasks.trained_model import TrainedModel

Layout = Literal["packed", "packed64", "float"]
WORD_BITS: dict[Layout, Literal[32, 64] | None] = {"packed": 32, "packed64": 64, "float": None}
SUFFIXES = {"onnx": ".onnx", "bmxnet": ".params"}
OPTIONS = {"onnx": ("opset", "dynamic_batch", "input"), "bmxnet": ("layout",)}
"""What each format leaves open."""


@dataclass(frozen=True)
class Exported:
    """A file in another program's format. ``str`` tells of it."""

    path: Path
    num_bytes: int
    weights: str
    """``averaged weights``, ..."""
    notes: tuple[str, ...]
    """What is in it, and how it was checked."""

    def __str__(self) -> str:
        """Path, size and weights, and the notes below."""
        first = f"{printable(self.path)}: {self.num_bytes / 1e6:.1f} MB, {self.weights}"
        return "\n".join([first, *(f"  {note}" for note in self.notes)])


def export(
    model: PathLike,
    *,
    format: str = "onnx",
    out: PathLike | None = None,
    checkpoint: str = "best",
    opset: int | None = None,
    dynamic_batch: bool = False,
    input: str | None = None,
    layout: str | None = None,
    force: bool = False,
) -> Exported:
    """Write a trained model for another program.

    Args:
        model: Run folder, the folder of one of its checkpoints, or a released or packed file.
        format: ``onnx`` for classifiers and detectors, ``bmxnet`` for classifiers of BMXNet's kind.
        out: The file, ``*.onnx`` or ``*.params``. Default: one in the current folder, named after the model.
        checkpoint: ``best``, ``latest``, or a step; of a run folder.
        opset: Version of ONNX's operators; the exporter's own when left out.
        dynamic_batch: Of a network on images: take any number of them at once, and not one.
        input: Of a network on images: ``uint8`` (the default): pixels from 0 to 255, normalised inside; ``float32``:
            images that are normalised already.
        layout: Of BMXNet's file: ``packed`` (the default) for words of 32 bits, ``packed64``, or ``float``.
        force: Replace a file that is there.

    Raises:
        UserError: If there is no such model, it cannot be written so, a package is missing, the file is there, or ONNX
            Runtime does not compute what PyTorch does.
    """
    given = {"opset": opset, "dynamic_batch": dynamic_batch or None, "input": input, "layout": layout}
    _check_options(format, [name for name, value in given.items() if value is not None])
    _check_word("input", input, ("uint8", "float32"))
    _check_word("layout", layout, tuple(WORD_BITS))
    check_output(out, suffix=SUFFIXES[format])
    if format == "onnx":
        from sightline.api.onnx_file import check_installed

        check_installed(opset)
    place, found = open_model(Path(model), checkpoint)
    path = Path(out if out is not None else f"{_stem(place, found)}{SUFFIXES[format]}").expanduser()
    refuse_taken(path, force=force)
    config = _data_run(place)
    trained = config.trained_model(class_names_of(place))
    if format == "bmxnet":
        which = _load_latent(trained, found)
        content, notes = _params(trained, cast(Layout, layout or "packed"), str(printable(model)))
    else:
        from sightline.api.onnx_file import onnx_content

        which = load_weights(trained.task, found, count_bits=False)
        content, notes = onnx_content(
            config, trained, opset=opset, dynamic_batch=dynamic_batch, input=cast("PixelType | None", input)
        )
    _write(path, content)
    return Exported(path, len(content), which, tuple(notes))


def _check_options(format: str, given: Sequence[str]) -> None:
    _check_word("format", format, tuple(SUFFIXES))
    for name in given:
        if name not in OPTIONS[format]:
            of = next(other for other, names in OPTIONS.items() if name in names)
            raise ConfigError(f"--{name.replace('_', '-')} is for --format {of}, and has no effect on {format}.")


def _check_word(name: str, value: str | None, known: Sequence[str]) -> None:
    if value is not None and value not in known:
        raise ConfigError(f"{name}: expected {' or '.join(known)}, got {printable(value, limit=40)!r}.")


def _stem(place: Path | Release, found: Checkpoint | Release) -> str:
    from sightline.engine.checkpoint.reader import Checkpoint

    return name_of(place, found) if isinstance(place, Path) and isinstance(found, Checkpoint) else found.path.stem


def _data_run(place: Path | Release) -> DataRun:
    from sightline.recipes.data_run import DataRun

    config = read_config(place)
    if not isinstance(config, DataRun):
        name = printable(place if isinstance(place, Path) else place.path)
        raise ConfigError(
            f"{name}: a run of {title_of(config)} is no network on images or point clouds, and only these are exported."
        )
    return config


def _load_latent(model: TrainedModel, found: Checkpoint | Release) -> str:
    """Weights into the layers that train; those of a packed file as signs times scales."""
    from sightline.engine.checkpoint.release import Release
    from sightline.models.blocks.packed_layers import load_unpacked

    if isinstance(found, Release) and found.header.packed:
        load_unpacked(model.task, packed_network(found), source=printable(found.path))
        return found.which
    return load_weights(model.task, found)


def _params(model: TrainedModel, layout: Layout, name: str) -> tuple[bytes, list[str]]:
    """An MXNet file of parameters, and what is in it."""
    from sightline.importers.bmxnet import export_network
    from sightline.importers.mxnet_params import encode_params
    from sightline.models.blocks.packed_layers import is_binary
    from sightline.tasks.classification import Classification

    if not isinstance(model.task, Classification):
        raise ConfigError(f"{name}: is no classifier, and BMXNet's networks are. Export it with --format onnx.")
    network = model.task.network
    word_bits = WORD_BITS[layout]
    binary = sum(map(is_binary, network.modules()))
    if word_bits and not binary:
        raise ConfigError(f"{name}: has no layer with weights of one bit to pack. Export it with --layout float.")
    try:
        arrays = export_network(network, word_bits=word_bits)
        content = encode_params(arrays)
    except (RunError, ValueError) as error:
        raise RunError(f"{name}: {error}") from error
    packed = f"weights of {binary} layers as words of {word_bits} bits" if word_bits else "all of them floats"
    return content, [f"{len(arrays)} arrays, {packed}"]


def _write(path: Path, content: bytes) -> None:
    from sightline.files.atomic_file import replace_file

    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
