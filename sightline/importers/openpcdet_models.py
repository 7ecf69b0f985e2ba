"""OpenPCDet's ``MODEL``: which recipe it is, and its layers, anchors, losses and suppression."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sightline.config.base import Config
from sightline.importers.openpcdet_center import take_center_head, take_nms, take_scoring
from sightline.importers.openpcdet_data import Voxels
from sightline.importers.openpcdet_ledger import Section
from sightline.models.blocks.sparse_encoder import SparseEncoderConfig


class Family(NamedTuple):
    """A model of theirs that is one of ours."""

    recipe: str
    take: Callable[[Section, Voxels, list[str]], None]
    """Puts the model's values."""


def family_of(model: Section) -> Family:
    """Which of our families a model belongs to.

    Raises:
        ConfigError: It is none of them; names those that are.
    """
    name = model.text("NAME")
    if name not in FAMILIES:
        model.refuse("NAME", f"this model has no counterpart; those that have one are {', '.join(FAMILIES)}")
    return CENTER_VOXEL if name == "CenterPoint" and "BACKBONE_3D" in model else FAMILIES[name]


def _take_pointpillars(model: Section, voxels: Voxels, class_names: list[str]) -> None:
    _take_pillars(model, voxels)
    _take_anchor_head(model, class_names, stride=_take_backbone(model))


def _take_second(model: Section, voxels: Voxels, class_names: list[str]) -> None:
    encoder_stride = _take_voxels(model, voxels)
    _take_anchor_head(model, class_names, stride=encoder_stride * _take_backbone(model))


def _take_center_pillar(model: Section, voxels: Voxels, class_names: list[str]) -> None:
    _take_pillars(model, voxels)
    take_center_head(model, class_names, stride=_take_backbone(model))


def _take_center_voxel(model: Section, voxels: Voxels, class_names: list[str]) -> None:
    encoder_stride = _take_voxels(model, voxels)
    take_center_head(model, class_names, stride=encoder_stride * _take_backbone(model))


def _take_pillars(model: Section, voxels: Voxels) -> None:
    pillars = model.section("VFE")
    pillars.only("NAME", ["PillarVFE"], "only PillarVFE has a counterpart")
    pillars.only("WITH_DISTANCE", [False], "pillars here have no distance among their numbers", default=False)
    pillars.only("USE_ABSLOTE_XYZ", [True], "pillars here have absolute coordinates among their numbers", default=True)
    pillars.only("USE_NORM", [True], "layers on points have a batch norm here", default=True)
    channels = pillars.numbers("NUM_FILTERS")
    pillars.put("model.pillar_channels", "NUM_FILTERS", channels)
    _take_map(model, "PointPillarScatter", channels[-1] if channels else 0)
    size, height = voxels.size, voxels.point_range[5] - voxels.point_range[2]
    if abs(size[2] - height) > 1e-3 * abs(height):
        voxels.section.refuse("VOXEL_SIZE", f"pillars must be as high as the range, {height:g} m")
    if voxels.max_points is None:
        voxels.section.refuse("NAME", "pillars have a largest number of points here: transform_points_to_voxels")
    voxels.section.put("model.pillar_size", "VOXEL_SIZE", size[:2])
    voxels.section.put("model.max_points_per_pillar", "MAX_POINTS_PER_VOXEL", voxels.max_points)
    voxels.section.put("model.max_pillars_training", "MAX_NUMBER_OF_VOXELS.train", voxels.max_training)
    voxels.section.put("model.max_pillars", "MAX_NUMBER_OF_VOXELS.test", voxels.max_testing)


