"""A look at all the data of a 2D detector's run before it begins: labels, images, classes, sizes and caches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from sightline.config.errors import UserError
from sightline.config.printable import counted, printable
from sightline.data.annotations import Fault, ImageAnnotations
from sightline.data.cache_folder import cache_folder
from sightline.data.check import readable_images
from sightline.data.decode import decode_bytes, read_image_bytes
from sightline.data.draws import epoch_order
from sightline.data.faults import KINDS, by_kind, make_fault
from sightline.data.formats.source import DataSource
from sightline.data.image_header import ImageError
from sightline.data.image_source import fitting_size
from sightline.data.transforms.image import resized_hw
from sightline.engine.finding import DataReview, Finding, Weight

if TYPE_CHECKING:
    from sightline.engine.run_config import Problem, RunConfig
    from sightline.recipes.detection2d import Detection2DRun

DECODE_SECONDS = 10.0
"""Images are decoded for so long; the others are trusted to be what their headers say."""
_AT_ONCE = 32
_PLACES = 2


class _ReadOnce(DataSource):
    """A data set whose splits are read once, however often they are asked for."""

    def __init__(self, source: DataSource) -> None:
        super().__init__(source.path, source.splits, source.faults)
        self.source = source
        self.held: dict[str, ImageAnnotations] = {}
        self.broken: dict[str, list[Fault]] = {}
        """Of each split, images that only decoding shows to be broken. They are among its other faults too."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those of the data set."""
        return self.source.class_names

    def _read(self, split: str) -> ImageAnnotations:
        if split not in self.held:
            self.held[split] = self.source.read(split)
        return self.held[split]


def review_data(config: Detection2DRun, *, decode: bool, tell: Callable[[str], None] = lambda text: None) -> DataReview:
    """Everything that can be said about the data of a run.

    Args:
        config: The run.
        decode: Decode images too, for at most ``DECODE_SECONDS``.
        tell: Called with what is being done.
    """
    try:
        source = _ReadOnce(config.open_data())
    except (UserError, OSError) as error:
        return DataReview(None, [Finding("data", "problem", str(error))])
    findings = [Finding("data", "note", str(fault)) for fault in source.faults]
    used = dict.fromkeys((config.data.train_split, config.data.val_split))
    for split in dict.fromkeys((*used, *source.splits)):
        tell(f"reading {split}")
        try:
            source.read(split)
        except UserError as error:
            findings.append(Finding("data", "problem" if split in used else "note", str(error)))
    if decode:
        findings.append(_decode(source, [split for split in used if split in source.held], tell))
    told: set[str] = set()
    for split in source.held:
        findings += _of_split(config, source, split, is_used=split in used, told=told)
    if any(split not in source.held for split in used):
        return DataReview(None, findings)
    findings += _of_classes(source.held[config.data.train_split], source.held[config.data.val_split])
    size, findings_of_size = _of_size(config, source.class_names)
    findings += findings_of_size
    memory, disk = _caches(config, [source.held[split] for split in used])

    def open_leniently(variant: RunConfig) -> Problem:
        run = cast("Detection2DRun", variant)
        lenient = run.but(image_size=size, data=run.data.but(on_fault="skip", cache="none"))
        return lenient.open_source(source)

    return DataReview(open_leniently, findings, memory, disk)


def _decode(source: _ReadOnce, splits: Sequence[str], tell: Callable[[str], None]) -> Finding:
    """Decode images of the splits; the broken ones become faults of the annotations."""
    places = [(split, i) for split in splits for i in readable_images(source.held[split])]
    order = [places[k] for k in epoch_order(0, 0, len(places))] if places else []
    end, done = time.perf_counter() + DECODE_SECONDS, 0

    def look(place: tuple[str, int]) -> tuple[str, Fault] | None:
        split, index = place
        path = source.held[split].paths[index]
        try:
            decode_bytes(read_image_bytes(path), path)
        except ImageError as error:
            return split, make_fault(error.kind, path, error.message, image=index)
        return None

    with ThreadPoolExecutor(4) as pool:
        while done < len(order) and time.perf_counter() < end:
            tell(f"decoding images, {done:,} of {len(order):,}")
            for found in pool.map(look, order[done : done + _AT_ONCE]):
                if found is not None:
                    source.broken.setdefault(found[0], []).append(found[1])
            done = min(done + _AT_ONCE, len(order))
    for split, faults in source.broken.items():
        held = source.held[split]
        faults.sort(key=lambda fault: str(fault.path))
        source.held[split] = replace(held, faults=(*held.faults, *faults))
    if done < len(order):
        text = f"{done:,} of {counted(len(order), 'image')} decoded, drawn at random, in {DECODE_SECONDS:g} s"
        return Finding("images", "note", text, f"decode all: sightline check {_quoted(source.path)}")
    return Finding("images", "ok", f"all {counted(len(order), 'image')} were decoded")


