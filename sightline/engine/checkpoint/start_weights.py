"""Starting a run from the weights of another one: what fits is copied, and every tensor's fate is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from sightline.config.errors import RunError
from sightline.config.printable import printable
from sightline.config.torch_file import is_torch_file, read_torch_file
from sightline.config.torch_weights import WeightsError, find_weights
from sightline.engine.checkpoint.matching_names import match_names
from sightline.engine.checkpoint.reader import load_tensor_file, load_tensors, open_checkpoint
from sightline.engine.checkpoint.release import find_release
from sightline.engine.loop import Training
from sightline.engine.run_folder.atomic_file import replace_file
from sightline.engine.task import Task
from sightline.engine.tensor_names import group_of_name, shared_parts

START_WEIGHTS_FILE = "start_weights.txt"
"""In the run's folder: a line for every tensor of the model and of the file."""

Fate = Literal["loaded", "partly", "new", "unused"]
FATES: tuple[Fate, ...] = ("loaded", "partly", "new", "unused")
SHOWN = 3


@dataclass(frozen=True)
class TensorFate:
    """What became of one tensor of the model, or of one of the file that the model has no place for."""

    fate: Fate
    name: str
    shape: tuple[int, ...]
    """In the model; of an unused one, in the file."""
    note: str = ""


@dataclass(frozen=True)
class StartReport:
    """Every tensor's fate. ``str`` gives the table that a user sees."""

    source: str
    """The file or checkpoint, and which of its weights."""
    renamed: str
    """How the names of the file were made to fit; an empty text where they fit as they are."""
    tensors: tuple[TensorFate, ...]
    notes: tuple[str, ...] = ()
    """What else is to be known of the file."""
    frozen_new: tuple[str, ...] = ()
    """Frozen parameters that the file did not give, or not whole: they stay as they were initialised."""

    def count(self, fate: Fate) -> int:
        """Number of tensors with a fate."""
        return sum(tensor.fate == fate for tensor in self.tensors)

    def __str__(self) -> str:
        """Counts, and where not everything fits a table by the model's parts and the first tensors that do not."""
        loaded, partly, new, unused = map(self.count, FATES)
        total = loaded + partly + new
        counts = [f"{loaded} of {total} tensors loaded", *([f"{partly} partly"] if partly else [])]
        lines = [f"weights of {self.source}: {', '.join([*counts, f'{new} new', f'{unused} unused'])}"]
        lines += self._told()
        if new or partly or unused:
            lines += _table(self.tensors)
            for fate in FATES[1:]:
                lines += _first([tensor for tensor in self.tensors if tensor.fate == fate], fate)
            lines.append(f"all of them: {START_WEIGHTS_FILE} in the run's folder")
        if self.frozen_new:
            more = ", ..." if len(self.frozen_new) > SHOWN else ""
            names = printable(", ".join(self.frozen_new[:SHOWN]), limit=300)
            lines.append(f"note: {len(self.frozen_new)} frozen tensors stay as they were initialised: {names}{more}")
        return "\n".join([lines[0], *(f"  {line}" for line in lines[1:])])

    def write(self, run_dir: Path) -> None:
        """All tensors, one a line, into the run's folder."""
        width = max(len(tensor.name) for tensor in self.tensors)
        rows = [
            f"{tensor.fate:<6}  {printable(tensor.name, limit=1000):<{width}}  {tensor.shape}  {tensor.note}".rstrip()
            for tensor in sorted(self.tensors, key=lambda tensor: FATES.index(tensor.fate))
        ]
        head = [f"# weights of {self.source}", *(f"# {line}" for line in self._told())]
        replace_file(run_dir / START_WEIGHTS_FILE, "\n".join([*head, *rows, ""]).encode(), durable=False)

    def _told(self) -> list[str]:
        return [*([self.renamed] if self.renamed else []), *self.notes]


