"""Weights by the recipe of the recordings, and how to find OpenPCDet's tensors in our models."""

import json
import re

import numpy as np
import torch

from tests.conftest import oracle

NOT_A_WEIGHT = {"global_step"}


def recorded_model(name):
    return json.loads(oracle("openpcdet", f"{name}.json").read_text())


def recipe(entry, seed_base):
    """The tensor of an entry of ``state_dict``: drawn by its place and its rule."""
    rule, shape = entry["rule"], entry["shape"]
    random = np.random.RandomState(seed_base + entry["index"])
    draws = {
        "zero": lambda: np.zeros(shape),
        "mean": lambda: random.normal(0, 0.1, shape),
        "var": lambda: random.uniform(0.5, 1.5, shape),
        "bn_weight": lambda: random.uniform(0.8, 1.2, shape),
        "vector": lambda: random.normal(0, 0.1, shape),
        "matrix": lambda: random.normal(0, 1, shape) * np.sqrt(2 / np.prod(shape[1:])),
    }
    word, _, change = rule.partition(" ")
    values = draws[word]()
    for sign, number in re.findall(r"(minus|times) ([\d.]+)", change):
        values = values - float(number) if sign == "minus" else values * float(number)
    values = values.astype(np.float32)
    np.testing.assert_allclose(values.astype(np.float64).sum(), entry["sum64"], rtol=1e-6, atol=1e-6)
    return torch.from_numpy(values)


def our_name(key, layers):
    """The name of our tensor for a key of theirs; ``layers`` maps names of layers."""
    layer, _, last = key.rpartition(".")
    return f"{layers[layer]}.{last}"


def fill(model, recorded, layers):
    """Give the model the weights of the recipe; every tensor of it must have its place."""
    state = model.state_dict()
    filled = set()
    for entry in recorded["state_dict"]:
        values = recipe(entry, recorded["weight_seed_base"])
        if entry["key"] in NOT_A_WEIGHT:
            continue
        name = our_name(entry["key"], layers)
        assert state[name].shape == values.shape, (entry["key"], name)
        state[name].copy_(values)
        filled.add(name)
    assert filled == set(state)
    assert sum(p.numel() for p in model.parameters()) == recorded["param_count"]
