"""Signs as bits: packed words, and binary layers that count equal bits instead of multiplying.

A value is one bit: 1 where it is not negative, which stands for +1, else 0, which stands for -1. Bits fill words of 32
or 64, the least significant first. Two vectors of n signs have the dot product ``2 * equal - n``, where ``equal`` is
how many of their bits agree, ``popcount(xnor(a, b))``. Bits that only fill up the last word are 0 on both sides; they
are left out by counting what differs, ``n - popcount(xor(a, b))``.

Two layouts of words are told apart:

- BMXNet's files: the values of a weight as they lie in memory, cut into words (``pack_conv_words``), and for dense
  layers those of the transposed weight (``pack_dense_words``). The number of input channels must fill whole words.
- For computing: the channels of one place in words of 64 (``pack_signs``); any number of channels.

Shapes: B samples, C input channels, O outputs, G groups, L words of a vector, M vectors, S the spatial sizes.

Reference:
    Rastegari et al., "XNOR-Net", ECCV 2016, section 3.2; Yang et al., "BMXNet", ACM Multimedia 2017, section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Words: TypeAlias = NDArray[np.unsignedinteger[Any]]
WordBits = Literal[32, 64]

COMPUTE_BITS: Literal[64] = 64
"""Word size of everything that computes."""

CACHE_BYTES = 1 << 19
"""Words of inputs that are looked at together on a CPU; twice that is about the size of a second-level cache."""

DEVICE_BYTES = 1 << 28
"""Words that are looked at together on a GPU."""


def pack_words(bits: NDArray[np.bool_], word_bits: WordBits = 32) -> Words:
    """Pack the last axis into words; the bits that fill up the last word are 0.

    Args:
        bits: (..., n).
        word_bits: 32 or 64.

    Returns:
        (..., ceil(n / word_bits)), uint32 or uint64.
    """
    num_words = -(-bits.shape[-1] // word_bits)
    packed = np.packbits(bits, axis=-1, bitorder="little")  # (..., ceil(n / 8))
    missing = num_words * word_bits // 8 - packed.shape[-1]
    if missing:
        packed = np.concatenate([packed, np.zeros((*packed.shape[:-1], missing), np.uint8)], axis=-1)
    words = np.ascontiguousarray(packed).view(f"<u{word_bits // 8}")
    return words.reshape(*bits.shape[:-1], num_words).astype(_word_type(word_bits), copy=False)


def unpack_words(words: Words, count: int) -> NDArray[np.bool_]:
    """The first ``count`` bits of the words along the last axis: (..., L) -> (..., count).

    Raises:
        ValueError: If there are fewer bits.
    """
    width = 8 * words.dtype.itemsize
    if count > width * words.shape[-1]:
        raise ValueError(f"{count} bits asked for, but {words.shape[-1]} words of {width} hold fewer.")
    little = np.ascontiguousarray(words.astype(words.dtype.newbyteorder("<"), copy=False))
    return np.unpackbits(little.view(np.uint8), axis=-1, count=count, bitorder="little").view(np.bool_)


def pack_conv_words(weight: NDArray[np.floating[Any]], word_bits: WordBits = 32) -> Words:
    """A convolution's weight as BMXNet stores it: flat row-major order over (out, in, kernel) cut into words.

    Args:
        weight: (O, C, *kernel).
        word_bits: 32 or 64.

    Returns:
        (O, C / word_bits, *kernel): a label on the flat order of the words. A word's bits are neighbours in memory,
        not the channels of one place.

    Raises:
        ValueError: If C is no multiple of the word size.
    """
    outputs, channels, *kernel = weight.shape
    _check_whole_words(channels, word_bits)
    return pack_words(weight.reshape(-1) >= 0, word_bits).reshape(outputs, channels // word_bits, *kernel)


def unpack_conv_words(words: Words) -> NDArray[np.float32]:
    """The signs, as +1 and -1, of words from ``pack_conv_words``: (O, L, *kernel) -> (O, C, *kernel)."""
    outputs, num_words, *kernel = words.shape
    channels = num_words * 8 * words.dtype.itemsize
    count = outputs * channels * int(np.prod(kernel, dtype=np.int64))
    return _as_signs(unpack_words(words.reshape(-1), count)).reshape(outputs, channels, *kernel)


def pack_dense_words(weight: NDArray[np.floating[Any]], word_bits: WordBits = 32) -> Words:
    """A dense layer's weight as BMXNet stores it, transposed first: word (y, o) has inputs y*word_bits.. of output o.

    Args:
        weight: (O, C).
        word_bits: 32 or 64.

    Returns:
        (C / word_bits * O,): the words in their flat order. BMXNet's files label it (O, C / word_bits).

    Raises:
        ValueError: If C is no multiple of the word size.
    """
    _check_whole_words(weight.shape[1], word_bits)
    return np.ascontiguousarray(pack_words(weight >= 0, word_bits).T).reshape(-1)


def unpack_dense_words(words: Words, outputs: int) -> NDArray[np.float32]:
    """The signs, as +1 and -1, of words from ``pack_dense_words``: any shape -> (O, C).

    Raises:
        ValueError: If the words are no whole number per output.
    """
    if outputs < 1 or words.size % outputs:
        raise ValueError(f"{words.size} words cannot belong to {outputs} outputs.")
    by_output = np.ascontiguousarray(words.reshape(-1, outputs).T)  # (O, L)
    return _as_signs(unpack_words(by_output, by_output.shape[1] * 8 * words.dtype.itemsize))


def popcount(words: Words, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Number of 1 bits of every word; same shape. ``out`` is room for them, which may be used."""
    if hasattr(np, "bitwise_count"):  # NumPy 2 and newer
        return np.bitwise_count(words, out=out)
    return popcount_by_halves(words)


