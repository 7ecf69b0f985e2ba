"""OpenPCDet's configurations and checkpoints, as a user imports them."""

import os
import pickle

import numpy as np
import pytest
import torch
import yaml

import sightline
from sightline.api.configuration import resolve, resolve_file
from sightline.config.errors import ConfigError, RunError, UserError
from sightline.config.override import Change
from sightline.importers.openpcdet_ledger import UNKNOWN
from sightline.importers.openpcdet_models import layer_names
from sightline.importers.openpcdet_recipe import recipe_of
from sightline.importers.openpcdet_yaml import read_pcdet_config
from tests.cli.tool import sightline as tool
from tests.importers.openpcdet_configs import (
    centerpoint,
    centerpoint_on_voxels,
    centerpoint_with_velocity,
    changed,
    checkpoint,
    pointpillar,
    write,
)

CONFIGS = [
    ("pointpillars", pointpillar),
    ("centerpoint-pillar", centerpoint),
    ("centerpoint-pillar", centerpoint_with_velocity),
    ("centerpoint-voxel", centerpoint_on_voxels),
]


def network_of(config):
    """Our network with other weights than a fresh one has, and their names of its layers."""
    recipe = recipe_of(config)
    run = resolve_file(recipe.name, [Change(key, put.value, put.source) for key, put in recipe.changes.items()])
    torch.manual_seed(3)
    network = run.build_detector(run.data.class_names)
    for value in network.state_dict().values():
        if value.dtype.is_floating_point:
            value.uniform_(0.1, 0.9)
    return network, layer_names(run.model)


@pytest.fixture
def place(tmp_path):
    """A configuration of theirs and a checkpoint."""
    path = write(tmp_path, pointpillar())
    torch.save(checkpoint(*network_of(read_pcdet_config(path))), tmp_path / "a.pth")
    return tmp_path


@pytest.mark.parametrize(("name", "theirs"), CONFIGS)
def test_a_recipe_file_and_weights_come_of_a_configuration_and_a_checkpoint(name, theirs, tmp_path):
    path = write(tmp_path, theirs())
    network, layers = network_of(read_pcdet_config(path))
    torch.save(checkpoint(network, layers), tmp_path / "a.pth")
    made = sightline.import_openpcdet(path, ckpt=tmp_path / "a.pth", out=tmp_path / "out" / "ours.yaml")
    config, origins = resolve(tmp_path / "out" / "ours.yaml")
    assert (config.recipe, config.epochs, config.point_range[3]) == (name, 80, 12.8)
    assert origins["lr"].endswith("ours.yaml:5")
    assert made.weights.path == tmp_path / "out" / "ours.safetensors"
    loaded = sightline.load(made.weights.path).model.task.detector
    for key, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    assert not [note for note in made.recipe.notes if note.why == UNKNOWN]


def test_what_a_list_of_augmentations_lacks_is_switched_off(place):
    sightline.import_openpcdet(place / "theirs.yaml", out=place / "ours.yaml")
    augment = resolve(place / "ours.yaml")[0].augment
    assert (augment.paste, augment.flip_x, augment.flip_y) == (None, 0.5, 0.5)
    assert (augment.rotate, augment.scale) == ((0, 0), (1, 1))


