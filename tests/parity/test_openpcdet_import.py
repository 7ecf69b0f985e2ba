"""Imports from OpenPCDet: configurations as its own reader joins them, and networks with its recorded outputs."""

import json
import re
from copy import deepcopy

import numpy as np
import pytest
import torch
import yaml

import sightline
from sightline.api.configuration import resolve
from sightline.config.errors import ConfigError
from sightline.importers.openpcdet_ledger import UNKNOWN
from sightline.importers.openpcdet_yaml import BASE, read_pcdet_config
from sightline.ops.point_clouds import PointClouds
from tests.conftest import ROOT, oracle
from tests.parity.openpcdet_clouds import recorded_points
from tests.parity.openpcdet_weights import recipe, recorded_model

FAMILIES = ["pointpillar", "second"]


@pytest.fixture(scope="module")
def recorded():
    return json.loads(oracle("openpcdet", "train_config_cli.json").read_text())


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def without_bases(value):
    if isinstance(value, dict):
        return {key: without_bases(inner) for key, inner in value.items() if key != BASE}
    return value


def merged(recorded):
    return {key: value for key, value in recorded.items() if key.startswith("merged_")}


def value_at(values, key):
    for part in key.split("."):
        values = values[part]
    return values


def test_a_base_is_joined_and_the_base_of_a_base_is_not_followed(recorded, tmp_path, monkeypatch):
    case = recorded["base_config_merge"]
    base = next(value for key, value in case.items() if key.startswith("base ("))
    top = next(value for key, value in case.items() if key.startswith("top"))
    write(tmp_path / "cfgs/base0.yaml", case["base0"])
    write(tmp_path / "cfgs/base.yaml", {BASE: "cfgs/base0.yaml", **base})
    path = write(tmp_path / "cfgs/top.yaml", {BASE: "cfgs/base.yaml", **top})
    monkeypatch.chdir(tmp_path)
    read = read_pcdet_config(path)
    assert read.values == case["merged"]
    assert [one.name for one in read.bases] == ["base.yaml"]
    assert len(read.not_followed) == 1


def test_merged_configurations_come_out_of_their_parts(recorded, tmp_path):
    # The data's part goes into a base file at the place that the recording names; lists of the top file replace its.
    for name, values in merged(recorded).items():
        own = deepcopy(values)
        named = own["DATA_CONFIG"].pop(BASE)
        data = own["DATA_CONFIG"]
        replaced = {key: data[key] for key in ("DATA_PROCESSOR", "POINT_CLOUD_RANGE")}
        base = {**data, "DATA_PROCESSOR": [{"NAME": "other"}], "POINT_CLOUD_RANGE": [0.0]}
        write(tmp_path / "tools" / named, base)
        own["DATA_CONFIG"] = {BASE: named, **replaced}
        path = write(tmp_path / f"tools/cfgs/models/{name}.yaml", own)
        assert read_pcdet_config(path).values == without_bases(values)


def test_values_beside_the_file_are_taken_or_refused_as_recorded(recorded, tmp_path):
    values = without_bases(recorded["merged_pointpillar"])
    path = write(tmp_path / "pointpillar.yaml", values)
    for case in recorded["set_overrides"]:
        keys, texts = case["set"][::2], case["set"][1::2]
        changes = [f"{key}={text}" for key, text in zip(keys, texts, strict=False)] or keys
        if "error" in case:
            with pytest.raises(ConfigError):
                read_pcdet_config(path, changes)
            continue
        got = read_pcdet_config(path, changes).values
        for key, wanted in case["result"].items():
            assert value_at(got, key) == wanted, case["case"]
            kind = case["types"][key]
            assert type(value_at(got, key)).__name__ == {"EasyDict": "dict"}.get(kind, kind)


def configuration(recorded, folder, name):
    return write(folder / f"{name}.yaml", without_bases(recorded[f"merged_{name}"]))


