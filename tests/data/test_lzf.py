"""LZF: examples that can be followed by hand."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.data.lzf import LzfError, lzf_decompress


def literals(data: bytes) -> bytes:
    """LZF without a copy in it."""
    return b"".join(bytes([len(part) - 1]) + part for part in (data[i : i + 32] for i in range(0, len(data), 32)))


def test_bytes_as_they_are():
    assert lzf_decompress(b"\x02abc", 3) == b"abc"


def test_a_short_copy():
    # 0x20: length 1 + 2, upper distance 0; 0x02: distance 3.
    assert lzf_decompress(b"\x02abc\x20\x02", 6) == b"abcabc"


def test_a_long_copy_that_repeats_itself():
    # 0xe0: length 7 + 5 + 2 = 14; distance 1.
    assert lzf_decompress(b"\x00a\xe0\x05\x00", 15) == b"a" * 15
    assert lzf_decompress(b"\x01ab\xe0\x02\x01", 13) == b"ababababababa"


def test_a_far_copy():
    # 0x3f 0xff: length 3, distance 0x1fff + 1 = 8192.
    start = bytes(range(256)) * 32
    assert lzf_decompress(literals(start) + b"\x3f\xff", 8195) == start + bytes((0, 1, 2))


@given(st.binary(max_size=300))
def test_literals_come_back(data):
    assert lzf_decompress(literals(data), len(data)) == data


@pytest.mark.parametrize(
    "data, size",
    [(b"\x20\x00", 3), (b"\x02ab", 3), (b"\x00a\x20", 4), (b"\x00a\xe0", 4), (b"\x02abc", 2), (b"\x02abc", 4)],
)
def test_broken_bytes_are_refused(data, size):
    with pytest.raises(LzfError):
        lzf_decompress(data, size)


@given(st.binary(max_size=100), st.integers(0, 1000))
def test_any_bytes_unfold_to_the_size_or_are_refused(data, size):
    with contextlib.suppress(LzfError):
        assert len(lzf_decompress(data, size)) == size
