"""A configuration of OpenPCDet as one of our recipes with changes.

Every value of theirs becomes one of ours or is told with the reason. What would make the network or its detections
other ones is refused; what changes training alone is told.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sightline.config.printable import printable
from sightline.importers.openpcdet_data import take_data, take_hook
from sightline.importers.openpcdet_ledger import Ledger, Note, Put, Section
from sightline.importers.openpcdet_models import family_of
from sightline.importers.openpcdet_yaml import PcdetConfig


@dataclass(frozen=True)
class PcdetRecipe:
    """A recipe with changes."""

    name: str
    changes: Mapping[str, Put]
    """By dotted key."""
    notes: tuple[Note, ...]
    """Values that have no counterpart, or another meaning."""

    def text(self, title: str) -> str:
        """As a change file, with the place that each value comes from, and all that was not taken over.

        Args:
            title: The first line.
        """
        lines = [f"# {printable(title)}", f"recipe: {self.name}"]
        rows = [(f"{key}: {_yaml(put.value)}", put.source) for key, put in self.changes.items()]
        width = min(60, max(len(row) for row, _ in rows))
        lines += [f"{row:<{width}}  # {printable(source)}" for row, source in rows]
        if self.notes:
            lines.append("# What has no counterpart, or another meaning:")
            lines += [f"#   {printable(note.path)}: {note.value}: {note.why}" for note in self.notes]
        return "\n".join(lines) + "\n"


def _yaml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, allow_nan=False)


def recipe_of(config: PcdetConfig) -> PcdetRecipe:
    """The recipe of a configuration.

    Raises:
        ConfigError: A value that is needed is missing or wrong, or has no counterpart and cannot be left out; names
            its key.
    """
    ledger = Ledger(config.path, config.values)
    top = ledger.top
    family = family_of(top.section("MODEL"))
    class_names = top.texts("CLASS_NAMES")
    if not class_names or len(set(class_names)) != len(class_names):
        top.refuse("CLASS_NAMES", "expected names, each once")
    _take_optimisation(top.section("OPTIMIZATION"))
    voxels = take_data(top, class_names)
    take_hook(top)
    family.take(top.section("MODEL"), voxels, class_names)
    for place in config.not_followed:
        file, _, base = place.rpartition(": ")
        ledger.tell(f"{file}: _BASE_CONFIG_", base, "the base of a base is not followed there either")
    return PcdetRecipe(family.recipe, ledger.changes, ledger.notes())


def _take_optimisation(section: Section) -> None:
    section.put("epochs", "NUM_EPOCHS", section.integer("NUM_EPOCHS"))
    section.put("batch_size", "BATCH_SIZE_PER_GPU", section.integer("BATCH_SIZE_PER_GPU"))
    section.ledger.tell(
        section.place("BATCH_SIZE_PER_GPU"),
        section.values["BATCH_SIZE_PER_GPU"],
        "batch_size counts the samples of all processes together: multiply it by their number",
    )
    section.put("lr", "LR", section.number("LR"))
    section.put("max_grad_norm", "GRAD_NORM_CLIP", section.number("GRAD_NORM_CLIP"))
    section.put("optimizer.weight_decay", "WEIGHT_DECAY", section.number("WEIGHT_DECAY"))
    kind = section.text("OPTIMIZER")
    if kind not in OPTIMIZERS:
        section.refuse("OPTIMIZER", f"expected one of {', '.join(OPTIMIZERS)}")
    OPTIMIZERS[kind](section)
    for key in ("MOMENTUM", "MOMS", "PCT_START", "DIV_FACTOR", "DECAY_STEP_LIST", "LR_DECAY", "LR_CLIP", "WARMUP_ITER"):
        section.note(key, why=f"not used with OPTIMIZER {kind}, there neither")
    if section.flag("LR_WARMUP", False):
        why = "a warm-up ends with an error there; give schedule.warmup.epochs"
        section.ledger.tell(section.place("LR_WARMUP"), True, why)
    section.note("WARMUP_EPOCH", "DIV_FACTOR", why="LR_WARMUP is false")
    if section.flag("USE_AMP", False):
        section.put("precision", "USE_AMP", "fp16")
        section.note("LOSS_SCALE_FP16", why="the first scale of the loss is fixed here")
    section.note("LOSS_SCALE_FP16", why="not used without USE_AMP")


def _take_one_cycle(section: Section) -> None:
    high, low = section.numbers("MOMS", count=2)
    first = section.number("DIV_FACTOR")
    if first <= 0:
        section.refuse("DIV_FACTOR", "expected a number above 0")
    section.put("optimizer.kind", "OPTIMIZER", "adamw")
    section.put("optimizer.beta2", "OPTIMIZER", 0.99)
    section.put("schedule.kind", "OPTIMIZER", "one_cycle")
    section.put("schedule.rise", "PCT_START", section.number("PCT_START"))
    section.put("schedule.initial", "DIV_FACTOR", 1 / first)
    section.put("schedule.final", "DIV_FACTOR", 1 / first / 1e4)
    section.put("schedule.momentum_range", "MOMS", [low, high])


def _take_cosine(section: Section) -> None:
    section.put("optimizer.kind", "OPTIMIZER", "adamw")
    section.put("optimizer.beta2", "OPTIMIZER", 0.99)
    section.put("schedule.kind", "OPTIMIZER", "cosine")
    section.put("schedule.interval", "OPTIMIZER", "epoch")
    section.put("schedule.final", "OPTIMIZER", 1e-3)
    high, low = section.numbers("MOMS", count=2)
    section.put("schedule.momentum_range", "MOMS", [low, high])
    section.put("schedule.rise", "PCT_START", section.number("PCT_START"))
    warmup = section.integer("WARMUP_ITER")
    section.put("schedule.warmup.iterations", "WARMUP_ITER", warmup)
    if warmup:
        section.put("schedule.warmup.start_factor", "WARMUP_ITER", 1 / 3)
        section.put("schedule.warmup.leads_to", "WARMUP_ITER", "lr")


def _take_steps(kind: str) -> Any:
    def take(section: Section) -> None:
        section.put("optimizer.kind", "OPTIMIZER", kind)
        if kind == "sgd":
            section.put("optimizer.momentum", "MOMENTUM", section.number("MOMENTUM"))
        section.put("schedule.kind", "OPTIMIZER", "step")
        section.put("schedule.interval", "DECAY_STEP_LIST", "epoch")
        section.put("schedule.milestones", "DECAY_STEP_LIST", section.numbers("DECAY_STEP_LIST"))
        section.put("schedule.gamma", "LR_DECAY", section.number("LR_DECAY"))
        section.put("schedule.minimum", "LR_CLIP", section.number("LR_CLIP") / section.number("LR"))
        told = f"with {kind} their training ends with an error at the first iteration; the rates are those meant"
        section.ledger.tell(section.place("OPTIMIZER"), kind, told)

    return take


OPTIMIZERS = {
    "adam_onecycle": _take_one_cycle,
    "adam_cosineanneal": _take_cosine,
    "adam": _take_steps("adam"),
    "sgd": _take_steps("sgd"),
}
