"""OpenPCDet's ``DATA_CONFIG``: data, augmentation, and how points become voxels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from sightline.importers.openpcdet_ledger import Ledger, Section

POINT_NUMBERS = ["x", "y", "z", "intensity"]
"""Numbers of a point that the readers here give."""

OFF: dict[str, Any] = {
    "augment.paste": None,
    "augment.flip_x": 0.0,
    "augment.flip_y": 0.0,
    "augment.rotate": [0.0, 0.0],
    "augment.scale": [1.0, 1.0],
}
"""What recipes switch on, switched off."""


class Voxels(NamedTuple):
    """How points are grouped."""

    point_range: list[float]
    """x, y, z from low to high, metres."""
    size: list[float]
    """Along x, y, z."""
    section: Section
    """With the keys below."""
    max_points: int | None
    """None where all points count (dynamic voxels)."""
    max_training: int | None
    max_testing: int | None


def take_data(top: Section, class_names: list[str]) -> Voxels:
    """Put ``data`` and ``augment``; how points are grouped is for the model to put."""
    section = top.section("DATA_CONFIG")
    section.ledger.put("data.class_names", class_names, "CLASS_NAMES")
    if section.text("DATASET", "KittiDataset") != "KittiDataset":
        section.ledger.tell(
            section.place("DATASET"),
            section.values["DATASET"],
            "this data set has no reader here; give one in KITTI's folders with --data",
        )
    section.note("DATA_PATH", why="the data is named when it is used: --data PATH")
    section.note("INFO_PATH", why="labels are read as they are; there are no files of infos to make")
    section.note("GET_ITEM_LIST", why="points are always read, and images where they are shown")
    split = section.section("DATA_SPLIT", optional=True)
    split.put("data.train_split", "train", split.text("train", "train"))
    split.put("data.val_split", "test", split.text("test", "val"))
    section.put("data.in_view", "FOV_POINTS_ONLY", section.flag("FOV_POINTS_ONLY", False))
    _take_encoding(section)
    _take_augmentation(section, class_names)
    return _take_processor(section)


def _take_encoding(section: Section) -> None:
    encoding = section.section("POINT_FEATURE_ENCODING", optional=True)
    encoding.note_unless(
        "encoding_type", "absolute_coordinates_encoding", "points go to the model with their absolute coordinates"
    )
    for key in ("used_feature_list", "src_feature_list"):
        encoding.note_unless(key, POINT_NUMBERS, f"points have {', '.join(POINT_NUMBERS)} here")


def _take_processor(section: Section) -> Voxels:
    point_range = section.numbers("POINT_CLOUD_RANGE", count=6)
    found: Voxels | None = None
    for step in section.sections("DATA_PROCESSOR"):
        name = step.text("NAME")
        if name == "mask_points_and_boxes_outside_range":
            step.note_unless(
                "REMOVE_OUTSIDE_BOXES", True, "boxes whose centre is out of range are left out in training"
            )
        elif name == "shuffle_points":
            enabled = step.section("SHUFFLE_ENABLED")
            enabled.put("augment.shuffle", "train", enabled.flag("train"))
            enabled.note_unless("test", False, "points are shuffled in training only")
        elif name == "transform_points_to_voxels":
            limits = step.section("MAX_NUMBER_OF_VOXELS")
            size = step.numbers("VOXEL_SIZE", count=3)
            most = step.integer("MAX_POINTS_PER_VOXEL")
            found = Voxels(point_range, size, step, most, limits.integer("train"), limits.integer("test"))
        elif name == "transform_points_to_voxels_placeholder":
            found = Voxels(point_range, step.numbers("VOXEL_SIZE", count=3), step, None, None, None)
        else:
            section.ledger.note(step.path, "this step has no counterpart")
            section.ledger.tell(step.place("NAME"), name, "this step has no counterpart")
    if found is None:
        section.refuse(
            "DATA_PROCESSOR", "no step of it is transform_points_to_voxels, so that the voxels are not known"
        )
    section.put("model.point_range", "POINT_CLOUD_RANGE", point_range)
    return found


def _take_augmentation(section: Section, class_names: list[str]) -> None:
    """Put every change of the list; what the list does not have is switched off."""
    ledger = section.ledger
    if isinstance(section.values.get("DATA_AUGMENTOR"), list):  # the form of early versions
        augmentor, key, disabled = section, "DATA_AUGMENTOR", []
    else:
        augmentor, key = section.section("DATA_AUGMENTOR", optional=True), "AUG_CONFIG_LIST"
        disabled = augmentor.texts("DISABLE_AUG_LIST", [])
    for ours, value in OFF.items():
        ledger.put(ours, value, augmentor.place(key))
    order: list[str] = []
    for step in augmentor.sections(key, []):
        name = step.text("NAME")
        if name in disabled:
            ledger.note(step.path, "switched off by DISABLE_AUG_LIST")
            ledger.tell(step.place("NAME"), name, "switched off by DISABLE_AUG_LIST")
        elif name not in STEPS:
            ledger.note(step.path, "this change has no counterpart")
            ledger.tell(step.place("NAME"), name, "this change has no counterpart")
        elif name in order:
            step.refuse("NAME", "it is in the list twice, and each change is made once here")
        else:
            order.append(name)
            if name == "gt_sampling":
                _take_paste(step, class_names)
            else:
                STEPS[name](step)
    known = [name for name in STEPS if name in order]
    if order != known:
        ledger.tell(
            augmentor.place(key),
            ", ".join(order),
            f"the order is fixed here: {', '.join(known)}; see docs/deviations.md",
        )


def _take_paste(step: Section, class_names: list[str]) -> None:
    ledger = step.ledger
    counts = _pairs(step, "SAMPLE_GROUPS")
    strangers = [name for name in counts if name not in class_names]
    if strangers:
        ledger.tell(step.place("SAMPLE_GROUPS"), ", ".join(strangers), "not in CLASS_NAMES; not pasted there either")
    counts = {name: count for name, count in counts.items() if name in class_names}
    prepare = step.section("PREPARE", optional=True)
    least = _pairs(prepare, "filter_by_min_points") if "filter_by_min_points" in prepare else {}
    without = [int(one) for one in prepare.numbers("filter_by_difficulty", [])]
    step.note("DB_INFO_PATH", "DB_DATA_PATH", why="the database of objects is built and kept by itself")
    step.note("USE_SHARED_MEMORY", why="workers are threads, which share the database")
    step.note_unless("NUM_POINT_FEATURES", len(POINT_NUMBERS), f"points have {', '.join(POINT_NUMBERS)} here")
    step.note_unless("DATABASE_WITH_FAKELIDAR", False, "labels are in the camera's frame, as KITTI's are")
    plane, extra = step.flag("USE_ROAD_PLANE", False), step.numbers("REMOVE_EXTRA_WIDTH", [0.0] * 3, count=3)
    fill_up = step.flag("LIMIT_WHOLE_SCENE", False)
    if not counts:
        ledger.tell(step.path, "gt_sampling", "pastes nothing")
        return
    del ledger.changes["augment.paste"]
    points = {name: least.get(name, 0) for name in counts}
    if len(set(points.values())) > 1:
        told = ", ".join(f"{name}:{count}" for name, count in points.items())
        why = f"one number for all classes here; {max(points.values())} is taken"
        ledger.tell(prepare.place("filter_by_min_points"), told, why)
    step.put("augment.paste.counts", "SAMPLE_GROUPS", [[name, count] for name, count in counts.items()])
    prepare.put("augment.paste.min_points", "filter_by_min_points", max(points.values()))
    prepare.put("augment.paste.without_levels", "filter_by_difficulty", without)
    step.put("augment.paste.onto_plane", "USE_ROAD_PLANE", plane)
    step.put("augment.paste.fill_up", "LIMIT_WHOLE_SCENE", fill_up)
    step.put("augment.paste.extra_size", "REMOVE_EXTRA_WIDTH", extra)
    ledger.tell(step.place("NAME"), "gt_sampling", "room is found by exact overlaps; see docs/deviations.md")


def _pairs(section: Section, key: str) -> dict[str, int]:
    """``["Car:15"]`` as a mapping."""
    found = {}
    for text in section.texts(key):
        name, _, count = text.rpartition(":")
        if not name or not count.strip().isdecimal() or name in found:
            section.refuse(key, f"expected each class once, as Car:15, got {text!r}")
        found[name] = int(count)
    return found


def _take_flip(step: Section) -> None:
    for axis in step.texts("ALONG_AXIS_LIST"):
        if axis not in ("x", "y"):
            step.refuse("ALONG_AXIS_LIST", "expected x and y")
        step.put(f"augment.flip_{axis}", "ALONG_AXIS_LIST", 0.5)


def _take_range(ours: str, key: str) -> Callable[[Section], None]:
    def take(step: Section) -> None:
        value = step.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):  # +- so much
            value = [-value, value]
            step.put(ours, key, value)
        else:
            step.put(ours, key, step.numbers(key, count=2))

    return take


def _take_translation(step: Section) -> None:
    if "NOISE_TRANSLATE_STD" not in step:
        why = "a shift that is drawn evenly from a range has no counterpart"
        step.ledger.note(step.path, why)
        step.ledger.tell(step.place("NAME"), step.values["NAME"], why)
        return
    step.put("augment.translate_std", "NOISE_TRANSLATE_STD", step.numbers("NOISE_TRANSLATE_STD", count=3))


def _take_local_translation(step: Section) -> None:
    axes = "".join(sorted(step.texts("ALONG_AXIS_LIST")))
    step.put("augment.local_translate", "LOCAL_TRANSLATION_RANGE", step.numbers("LOCAL_TRANSLATION_RANGE", count=2))
    step.put("augment.local_translate_axes", "ALONG_AXIS_LIST", axes)


def _take_drop(ours: str) -> Callable[[Section], None]:
    def take(step: Section) -> None:
        step.put(ours, "DIRECTION", step.texts("DIRECTION"))
        step.put(f"{ours}_share", "INTENSITY_RANGE", step.numbers("INTENSITY_RANGE", count=2))

    return take


def _take_pyramids(step: Section) -> None:
    for ours, key in (
        ("drop", "DROP_PROB"),
        ("thin", "SPARSIFY_PROB"),
        ("thin_points", "SPARSIFY_MAX_NUM"),
        ("swap", "SWAP_PROB"),
        ("swap_points", "SWAP_MAX_NUM"),
    ):
        step.put(f"augment.local_pyramids.{ours}", key, step.number(key))


STEPS: dict[str, Callable[[Section], None]] = {
    "gt_sampling": lambda step: None,
    "random_local_rotation": _take_range("augment.local_rotate", "LOCAL_ROT_ANGLE"),
    "random_local_scaling": _take_range("augment.local_scale", "LOCAL_SCALE_RANGE"),
    "random_local_translation": _take_local_translation,
    "random_local_frustum_dropout": _take_drop("augment.local_drop"),
    "random_local_pyramid_aug": _take_pyramids,
    "random_world_flip": _take_flip,
    "random_world_rotation": _take_range("augment.rotate", "WORLD_ROT_ANGLE"),
    "random_world_scaling": _take_range("augment.scale", "WORLD_SCALE_RANGE"),
    "random_world_translation": _take_translation,
    "random_world_frustum_dropout": _take_drop("augment.drop"),
}
"""Changes of the list that have a counterpart, in the order that is fixed here."""

OURS: dict[str, tuple[str, ...]] = {
    "gt_sampling": ("paste",),
    "random_local_rotation": ("local_rotate",),
    "random_local_scaling": ("local_scale",),
    "random_local_translation": ("local_translate",),
    "random_local_frustum_dropout": ("local_drop",),
    "random_local_pyramid_aug": ("local_pyramids",),
    "random_world_flip": ("flip_x", "flip_y"),
    "random_world_rotation": ("rotate",),
    "random_world_scaling": ("scale",),
    "random_world_translation": ("translate_std",),
    "random_world_frustum_dropout": ("drop",),
}
"""Keys of ``augment`` that a change of theirs sets."""


def take_hook(top: Section) -> None:
    """Put which changes are off in the last epochs."""
    ledger: Ledger = top.ledger
    hook = top.section("HOOK", optional=True).section("DisableAugmentationHook", optional=True)
    if not hook.values:
        return
    names, epochs = hook.texts("DISABLE_AUG_LIST"), hook.integer("NUM_LAST_EPOCHS", 1)
    closed = []
    for name in names:
        if name not in OURS:
            ledger.tell(hook.place("DISABLE_AUG_LIST"), name, "this change has no counterpart")
        for key in OURS.get(name, ()):
            value = ledger.changes.get(f"augment.{key}")
            is_group = any(one.startswith(f"augment.{key}.") for one in ledger.changes)
            if is_group or (value is not None and value.value != OFF.get(f"augment.{key}")):
                closed.append(key)
    if closed and epochs:
        hook.put("augment.close", "DISABLE_AUG_LIST", closed)
        hook.put("augment.close_epochs", "NUM_LAST_EPOCHS", epochs)