def test_every_augmentation_is_taken_over(tmp_path):
    steps = [
        {
            "NAME": "gt_sampling",
            "PREPARE": {"filter_by_min_points": ["Car:5", "Van:9"], "filter_by_difficulty": [-1]},
            "SAMPLE_GROUPS": ["Car:20", "Van:3"],
            "USE_ROAD_PLANE": True,
            "LIMIT_WHOLE_SCENE": True,
            "REMOVE_EXTRA_WIDTH": [0.1, 0.2, 0.3],
        },
        {"NAME": "random_local_rotation", "LOCAL_ROT_ANGLE": 0.3},
        {"NAME": "random_local_scaling", "LOCAL_SCALE_RANGE": [0.9, 1.1]},
        {"NAME": "random_local_translation", "LOCAL_TRANSLATION_RANGE": [-0.2, 0.4], "ALONG_AXIS_LIST": ["y", "x"]},
        {"NAME": "random_local_frustum_dropout", "INTENSITY_RANGE": [0.0, 0.3], "DIRECTION": ["top"]},
        {
            "NAME": "random_local_pyramid_aug",
            "DROP_PROB": 0.2,
            "SPARSIFY_PROB": 0.1,
            "SPARSIFY_MAX_NUM": 40,
            "SWAP_PROB": 0.3,
            "SWAP_MAX_NUM": 60,
        },
        {"NAME": "random_world_flip", "ALONG_AXIS_LIST": ["x"]},
        {"NAME": "random_world_rotation", "WORLD_ROT_ANGLE": [-0.5, 0.25]},
        {"NAME": "random_world_scaling", "WORLD_SCALE_RANGE": [0.8, 1.2]},
        {"NAME": "random_world_translation", "NOISE_TRANSLATE_STD": [0.1, 0.2, 0.3]},
        {"NAME": "random_world_frustum_dropout", "INTENSITY_RANGE": [0.1, 0.2], "DIRECTION": ["left", "right"]},
    ]
    theirs = changed(pointpillar(), "DATA_CONFIG.DATA_AUGMENTOR.AUG_CONFIG_LIST", steps)
    hook = {"DISABLE_AUG_LIST": ["gt_sampling", "random_world_flip", "imgaug"], "NUM_LAST_EPOCHS": 5}
    theirs["HOOK"] = {"DisableAugmentationHook": hook}
    made = sightline.import_openpcdet(write(tmp_path, theirs), out=tmp_path / "ours.yaml")
    augment = resolve(tmp_path / "ours.yaml")[0].augment
    paste = augment.paste
    assert (paste.counts, paste.min_points, paste.without_levels) == ((("Car", 20),), 5, (-1,))
    assert (paste.onto_plane, paste.fill_up, paste.extra_size) == (True, True, (0.1, 0.2, 0.3))
    assert (augment.local_rotate, augment.local_scale) == ((-0.3, 0.3), (0.9, 1.1))
    assert (augment.local_translate, augment.local_translate_axes) == ((-0.2, 0.4), "xy")
    assert (augment.local_drop, augment.local_drop_share) == (("top",), (0, 0.3))
    assert tuple(augment.local_pyramids.model_dump().values()) == (0.2, 0.1, 40, 0.3, 60)
    assert (augment.flip_x, augment.flip_y) == (0.5, 0)
    assert (augment.rotate, augment.scale) == ((-0.5, 0.25), (0.8, 1.2))
    assert augment.translate_std == (0.1, 0.2, 0.3)
    assert (augment.drop, augment.drop_share) == (("left", "right"), (0.1, 0.2))
    assert (augment.close, augment.close_epochs) == (("paste", "flip_x"), 5)
    told = {note.path.rpartition(".")[2]: note.value for note in made.recipe.notes}
    assert (told["SAMPLE_GROUPS"], told["DISABLE_AUG_LIST"]) == ("Van", "imgaug")


def test_a_bare_list_of_augmentations_is_taken_over(tmp_path):
    steps = [
        {"NAME": "random_world_scaling", "WORLD_SCALE_RANGE": [0.9, 1.1]},
        {"NAME": "random_world_rotation", "WORLD_ROT_ANGLE": 0.5},
        {"NAME": "random_world_translation", "WORLD_TRANSLATION_RANGE": [-0.2, 0.2], "ALONG_AXIS_LIST": ["x"]},
    ]
    theirs = changed(pointpillar(), "DATA_CONFIG.DATA_AUGMENTOR", steps)
    made = sightline.import_openpcdet(write(tmp_path, theirs), out=tmp_path / "ours.yaml")
    augment = resolve(tmp_path / "ours.yaml")[0].augment
    assert (augment.scale, augment.rotate, augment.flip_x) == ((0.9, 1.1), (-0.5, 0.5), 0)
    told = {note.path: note.why for note in made.recipe.notes}
    assert "the order is fixed here" in told["DATA_CONFIG.DATA_AUGMENTOR"]
    assert "no counterpart" in told["DATA_CONFIG.DATA_AUGMENTOR[2].WORLD_TRANSLATION_RANGE"]


