import hashlib
import json
import re
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load

from sightline.config.errors import RunError
from sightline.models.blocks.packed_file import (
    LayerSize,
    PackedNetwork,
    decode_packed,
    encode_packed,
    pack_weight,
    size_table,
    sizes,
)


def network():
    random = torch.Generator().manual_seed(0)
    conv, dense = torch.randn(4, 3, 3, 3, generator=random), torch.randn(5, 7, generator=random)
    weights = {
        "conv.weight": pack_weight(conv, "binet", conv.abs().flatten(1).mean(dim=1)),
        "dense.weight": pack_weight(dense),
    }
    values = {"first.weight": torch.randn(2, 3, generator=random), "norm.running_var": torch.rand(5, generator=random)}
    return PackedNetwork({"name": "small", "classes": 5, "blocks": [1, 2]}, weights, values)


def same(one, other):
    return (
        one.network == other.network
        and list(one.weights) == list(other.weights)
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


def head_of(content):
    return json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])


def hashed_anew(content):
    """What somebody who knows the format can make of a changed file."""
    place = re.search(rb'"sightline_packed":"([0-9a-f]{64}) ', content)
    if place is None:
        return content
    blank = content[: place.start(1)] + b"0" * 64 + content[place.end(1) :]
    return blank[: place.start(1)] + hashlib.sha256(blank).hexdigest().encode() + blank[place.end(1) :]


def with_head(content, change, tensors=None):
    """The file with another JSON object in its head, and its hash made to fit."""
    from safetensors.torch import save

    fields = json.loads(head_of(content)["__metadata__"]["sightline_packed"][65:])
    changed = change(fields)
    text = changed if isinstance(changed, str) else json.dumps(fields if changed is None else changed)
    return hashed_anew(save(tensors or load(content), metadata={"sightline_packed": "0" * 64 + " " + text}))


WHOLE = encode_packed(network())


def test_a_network_comes_back_from_its_file():
    assert same(decode_packed(WHOLE), network())


def test_the_same_network_gives_the_same_bytes():
    assert encode_packed(network()) == WHOLE


def test_a_sign_takes_one_bit_the_first_one_the_least_significant():
    # + - + + - - - - | -  =  1 + 4 + 8 = 13, and a second byte of zeros
    weight = pack_weight(torch.tensor([[1.0, -1, 0, 2, -1, -3, -1, -1, -1]]))
    assert weight.signs.tolist() == [13, 0]
    assert weight.unpacked().tolist() == [[1, -1, 1, 1, -1, -1, -1, -1, -1]]


def test_any_reader_of_safetensors_opens_the_file():
    tensors = load(WHOLE)
    assert sorted(tensors) == [
        "scale/conv.weight", "signs/conv.weight", "signs/dense.weight", "value/first.weight", "value/norm.running_var",
    ]  # fmt: skip
    assert len(tensors["signs/conv.weight"]) == 14  # 4 * 3 * 3 * 3 = 108 bits
    bits = np.unpackbits(tensors["signs/dense.weight"].numpy(), bitorder="little")[:35]
    assert bits.tolist() == (network().weights["dense.weight"].unpacked().reshape(-1) > 0).tolist()


def test_half_precision_rounds_all_that_is_not_binary():
    packed = decode_packed(encode_packed(network(), half=True))
    for name, value in network().values.items():
        assert torch.equal(packed.values[name], value.half().float())
    assert torch.equal(packed.weights["conv.weight"].signs, network().weights["conv.weight"].signs)


def test_whole_numbers_keep_their_type():
    packed = PackedNetwork({}, {}, {"steps": torch.tensor([3, 1 << 40])})
    assert decode_packed(encode_packed(packed, half=True)).values["steps"].tolist() == [3, 1 << 40]


@pytest.mark.parametrize(
    "value, half, says",
    [
        (torch.ones(2, dtype=torch.float64), False, r"bias: is torch.float64; .* \.float\(\)"),
        (torch.tensor([1.0, 1e6]), True, r"bias: a value of 1e\+06 is too large for float16"),
    ],
)
def test_values_that_the_file_cannot_hold_are_refused_by_name(value, half, says):
    with pytest.raises(ValueError, match=says):
        encode_packed(PackedNetwork({}, {}, {"bias": value}), half=half)


def test_a_weight_that_is_not_finite_has_no_sign():
    with pytest.raises(ValueError, match="not finite"):
        pack_weight(torch.tensor([[1.0, float("nan")]]))


@pytest.mark.parametrize("cut", [*range(300), *range(300, len(WHOLE), 7), len(WHOLE) - 1])
def test_a_file_that_ends_early_is_refused(cut):
    with pytest.raises(RunError, match=r"is no packed network|does not fit its own SHA-256"):
        decode_packed(WHOLE[:cut])


