"""Plain data comes out of a pickle as it went in; anything else is refused, and nothing is ever run."""

import collections
import os
import pickle
import pickletools
import struct
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.files.safe_pickle import PickleRefusedError, read_pickle
from tests.faults.hostile import Payload

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)

KEYS = st.integers(-(1 << 64), 1 << 64)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | KEYS | st.binary(), inner),
    max_leaves=20,
)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@settings(max_examples=100)
@given(value=plain)
def test_plain_values_come_out_as_they_went_in(protocol, value):
    assert read_pickle(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["u1", "<i8", ">i4", "f4", "?", "c16"])
def test_arrays_come_out_as_they_went_in(protocol, dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    value = {"rows": array, "columns": np.asfortranarray(array), "again": array, "one": np.float64(0.5)}
    read = read_pickle(pickle.dumps(value, protocol))
    for key in ("rows", "columns", "again"):
        np.testing.assert_array_equal(read[key], array)
        assert read[key].dtype == array.dtype
    assert read["one"] == 0.5


def test_an_ordered_dictionary_becomes_a_dictionary():
    value = collections.OrderedDict([("b", 1), ("a", 2)])
    assert list(read_pickle(pickle.dumps(value)).items()) == [("b", 1), ("a", 2)]


def test_texts_of_python_2_become_bytes():
    # protocol 2 of Python 2: {'data': '\xff\x00', 'labels': [3, 300]}
    data = b"\x80\x02}q\x00(U\x04dataq\x01U\x02\xff\x00U\x06labels]q\x02(K\x03M\x2c\x01eu."
    assert read_pickle(data) == {b"data": b"\xff\x00", b"labels": [3, 300]}


def test_an_array_of_python_2_is_read():
    # As Python 2 and its NumPy write array([[1, 2, 255]], uint8) by protocol 2: names, types and pixels are texts.
    data = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03"
        b"(K\x01K\x01K\x03\x86cnumpy\ndtype\nq\x04U\x02u1K\x00K\x01\x87Rq\x05"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x03\x01\x02\xfftb."
    )
    assert read_pickle(data).tolist() == [[1, 2, 255]]
    assert pickle.loads(data, encoding="latin1").tolist() == [[1, 2, 255]]


class Named:
    def __init__(self, function, *arguments):
        self.pair = (function, arguments)

    def __reduce__(self):
        return self.pair


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "function", [os.system, eval, getattr, __import__, subprocess.Popen, np.load, open, np.fromfile, bytearray]
)
def test_every_other_name_is_refused_and_not_called(tmp_path, protocol, function):
    witness = tmp_path / "witness"
    for hostile in (Named(function, f"touch {witness}"), Payload(witness)):
        with pytest.raises(PickleRefusedError, match="may run code"):
            read_pickle(pickle.dumps({"data": hostile}, protocol))
    assert not witness.exists()


class Ordinary:
    def __init__(self):
        self.number = 3


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_instances_of_classes_are_refused(protocol):
    with pytest.raises(PickleRefusedError, match=r"Ordinary|_reconstructor"):
        read_pickle(pickle.dumps([Ordinary()], protocol))


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "exhausted"),
        (b"\xffhello", "opcode"),
        (b"\x80\x02c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.", "argument"),
        (b".", "empty stack"),
        (b"\x80\x02}", "exhausted|end"),
        (b"\x80\x02K\x01K\x02e.", "empty stack"),
        (b"\x80\x02K\x01(K\x02e.", "no list"),
        (b"\x80\x02](K\x01u.", "no dictionary"),
        (b"\x80\x02}]K\x01s.", "key"),
        (b"\x80\x02h\x05.", "never kept"),
        (b"\x80\x02K\x01)R.", "no function"),
        (b"\x80\x02K\x01}b.", "no state|has none"),
        (b"\x80\x02cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R(K\x03U\x01|NNNtb.", "not"),
        (b"\x80\x02cnumpy\ndtype\n.", "unfinished"),
        (b"\x80\x02cnumpy\nndarray\n(K\x09tR.", "on its own"),
        (b"P17\n.", "PERSID"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"(cos\nsystem\no.", "may run code"),
        (b"(i__main__\nEvil\n.", "INST"),
        (b"I" + b"9" * 10_000 + b"\n.", "digits|broken"),
    ],
)
def test_broken_programs_are_refused_with_a_reason(data, words):
    with pytest.raises(PickleRefusedError, match=words) as caught:
        read_pickle(data)
    assert 0 <= caught.value.offset <= max(len(data), 1)