def test_a_change_that_is_disabled_or_unknown_is_told(tmp_path):
    theirs = changed(pointpillar(), "DATA_CONFIG.DATA_AUGMENTOR.DISABLE_AUG_LIST", ["random_world_flip"])
    steps = theirs["DATA_CONFIG"]["DATA_AUGMENTOR"]["AUG_CONFIG_LIST"]
    steps.append({"NAME": "imgaug", "ROT_LIM": [-5.4, 5.4]})
    made = sightline.import_openpcdet(write(tmp_path, theirs), out=tmp_path / "ours.yaml")
    assert resolve(tmp_path / "ours.yaml")[0].augment.flip_x == 0
    told = {note.path: note.why for note in made.recipe.notes}
    steps = "DATA_CONFIG.DATA_AUGMENTOR.AUG_CONFIG_LIST"
    assert "DISABLE_AUG_LIST" in told[f"{steps}[0].NAME"]
    assert "no counterpart" in told[f"{steps}[1].NAME"]
    assert "no counterpart" in told[f"{steps}[1].ROT_LIM"]


@pytest.mark.parametrize(
    ("path", "value", "part"),
    [
        ("MODEL.SOMETHING", {"NEW": 3}, "MODEL.SOMETHING.NEW"),
        ("LOCAL_RANK", 0, "LOCAL_RANK"),
        ("DATA_CONFIG.POINT_FEATURE_ENCODING", {"used_feature_list": ["x", "y"]}, "used_feature_list"),
        ("DATA_CONFIG.DATASET", "NuScenesDataset", "DATASET"),
        ("MODEL.DENSE_HEAD.TARGET_ASSIGNER_CONFIG.MATCH_HEIGHT", True, "MATCH_HEIGHT"),
        ("MODEL.POST_PROCESSING.RECALL_THRESH_LIST", [0.5], "RECALL_THRESH_LIST"),
    ],
)
def test_a_value_without_a_counterpart_is_told_on_the_screen_and_in_the_file(tmp_path, path, value, part):
    made = sightline.import_openpcdet(write(tmp_path, changed(pointpillar(), path, value)), out=tmp_path / "ours.yaml")
    assert [note for note in made.recipe.notes if note.path.endswith(part)]
    assert part in str(made.tables()[-1])
    assert part in (tmp_path / "ours.yaml").read_text()


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("MODEL.NAME", "PVRCNN", "PVRCNN: this model has no counterpart; .* PointPillar, SECONDNet, CenterPoint"),
        ("MODEL.VFE.NAME", "DynPillarVFE", "only PillarVFE"),
        ("MODEL.VFE.WITH_DISTANCE", True, "distance"),
        ("MODEL.VFE.NUM_FILTERS", [], "NUM_BEV_FEATURES"),
        ("MODEL.MAP_TO_BEV.NUM_BEV_FEATURES", 9, "map of 8 channels"),
        ("MODEL.BACKBONE_2D.UPSAMPLE_STRIDES", [], "UPSAMPLE_STRIDES"),
        ("MODEL.BACKBONE_2D.LAYER_NUMS", [1], "lengths"),
        ("MODEL.DENSE_HEAD.NAME", "AnchorHeadMulti", "only AnchorHeadSingle"),
        ("MODEL.DENSE_HEAD.ANCHOR_GENERATOR_CONFIG.0.feature_map_stride", 4, "stride 2"),
        ("MODEL.DENSE_HEAD.ANCHOR_GENERATOR_CONFIG.0.class_name", "Van", "CLASS_NAMES"),
        ("MODEL.DENSE_HEAD.ANCHOR_GENERATOR_CONFIG.0.anchor_sizes", "large", "sizes"),
        ("MODEL.DENSE_HEAD.ANCHOR_GENERATOR_CONFIG", "many", "list of mappings"),
        ("MODEL.DENSE_HEAD.LOSS_CONFIG.LOSS_WEIGHTS.code_weights", [1.0], "code_weights"),
        ("MODEL.POST_PROCESSING.NMS_CONFIG.NMS_TYPE", "nms_normal_gpu", "rotated overlap"),
        ("MODEL.POST_PROCESSING.NMS_CONFIG.MULTI_CLASSES_NMS", True, "all classes"),
        ("MODEL.POST_PROCESSING.SCORE_THRESH", float("nan"), "number"),
        ("DATA_CONFIG.POINT_CLOUD_RANGE", [0, 1, 2], "6 numbers"),
        ("DATA_CONFIG.DATA_PROCESSOR", [], "transform_points_to_voxels"),
        ("DATA_CONFIG.DATA_PROCESSOR.2.VOXEL_SIZE", [0.4, 0.4, 1], "as high as the range"),
        ("DATA_CONFIG.DATA_PROCESSOR.2.VOXEL_SIZE", [0, 0.4, 4], "pillar_size"),
        ("OPTIMIZATION.OPTIMIZER", "lion", "adam_onecycle"),
        ("OPTIMIZATION.DIV_FACTOR", 0, "above 0"),
        ("OPTIMIZATION.NUM_EPOCHS", "many", "whole number"),
        ("OPTIMIZATION.LR", -1, "lr"),
        ("CLASS_NAMES", ["Car", "Car"], "each once"),
        ("MODEL", 3, "expected a mapping"),
    ],
)
def test_what_cannot_be_taken_over_is_refused_with_its_key(tmp_path, path, value, told):
    theirs = write(tmp_path, changed(pointpillar(), path, value))
    with pytest.raises(ConfigError, match=told) as error:
        sightline.import_openpcdet(theirs, out=tmp_path / "ours.yaml")
    assert "theirs.yaml" in str(error.value)
    assert not (tmp_path / "ours.yaml").exists()


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("BACKBONE_3D", {"NAME": "VoxelResBackBone8x"}, "MeanVFE"),
        ("DENSE_HEAD.CLASS_NAMES_EACH_HEAD", [["Van"]], "CLASS_NAMES"),
        ("DENSE_HEAD.CLASS_NAMES_EACH_HEAD", [[["Car"]]], "CLASS_NAMES"),
        ("DENSE_HEAD.SEPARATE_HEAD_CFG.HEAD_ORDER", ["dim", "rot"], "center, center_z"),
        ("DENSE_HEAD.SEPARATE_HEAD_CFG.HEAD_DICT.iou", {"out_channels": 1, "num_conv": 2}, "no counterpart"),
        ("DENSE_HEAD.SEPARATE_HEAD_CFG.HEAD_DICT.rot.out_channels", 1, "2 numbers"),
        ("DENSE_HEAD.SEPARATE_HEAD_CFG.HEAD_DICT.rot.num_conv", 3, "same number of convolutions"),
        ("DENSE_HEAD.BN_EPS", 0.001, "1e-5"),
        ("DENSE_HEAD.POST_PROCESSING.NMS_CONFIG.NMS_TYPE", "circle_nms", "rotated overlap"),
    ],
)
def test_other_center_heads_are_refused(tmp_path, path, value, told):
    theirs = write(tmp_path, changed(centerpoint(), f"MODEL.{path}", value))
    with pytest.raises(ConfigError, match=told):
        sightline.import_openpcdet(theirs, out=tmp_path / "ours.yaml")


