"""Small configurations as OpenPCDet has them, with their checkpoints."""

from copy import deepcopy

import torch
import yaml

NMS = {"NMS_TYPE": "nms_gpu", "NMS_THRESH": 0.2, "NMS_PRE_MAXSIZE": 64, "NMS_POST_MAXSIZE": 16}

DATA = {
    "DATASET": "KittiDataset",
    "DATA_SPLIT": {"train": "train", "test": "val"},
    "POINT_CLOUD_RANGE": [0, -6.4, -3, 12.8, 6.4, 1],
    "FOV_POINTS_ONLY": True,
    "DATA_AUGMENTOR": {
        "DISABLE_AUG_LIST": ["placeholder"],
        "AUG_CONFIG_LIST": [{"NAME": "random_world_flip", "ALONG_AXIS_LIST": ["x", "y"]}],
    },
    "DATA_PROCESSOR": [
        {"NAME": "mask_points_and_boxes_outside_range", "REMOVE_OUTSIDE_BOXES": True},
        {"NAME": "shuffle_points", "SHUFFLE_ENABLED": {"train": True, "test": False}},
        {
            "NAME": "transform_points_to_voxels",
            "VOXEL_SIZE": [0.4, 0.4, 4],
            "MAX_POINTS_PER_VOXEL": 8,
            "MAX_NUMBER_OF_VOXELS": {"train": 500, "test": 1000},
        },
    ],
}

PILLARS = {
    "VFE": {
        "NAME": "PillarVFE",
        "WITH_DISTANCE": False,
        "USE_ABSLOTE_XYZ": True,
        "USE_NORM": True,
        "NUM_FILTERS": [8],
    },
    "MAP_TO_BEV": {"NAME": "PointPillarScatter", "NUM_BEV_FEATURES": 8},
    "BACKBONE_2D": {
        "NAME": "BaseBEVBackbone",
        "LAYER_NUMS": [1, 1],
        "LAYER_STRIDES": [2, 2],
        "NUM_FILTERS": [8, 16],
        "UPSAMPLE_STRIDES": [1, 2],
        "NUM_UPSAMPLE_FILTERS": [8, 8],
    },
}

ANCHOR_HEAD = {
    "NAME": "AnchorHeadSingle",
    "CLASS_AGNOSTIC": False,
    "USE_DIRECTION_CLASSIFIER": True,
    "DIR_OFFSET": 0.78539,
    "DIR_LIMIT_OFFSET": 0.0,
    "NUM_DIR_BINS": 2,
    "ANCHOR_GENERATOR_CONFIG": [
        {
            "class_name": "Car",
            "anchor_sizes": [[3.9, 1.6, 1.56]],
            "anchor_rotations": [0, 1.57],
            "anchor_bottom_heights": [-1.78],
            "align_center": False,
            "feature_map_stride": 2,
            "matched_threshold": 0.6,
            "unmatched_threshold": 0.45,
        }
    ],
    "TARGET_ASSIGNER_CONFIG": {"NAME": "AxisAlignedTargetAssigner", "POS_FRACTION": -1.0, "BOX_CODER": "ResidualCoder"},
    "LOSS_CONFIG": {
        "LOSS_WEIGHTS": {"cls_weight": 1.0, "loc_weight": 2.0, "dir_weight": 0.2, "code_weights": [1.0] * 7}
    },
}

CENTER_HEAD = {
    "NAME": "CenterHead",
    "CLASS_AGNOSTIC": False,
    "CLASS_NAMES_EACH_HEAD": [["Car"]],
    "SHARED_CONV_CHANNEL": 8,
    "USE_BIAS_BEFORE_NORM": True,
    "NUM_HM_CONV": 2,
    "SEPARATE_HEAD_CFG": {
        "HEAD_ORDER": ["center", "center_z", "dim", "rot"],
        "HEAD_DICT": {
            "center": {"out_channels": 2, "num_conv": 2},
            "center_z": {"out_channels": 1, "num_conv": 2},
            "dim": {"out_channels": 3, "num_conv": 2},
            "rot": {"out_channels": 2, "num_conv": 2},
        },
    },
    "TARGET_ASSIGNER_CONFIG": {
        "FEATURE_MAP_STRIDE": 2,
        "NUM_MAX_OBJS": 500,
        "GAUSSIAN_OVERLAP": 0.1,
        "MIN_RADIUS": 2,
    },
    "LOSS_CONFIG": {"LOSS_WEIGHTS": {"cls_weight": 1.0, "loc_weight": 2.0, "code_weights": [1.0] * 8}},
    "POST_PROCESSING": {
        "SCORE_THRESH": 0.1,
        "POST_CENTER_LIMIT_RANGE": [-80, -80, -10.0, 80, 80, 10.0],
        "MAX_OBJ_PER_SAMPLE": 50,
        "NMS_CONFIG": NMS,
    },
}

