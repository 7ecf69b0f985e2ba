"""OpenPCDet's configurations and checkpoints as recipe files and released files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.api.configuration import PathLike, portable, resolve_file
from sightline.api.output import check_output, naming
from sightline.api.releasing import Released, refuse_taken, write_file
from sightline.api.table import Table
from sightline.config.errors import RunError
from sightline.config.override import Change
from sightline.config.printable import counted, printable

if TYPE_CHECKING:
    from sightline.importers.openpcdet_recipe import PcdetRecipe
    from sightline.importers.openpcdet_weights import PcdetMatch
    from sightline.recipes.lidar3d import LidarRun

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class ImportedPcdet:
    """A recipe file, and weights, that were made of OpenPCDet's. ``str`` is a line about each."""

    path: Path
    """The recipe file."""
    recipe: PcdetRecipe
    weights: Released | None
    """The file of weights; None without a checkpoint."""
    match: PcdetMatch | None
    """What of the checkpoint went where."""

    def tables(self) -> tuple[Table, ...]:
        """Each layer of the checkpoint beside ours, and all that has no counterpart or another meaning."""
        tables = []
        if self.match is not None:
            rows = [
                (printable(layer.source, limit=80), layer.target, str(layer.shape), str(layer.num_tensors), layer.axes)
                for layer in self.match.layers()
            ]
            rows += [(printable(name, limit=80), "nothing", "-", "1", why) for name, why in self.match.unused.items()]
            tables.append(Table(("in the checkpoint", "here", "weight", "tensors", ""), rows))
        if self.recipe.notes:
            notes = [(printable(note.path), note.value, note.why) for note in self.recipe.notes]
            tables.append(Table(("without a counterpart, or with another meaning", "value", "why"), notes))
        return tuple(tables)

    def __str__(self) -> str:
        """Paths, and what is in them."""
        changes = counted(len(self.recipe.changes), "value")
        lines = [f"{printable(self.path)}: {self.recipe.name} with {changes} of theirs"]
        return "\n".join([*lines, *([str(self.weights)] if self.weights is not None else [])])


def import_openpcdet(
    cfg: PathLike,
    *,
    ckpt: PathLike | None = None,
    changes: Sequence[str] = (),
    out: PathLike | None = None,
    force: bool = False,
) -> ImportedPcdet:
    """Make a recipe file of an OpenPCDet configuration, and a released file of a checkpoint.

    ``train`` takes the recipe file; ``evaluate``, ``predict``, ``load`` and ``weights=`` the released one.

    Args:
        cfg: Its YAML file, such as ``tools/cfgs/kitti_models/pointpillar.yaml``; its base files are found beside it.
        ckpt: A checkpoint that was trained with it, ``*.pth``.
        changes: ``KEY=VALUE`` of theirs, as ``--set KEY VALUE`` gave them there.
        out: The recipe file to write, ``*.yaml``; the weights come beside it as ``*.safetensors``. Default: one in the
            current folder, named after ``cfg`` with ``-sightline``.
        force: Replace files that are there.

    Raises:
        UserError: If a file cannot be read, the model is not one of ours, the weights do not fit, or an output is
            there already.
    """
    from sightline.files.atomic_file import replace_file
    from sightline.importers.openpcdet_recipe import recipe_of
    from sightline.importers.openpcdet_yaml import read_pcdet_config

    source = Path(cfg).expanduser()
    path = Path(out).expanduser() if out is not None else Path(f"{source.stem}-sightline.yaml")
    if path.suffix.lower() not in SUFFIXES:
        raise RunError(f"{printable(path)}: the name must end with .yaml, since that is what is written.")
    check_output(path)
    weights_path = path.with_suffix(".safetensors")
    refuse_taken(path, force=force)
    if ckpt is not None:
        refuse_taken(weights_path, force=force)
    theirs = read_pcdet_config(source, changes)
    for one in (source, *theirs.bases):
        if path.exists() and path.samefile(one):
            raise RunError(f"{printable(path)}: is a configuration of OpenPCDet. Name another file with --out.")
    recipe = recipe_of(theirs)
    config = resolve_file(
        recipe.name,
        [Change(key, put.value, f"{printable(source)}: {put.source}") for key, put in recipe.changes.items()],
    )
    written, match = None, None
    if ckpt is not None:
        written, match = _write_weights(config, Path(ckpt).expanduser(), weights_path)  # type: ignore[arg-type]
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, recipe.text(f"Made of {source.name} by sightline import openpcdet.").encode())
    return ImportedPcdet(path, recipe, written, match)


def _write_weights(config: LidarRun, source: Path, path: Path) -> tuple[Released, PcdetMatch]:
    """A released file of a checkpoint."""
    from sightline import __version__
    from sightline.engine.checkpoint.release import ReleaseHeader
    from sightline.engine.going_on import class_name
    from sightline.importers.openpcdet_models import layer_names
    from sightline.importers.openpcdet_weights import match_weights, read_checkpoint

    checkpoint = read_checkpoint(source)
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    class_names = config.data.class_names
    assert class_names, "every configuration of theirs names its classes"
    task = config.trained_model(class_names).task
    layers = {theirs: f"detector.{ours}" for theirs, ours in layer_names(config.model).items()}  # type: ignore[attr-defined]
    match, state = match_weights(checkpoint, layers, task.state_dict())
    values, left_out = portable(config)
    header = ReleaseHeader(
        sightline=__version__,
        recipe=printable(config.recipe),
        configuration=class_name(type(config)),
        config=values,
        left_out=left_out,
        facts={"class_names": list(class_names)},
        weights="live",
        precision="fp32",
        run=printable(source.name),
        step=checkpoint.step,
        epoch=checkpoint.epoch,
        metrics={},
        source_sha256=digest,
    )
    return write_file(path, header, state), match
