"""Operators and layers of BMXNet v2 against its recorded inputs, outputs and gradients, in float64.

Tolerance: rtol 1e-9, atol 1e-10, as the README beside the files suggests; only the order of sums differs.
"""

import json
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from sightline.models.binary_resnet.blocks import UnitE1
from sightline.models.binary_resnet.config import ShortcutConfig
from sightline.models.blocks.binary_layers import (
    ActivatedConv,
    QuantisedActivation,
    QuantisedConv2d,
    QuantisedLinear,
    quantise_weight,
)
from sightline.models.blocks.quantisation import QuantisationConfig
from tests.conftest import oracle, recorded

OTHER_KINDS = {"pack_conv", "pack_dense", "popcount"}  # packing has a test of its own
close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-10)


def cases(*kinds):
    """All recorded cases of some kinds; without the file, one that skips."""
    path = recorded("bmxnet", "ops.json")
    found = json.loads(path.read_text())["cases"] if path.exists() else []
    some = [pytest.param(case, id=case["name"]) for case in found if case["kind"] in kinds]
    return pytest.mark.parametrize("case", some if path.exists() else [None])


@pytest.fixture(scope="module")
def arrays():
    with np.load(oracle("bmxnet", "ops.npz")) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def read(case, arrays):
    if case is None:
        oracle("bmxnet", "ops.json")
    return {name: arrays[f"{case['name']}/{name}"] for name in case["arrays"]}


def leaf(tensor):
    return tensor.clone().requires_grad_()


def holding(layer, weight):
    """The layer in float64 with a recorded weight."""
    layer.double()
    assert layer.weight.shape == weight.shape
    layer.weight = nn.Parameter(weight.clone())
    return layer


def check(output, leaves, expected):
    close(output, expected["y"])
    (output * expected["g"]).sum().backward()
    for name, tensor in leaves.items():
        close(tensor.grad, expected[f"d{name}"])


@cases("qactivation")
def test_an_activation(case, arrays):
    expected, cfg = read(case, arrays), case["cfg"]
    x = leaf(expected["x"])
    check(QuantisedActivation(cfg["method"], cfg["bits"], threshold=cfg["threshold"])(x), {"x": x}, expected)


@cases("weight_quantiser")
def test_a_quantiser_of_weights(case, arrays):
    expected, cfg = read(case, arrays), case["cfg"]
    w = leaf(expected["w"])
    check(quantise_weight(w, cfg["method"], cfg["bits"]), {"w": w}, expected)


@cases("qdense")
def test_a_dense_layer(case, arrays):
    expected, cfg = read(case, arrays), case["cfg"]
    outputs, inputs = expected["w"].shape
    layer = QuantisedLinear(inputs, outputs, method=cfg["method"], bits=cfg["bits"], offset=not cfg["no_offset"])
    x = leaf(expected["x"])
    check(holding(layer, expected["w"])(x), {"x": x, "w": layer.weight}, expected)


@cases("qconv2d")
def test_a_convolution(case, arrays):
    expected, cfg = read(case, arrays), case["cfg"]
    scaling = ("xnor" if cfg["stop_scale_grad"] else "binet") if cfg["scaling"] else "none"
    layer = QuantisedConv2d(
        expected["x"].shape[1],
        expected["w"].shape[0],
        tuple(expected["w"].shape[2:]),
        cfg["stride"],
        cfg["padding"],
        cfg["dilation"],
        cfg["groups"],
        method=cfg["method"],
        bits=cfg["bits"],
        offset=not cfg["no_offset"],
        scaling=scaling,
    )
    x = leaf(expected["x"])
    check(holding(layer, expected["w"])(x), {"x": x, "w": layer.weight}, expected)


@cases("activated_conv")
def test_an_activation_with_its_convolution(case, arrays):
    expected, cfg = read(case, arrays), case["cfg"]
    quantisation = QuantisationConfig(threshold=cfg["threshold"], scaling=cfg["approximation"] or "none")
    channels = expected["x"].shape[1], expected["w"].shape[0]
    block = ActivatedConv(*channels, cfg["kernel"], cfg["stride"], cfg["padding"], quantisation=quantisation)
    holding(block.conv, expected["w"])
    x = leaf(expected["x"])
    check(block(x), {"x": x, "w": block.conv.weight}, expected)


@cases("resnet_e1_block")
def test_a_residual_unit(case, arrays):
    expected, cfg = read(case, arrays), case["cfg"]
    shortcut = ShortcutConfig(conv="full_precision" if cfg["fp_downsample"] else "binary", pool=cfg["pool_downsample"])
    unit = UnitE1(
        expected["x"].shape[1],
        expected["w"].shape[0],
        cfg["stride"],
        shortcut=shortcut,
        quantisation=QuantisationConfig(threshold=cfg["threshold"]),
    ).double()
    assert unit.norm.eps == cfg["eps"]
    leaves = {"w": unit.conv.conv.weight, "gamma": unit.norm.weight, "beta": unit.norm.bias}
    if "w_sc" in expected:
        short = unit.shortcut
        kernel = short.conv.weight if cfg["fp_downsample"] else short.conv.conv.weight
        leaves |= {"w_sc": kernel, "gamma_sc": short.norm.weight, "beta_sc": short.norm.bias}
    for name, parameter in leaves.items():
        assert parameter.shape == expected[name].shape
        parameter.data.copy_(expected[name])
    x = leaf(expected["x"])
    check(unit.train()(x), {"x": x} | leaves, expected)


def test_no_recorded_kind_is_left_out():
    kinds = {case["kind"] for case in json.loads(oracle("bmxnet", "ops.json").read_text())["cases"]}
    ours = {"qactivation", "weight_quantiser", "qdense", "qconv2d", "activated_conv", "resnet_e1_block"}
    assert kinds <= ours | OTHER_KINDS