def start_from_weights(training: Training, path: Path, *, partly: bool) -> StartReport:
    """Copy the tensors of a run, checkpoint or file of weights that fit by name and shape; the average starts there.

    Args:
        training: At its start.
        path: Run folder (its newest checkpoint), checkpoint folder, pointer (``checkpoints/best``), safetensors
            file, or file of ``torch.save``, which is read without running anything. Averaged weights are preferred to
            live ones.
        partly: Of tensors with another shape, copy the leading part that both have.

    Raises:
        RunError: If the file cannot be read, holds a number that is not finite, or nothing in it fits.
    """
    source, tensors, notes = _read(path)
    report = copy_what_fits(training.task, tensors, source=source, partly=partly, notes=notes)
    if training.ema is not None:
        training.ema.load(training.task.state_dict(), updates=0)
    return report


def copy_what_fits(
    task: Task, given: Mapping[str, Tensor], *, source: str, partly: bool = False, notes: tuple[str, ...] = ()
) -> StartReport:
    """Copy tensors over those of a task that have their name, shape and kind of number.

    The names of the file may begin with parts that the model's names lack (``module.``), or the other way round, see
    ``match_names``. A leading part of a tensor is copied on request alone: rows of two heads mean the same only if
    both were laid out alike, which no file tells.

    Args:
        task: Is written to.
        given: Tensors by name.
        source: What they are, for messages.
        partly: Of tensors with another shape, copy the leading part that both have.
        notes: What else the report is to tell of the file.

    Raises:
        RunError: If no parameter fits, or a tensor that fits holds NaN or infinite numbers. Nothing is changed then.
    """
    own: dict[str, Tensor] = task.state_dict(keep_vars=True)
    names, renamed = match_names(own, given)
    copies: list[tuple[Tensor, Tensor]] = []
    fates = []
    reached: set[int] = set()
    for name, tensor in own.items():
        there = given.get(names.get(name, ""))
        fate, note, pair = _fate(tensor, there, partly=partly)
        if pair is not None:
            _refuse_non_finite(names[name], *pair, source=source)
            copies.append(pair)
            reached.add(id(tensor))
        fates.append((TensorFate(fate, name, tuple(tensor.shape), note), tensor))
    if not any(isinstance(tensor, nn.Parameter) and id(tensor) in reached for _, tensor in fates):
        raise RunError(_nothing_fits(own, given, names, source))
    told = [
        TensorFate("loaded", fate.name, fate.shape, "under another name")
        if fate.fate == "new" and id(tensor) in reached
        else fate
        for fate, tensor in fates
    ]
    with torch.no_grad():
        for to, value in copies:
            to.copy_(value)
    used = set(names.values())
    told += [TensorFate("unused", name, tuple(t.shape)) for name, t in given.items() if name not in used]
    not_whole = {fate.name for fate in told if fate.fate in ("new", "partly")}
    frozen_new = [
        name for name, t in own.items() if name in not_whole and isinstance(t, nn.Parameter) and not t.requires_grad
    ]
    return StartReport(source, renamed, tuple(told), notes, tuple(frozen_new))


def _read(path: Path) -> tuple[str, dict[str, Tensor], tuple[str, ...]]:
    """Tensors of what a user names, what that is, and what else is to be told of it."""
    if path.is_file() and path.name not in ("latest", "best"):
        if is_torch_file(path):
            return _read_torch_file(path)
        release = find_release(path)
        if release is not None and release.header.packed:
            raise RunError(
                f"{printable(path)}: is packed and holds only the signs of its binary weights, which training "
                "cannot go on from. Give the run that it was made of, or a file of `sightline release`."
            )
        which = f" ({release.which})" if release is not None else ""
        return f"{printable(path)}{which}", load_tensor_file(path), ()
    checkpoint = open_checkpoint(path)
    group, which = ("ema", "averaged") if "ema.safetensors" in checkpoint.manifest.files else ("model", "live")
    return f"{printable(checkpoint.path)} ({which} weights)", load_tensors(checkpoint, group)[group], ()