def test_an_array_must_have_the_bytes_of_its_shape():
    good = pickle.dumps(np.zeros((4, 6), np.uint8), 2)
    short = good.replace(b"K\x04K\x06\x86", b"K\x04K\x07\x86")
    assert short != good
    with pytest.raises(PickleRefusedError, match=r"shape \(4, 7\)"):
        read_pickle(short)


def test_a_text_cannot_be_unfolded_again_and_again():
    text = b"X" + struct.pack("<I", 1000) + b"a" * 1000
    once = b"h\x00h\x01\x85R0"  # encode(text), dropped
    data = b"\x80\x02c_codecs\nencode\nq\x00" + text + b"q\x01" + once * 10_000 + b"."
    with pytest.raises(PickleRefusedError, match="unfolds"):
        read_pickle(data)


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01"
BYTES = b"cnumpy\ndtype\nU\x02u1\x85R(K\x03U\x01|NNNtb"
SAME_HASH = (1 << 61) - 1
BOMBS = {
    "the same text as many arrays": (
        b"X\x10'\0\0" + b"a" * 10_000 + b"q\x010](" + (ARRAY + b"M\x10'\x85" + BYTES + b"\x89h\x01tb") * 200 + b"e.",
        "unfolds",
    ),
    "a name of a type that is vast when shown": (
        b"cnumpy\ndtype\nN" + b"2\x86" * 60 + b"\x85R(K\x03U\x01|NNNtb.", "is a tuple, not a text"
    ),
    "sides of a million digits": (ARRAY + b"\x8a\xff" + b"\x01" * 255 + b"\x85" + BYTES + b"\x89U\0tb.", "impossible"),
    "keys of one hash": (b"}\x8a\x0b" + (1000 * SAME_HASH).to_bytes(11, "little") + b"Ns.", "no usual number"),
    "a memo of keys of one hash": (b"Np%d\n." % (1000 * SAME_HASH), "impossible place"),
    "the name of a function without end": (b"c" + b"a" * 1001 + b"\nb\n.", "more than 1,000 letters"),
    "a call with countless arguments": (b"cnumpy\ndtype\n(" + b"N" * 100 + b"tR.", "100 arguments"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_what_takes_more_time_or_memory_than_its_size_is_refused(name):
    data, words = BOMBS[name]
    with pytest.raises(PickleRefusedError, match=words):
        read_pickle(data)


def test_nested_tuples_as_keys_cannot_exhaust_the_stack():
    deep = b"\x80\x02})" + b"\x85" * 200_000
    with pytest.raises(PickleRefusedError, match="key"):
        read_pickle(deep + b"K\x01s.")


VALID = [pickle.dumps({b"data": np.arange(12, dtype=np.uint8).reshape(2, 6), b"labels": [1, 2]}, p) for p in PROTOCOLS]


@settings(max_examples=600)
@given(st.sampled_from(VALID), st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), min_size=1, max_size=4))
def test_damage_gives_a_plain_value_or_a_refusal(data, changes):
    damaged = bytearray(data)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    try:
        value = read_pickle(bytes(damaged))
    except PickleRefusedError:
        return
    assert isinstance(value, dict | list | tuple | str | bytes | bytearray | int | float | np.ndarray | None)


OPCODES = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]


@settings(max_examples=600)
@given(st.lists(st.sampled_from(OPCODES) | st.binary(min_size=1, max_size=3), max_size=30))
def test_any_sequence_of_opcodes_gives_a_plain_value_or_a_refusal(codes):
    try:
        read_pickle(b"\x80\x02}" + b"".join(codes) + b".")
    except PickleRefusedError:
        return