def checkpoint_of(model):
    """What their trainer saves, numpy's numbers for rates and all, with the recorded weights."""
    state = {
        entry["key"]: recipe(entry, model["weight_seed_base"]).to(getattr(torch, entry["dtype"]))
        for entry in model["state_dict"]
    }
    group = {"lr": np.float64(2e-4), "betas": (np.float64(0.94), 0.99), "params": [0]}
    moments = {"step": torch.tensor(7.0), "exp_avg": torch.zeros(3)}
    optimizer = {"state": {0: moments}, "param_groups": [group]}
    return {"epoch": 5, "it": 10, "model_state": state, "optimizer_state": optimizer, "version": "pcdet+0.6.0"}


def in_spconv1(state):
    """Sparse kernels as spconv 1 has them."""
    return {key: value.permute(1, 2, 3, 4, 0) if value.dim() == 5 else value for key, value in state.items()}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("is_zip", [True, False])
@torch.no_grad()
def test_an_imported_network_gives_the_recorded_outputs(recorded, tmp_path, name, is_zip):
    model = recorded_model(f"model_{name}")
    checkpoint = checkpoint_of(model)
    if not is_zip:  # both older things at once
        checkpoint["model_state"] = in_spconv1(checkpoint["model_state"])
    torch.save(checkpoint, tmp_path / "a.pth", _use_new_zipfile_serialization=is_zip)
    made = sightline.import_openpcdet(
        configuration(recorded, tmp_path, name), ckpt=tmp_path / "a.pth", out=tmp_path / "out.yaml"
    )
    assert len(made.match.rows) == len(model["state_dict"]) - 1
    assert list(made.match.unused) == ["global_step"]
    assert (made.weights.epoch, made.weights.step) == (5, 10)

    detector = sightline.load(made.weights.path).model.task.detector.eval()
    points = torch.from_numpy(recorded_points(name, model["eval_frame"]))
    predictions = detector(PointClouds(points, (len(points),)))
    boxes = detector.head.decode(predictions, 0)
    with np.load(oracle("openpcdet", f"model_{name}.npz")) as arrays:
        for part, values in (("cls", predictions.logits[0]), ("box", boxes)):
            wanted = arrays[f"batch_{part}_preds/value"]
            got = values.flatten()[torch.from_numpy(arrays[f"batch_{part}_preds/flat_index"])]
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_value_of_a_recorded_configuration_is_taken_or_told(recorded, tmp_path, name):
    made = sightline.import_openpcdet(configuration(recorded, tmp_path, name), out=tmp_path / "out.yaml")
    assert not [note for note in made.recipe.notes if note.why == UNKNOWN]
    config, _ = resolve(tmp_path / "out.yaml")
    theirs = recorded[f"merged_{name}"]
    optimisation, post = theirs["OPTIMIZATION"], theirs["MODEL"]["POST_PROCESSING"]
    assert config.data.class_names == tuple(theirs["CLASS_NAMES"])
    assert config.point_range == tuple(theirs["DATA_CONFIG"]["POINT_CLOUD_RANGE"])
    assert (config.epochs, config.batch_size) == (optimisation["NUM_EPOCHS"], optimisation["BATCH_SIZE_PER_GPU"])
    assert config.lr == optimisation["LR"]
    assert config.model.head.nms_iou_threshold == post["NMS_CONFIG"]["NMS_THRESH"]
    assert config.schedule.momentum_range == tuple(reversed(optimisation["MOMS"]))
    anchors = theirs["MODEL"]["DENSE_HEAD"]["ANCHOR_GENERATOR_CONFIG"]
    assert [one.matched_iou for one in config.model.head.anchors] == [one["matched_threshold"] for one in anchors]


def test_every_option_of_their_programs_is_told(recorded):
    text = (ROOT / "docs" / "coming-from-openpcdet.md").read_text()
    for program, tool in (("cli_train", "train.py"), ("cli_test", "test.py")):
        rows = [row.split(" | ")[0] for row in text.splitlines() if row.startswith("| `--")]
        told = set(re.findall(r"`(--[a-z_]+)`", "".join(rows)))
        options = {flag for option in recorded[program] for flag in option["flags"]}
        assert options <= told, tool