@pytest.mark.parametrize(
    ("kind", "more", "key", "value"),
    [
        ("adam", {"DECAY_STEP_LIST": [35, 45], "LR_DECAY": 0.1, "LR_CLIP": 3e-7}, "milestones", (35, 45)),
        ("sgd", {"DECAY_STEP_LIST": [35, 45], "LR_DECAY": 0.1, "LR_CLIP": 3e-7}, "minimum", 1e-4),
        ("adam_cosineanneal", {"WARMUP_ITER": 0}, "kind", "cosine"),
    ],
)
def test_other_optimizers_are_taken_over(tmp_path, kind, more, key, value):
    theirs = pointpillar()
    theirs["OPTIMIZATION"] |= {"OPTIMIZER": kind, **more}
    sightline.import_openpcdet(write(tmp_path, theirs), out=tmp_path / "ours.yaml")
    config = resolve(tmp_path / "ours.yaml")[0]
    got = getattr(config.schedule, key)
    assert got == (pytest.approx(value) if isinstance(value, float) else value)


def test_a_cosine_is_taken_over_with_its_momentum_and_its_warm_up(tmp_path):
    theirs = pointpillar()
    theirs["OPTIMIZATION"] |= {
        "OPTIMIZER": "adam_cosineanneal", "WARMUP_ITER": 25, "MOMS": [0.9, 0.8], "PCT_START": 0.3
    }  # fmt: skip
    imported = sightline.import_openpcdet(write(tmp_path, theirs), out=tmp_path / "ours.yaml")
    schedule = resolve(tmp_path / "ours.yaml")[0].schedule
    assert (schedule.kind, schedule.interval, schedule.final) == ("cosine", "epoch", 1e-3)
    assert (schedule.momentum_range, schedule.rise) == ((0.8, 0.9), 0.3)
    warmup = schedule.warmup
    assert (warmup.iterations, warmup.start_factor, warmup.leads_to) == (25, pytest.approx(1 / 3), "lr")
    assert not [note for note in imported.recipe.notes if note.path.endswith(("MOMS", "PCT_START", "WARMUP_ITER"))]


