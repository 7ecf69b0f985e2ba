"""OpenPCDet's ``CenterHead``, and what heads of all kinds have: scoring and suppression."""

from __future__ import annotations

import math

from sightline.importers.openpcdet_ledger import Section

EXACT = "overlaps are exact here, without the margin of 1 cm at corners; see docs/deviations.md"
RECALLS = [0.3, 0.5, 0.7]
"""Overlaps at which recall is told here."""
PARTS = {"center": 2, "center_z": 1, "dim": 3, "rot": 2, "vel": 2}
"""Parts of a box in the order of its code, and the numbers of each."""


def take_scoring(post: Section) -> None:
    """What is said of results and changes none of them."""
    if post.numbers("RECALL_THRESH_LIST", RECALLS) != RECALLS:
        told = ", ".join(f"{one:g}" for one in RECALLS)
        place = post.place("RECALL_THRESH_LIST")
        post.ledger.tell(place, post.values["RECALL_THRESH_LIST"], f"recall is told at {told} here")
    post.only("OUTPUT_RAW_SCORE", [False], "scores are probabilities here", default=False)
    post.note_unless("EVAL_METRIC", "kitti", "the figures are KITTI's, as of data in its folders")


def take_nms(post: Section) -> Section:
    """Put the suppression; what else stands beside it is left to the caller."""
    nms = post.section("NMS_CONFIG")
    nms.only("NMS_TYPE", ["nms_gpu"], "boxes are compared by their rotated overlap from above here")
    nms.ledger.tell(nms.place("NMS_TYPE"), "nms_gpu", EXACT)
    nms.put("model.head.nms_iou_threshold", "NMS_THRESH", nms.number("NMS_THRESH"))
    nms.put("model.head.max_candidates", "NMS_PRE_MAXSIZE", nms.integer("NMS_PRE_MAXSIZE"))
    nms.put("model.head.max_detections", "NMS_POST_MAXSIZE", nms.integer("NMS_POST_MAXSIZE"))
    return nms


def take_center_head(model: Section, class_names: list[str], *, stride: float) -> None:
    """Put groups, layers, loss and suppression; ``stride`` is that of the map in pillars or voxels."""
    head = model.section("DENSE_HEAD")
    head.only("NAME", ["CenterHead"], "of heads without anchors only CenterHead has a counterpart")
    head.only("CLASS_AGNOSTIC", [False], "heads here tell the class", default=False)
    _take_groups(head, class_names)
    _take_layers(head)
    assigner = head.section("TARGET_ASSIGNER_CONFIG")
    if not math.isclose(assigner.number("FEATURE_MAP_STRIDE"), stride):
        assigner.refuse("FEATURE_MAP_STRIDE", f"the layers before make a map with the stride {stride:g}")
    assigner.note("NUM_MAX_OBJS", why="all boxes of a sample are trained on here")
    assigner.put("model.head.min_overlap", "GAUSSIAN_OVERLAP", assigner.number("GAUSSIAN_OVERLAP"))
    assigner.put("model.head.min_radius", "MIN_RADIUS", assigner.integer("MIN_RADIUS"))
    weights = head.section("LOSS_CONFIG").section("LOSS_WEIGHTS")
    weights.put("model.head.loss.heatmap_weight", "cls_weight", weights.number("cls_weight"))
    weights.put("model.head.loss.box_weight", "loc_weight", weights.number("loc_weight"))
    weights.put("model.head.loss.code_weights", "code_weights", weights.numbers("code_weights"))
    post = head.section("POST_PROCESSING")
    post.put("model.head.score_threshold", "SCORE_THRESH", post.number("SCORE_THRESH"))
    limits = post.numbers("POST_CENTER_LIMIT_RANGE", count=6)
    post.put("model.head.center_range", "POST_CENTER_LIMIT_RANGE", limits)
    post.put("model.head.max_peaks", "MAX_OBJ_PER_SAMPLE", post.integer("MAX_OBJ_PER_SAMPLE"))
    take_nms(post)
    of_model = model.section("POST_PROCESSING", optional=True)
    take_scoring(of_model)
    of_model.note("SCORE_THRESH", "NMS_CONFIG", why="not used with a CenterHead there either; those of DENSE_HEAD are")


def _take_groups(head: Section, class_names: list[str]) -> None:
    groups = head.get("CLASS_NAMES_EACH_HEAD")
    if not isinstance(groups, list) or not all(isinstance(group, list) for group in groups):
        head.refuse("CLASS_NAMES_EACH_HEAD", "expected a list of lists of names")
    if sorted(map(str, (name for group in groups for name in group))) != sorted(class_names):
        head.refuse("CLASS_NAMES_EACH_HEAD", f"expected each class of CLASS_NAMES once, {class_names}")
    head.put("model.head.groups", "CLASS_NAMES_EACH_HEAD", groups)


def _take_layers(head: Section) -> None:
    head.put("model.head.channels", "SHARED_CONV_CHANNEL", head.integer("SHARED_CONV_CHANNEL"))
    bias = head.flag("USE_BIAS_BEFORE_NORM", False)
    head.put("model.head.bias_before_norm", "USE_BIAS_BEFORE_NORM", bias)
    head.put("model.head.heatmap_layers", "NUM_HM_CONV", head.integer("NUM_HM_CONV", 2))
    if not math.isclose(head.number("BN_EPS", 1e-5), 1e-5):
        head.refuse("BN_EPS", "batch norms of the head have 1e-5 here")
    head.note_unless("BN_MOM", 0.1, "batch norms of the head have the momentum 0.1 here, so training differs")
    parts = head.section("SEPARATE_HEAD_CFG")
    layers = parts.section("HEAD_DICT")
    order = parts.texts("HEAD_ORDER")
    if order not in (list(PARTS), list(PARTS)[:-1]):
        parts.refuse("HEAD_ORDER", f"expected {', '.join(PARTS)}, the last one or not")
    for name in layers.values:
        if name not in order:
            layers.refuse(name, "this part of a head has no counterpart")
    depths = []
    for name in order:
        part = layers.section(name)
        if part.integer("out_channels") != PARTS[name]:
            part.refuse("out_channels", f"{name} has {PARTS[name]} numbers here")
        depths.append(part.integer("num_conv"))
    if len(set(depths)) > 1:
        layers.refuse(order[0], f"all parts have the same number of convolutions here, got {depths}")
    layers.put("model.head.layers", f"{order[0]}.num_conv", depths[0])
    parts.put("model.head.velocity", "HEAD_ORDER", "vel" in order)
