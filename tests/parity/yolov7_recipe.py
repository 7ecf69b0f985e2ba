"""Weights and inputs of the recorded YOLOv7 runs, made again from their seeds; and the published names of ours."""

import json
from functools import cache

import numpy as np
import pytest
import torch

from sightline.models.yolov7.config import YOLOv7Config
from sightline.models.yolov7.model import YOLOv7Network
from sightline.models.yolov7.published import published_names
from tests.conftest import oracle, recorded

# The recorded configurations that we build, by the recording's name.
CONFIGS = {
    "training/yolov7-tiny": YOLOv7Config(variant="tiny"),
    "training/yolov7": YOLOv7Config(variant="yolov7"),
    "training/yolov7x": YOLOv7Config(variant="yolov7x"),
    "training/yolov7-w6": YOLOv7Config(variant="w6"),
    "training/yolov7-e6": YOLOv7Config(variant="e6"),
    "training/yolov7-d6": YOLOv7Config(variant="d6"),
    "training/yolov7-e6e": YOLOv7Config(variant="e6e"),
}


@cache
def read_json(*parts):
    return json.loads(oracle("yolov7", *parts).read_text())


def names_in(*parts, of=None):
    """Case names for ``parametrize``; one that tells of the missing file where there is none."""
    path = recorded("yolov7", *parts)
    if not path.exists():
        return [f"{'/'.join(parts)} is missing"]
    content = json.loads(path.read_text())
    return list(content[of] if of else content)


def config_of(cfg):
    """Ours of a recorded configuration; skips the test where we do not build it."""
    if cfg not in CONFIGS:
        pytest.skip(f"no network of ours for {cfg}")
    return CONFIGS[cfg]


def is_anchor(key):
    """Anchors stand in our configuration, not in the weights."""
    return key.endswith((".anchors", ".anchor_grid"))


def recipe_entry(key, shape, seed, gain):
    """One entry of the state by the recipe of the recording, float32; None where it stays as built."""
    random = np.random.RandomState(seed)
    kind = key.rsplit(".", 1)[-1]
    if kind == "num_batches_tracked":
        return None
    if kind == "running_var" or (kind == "weight" and len(shape) == 1):
        values = 0.5 + random.random_sample(shape)
    elif kind == "weight":
        values = random.standard_normal(shape) * np.sqrt(gain / np.prod(shape[1:]))
    else:
        values = 0.1 * random.standard_normal(shape)
        if kind == "implicit" and ".im." in key:
            values += 1
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def published_order(cfg):
    """The keys of the original's state in its order, which the recipe counts."""
    models = read_json("models.json")
    recorded = [entry for name, entry in models.items() if name.split("@")[0] == cfg and "state" in entry]
    assert recorded, f"models.json has no state list for {cfg}"
    return [key for key, _ in recorded[0]["state"]]


def recipe_network(cfg, num_classes, seed, gain, order=None):
    """Our network of a recorded configuration, filled by the recipe; ``order`` is by default that of models.json."""
    network = YOLOv7Network(config_of(cfg), num_classes)
    fill(network, order or published_order(cfg), seed, gain)
    return network


def fill(network, order, seed, gain):
    """Replace the network's state by the recipe's; every key of the recording must find its tensor."""
    ours = {published: name for name, published in published_names(network).items()}
    state = network.state_dict()
    for index, key in enumerate(order):
        if is_anchor(key):
            continue
        values = recipe_entry(key, tuple(state[ours[key]].shape), seed + index, gain)
        if values is not None:
            state[ours[key]].copy_(values)
    assert set(ours) == {key for key in order if not is_anchor(key)}


def recipe_images(seed, shape):
    """A batch in [0, 1), float32."""
    return torch.from_numpy(np.random.RandomState(seed).random_sample(shape).astype(np.float32))