def _take_voxels(model: Section, voxels: Voxels) -> int:
    """Put means of voxels and the sparse convolutions; how many voxels a cell of their map has along x and y."""
    model.section("VFE").only("NAME", ["MeanVFE"], "before sparse convolutions only MeanVFE has a counterpart")
    sparse = model.section("BACKBONE_3D")
    sparse.only("NAME", ["VoxelBackBone8x"], "of sparse backbones only VoxelBackBone8x has a counterpart")
    if voxels.max_points is None:
        voxels.section.refuse("NAME", "voxels have a largest number of points here: transform_points_to_voxels")
    voxels.section.put("model.voxel_size", "VOXEL_SIZE", voxels.size)
    voxels.section.put("model.max_points_per_voxel", "MAX_POINTS_PER_VOXEL", voxels.max_points)
    voxels.section.put("model.max_voxels_training", "MAX_NUMBER_OF_VOXELS.train", voxels.max_training)
    voxels.section.put("model.max_voxels", "MAX_NUMBER_OF_VOXELS.test", voxels.max_testing)
    sparse.only("last_pad", [0], "the last sparse convolution adds no cells here", default=0)
    encoder = SparseEncoderConfig()
    for key in ("channels", "layers", "z_paddings"):
        sparse.put(f"model.encoder.{key}", "NAME", list(getattr(encoder, key)))
    sparse.put("model.encoder.out_channels", "NAME", encoder.out_channels)
    low, high = voxels.point_range[:3], voxels.point_range[3:]
    if not all(size > 0 for size in voxels.size) or not all(a < b for a, b in zip(low, high, strict=True)):
        voxels.section.refuse("VOXEL_SIZE", f"voxels and the range {voxels.point_range} must have a size")
    width, height, depth = (round((b - a) / size) for a, b, size in zip(low, high, voxels.size, strict=True))
    try:
        heights = encoder.map_shape((depth, height, width))[0]
    except ValueError as error:
        voxels.section.refuse("VOXEL_SIZE", str(error).rstrip("."))
    _take_map(model, "HeightCompression", encoder.out_channels * heights)
    return encoder.stride


def _take_map(model: Section, name: str, channels: float) -> None:
    section = model.section("MAP_TO_BEV")
    section.only("NAME", [name], f"only {name} has a counterpart here")
    if section.integer("NUM_BEV_FEATURES") != channels:
        section.refuse("NUM_BEV_FEATURES", f"the layers before make a map of {channels:g} channels")


def _take_backbone(model: Section) -> float:
    """Put the pyramid; how much coarser than its input its output is."""
    section = model.section("BACKBONE_2D")
    section.only("NAME", ["BaseBEVBackbone"], "only BaseBEVBackbone has a counterpart")
    for ours, key in (
        ("layers", "LAYER_NUMS"),
        ("strides", "LAYER_STRIDES"),
        ("channels", "NUM_FILTERS"),
        ("up_strides", "UPSAMPLE_STRIDES"),
        ("up_channels", "NUM_UPSAMPLE_FILTERS"),
    ):
        section.put(f"model.backbone.{ours}", key, section.numbers(key))
    strides, ups = section.values["LAYER_STRIDES"], section.values["UPSAMPLE_STRIDES"]
    if not strides or not ups or ups[0] <= 0:
        section.refuse("UPSAMPLE_STRIDES", "expected a number above 0 for each of LAYER_STRIDES")
    return float(strides[0] / ups[0])


def _take_anchor_head(model: Section, class_names: list[str], *, stride: float) -> None:
    """Put anchors, loss and suppression; ``stride`` is that of the map in voxels."""
    head = model.section("DENSE_HEAD")
    head.only("NAME", ["AnchorHeadSingle"], "of heads with anchors only AnchorHeadSingle has a counterpart")
    head.only("CLASS_AGNOSTIC", [False], "heads here tell the class", default=False)
    _take_directions(head, head.section("LOSS_CONFIG").section("LOSS_WEIGHTS"))
    _take_anchors(head, class_names, stride)
    _take_assigner(head.section("TARGET_ASSIGNER_CONFIG", optional=True))
    _take_anchor_loss(head.section("LOSS_CONFIG"))
    post = model.section("POST_PROCESSING")
    take_scoring(post)
    post.put("model.head.score_threshold", "SCORE_THRESH", post.number("SCORE_THRESH"))
    nms = take_nms(post)
    nms.only("MULTI_CLASSES_NMS", [False], "boxes of all classes are compared with each other here", default=False)


def _take_directions(head: Section, weights: Section) -> None:
    if head.flag("USE_DIRECTION_CLASSIFIER", False):
        head.put("model.head.direction_bins", "NUM_DIR_BINS", head.integer("NUM_DIR_BINS", 2))
        head.put("model.head.direction_offset", "DIR_OFFSET", head.number("DIR_OFFSET"))
        head.put("model.head.direction_limit_offset", "DIR_LIMIT_OFFSET", head.number("DIR_LIMIT_OFFSET"))
        if "dir_weight" in weights:
            weights.put("model.head.loss.direction_weight", "dir_weight", weights.number("dir_weight"))
    else:
        head.put("model.head.direction_bins", "USE_DIRECTION_CLASSIFIER", 0)
        unused = "no direction is predicted (USE_DIRECTION_CLASSIFIER)"
        head.note("NUM_DIR_BINS", "DIR_OFFSET", "DIR_LIMIT_OFFSET", why=unused)
        weights.note("dir_weight", why=unused)


