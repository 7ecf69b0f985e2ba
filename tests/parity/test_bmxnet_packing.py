"""Packed words and files and counts of equal bits, beside BMXNet's recorded ones; integers, compared exactly."""

import json

import numpy as np
import pytest
import torch

from sightline.models.blocks.packed_file import sizes
from sightline.models.blocks.packed_layers import pack_network
from sightline.ops.bit_packing import (
    binary_conv,
    binary_dense,
    pack_conv_signs,
    pack_conv_words,
    pack_dense_words,
    pack_signs,
    unpack_conv_words,
    unpack_dense_words,
)
from tests.conftest import oracle, recorded
from tests.parity.test_bmxnet_sizes import NOT_OURS, parts, read

USUAL = {"stride": 1, "padding": 0, "dilation": 1}


def cases(*kinds):
    """Names and settings of the recorded cases of these kinds; one that only skips where there is no recording."""
    path = recorded("bmxnet", "ops.json")
    every = json.loads(path.read_text())["cases"] if path.exists() else []
    found = [case for case in every if case["kind"] in kinds and case["cfg"].get("bits", 1) == 1]
    return pytest.mark.parametrize("case", found or [None], ids=[case["name"] for case in found] or ["missing"])


def packable():
    """Recorded networks that both can build."""
    return [name for name, size in read().items() if "error" not in size and not name.startswith(NOT_OURS)]


def arrays(case):
    oracle("bmxnet", "ops.json")
    with np.load(oracle("bmxnet", "ops.npz")) as recording:
        return {name: recording[f"{case['name']}/{name}"] for name in case["arrays"]}


@cases("pack_conv", "pack_dense")
def test_words_are_the_recorded_ones_and_give_back_the_signs(case):
    recording = arrays(case)
    weight, words = recording["w"], recording["words"]
    word_bits = case["cfg"]["word_bits"]
    if case["kind"] == "pack_conv":
        ours = pack_conv_words(weight, word_bits)
        assert ours.shape == words.shape
        back = unpack_conv_words(words)
    else:
        ours = pack_dense_words(weight, word_bits)
        back = unpack_dense_words(words, len(weight))
    assert ours.dtype == words.dtype
    np.testing.assert_array_equal(ours.reshape(-1), words.reshape(-1))
    np.testing.assert_array_equal(back, np.where(weight >= 0, 1, -1))


@cases("popcount")
def test_equal_bits_are_the_recorded_ones(case):
    recording = arrays(case)
    x, weight, config = torch.from_numpy(recording["x"]), torch.from_numpy(recording["w"]), case["cfg"]
    if weight.dim() == 2:
        ours = binary_dense(x.flatten(1), pack_signs(weight))
    else:
        axes = weight.dim() - 2
        settings = {
            "stride": config.get("stride", 1),
            "padding": config["padding"],
            "dilation": config.get("dilation", 1),
        }
        each = {name: (value,) * axes for name, value in settings.items()}
        ours = binary_conv(x, pack_conv_signs(weight), groups=config.get("groups", 1), **each)
    np.testing.assert_array_equal(ours.numpy(), recording["y"])


@cases("qconv2d", "qdense")
def test_layers_of_one_bit_return_the_recorded_counts(case):
    """The recorded layers with weights of 1 bit: counts, or what follows from them where they are raw or scaled."""
    recording, config = arrays(case), case["cfg"]
    x, weight = torch.from_numpy(recording["x"]), torch.from_numpy(recording["w"])
    if not bool((x.abs() == 1).all()):
        pytest.skip("the recorded input is not +1 and -1, so there are no bits to count")
    num_bits = weight[0].numel()
    if case["kind"] == "qdense":
        equal = binary_dense(x.flatten(1), pack_signs(weight))
    else:
        each = {name: (config[name],) * (weight.dim() - 2) for name in ("stride", "padding", "dilation")}
        equal = binary_conv(x, pack_conv_signs(weight), **each, groups=config["groups"])
    ours = equal.double() if not (config["no_offset"] or config.get("scaling")) else 2.0 * equal - num_bits
    if config.get("scaling"):
        ours = ours * weight.abs().flatten(1).mean(dim=1)[:, None, None]
        np.testing.assert_allclose(ours.numpy(), recording["y"], rtol=1e-12)
    else:
        np.testing.assert_array_equal(ours.numpy(), recording["y"])


@pytest.mark.parametrize("name", packable() or [None])
def test_a_networks_packed_file_has_the_recorded_size(name):
    """To the byte, but for the file's head and its counters of batches, which are not stored."""
    oracle("bmxnet", "model_sizes.json")
    size = read()[name]
    (config, network), keys = parts(name, size)
    _, channels, height, _ = size["input"]
    model = network(config(**keys), size["classes"], image_size=height, in_channels=channels)
    rows = sizes(pack_network(model))
    assert sum(row.bytes for row in rows) == size["packed_bytes"]
    assert sum(row.float_bytes for row in rows) == size["float_bytes"]
    assert sum(row.num_values for row in rows if row.kind == "binary") == size["binary_weights"]
    assert len([row for row in rows if row.kind == "binary"]) == size["n_binary_convs"]