def test_a_head_without_directions_is_taken_over(tmp_path):
    theirs = changed(pointpillar(), "MODEL.DENSE_HEAD.USE_DIRECTION_CLASSIFIER", False)
    imported = sightline.import_openpcdet(write(tmp_path, theirs), out=tmp_path / "ours.yaml")
    assert resolve(tmp_path / "ours.yaml")[0].model.head.direction_bins == 0
    told = {note.path.rpartition(".")[2] for note in imported.recipe.notes if "no direction" in note.why}
    assert told == {"NUM_DIR_BINS", "DIR_OFFSET", "DIR_LIMIT_OFFSET", "dir_weight"}


# Files of strangers.


class Harmful:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("is_zip", [True, False])
def test_nothing_in_a_checkpoint_is_run(place, is_zip):
    network, layers = network_of(read_pcdet_config(place / "theirs.yaml"))
    evil = checkpoint(network, layers, more=Harmful(place / "harm"))
    torch.save(evil, place / "evil.pth", _use_new_zipfile_serialization=is_zip)
    sightline.import_openpcdet(place / "theirs.yaml", ckpt=place / "evil.pth", out=place / "ours.yaml")
    evil["model_state"] = Harmful(place / "harm")
    torch.save(evil, place / "evil.pth", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(RunError, match=r"tensors|model_state"):
        sightline.import_openpcdet(place / "theirs.yaml", ckpt=place / "evil.pth", out=place / "b.yaml")
    (place / "plain.pth").write_bytes(pickle.dumps(Harmful(place / "harm")))
    with pytest.raises(RunError):
        sightline.import_openpcdet(place / "theirs.yaml", ckpt=place / "plain.pth", out=place / "b.yaml")
    assert not (place / "harm").exists()
    assert not (place / "b.yaml").exists()


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_cut_checkpoint_is_refused_wherever_it_ends(place, is_zip):
    whole = torch.load(place / "a.pth", weights_only=True)
    torch.save(whole, place / "b.pth", _use_new_zipfile_serialization=is_zip)
    data = (place / "b.pth").read_bytes()
    for length in [0, 1, 100, *range(1000, len(data) - 1, len(data) // 20)]:
        (place / "cut.pth").write_bytes(data[:length])
        with pytest.raises(RunError, match=r"cut\.pth"):
            sightline.import_openpcdet(place / "theirs.yaml", ckpt=place / "cut.pth", out=place / "ours.yaml")


def damage(what):
    """A change of a checkpoint, and what is said of it."""

    def rename(state):
        state["vfe.pfn_layers.0.line"] = state.pop("vfe.pfn_layers.0.linear.weight")

    def reshape(state):
        state["dense_head.conv_cls.weight"] = state["dense_head.conv_cls.weight"][:1]

    def spoil(state):
        state["dense_head.conv_cls.bias"] = torch.full_like(state["dense_head.conv_cls.bias"], np.nan)

    def count(state):
        state["dense_head.conv_cls.bias"] = state["dense_head.conv_cls.bias"].long()

    return {"rename": rename, "reshape": reshape, "spoil": spoil, "count": count}[what]


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("rename", r"1 tensor without a place .*pfn_layers\.0\.line\b.*1 weight missing .*pillars\.linears\.0\.weight"),
        ("reshape", r"1 tensor with another shape \(dense_head\.conv_cls\.weight: file \(1, 16, 1, 1\), model \(2, 16"),
        ("spoil", "conv_cls.bias holds NaN"),
        ("count", "conv_cls.bias holds torch.int64"),
    ],
)
def test_weights_that_do_not_fit_are_named(place, what, told):
    file = torch.load(place / "a.pth", weights_only=True)
    damage(what)(file["model_state"])
    torch.save(file, place / "b.pth")
    with pytest.raises(RunError, match=told) as error:
        sightline.import_openpcdet(place / "theirs.yaml", ckpt=place / "b.pth", out=place / "ours.yaml")
    assert "missing" in str(error.value) or what != "rename"
    assert list(place.glob("ours*")) == []


def test_a_file_without_model_state_is_refused(place):
    torch.save({"state_dict": {"a": torch.zeros(2)}}, place / "b.pth")
    with pytest.raises(RunError, match="has no model_state"):
        sightline.import_openpcdet(place / "theirs.yaml", ckpt=place / "b.pth", out=place / "ours.yaml")
    torch.save([1, 2], place / "b.pth")
    with pytest.raises(RunError, match="no tensors by name"):
        sightline.import_openpcdet(place / "theirs.yaml", ckpt=place / "b.pth", out=place / "ours.yaml")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("A: 1\nA: 2\n", "theirs.yaml:2.*given twice"),
        ("A: !!python/object/apply:os.system [ls]\n", "theirs.yaml:1.*tag"),
        ("_BASE_CONFIG_: cfgs/missing.yaml\n", "missing.yaml is neither"),
        ("_BASE_CONFIG_: [a, b]\n", "must name one file"),
        ("- 1\n", "expected keys"),
        ("A: [1\n", r"theirs\.yaml:\d"),
        ("", "expected keys"),
        ("_BASE_CONFIG_: base.yaml\nA: {B: 1}\n", "A is a mapping"),
    ],
)
def test_broken_configurations_are_refused_with_their_line(tmp_path, text, told):
    (tmp_path / "base.yaml").write_text("A: 3\n")
    (tmp_path / "theirs.yaml").write_text(text)
    with pytest.raises(ConfigError, match=told):
        sightline.import_openpcdet(tmp_path / "theirs.yaml", out=tmp_path / "ours.yaml")