def _take_anchors(head: Section, class_names: list[str], stride: float) -> None:
    found, centered = [], []
    for anchor in head.sections("ANCHOR_GENERATOR_CONFIG"):
        bottoms = anchor.numbers("anchor_bottom_heights")
        if len(bottoms) != 1:
            anchor.refuse("anchor_bottom_heights", "anchors of a class have one height here")
        if not math.isclose(anchor.number("feature_map_stride"), stride):
            anchor.refuse("feature_map_stride", f"the layers before make a map with the stride {stride:g}")
        sizes = anchor.get("anchor_sizes")
        centered.append(anchor.flag("align_center", False))
        found.append(
            {
                "class_name": anchor.text("class_name"),
                "sizes": sizes,
                "rotations": anchor.numbers("anchor_rotations"),
                "bottom": bottoms[0],
                "matched_iou": anchor.number("matched_threshold"),
                "unmatched_iou": anchor.number("unmatched_threshold"),
            }
        )
    if [one["class_name"] for one in found] != class_names:
        head.refuse("ANCHOR_GENERATOR_CONFIG", f"expected an entry for each class of CLASS_NAMES, {class_names}")
    if len(set(centered)) > 1:
        head.refuse("ANCHOR_GENERATOR_CONFIG", "align_center is one value for all classes here")
    head.put("model.head.anchors", "ANCHOR_GENERATOR_CONFIG", found)
    head.put("model.head.is_centered", "ANCHOR_GENERATOR_CONFIG[0].align_center", centered[0])


def _take_assigner(assigner: Section) -> None:
    assigner.only("BOX_CODER", ["ResidualCoder"], "only ResidualCoder has a counterpart", default="ResidualCoder")
    if "BOX_CODER_CONFIG" in assigner:
        coder = assigner.section("BOX_CODER_CONFIG")
        coder.only("encode_angle_by_sincos", [False], "the yaw is one number of the code here", default=False)
    assigner.note_unless(
        "NAME", "AxisAlignedTargetAssigner", "targets are those of AxisAlignedTargetAssigner, so training differs"
    )
    if assigner.number("POS_FRACTION", -1.0) >= 0:
        why = "every anchor that is not ignored is trained on here, so training differs"
        for key in ("POS_FRACTION", "SAMPLE_SIZE"):
            assigner.ledger.tell(assigner.place(key), assigner.values.get(key), why)
    assigner.note("SAMPLE_SIZE", why="it is not used there either while POS_FRACTION is below 0")
    for key, why in (
        ("NORM_BY_NUM_EXAMPLES", "losses are divided by the number of positives, so training differs"),
        ("MATCH_HEIGHT", "anchors are matched from above only, so training differs"),
    ):
        assigner.note_unless(key, False, why)


def _take_anchor_loss(loss: Section) -> None:
    usual = "WeightedSmoothL1Loss"
    loss.note_unless("REG_LOSS_TYPE", usual, "boxes have a smooth L1 loss here, so training differs")
    weights = loss.section("LOSS_WEIGHTS")
    for ours, key in (("class", "cls_weight"), ("box", "loc_weight")):
        weights.put(f"model.head.loss.{ours}_weight", key, weights.number(key))
    weights.put("model.head.loss.code_weights", "code_weights", weights.numbers("code_weights"))


POINTPILLARS = Family("pointpillars", _take_pointpillars)
SECOND = Family("second", _take_second)
CENTER_PILLAR = Family("centerpoint-pillar", _take_center_pillar)
CENTER_VOXEL = Family("centerpoint-voxel", _take_center_voxel)
FAMILIES: Mapping[str, Family] = {"PointPillar": POINTPILLARS, "SECONDNet": SECOND, "CenterPoint": CENTER_PILLAR}
"""By their ``MODEL.NAME``."""


def layer_names(config: Config) -> dict[str, str]:
    """OpenPCDet's names of a model's layers, each with ours."""
    from sightline.models.centerpoint import model as centerpoint
    from sightline.models.centerpoint.config import CenterPointPillarConfig, CenterPointVoxelConfig
    from sightline.models.pointpillars import model as pointpillars
    from sightline.models.pointpillars.config import PointPillarsConfig
    from sightline.models.second import model as second
    from sightline.models.second.config import SecondConfig

    tables: dict[type[Config], Callable[[Any], dict[str, str]]] = {
        PointPillarsConfig: pointpillars.openpcdet_names,
        SecondConfig: second.openpcdet_names,
        CenterPointPillarConfig: centerpoint.openpcdet_names,
        CenterPointVoxelConfig: centerpoint.openpcdet_names,
    }
    return tables[type(config)](config)