def popcount_by_halves(words: Words) -> NDArray[np.uint8]:
    """As ``popcount``, by adding neighbouring halves: what stands in for it before NumPy 2."""
    one, two, four, byte = (words.dtype.type(mask & ((1 << 8 * words.dtype.itemsize) - 1)) for mask in _MASKS)
    pairs = words - ((words >> one.dtype.type(1)) & one)
    nibbles = (pairs & two) + ((pairs >> two.dtype.type(2)) & two)
    sums = (nibbles + (nibbles >> four.dtype.type(4))) & four
    counts: NDArray[np.uint8] = ((sums * byte) >> byte.dtype.type(8 * words.dtype.itemsize - 8)).astype(np.uint8)
    return counts


def popcount_tensor(words: Tensor) -> Tensor:
    """Number of 1 bits of every word on any device; int32 or int64 in, the same shape and type out."""
    width = 8 * words.element_size()
    one, two, four, byte = (mask & ((1 << width) - 1) for mask in _MASKS)
    pairs = words - ((words >> 1) & one)
    nibbles = (pairs & two) + ((pairs >> 2) & two)
    sums = (nibbles + (nibbles >> 4)) & four
    return (sums * byte) >> (width - 8)


def equal_bits(weight_words: Words, input_words: Words, num_bits: int) -> NDArray[np.int32]:
    """How many of ``num_bits`` bits agree between every weight and every input: popcount(xnor).

    Args:
        weight_words: (O, L), unsigned.
        input_words: (L, M), of the same type: the words of an input stand below each other.
        num_bits: Bits of a vector without those that fill up its last word, which are 0 on both sides.

    Returns:
        (O, M).
    """
    (outputs, num_words), num_inputs = weight_words.shape, input_words.shape[1]
    if num_inputs < outputs:  # the loop below goes over the fewer of both
        return equal_bits(np.ascontiguousarray(input_words.T), weight_words.T, num_bits).T
    equal = np.empty((outputs, num_inputs), np.int32)
    block = max(64, CACHE_BYTES // max(1, num_words * weight_words.dtype.itemsize))
    sum_type = np.uint16 if num_bits < 1 << 16 else np.uint32
    for start in range(0, num_inputs, block):
        inputs = np.ascontiguousarray(input_words[:, start : start + block])
        differing, room = np.empty_like(inputs), np.empty(inputs.shape, np.uint8)
        for output, words in enumerate(weight_words):
            np.bitwise_xor(inputs, words[:, None], out=differing)
            equal[output, start : start + block] = np.add.reduce(popcount(differing, room), axis=0, dtype=sum_type)
    return np.subtract(num_bits, equal, out=equal)


def equal_bits_tensor(weight_words: Tensor, input_words: Tensor, num_bits: int) -> Tensor:
    """As ``equal_bits`` for tensors of int64 on any device: (O, L), (L, M) -> (O, M) int32.

    On a CPU the words go through NumPy, whose popcount is one instruction of the processor.
    """
    if weight_words.device.type == "cpu":
        equal = equal_bits(_as_words(weight_words), _as_words(input_words), num_bits)
        return torch.from_numpy(equal)
    return _equal_bits_anywhere(weight_words, input_words, num_bits)


def _equal_bits_anywhere(weight_words: Tensor, input_words: Tensor, num_bits: int) -> Tensor:
    (outputs, num_words), num_inputs = weight_words.shape, input_words.shape[1]
    equal = torch.empty(outputs, num_inputs, dtype=torch.int32, device=weight_words.device)
    block = max(1, DEVICE_BYTES // max(1, 8 * num_words * num_inputs))
    for start in range(0, outputs, block):
        differing = weight_words[start : start + block, :, None] ^ input_words  # (block, L, M)
        equal[start : start + block] = num_bits - popcount_tensor(differing).sum(dim=1)
    return equal


def sign_bits(x: Tensor) -> Tensor:
    """False where ``x < 0``, else True; both zeros are True, and so is what is no number."""
    return torch.logical_not(x < 0)


def pack_signs(x: Tensor) -> Tensor:
    """Signs of the last axis in words of 64 for computing: (..., n) of any type -> (..., ceil(n / 64)) int64."""
    if x.device.type == "cpu":
        return torch.from_numpy(pack_words(sign_bits(x).contiguous().numpy(), COMPUTE_BITS).view(np.int64))
    return _pack_signs_anywhere(x)


def _pack_signs_anywhere(x: Tensor) -> Tensor:
    bits = sign_bits(x)
    num_words = -(-bits.shape[-1] // COMPUTE_BITS)
    filled = F.pad(bits, (0, num_words * COMPUTE_BITS - bits.shape[-1]))
    each = filled.reshape(*bits.shape[:-1], num_words, COMPUTE_BITS).to(torch.int64)
    return (each << torch.arange(COMPUTE_BITS, device=x.device)).sum(dim=-1)


def pack_conv_signs(weight: Tensor) -> Tensor:
    """Signs of a convolution's weight for ``binary_conv``: (O, C, *kernel) -> (O, ceil(C / 64), *kernel) int64."""
    return pack_signs(weight.movedim(1, -1)).movedim(-1, 1).contiguous()


def binary_dense(x: Tensor, weight_words: Tensor) -> Tensor:
    """Equal bits of every input with every output's weight.

    Args:
        x: (B, C); only its signs count.
        weight_words: (O, ceil(C / 64)), from ``pack_signs``.

    Returns:
        (B, O) int32 in [0, C]; with +1 and -1 for ``x`` and the weight, ``(x @ weight.T + C) / 2``.

    Raises:
        ValueError: If the words are not as many as C needs.
    """
    _check_words(x.shape[1], weight_words.shape[1])
    return equal_bits_tensor(weight_words, pack_signs(x).T, x.shape[1]).T


def binary_conv(
    x: Tensor,
    weight_words: Tensor,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
) -> Tensor:
    """Equal bits of every place with every filter. Padding stands for -1, and counts.

    Args:
        x: (B, C, *S), one, two or more spatial axes; only its signs count.
        weight_words: (O, ceil(C / G / 64), *kernel), from ``pack_conv_signs``.
        stride: One per spatial axis.
        padding: One per spatial axis, at both ends.
        dilation: One per spatial axis.
        groups: G.

    Returns:
        (B, O, *S') int32 in [0, n], n = C / G * prod(kernel); with +1 and -1 for ``x`` and the weight and a padding of
        -1, ``(conv(x, weight) + n) / 2``.

    Raises:
        ValueError: If the groups or the words do not fit C, or the kernel does not fit the padded input.
    """
    samples, channels, *spatial = x.shape
    outputs, num_words, *kernel = weight_words.shape
    if channels % groups or outputs % groups:
        raise ValueError(f"{channels} channels and {outputs} outputs cannot be cut into {groups} groups.")
    _check_words(channels // groups, num_words)
    by_place = x.movedim(1, -1).reshape(samples, *spatial, groups, channels // groups)
    words = pack_signs(by_place)  # (B, *S, G, L)
    words = words.movedim((-2, -1), (0, 1))  # (G, L, B, *S)
    words = F.pad(words, [edge for pad in reversed(padding) for edge in (pad, pad)])  # 0 bits are -1
    for axis, size, step, gap in zip(range(3, 3 + len(kernel)), kernel, stride, dilation, strict=True):
        reach = (size - 1) * gap + 1
        if words.shape[axis] < reach:
            raise ValueError(f"the kernel reaches over {reach} places, the padded input has {words.shape[axis]}.")
        words = words.unfold(axis, reach, step)[..., ::gap]  # (G, L, B, *S', *kernel)
    sizes = words.shape[3 : 3 + len(kernel)]
    columns = words.movedim(tuple(range(-len(kernel), 0)), tuple(range(2, 2 + len(kernel))))
    columns = columns.reshape(groups, num_words * _product(kernel), -1)  # (G, L * kernel, M)
    rows = weight_words.reshape(groups, outputs // groups, -1)  # (G, O / G, L * kernel)
    num_bits = channels // groups * _product(kernel)
    equal = [equal_bits_tensor(row, column, num_bits) for row, column in zip(rows, columns, strict=True)]
    return torch.cat(equal).reshape(outputs, samples, *sizes).transpose(0, 1)


_MASKS = (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F, 0x0101010101010101)


def _product(sizes: Sequence[int]) -> int:
    return int(np.prod(sizes, dtype=np.int64))


def _word_type(word_bits: WordBits) -> type[np.unsignedinteger[Any]]:
    return np.uint32 if word_bits == 32 else np.uint64


def _as_words(words: Tensor) -> Words:
    return words.numpy().view(np.uint64)


def _as_signs(bits: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.where(bits, np.float32(1), np.float32(-1))


def _check_whole_words(channels: int, word_bits: WordBits) -> None:
    if channels % word_bits:
        raise ValueError(f"{channels} input channels do not fill whole words of {word_bits} bits.")


def _check_words(channels: int, num_words: int) -> None:
    if num_words != -(-channels // COMPUTE_BITS):
        raise ValueError(f"{channels} channels do not fit weights of {num_words} words of {COMPUTE_BITS} bits.")
