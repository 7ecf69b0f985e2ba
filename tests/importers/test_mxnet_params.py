import contextlib
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from sightline.config.errors import RunError
from sightline.importers.mxnet_params import TYPES, decode_params, encode_params, read_params, split_prefix

V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA


def parameter_file(*arrays, names=()):
    """A file put together by hand."""
    content = struct.pack("<QQQ", 0x112, 0, len(arrays)) + b"".join(arrays) + struct.pack("<Q", len(names))
    return content + b"".join(struct.pack("<Q", len(name)) + name for name in names)


def array(shape=(2, 3), kind=0, values=b"", *, magic=V2, storage=0, axes=None):
    head = struct.pack("<I", magic) + (struct.pack("<i", storage) if magic != V1 else b"")
    head += struct.pack("<i", len(shape) if axes is None else axes) + struct.pack(f"<{len(shape)}q", *shape)
    return head + struct.pack("<iii", 1, 0, kind) + values


SIX = struct.pack("<6f", 0, 1, 2, 3, 4, 5)
WHOLE = parameter_file(
    array(values=SIX), array((2,), 6, struct.pack("<2q", 7, -7)), names=[b"arg:fc_weight", b"aux:bn_running_mean"]
)


@pytest.mark.parametrize("magic", [V1, V2, V3])
def test_a_file_put_together_by_hand_is_read(magic):
    (name, values), *_ = decode_params(parameter_file(array(values=SIX, magic=magic), names=[b"w"])).items()
    assert name == "w"
    assert values.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert values.dtype == np.float32
    assert values.flags.writeable


def test_arrays_from_before_the_versions_are_read():
    # the number of axes stands in the magic number's place, and sizes have 32 bits
    old = struct.pack("<III", 2, 2, 3) + struct.pack("<iii", 1, 0, 0) + SIX
    assert decode_params(parameter_file(old, names=[b"w"]))["w"].shape == (2, 3)


def test_a_scalar_has_no_axes_in_the_third_version():
    values = decode_params(parameter_file(array((), values=struct.pack("<f", 2.5), magic=V3)))["0"]
    assert values.shape == () and values == 2.5


def test_arrays_without_names_are_counted():
    assert list(decode_params(parameter_file(array(values=SIX), array(values=SIX)))) == ["0", "1"]
    assert decode_params(parameter_file()) == {}


def test_a_written_file_is_the_one_put_together_by_hand():
    arrays = {
        "arg:fc_weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "aux:bn_running_mean": np.array([7, -7], dtype=np.int64),
    }
    assert encode_params(arrays) == WHOLE


@given(
    st.dictionaries(
        st.text(max_size=20).filter(lambda t: t.isprintable()),
        st.sampled_from(TYPES).flatmap(
            lambda kind: arrays_of.arrays(kind, arrays_of.array_shapes(max_dims=4, max_side=4))
        ),
        max_size=4,
    )
)
def test_what_is_written_is_read_back_to_the_bit(arrays):
    back = decode_params(encode_params(arrays))
    assert list(back) == list(arrays)
    for name, values in arrays.items():
        assert back[name].dtype == values.dtype and back[name].shape == values.shape
        assert back[name].tobytes() == values.tobytes()


def test_the_order_of_bytes_and_of_axes_in_memory_does_not_matter():
    values = np.arange(6, dtype=">f4").reshape(3, 2).T
    np.testing.assert_array_equal(decode_params(encode_params({"w": values}))["w"], values)


@pytest.mark.parametrize("values", [np.zeros(2, np.uint32), np.zeros(2, bool), np.zeros(()), np.zeros((2, 0))])
def test_what_the_format_cannot_hold_is_not_written(values):
    with pytest.raises(ValueError, match="w: MXNet's format"):
        encode_params({"w": values})


@pytest.mark.parametrize("cut", range(len(WHOLE)))
def test_a_file_that_ends_early_is_refused_at_every_byte(cut):
    with pytest.raises(RunError, match=r"ends inside|is no MXNet list|cannot hold|names"):
        decode_params(WHOLE[:cut])


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_changed_bytes_give_arrays_or_an_error_that_says_so(changes):
    content = bytearray(WHOLE)
    for place, value in changes:
        content[place] = value
    try:
        decode_params(bytes(content))
    except RunError as error:
        assert str(error).startswith("parameters: ")