def _read_torch_file(path: Path) -> tuple[str, dict[str, Tensor], tuple[str, ...]]:
    try:
        found = find_weights(read_torch_file(path))
    except WeightsError as error:
        raise RunError(
            f"{printable(path)}: is a pickle of torch.save that {printable(error, limit=600)}. Give a file with a "
            "state dict."
        ) from None
    place = f"under {found.place!r}" if found.place else "at its top"
    kind = "a pickled model" if found.is_module else f"{'averaged weights' if found.is_averaged else 'weights'}"
    notes = []
    if found.others:
        notes.append(f"the file has others, which are not used, under {', '.join(map(repr, found.others))}")
    if found.foreign:
        notes.append(f"not read, as it is neither tensors nor plain values: {', '.join(found.foreign)}")
    return f"{printable(path)} ({kind} {place})", found.tensors, tuple(printable(one, limit=300) for one in notes)


def _fate(own: Tensor, there: Tensor | None, *, partly: bool) -> tuple[Fate, str, tuple[Tensor, Tensor] | None]:
    """What becomes of a tensor, a note, and what is copied where."""
    if there is None:
        return "new", "", None
    if own.is_floating_point() != there.is_floating_point() or own.is_complex() != there.is_complex():
        return "new", f"{there.dtype} in the file, {own.dtype} here", None
    if own.shape == there.shape:
        return "loaded", f"{there.dtype} in the file" if own.dtype != there.dtype else "", (own, there)
    overlap = tuple(map(min, own.shape, there.shape))
    if not partly or own.dim() != there.dim() or 0 in overlap:
        return "new", f"file {tuple(there.shape)}", None
    part = tuple(map(slice, overlap))
    return "partly", f"{overlap} of file {tuple(there.shape)}", (own.detach()[part], there[part])


def _refuse_non_finite(name: str, own: Tensor, there: Tensor, *, source: str) -> None:
    """A mask may hold -inf by design, and then it does so in the model too."""
    if not there.is_floating_point() or bool(there.isfinite().all()) or not bool(own.isfinite().all()):
        return
    bad = there.numel() - int(there.isfinite().sum())
    raise RunError(
        f"{source}: {bad} of {there.numel()} numbers in {printable(name, limit=200)} are NaN or infinite. No run can "
        "start from that; give an earlier checkpoint, or leave weights out."
    )


def _nothing_fits(own: Mapping[str, Tensor], given: Mapping[str, Tensor], names: Mapping[str, str], source: str) -> str:
    other = [name for name in names if given[names[name]].shape != own[name].shape]
    if other:
        example = other[0]
        why = (
            f"{len(other)} have another shape, such as {example}: file {tuple(given[names[example]].shape)}, model "
            f"{tuple(own[example].shape)}. Give weights of a model of this size"
        )
    else:
        theirs, ours = (", ".join(sorted(_group_names(one))[:3]) for one in (given, own))
        why = (
            f"its names begin with {printable(theirs, limit=200) or 'nothing'}, the model's with {ours}. It holds "
            "weights of another model; give weights of the same family"
        )
    return (
        f"{source}: none of its {len(given)} tensors fits this model ({len(own)} tensors): {why}, or leave weights out."
    )


def _group_names(names: Mapping[str, Tensor]) -> set[str]:
    """The top-level parts of a model."""
    shared = shared_parts(names)
    return {group_of_name(name, shared) for name in names}


def _table(tensors: Sequence[TensorFate]) -> list[str]:
    """Counts by the model's top-level parts."""
    shared = shared_parts(tensor.name for tensor in tensors if tensor.fate != "unused")
    groups: dict[str, dict[Fate, int]] = {}
    for tensor in tensors:
        counts = groups.setdefault(group_of_name(tensor.name, shared), dict.fromkeys(FATES, 0))
        counts[tensor.fate] += 1
    rows = [("part", *FATES)]
    rows += [(printable(name, limit=60), *(str(counts[fate]) for fate in FATES)) for name, counts in groups.items()]
    width = max(len(row[0]) for row in rows)
    return [f"{row[0]:<{width}}" + "".join(f"{cell:>8}" for cell in row[1:]) for row in rows]


def _first(tensors: Sequence[TensorFate], fate: Fate) -> list[str]:
    if not tensors:
        return []
    shown = "; ".join(
        f"{printable(one.name, limit=100)} {one.shape}{f', {one.note}' if one.note else ''}" for one in tensors[:SHOWN]
    )
    return [f"{fate}: {shown}{'; ...' if len(tensors) > SHOWN else ''}"]