def test_a_thousand_changed_files_are_refused_or_the_same():
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(1000):
        content = bytearray(WHOLE)
        for place in random.integers(0, len(WHOLE), random.integers(1, 4)):
            content[place] = random.integers(0, 256)
        if random.random() < 0.2:
            content = content[: random.integers(0, len(WHOLE))]
        if random.random() < 0.1:
            content += bytes(random.integers(0, 256, 5, dtype=np.uint8))
        try:
            assert same(decode_packed(bytes(content), source="net.safetensors"), network())
        except RunError as error:
            assert re.match(r"net\.safetensors: .*\. \w.*\.$", str(error), re.DOTALL), str(error)
            refused += 1
    assert refused > 950


def test_a_thousand_changed_files_whose_hash_was_made_to_fit_never_crash():
    random = np.random.default_rng(1)
    head = 8 + struct.unpack("<Q", WHOLE[:8])[0]
    outcomes = set()
    for _ in range(1000):
        content = bytearray(WHOLE)
        for place in random.integers(8, head, random.integers(1, 4)):
            content[place] = random.integers(32, 127)
        try:
            decode_packed(hashed_anew(bytes(content)))
            outcomes.add("read")
        except RunError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}  # names of tensors can be changed to other names


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda f: f.update(version=2), "has format version 2, this sightline reads up to 1"),
        (lambda f: f.update(format="other"), "format"),
        (lambda f: f.update(more=1), "more"),
        (lambda f: f.pop("network"), "network"),
        (lambda f: [], "readable"),
        (lambda f: "[" * 100_000, "readable"),
        (lambda f: "{}", "readable"),
        (lambda f: f["weights"]["conv.weight"].update(shape=[4, 3, 3]), r"conv.weight .* fit its shape \(4, 3, 3\)"),
        (lambda f: f["weights"]["conv.weight"].update(shape=[4, 3, 3, -3]), "weights.conv.weight.shape"),
        (lambda f: f["weights"]["conv.weight"].update(shape=[1 << 62, 1 << 62]), "do not fit its shape"),
        (lambda f: f["weights"]["conv.weight"].update(shape=[2, 6, 3, 3]), "does not fit its 2 outputs"),
        (lambda f: f["weights"]["conv.weight"].update(scaling=""), "has scaling '', and a scale"),
        (lambda f: f["weights"]["dense.weight"].update(scaling="xnor"), "has scaling 'xnor', and no scale"),
        (lambda f: f["weights"]["dense.weight"].update(scaling="abc"), "scaling"),
        (lambda f: f["weights"]["dense.weight"].update(shape=[6, 8]), "do not fit"),
        (lambda f: f["weights"]["dense.weight"].update(shape=[3, 11]), "go on after their end"),
        (lambda f: f["weights"].update(other=f["weights"]["dense.weight"]), "signs of other are missing"),
        (lambda f: f["weights"].pop("dense.weight") and None, "does not speak of: signs/dense.weight"),
    ],
)  # fmt: skip
def test_a_head_that_contradicts_the_tensors_is_refused(change, says):
    tensors = load(WHOLE)
    tensors["signs/dense.weight"][-1] |= 4  # the last of the 35 bits, and not one of 33
    with pytest.raises(RunError, match=says):
        decode_packed(with_head(WHOLE, change, tensors))


def test_a_name_that_stands_for_two_tensors_is_refused():
    packed = network()
    twice = PackedNetwork({}, packed.weights, {"dense.weight": torch.ones(5, 7)})
    with pytest.raises(RunError, match=r"holds dense\.weight twice, as signs and as a value"):
        decode_packed(encode_packed(twice))


@pytest.mark.parametrize("content", [b"", b"\x80\x02}q\x00.", b"PK\x03\x04" + bytes(50), bytes(100), b"\xff" * 100])
def test_other_files_are_told_from_packed_networks(content):
    with pytest.raises(RunError, match=r"x\.bin: is no packed network; its head has no mark of one\. Give a file"):
        decode_packed(content, source="x.bin")


def test_sizes_are_those_of_the_file_to_the_byte():
    packed = network()
    stored = {name: value.numel() * value.element_size() for name, value in load(WHOLE).items()}
    assert [row.bytes for row in sizes(packed)] == [
        stored["signs/conv.weight"], stored["scale/conv.weight"], stored["signs/dense.weight"],
        stored["value/first.weight"], stored["value/norm.running_var"],
    ]  # fmt: skip
    halves = load(encode_packed(packed, half=True)).values()
    in_halves = sum(value.numel() * value.element_size() for value in halves)
    assert sum(row.bytes for row in sizes(packed, half=True)) == in_halves


def test_the_table_gives_bits_bytes_and_ratio_of_every_layer_and_the_whole():
    rows = [LayerSize("conv.weight", "binary", 36_864, 1), LayerSize("dense.weight", "float", 640, 32)]
    conv, dense, total = (" ".join(line.split()) for line in size_table(rows).splitlines()[1:])
    assert conv == "conv.weight binary 36,864 1 4,608 147,456 32.0x"
    assert dense == "dense.weight float 640 32 2,560 2,560 1.0x"
    assert total == "total 37,504 7,168 150,016 20.9x"  # 150016 / 7168
