"""Configurations of OpenPCDet: what its own reader makes of base files and of values beside the file."""

import json
from copy import deepcopy

import pytest
import yaml

from sightline.config.errors import ConfigError
from sightline.importers.openpcdet_yaml import BASE, read_pcdet_config
from tests.conftest import oracle


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