OPTIMIZATION = {
    "BATCH_SIZE_PER_GPU": 4,
    "NUM_EPOCHS": 80,
    "OPTIMIZER": "adam_onecycle",
    "LR": 0.003,
    "WEIGHT_DECAY": 0.01,
    "MOMENTUM": 0.9,
    "MOMS": [0.95, 0.85],
    "PCT_START": 0.4,
    "DIV_FACTOR": 10,
    "LR_WARMUP": False,
    "GRAD_NORM_CLIP": 10,
}


def whole(model, **data):
    """A configuration around a model, for one class."""
    return deepcopy(
        {"CLASS_NAMES": ["Car"], "DATA_CONFIG": {**DATA, **data}, "MODEL": model, "OPTIMIZATION": OPTIMIZATION}
    )


def pointpillar():
    post = {"SCORE_THRESH": 0.1, "NMS_CONFIG": NMS}
    return whole({"NAME": "PointPillar", **PILLARS, "DENSE_HEAD": ANCHOR_HEAD, "POST_PROCESSING": post})


def centerpoint():
    return whole({"NAME": "CenterPoint", **PILLARS, "DENSE_HEAD": CENTER_HEAD})


def centerpoint_with_velocity():
    """Two heads, velocities, as configurations for nuScenes have them."""
    config = centerpoint()
    config["CLASS_NAMES"] = ["Car", "Pedestrian", "Cyclist"]
    head = config["MODEL"]["DENSE_HEAD"]
    head["CLASS_NAMES_EACH_HEAD"] = [["Cyclist", "Car"], ["Pedestrian"]]
    head["SEPARATE_HEAD_CFG"]["HEAD_ORDER"].append("vel")
    head["SEPARATE_HEAD_CFG"]["HEAD_DICT"]["vel"] = {"out_channels": 2, "num_conv": 2}
    head["LOSS_CONFIG"]["LOSS_WEIGHTS"]["code_weights"] = [1.0] * 8 + [0.2] * 2
    return config


def centerpoint_on_voxels():
    """Sparse convolutions of the one size that they have there."""
    config = centerpoint()
    model = config["MODEL"]
    model["VFE"], model["BACKBONE_3D"] = {"NAME": "MeanVFE"}, {"NAME": "VoxelBackBone8x"}
    model["MAP_TO_BEV"] = {"NAME": "HeightCompression", "NUM_BEV_FEATURES": 256}
    model["DENSE_HEAD"]["TARGET_ASSIGNER_CONFIG"]["FEATURE_MAP_STRIDE"] = 16
    config["DATA_CONFIG"]["DATA_PROCESSOR"][2]["VOXEL_SIZE"] = [0.1, 0.1, 0.1]
    return config


def changed(config, path, value):
    """The configuration with another value at a dotted path; numbers are places in lists."""
    *groups, last = (int(part) if part.isdecimal() else part for part in path.split("."))
    node = config
    for group in groups:
        node = node[group]
    node[last] = value
    return config


def write(folder, config, name="theirs.yaml"):
    path = folder / name
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def checkpoint(network, layers, **more):
    """What their trainer would save of one of our networks."""
    theirs = {ours: name for name, ours in layers.items()}
    state = {"global_step": torch.zeros(1, dtype=torch.int64)}
    for name, value in network.state_dict().items():
        layer, _, role = name.rpartition(".")
        state[f"{theirs[layer]}.{role}"] = value
    return {"epoch": 3, "it": 21, "model_state": state, "optimizer_state": None, "version": "pcdet+0.6.0", **more}