def _of_split(config: Detection2DRun, source: _ReadOnce, split: str, *, is_used: bool, told: set[str]) -> list[Finding]:
    """Counts of a split and its faults, without those that a split which shares the files has ``told``."""
    annotations, broken = source.held[split], source.broken.get(split, [])
    spoilt = {fault.image for fault in annotations.faults if fault.fatal and fault.image is not None}
    text = f"{split}: {counted(len(annotations), 'image')}, {counted(len(annotations.labels), 'box')}"
    empty = int((annotations.boxes_per_image == 0).sum())
    text += f", {empty:,} without a box" if empty else ""
    text += "" if is_used else "; not used by this run"
    weight: Weight = "ok"
    cure = ""
    if is_used and len(spoilt) == len(annotations):
        weight, cure = "problem", "give it images whose truth can be trusted"
    elif is_used and len(annotations.labels) == 0:
        weight, cure = "problem", "label its images, or name another split: data.train_split, data.val_split"
    findings = [Finding("labels", weight, text, cure)]
    repair = f"repair them (all are listed by: sightline check {_quoted(source.path)})"
    faults = [fault for fault in annotations.faults[: len(annotations.faults) - len(broken)] if str(fault) not in told]
    told.update(map(str, faults))
    for group in by_kind(faults).values():
        counts = is_used and group[0].fatal
        weight = "problem" if counts and config.data.on_fault == "refuse" else "note"
        cure = f"{repair} or leave such images out with data.on_fault=skip" if counts else ""
        findings.append(Finding("labels", weight, _told(split, group), cure))
    for group in by_kind(broken).values():
        findings.append(Finding("images", "problem", _told(split, group), repair))
    return findings


def _told(split: str, faults: Sequence[Fault]) -> str:
    """Faults of one kind: how many, what, and where the first ones are."""
    kind = faults[0].kind
    places = "; ".join(printable(fault, limit=300) for fault in faults[:_PLACES])
    more = f"; ... and {len(faults) - _PLACES:,} more" if len(faults) > _PLACES else ""
    return f"{split}: {counted(len(faults), 'place')} with {kind}: {KINDS[kind]}. {places}{more}"


def _of_classes(train: ImageAnnotations, val: ImageAnnotations) -> list[Finding]:
    """Classes that cannot be learned, or not be measured."""
    findings = []
    for held, what in ((train, "learned"), (val, "measured")):
        counts = zip(held.class_names, held.boxes_per_class, strict=True)
        missing = [printable(name) for name, count in counts if not count]
        if missing and len(held.labels):
            shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            text = f"{held.name.rsplit('/', 1)[-1]}: no box of {shown}: this cannot be {what}"
            findings.append(Finding("classes", "note", text))
    shared = set(train.paths) & set(val.paths)
    if shared and train.paths is not val.paths:
        text = f"{counted(len(shared), 'image')} of {len(val):,} that evaluate are trained on, such as {min(shared)}"
        findings.append(Finding("splits", "note", printable(text, limit=300), "the figures will be too good"))
    return findings


def _of_size(config: Detection2DRun, class_names: Sequence[str]) -> tuple[int, list[Finding]]:
    """A size of images that the model takes, and what is wrong with the one that was given."""
    try:
        with torch.device("meta"):
            stride = int(cast(Any, config.build_detector(class_names)).stride)
    except UserError:  # opening the data tells it
        return config.image_size, []
    except ValueError as error:
        return config.image_size, [Finding("model", "problem", str(error))]
    size = fitting_size(config.image_size, stride)
    if size == config.image_size:
        return size, []
    text = f"image_size={config.image_size} is no multiple of the model's stride {stride}"
    return size, [Finding("shapes", "problem", text, f"image_size={size}")]


def _caches(config: Detection2DRun, splits: Sequence[ImageAnnotations]) -> tuple[dict[str, int], dict[Path, int]]:
    if config.data.cache == "none":
        return {}, {}
    sizes = np.concatenate([annotations.sizes_hw for annotations in splits])
    sizes = sizes[(sizes > 0).all(axis=1)]
    total = sum(3 * h * w for h, w in (resized_hw((int(h), int(w)), config.image_size) for h, w in sizes))
    if config.data.cache == "disk":
        return {}, {cache_folder(): total}
    copies = config.workers if config.data.loader == "processes" and config.workers else 1
    return {"data.cache=ram": total * copies}, {}


def box_sizes(annotations: ImageAnnotations, image_size: int) -> Tensor:
    """(M, 2) float32 width and height of the boxes of whole images in the network's input, pixels; without crowds."""
    kept = ~annotations.is_crowd & (annotations.sizes_hw[annotations.image_index] > 0).all(axis=1)
    boxes = annotations.boxes_xyxy[kept]
    longest = annotations.sizes_hw[annotations.image_index[kept]].max(axis=1, keepdims=True)
    sizes = (boxes[:, 2:] - boxes[:, :2]) * (image_size / longest)
    return torch.from_numpy(sizes[(sizes > 0).all(axis=1)]).float()


def _quoted(path: Path) -> str:
    from shlex import quote

    return quote(printable(path))
