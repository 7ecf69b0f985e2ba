"""Tensors of a network with one bit for every binary weight, as they stand in a file."""

import numpy as np
import pytest
import torch

from sightline.config.errors import RunError
from sightline.models.blocks.packed_file import (
    PackedNetwork,
    from_stored,
    pack_weight,
    sizes,
    stored,
)


def network():
    random = torch.Generator().manual_seed(0)
    conv, dense = torch.randn(4, 3, 3, 3, generator=random), torch.randn(5, 7, generator=random)
    weights = {
        "conv.weight": pack_weight(conv, "binet", conv.abs().flatten(1).mean(dim=1)),
        "dense.weight": pack_weight(dense),
    }
    values = {"first.weight": torch.randn(2, 3, generator=random), "norm.running_var": torch.rand(5, generator=random)}
    return PackedNetwork(weights, values)


def same(one, other):
    return (
        list(one.weights) == list(other.weights)
        and all(
            a.shape == b.shape
            and a.scaling == b.scaling
            and torch.equal(a.signs, b.signs)
            and (a.scale is None) == (b.scale is None)
            and (a.scale is None or torch.equal(a.scale, b.scale))
            for a, b in zip(one.weights.values(), other.weights.values(), strict=True)
        )
        and one.values.keys() == other.values.keys()
        and all(torch.equal(one.values[name], other.values[name]) for name in one.values)
    )


def read(tensors, notes):
    return from_stored(tensors, notes, source="net.safetensors")


def test_a_network_comes_back_from_its_tensors():
    assert same(read(*stored(network())), network())


def test_a_sign_takes_one_bit_the_first_one_the_least_significant():
    # + - + + - - - - | -  =  1 + 4 + 8 = 13, and a second byte of zeros
    weight = pack_weight(torch.tensor([[1.0, -1, 0, 2, -1, -3, -1, -1, -1]]))
    assert weight.signs.tolist() == [13, 0]
    assert weight.unpacked().tolist() == [[1, -1, 1, 1, -1, -1, -1, -1, -1]]


def test_signs_stand_under_names_of_their_own_and_values_under_theirs():
    tensors, notes = stored(network())
    assert list(tensors) == [
        "signs/conv.weight", "scale/conv.weight", "signs/dense.weight", "first.weight", "norm.running_var",
    ]  # fmt: skip
    assert len(tensors["signs/conv.weight"]) == 14  # 4 * 3 * 3 * 3 = 108 bits
    bits = np.unpackbits(tensors["signs/dense.weight"].numpy(), bitorder="little")[:35]
    assert bits.tolist() == (network().weights["dense.weight"].unpacked().reshape(-1) > 0).tolist()
    assert notes == {
        "conv.weight": {"shape": (4, 3, 3, 3), "scaling": "binet"},
        "dense.weight": {"shape": (5, 7), "scaling": ""},
    }


def test_a_weight_that_is_not_finite_has_no_sign():
    with pytest.raises(ValueError, match="not finite"):
        pack_weight(torch.tensor([[1.0, float("nan")]]))


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda f, t: f["conv.weight"].update(shape=(4, 3, 3)), r"conv.weight .* fit its shape \(4, 3, 3\)"),
        (lambda f, t: f["conv.weight"].update(shape=(1 << 62, 1 << 62)), "do not fit its shape"),
        (lambda f, t: f["conv.weight"].update(shape=(2, 6, 3, 3)), "does not fit its 2 outputs"),
        (lambda f, t: f["conv.weight"].update(scaling=""), "has scaling '', and a scale"),
        (lambda f, t: f["dense.weight"].update(scaling="xnor"), "has scaling 'xnor', and no scale"),
        (lambda f, t: f["dense.weight"].update(scaling="abc"), "unknown scaling, 'abc'"),
        (lambda f, t: f["dense.weight"].update(shape=(6, 8)), "do not fit"),
        (lambda f, t: f["dense.weight"].update(shape=(3, 11)), "go on after their end"),
        (lambda f, t: f.update(other=f["dense.weight"]), "signs of other are missing"),
        (lambda f, t: f.pop("dense.weight"), "does not speak of the tensor signs/dense.weight"),
        (lambda f, t: t.update({"conv.weight": torch.ones(5, 7)}), "holds conv.weight twice"),
        (lambda f, t: t.update({"signs/conv.weight": torch.ones(14)}), "signs of conv.weight are missing"),
    ],
)  # fmt: skip
def test_notes_that_contradict_the_tensors_are_refused(change, says):
    tensors, notes = stored(network())
    tensors["signs/dense.weight"][-1] |= 4  # the last of the 35 bits, and not one of 33
    change(notes, tensors)
    with pytest.raises(RunError, match=rf"^net\.safetensors: .*{says}"):
        read(tensors, notes)


def test_sizes_are_those_of_the_tensors_to_the_byte():
    packed = network()
    halves = PackedNetwork(packed.weights, {name: value.half() for name, value in packed.values.items()})
    for one in (packed, halves):
        tensors, _ = stored(one)
        assert [row.bytes for row in sizes(one)] == [t.numel() * t.element_size() for t in tensors.values()]
    # 108 and 35 binary weights, 6 and 5 floats; the scale follows from its weights
    assert sum(row.float_bytes for row in sizes(packed)) == 4 * (108 + 35 + 6 + 5)
