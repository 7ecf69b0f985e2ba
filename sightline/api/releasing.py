"""A trained model as one small file to give away."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sightline.api.configuration import PathLike, portable, read_config
from sightline.api.inference import best_group, facts_of, open_run
from sightline.api.output import check_output, naming
from sightline.config.errors import ConfigError, RunError
from sightline.config.printable import printable

if TYPE_CHECKING:
    from torch import Tensor

    from sightline.engine.checkpoint.reader import Checkpoint
    from sightline.engine.checkpoint.release import Half, ReleaseHeader

STATISTICS = ("splits", "faults", "num_faults")
"""What a run notes about its data that no model needs; it holds names of files."""


@dataclass(frozen=True)
class Released:
    """A file to give away. ``str`` is a line about it."""

    path: Path
    num_bytes: int
    step: int
    epoch: int
    weights: str
    """``averaged weights``, ``live weights in fp16``."""
    sha256: str
    """Of the file with zeros in the place of these digits."""

    def __str__(self) -> str:
        """Path, size, and what it holds."""
        size = f"{self.num_bytes / 1e6:.1f} MB"
        return f"{printable(self.path)}: {size}, {self.weights} of step {self.step} (epoch {self.epoch})"


def release(
    run: PathLike,
    *,
    out: PathLike | None = None,
    checkpoint: str = "best",
    weights: str | None = None,
    half: str | None = None,
    force: bool = False,
) -> Released:
    """Write one file that holds what using a trained model needs, and nothing else.

    It holds the weights, the model's configuration and the names of the classes. Paths, callbacks, logging and file
    names of the data stay at home. ``evaluate``, ``predict``, ``load`` and ``weights=`` take it like a run.

    Args:
        run: Run folder, or the folder of one of its checkpoints.
        out: The file, ``*.safetensors``. Default: one in the current folder, named after recipe, run and step.
        checkpoint: ``best``, ``latest``, or a step; of a run folder.
        weights: ``ema`` for the averaged ones, ``live``; the averaged ones where there are any when left out.
        half: ``fp16`` or ``bf16``: store kernels and matrices in 16 bits; vectors stay float32, running statistics
            among them.
        force: Replace a file that is there.

    Raises:
        UserError: If there is no such run or checkpoint, it is damaged, has no such weights, or the file is there.
    """
    from sightline.engine.checkpoint.reader import load_tensors
    from sightline.engine.checkpoint.release import halved

    check_choices(weights=weights, half=half)
    check_output(out, suffix=".safetensors")
    run_dir, found = open_run(Path(run), checkpoint)
    more = [*(["live"] if weights == "live" else []), *([half] if half else [])]
    default = "-".join([name_of(run_dir, found), *more]) + ".safetensors"
    path = Path(out if out is not None else default).expanduser()
    refuse_taken(path, force=force)
    group = chosen_group(found, weights)
    tensors = load_tensors(found, group)[group]
    if half is not None:
        tensors = halved(tensors, cast("Half", half), source=printable(found.path))
    return write_file(path, header_of(run_dir, found, group, half), tensors)


def check_choices(*, weights: str | None, half: str | None) -> None:
    """Refuse words that a choice does not have.

    Raises:
        ConfigError: Names those that it has.
    """
    for name, value, known in (("weights", weights, ("ema", "live")), ("half", half, ("fp16", "bf16"))):
        if value is not None and value not in known:
            raise ConfigError(f"{name}: expected {' or '.join(known)}, got {printable(value, limit=40)!r}.")


def chosen_group(found: Checkpoint, weights: str | None) -> str:
    """``ema`` or ``model``: what the weights that a user asks for are called in a checkpoint.

    Raises:
        RunError: If there are no averaged ones.
    """
    group = "model" if weights == "live" else best_group(found)
    if weights == "ema" and group != "ema":
        raise RunError(f"{printable(found.path)}: holds no averaged weights. Take the live ones.")
    return group


def header_of(run_dir: Path, found: Checkpoint, group: str, half: str | None) -> ReleaseHeader:
    """What a file with weights of a checkpoint says.

    Raises:
        UserError: If the run's configuration or its notes about the data cannot be read.
    """
    from sightline import __version__
    from sightline.engine.checkpoint.release import ReleaseHeader
    from sightline.engine.going_on import class_name

    config = read_config(run_dir)
    values, left_out = portable(config)
    return ReleaseHeader(
        sightline=__version__,
        recipe=printable(config.recipe),
        configuration=class_name(type(config)),
        config=values,
        left_out=left_out,
        facts={name: value for name, value in facts_of(run_dir).items() if name not in STATISTICS},
        weights="averaged" if group == "ema" else "live",
        precision="fp32" if half is None else cast("Half", half),
        run=printable("/".join(run_dir.resolve().parts[-2:])),
        step=found.step,
        epoch=found.manifest.epoch,
        metrics=found.manifest.metrics,
        source_sha256=found.manifest.files[f"{group}.safetensors"].sha256,
    )


def write_file(path: Path, header: ReleaseHeader, tensors: Mapping[str, Tensor]) -> Released:
    """Write a file, making its folder.

    Raises:
        RunError: If the disk refuses; names the file.
    """
    from sightline.engine.checkpoint.release import write_release

    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        written = write_release(path, header, tensors)
        return Released(path, path.stat().st_size, header.step, header.epoch, written.which, written.sha256)


def name_of(run_dir: Path, found: Checkpoint) -> str:
    """Recipe, run and step as the beginning of a file's name."""
    from sightline.engine.checkpoint.layout import folder_name

    *_, recipe, name = ("run", *run_dir.resolve().parts)
    return "-".join([recipe, name, folder_name(found.step)])


def refuse_taken(path: Path, *, force: bool) -> None:
    """Refuse to write over a file without consent, and into a checkpoint with it too.

    Raises:
        RunError: If there is one, or it lies in a checkpoint.
    """
    from sightline.engine.checkpoint.layout import STATE_FILE

    if (path.parent / STATE_FILE).exists():
        raise RunError(f"{printable(path)}: lies in a checkpoint, which stays as it is. Name another file with --out.")
    if os.path.lexists(path) and not force:
        raise RunError(f"{printable(path)}: is there already. Name another file with --out, or replace it by --force.")