def test_a_base_that_leads_to_itself_is_read_once(tmp_path):
    theirs = {"_BASE_CONFIG_": "theirs.yaml", **pointpillar()}
    made = sightline.import_openpcdet(write(tmp_path, theirs), out=tmp_path / "ours.yaml")
    assert any("_BASE_CONFIG_" in note.path for note in made.recipe.notes)


def test_files_that_are_there_stay(place):
    ours, weights = place / "ours.yaml", place / "ours.safetensors"
    for taken in (ours, weights):
        taken.write_text("mine")
        with pytest.raises(RunError, match="is there already"):
            sightline.import_openpcdet(place / "theirs.yaml", ckpt=place / "a.pth", out=ours)
        assert taken.read_text() == "mine"
        taken.unlink()
    with pytest.raises(UserError, match="configuration of OpenPCDet"):
        sightline.import_openpcdet(place / "theirs.yaml", out=place / "theirs.yaml", force=True)
    with pytest.raises(RunError, match=r"must end with \.yaml"):
        sightline.import_openpcdet(place / "theirs.yaml", out=place / "ours.txt")


def test_the_command_writes_what_train_takes_and_ends_with_2_where_it_cannot(place):
    done = tool("import", "openpcdet", "--cfg", "theirs.yaml", "--set", "OPTIMIZATION.NUM_EPOCHS=7", cwd=place)
    assert done.code == 0, done.err
    assert "DATA_CONFIG.DATASET" not in done.out
    assert yaml.safe_load((place / "theirs-sightline.yaml").read_text())["epochs"] == 7
    shown = tool("train", "theirs-sightline.yaml", "--print-config", cwd=place)
    assert shown.code == 0
    assert "epochs: 7" in shown.out
    for wrong in (["--cfg", "none.yaml"], ["--cfg", "theirs.yaml", "--set", "NOPE=1"], []):
        refused = tool("import", "openpcdet", *wrong, "--out", "b.yaml", cwd=place)
        assert refused.code == 2
        assert "Traceback" not in refused.err
