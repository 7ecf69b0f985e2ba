import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from sightline.ops import bit_packing
from sightline.ops.bit_packing import (
    binary_conv,
    binary_dense,
    equal_bits,
    equal_bits_tensor,
    pack_conv_signs,
    pack_conv_words,
    pack_dense_words,
    pack_signs,
    pack_words,
    popcount,
    popcount_by_halves,
    popcount_tensor,
    unpack_conv_words,
    unpack_dense_words,
    unpack_words,
)


def signs(*shape, seed=0):
    return torch.where(torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5, -1.0, 1.0)


def float_conv(x, weight, *, stride, padding, dilation, groups=1):
    conv = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.dim()]
    padded = F.pad(x, [edge for pad in reversed(padding) for edge in (pad, pad)], value=-1.0)
    num_bits = weight[0].numel()
    return (conv(padded, weight, stride=stride, dilation=dilation, groups=groups) + num_bits) / 2


@pytest.mark.parametrize("word_bits, kind", [(32, np.uint32), (64, np.uint64)])
def test_the_first_value_is_the_least_significant_bit_and_zero_is_positive(word_bits, kind):
    values = np.array([1.0, -1.0, 0.0, -0.0, -3.0, 2.0])  # bits 0, 2, 3 and 5: 1 + 4 + 8 + 32
    words = pack_words(values >= 0, word_bits)
    assert words.tolist() == [45]
    assert words.dtype == kind