@given(st.binary(max_size=200))
def test_any_bytes_after_the_head_give_arrays_or_an_error(content):
    with contextlib.suppress(RunError):
        decode_params(struct.pack("<QQ", 0x112, 0) + content)


HUGE = 1 << 62
HOSTILE = {
    "arrays": struct.pack("<QQQ", 0x112, 0, 1 << 63) + bytes(100),
    "names": parameter_file(array(values=SIX))[:-8] + struct.pack("<Q", 1 << 63),
    "a side": parameter_file(array((HUGE,), values=SIX)),
    "sides whose product wraps around": parameter_file(array((1 << 32, 1 << 32), values=SIX)),
    "many sides": parameter_file(array((1 << 62,) * 32, values=SIX)),
    "axes": parameter_file(array((), axes=1 << 30, values=SIX)),
    "a name": parameter_file(array(values=SIX), names=[b"w"])[:-9] + struct.pack("<Q", HUGE) + b"w",
    "old axes": struct.pack("<QQQI", 0x112, 0, 1, 0x7FFFFFFF) + bytes(100),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_sizes_beyond_the_file_are_refused_before_memory_is_asked_for(content):
    tracemalloc.start()
    try:
        with pytest.raises(RunError, match=r"cannot hold|ends inside|number of axes|names have at most"):
            decode_params(content)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "content, says",
    [
        (b"\x80\x02}q\x00." + bytes(30), "is no MXNet list of arrays"),
        (parameter_file(array(storage=1, values=SIX)), "array 0 is stored as row-sparse; only dense arrays are read"),
        (parameter_file(array(storage=2, values=SIX)), "compressed sparse row"),
        (parameter_file(array(storage=9, values=SIX)), "unknown storage 9"),
        (parameter_file(array(kind=7, values=SIX)), "holds bool, which is not read; float32"),
        (parameter_file(array(kind=12, values=SIX)), "holds bfloat16"),
        (parameter_file(array(kind=-1, values=SIX)), "unknown type -1"),
        (parameter_file(array((), values=SIX)), "no shape and no values"),
        (parameter_file(array((2, 0), values=SIX)), r"impossible shape \(2, 0\)"),
        (parameter_file(array((-2, 3), values=SIX)), r"impossible shape \(-2, 3\)"),
        (parameter_file(array(values=SIX), names=[b"a", b"b"]), "has 1 arrays, but 2 names"),
        (parameter_file(array(values=SIX), array(values=SIX), names=[b"a\x1b", b"a\x1b"]), r"2 arrays called a\\x1b"),
        (parameter_file(array(values=SIX), names=[b"\xff"]), "name 0 is no UTF-8 text"),
        (WHOLE + b"more", "goes on for 4 bytes after its last name"),
    ],
)
def test_a_file_that_is_not_read_says_why(content, says):
    with pytest.raises(RunError, match=says):
        decode_params(content)


def test_a_file_on_disk_is_named_with_its_path(tmp_path):
    path = tmp_path / "net.params"
    path.write_bytes(WHOLE)
    assert list(read_params(path)) == ["arg:fc_weight", "aux:bn_running_mean"]
    path.write_bytes(WHOLE[:-1])
    with pytest.raises(RunError, match=r"net\.params: ends inside name 1, .* fetch or export it again"):
        read_params(path)
    with pytest.raises(RunError, match=r"nett\.params: the file does not exist. Did you mean 'net.params'"):
        read_params(tmp_path / "nett.params")
    with pytest.raises(RunError, match="is a folder, not a file"):
        read_params(tmp_path)


def test_prefixes_are_told_from_names():
    assert split_prefix("arg:conv0_weight") == ("arg", "conv0_weight")
    assert split_prefix("aux:bn_running_var") == ("aux", "bn_running_var")
    assert split_prefix("features.0.weight") == ("", "features.0.weight")
    assert split_prefix("my:weight") == ("", "my:weight")