@given(
    st.integers(0, 200).flatmap(lambda n: st.lists(st.booleans(), min_size=n, max_size=n)), st.sampled_from([32, 64])
)
def test_unpacking_gives_back_what_was_packed(bits, word_bits):
    words = pack_words(np.array(bits, bool), word_bits)
    assert len(words) == -(-len(bits) // word_bits)
    assert unpack_words(words, len(bits)).tolist() == bits
    assert sum(int(word).bit_count() for word in words) == sum(bits)  # and 0 where nothing was


def test_more_bits_than_there_are_is_refused():
    with pytest.raises(ValueError, match="33 bits asked for, but 1 words of 32 hold fewer"):
        unpack_words(np.zeros(1, np.uint32), 33)


@pytest.mark.parametrize("word_bits", [32, 64])
def test_a_stored_convolution_is_cut_in_memory_order(word_bits):
    weight = signs(3, 64, 3, 2).numpy()
    words = pack_conv_words(weight, word_bits)
    assert words.shape == (3, 64 // word_bits, 3, 2)
    flat = weight.reshape(-1)
    for k, word in enumerate(words.reshape(-1)):
        assert [int(word) >> j & 1 for j in range(word_bits)] == [
            int(value > 0) for value in flat[k * word_bits : (k + 1) * word_bits]
        ]
    np.testing.assert_array_equal(unpack_conv_words(words), weight)


@pytest.mark.parametrize("word_bits", [32, 64])
def test_a_stored_dense_layer_is_transposed_first(word_bits):
    weight = signs(5, 128).numpy()
    words = pack_dense_words(weight, word_bits)
    for y in range(128 // word_bits):
        for o in range(5):
            bits = [int(words[y * 5 + o]) >> j & 1 for j in range(word_bits)]
            assert bits == [int(value > 0) for value in weight[o, y * word_bits : (y + 1) * word_bits]]
    np.testing.assert_array_equal(unpack_dense_words(words, 5), weight)


@pytest.mark.parametrize("pack, shape", [(pack_conv_words, (4, 48, 3, 3)), (pack_dense_words, (4, 48))])
def test_channels_that_fill_no_whole_words_cannot_be_stored_in_bmxnets_layout(pack, shape):
    with pytest.raises(ValueError, match="48 input channels do not fill whole words of 32 bits"):
        pack(np.ones(shape, np.float32), 32)


def test_words_that_belong_to_no_number_of_outputs_are_refused():
    with pytest.raises(ValueError, match="10 words cannot belong to 4 outputs"):
        unpack_dense_words(np.zeros(10, np.uint32), 4)


@pytest.mark.parametrize("kind", [np.uint32, np.uint64])
def test_all_ways_of_counting_bits_agree_with_python(kind):
    largest = int(np.iinfo(kind).max)
    values = [0, 1, largest, largest >> 1, (largest >> 1) + 1, largest // 3, 0x80000001]
    values += [int(v) for v in np.random.default_rng(0).integers(0, largest, 200, dtype=kind)]
    words = np.array(values, kind)
    expected = [value.bit_count() for value in values]
    signed = torch.from_numpy(words.view(np.int32 if kind is np.uint32 else np.int64))
    assert popcount(words).tolist() == expected
    assert popcount_by_halves(words).tolist() == expected
    assert popcount_tensor(signed).tolist() == expected


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
def test_equal_bits_and_the_dot_product_tell_the_same(length):
    # dot = 2 * equal - n
    inputs, weights = signs(7, length), signs(4, length, seed=1)
    equal = binary_dense(inputs, pack_signs(weights))
    torch.testing.assert_close((2 * equal - length).float(), inputs @ weights.T, rtol=0, atol=0)


def test_a_vector_agrees_with_itself_wholly_and_with_its_opposite_nowhere():
    x = signs(1, 100)
    assert binary_dense(x, pack_signs(torch.cat([x, -x]))).tolist() == [[100, 0]]


def test_blocks_change_nothing(monkeypatch):
    weights, inputs = (
        np.random.default_rng(i).integers(0, 2**63, s, dtype=np.uint64) for i, s in enumerate([(5, 3), (3, 301)])
    )
    whole = equal_bits(weights, inputs, 192)
    expected = [
        [
            sum((~w & (2**64 - 1) ^ i).bit_count() for w, i in zip(row, column, strict=True))
            for column in inputs.T.tolist()
        ]
        for row in weights.tolist()
    ]
    monkeypatch.setattr(bit_packing, "CACHE_BYTES", 1)
    assert whole.tolist() == equal_bits(weights, inputs, 192).tolist() == expected


def test_counts_over_65535_do_not_wrap_around():
    x = torch.ones(1, 70_000)
    assert binary_dense(x, pack_signs(-x)).tolist() == [[0]]
    assert binary_dense(x, pack_signs(x)).tolist() == [[70_000]]


CONVS = {
    "plain": {"shape": (2, 64, 7, 6), "weight": (5, 64, 3, 3)},
    "no whole word": {"shape": (2, 3, 7, 6), "weight": (5, 3, 3, 3)},
    "over a word": {"shape": (1, 65, 5, 5), "weight": (2, 65, 3, 3), "padding": (1, 1)},
    "padding and stride": {"shape": (2, 20, 7, 6), "weight": (4, 20, 3, 3), "stride": (2, 2), "padding": (1, 1)},
    "unequal sides": {
        "shape": (2, 20, 9, 6),
        "weight": (4, 20, 3, 1),
        "stride": (2, 1),
        "padding": (1, 0),
        "dilation": (2, 1),
    },
    "dilation": {"shape": (1, 10, 9, 9), "weight": (3, 10, 3, 3), "padding": (2, 2), "dilation": (2, 2)},
    "groups": {"shape": (2, 12, 5, 5), "weight": (6, 4, 3, 3), "padding": (1, 1), "groups": 3},
    "depthwise": {"shape": (2, 6, 5, 5), "weight": (6, 1, 3, 3), "padding": (1, 1), "groups": 6},
    "pointwise": {"shape": (2, 70, 5, 5), "weight": (9, 70, 1, 1)},
    "even kernel": {"shape": (1, 8, 6, 6), "weight": (2, 8, 2, 4), "padding": (1, 2)},
    "one axis": {"shape": (2, 20, 11), "weight": (4, 20, 3), "stride": (2,), "padding": (1,), "dilation": (1,)},
    "three axes": {
        "shape": (1, 20, 4, 5, 6),
        "weight": (4, 20, 3, 2, 3),
        "stride": (1, 2, 1),
        "padding": (1, 0, 1),
        "dilation": (1, 1, 1),
    },
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("case", CONVS.values(), ids=CONVS)
def test_a_convolution_of_bits_equals_the_convolution_of_signs_exactly(case, layout):
    options = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)} | case
    x, weight = signs(*options.pop("shape")), signs(*options.pop("weight"), seed=1)
    if x.dim() == 4:
        x = x.to(memory_format=layout)
    ours = binary_conv(x, pack_conv_signs(weight), **options)
    torch.testing.assert_close(ours.float(), float_conv(x, weight, **options), rtol=0, atol=0)


def test_no_samples_give_no_outputs():
    assert binary_dense(signs(0, 70), pack_signs(signs(3, 70))).shape == (0, 3)
    words = pack_conv_signs(signs(4, 70, 3, 3))
    out = binary_conv(signs(0, 70, 5, 5), words, stride=(1, 1), padding=(1, 1), dilation=(1, 1))
    assert out.shape == (0, 4, 5, 5)


def test_only_the_signs_of_the_input_count():
    x = torch.tensor([[0.0, -0.0, -1e-30, 5.0]])
    assert binary_dense(x, pack_signs(torch.tensor([[1.0, 1.0, -1.0, 1.0]]))).tolist() == [[4]]


@pytest.mark.parametrize("type_", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_of_input_pack_alike(type_):
    x = signs(2, 30)
    assert pack_signs(x.to(type_)).tolist() == pack_signs(x).tolist()


def test_words_that_do_not_fit_the_channels_are_refused():
    with pytest.raises(ValueError, match="65 channels do not fit weights of 1 words of 64 bits"):
        binary_dense(signs(1, 65), pack_signs(signs(2, 64)))
    with pytest.raises(ValueError, match="5 channels and 4 outputs cannot be cut into 2 groups"):
        binary_conv(
            signs(1, 5, 3, 3),
            pack_conv_signs(signs(4, 2, 1, 1)),
            stride=(1, 1),
            padding=(0, 0),
            dilation=(1, 1),
            groups=2,
        )
    with pytest.raises(ValueError, match="reaches over 3 places, the padded input has 2"):
        binary_conv(
            signs(1, 5, 2, 2), pack_conv_signs(signs(4, 5, 3, 3)), stride=(1, 1), padding=(0, 0), dilation=(1, 1)
        )


@pytest.mark.gpu
@pytest.mark.parametrize("case", CONVS.values(), ids=CONVS)
def test_a_gpu_counts_the_same(case):
    options = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)} | case
    x, weight = signs(*options.pop("shape")), signs(*options.pop("weight"), seed=1)
    on_cpu = binary_conv(x, pack_conv_signs(weight), **options)
    on_gpu = binary_conv(x.cuda(), pack_conv_signs(weight.cuda()), **options)
    assert torch.equal(on_gpu.cpu(), on_cpu)


def test_the_form_for_other_devices_counts_the_same(monkeypatch):
    """What a GPU runs, on the CPU."""
    weights, inputs = pack_signs(signs(5, 130)), pack_signs(signs(40, 130, seed=1)).T
    expected = equal_bits_tensor(weights, inputs, 130)
    monkeypatch.setattr(bit_packing, "DEVICE_BYTES", 3 * 40 * 8 * 2)
    assert torch.equal(bit_packing._equal_bits_anywhere(weights, inputs, 130), expected)
    assert torch.equal(bit_packing._pack_signs_anywhere(signs(5, 130)), weights)
