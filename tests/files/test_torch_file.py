"""Files of torch.save are read to the same values as PyTorch's own reader gives, and nothing in them is ever run."""

import argparse
import collections
import io
import os
import pickle
import pickletools
import random
import struct
import warnings
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sightline.config.errors import RunError
from sightline.files.tolerant_pickle import Foreign
from sightline.files.torch_file import is_torch_file, read_torch_file
from sightline.files.torch_weights import WeightsError, find_weights
from tests.faults.hostile import Payload

DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int16, torch.int32,
    torch.int64, torch.bool, torch.complex64,
)  # fmt: skip

formats = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "older"])


def save(value, path, *, is_zip=True, protocol=2):
    torch.save(value, path, _use_new_zipfile_serialization=is_zip, pickle_protocol=protocol)
    return path


def assert_same(ours, theirs):
    """Equal in kind, bits, shape and stride."""
    if isinstance(theirs, torch.Tensor):
        assert (ours.dtype, ours.shape, ours.stride()) == (theirs.dtype, theirs.shape, theirs.stride())
        assert torch.equal(ours.contiguous().view(-1).view(torch.uint8), theirs.contiguous().view(-1).view(torch.uint8))
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            assert_same(ours[key], theirs[key])
    elif isinstance(theirs, list | tuple):
        assert type(ours) is (list if isinstance(theirs, list) else tuple)
        assert len(ours) == len(theirs)
        for pair in zip(ours, theirs, strict=True):
            assert_same(*pair)
    else:
        assert type(ours) is type(theirs)
        assert ours == theirs


def nested():
    """Every kind of tensor, in a tree like that of a checkpoint."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, generator=generator)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    return {
        "epoch": 3,
        "state_dict": net.state_dict(),
        "optimizer": torch.optim.Adam(net.parameters()).state_dict(),
        "kinds": [torch.randint(0, 2, (3, 5), generator=generator).to(dtype) for dtype in DTYPES],
        "views": (base, base.t(), base[1:3, ::2], base[0, 0], base[:0], base[:1].expand(4, 6)),
        "parameter": nn.Parameter(torch.ones(2)),
        "shape": torch.Size([2, 3]),
        "plain": [None, True, -5, 2.5, "text", b"bytes", (1, (2,)), 1 << 70],
    }


@formats
@pytest.mark.parametrize("protocol", [2, 4])
def test_the_values_are_those_of_pytorch(tmp_path, is_zip, protocol):
    path = save(nested(), tmp_path / "a.pth", is_zip=is_zip, protocol=protocol)
    assert is_torch_file(path)
    ours = read_torch_file(path)
    theirs = torch.load(path, weights_only=False) if protocol == 4 else torch.load(path, weights_only=True)
    theirs["parameter"] = theirs["parameter"].detach()
    theirs["shape"] = tuple(theirs["shape"])
    assert_same(ours, theirs)
    assert not any(tensor.requires_grad for tensor in ours["state_dict"].values())


@formats
def test_tensors_that_share_a_storage_share_it_here(tmp_path, is_zip):
    base = torch.zeros(4, 6)
    ours = read_torch_file(save({"a": base, "b": base[1], "c": base.clone()}, tmp_path / "a.pth", is_zip=is_zip))
    ours["a"][1, 2] = 7
    assert ours["b"][2] == 7
    assert ours["c"][1, 2] == 0


@formats
def test_a_whole_module_is_read_without_its_classes(tmp_path, is_zip):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()))
    net.register_buffer("kept", torch.ones(2))
    net.register_buffer("passing", torch.ones(2), persistent=False)
    found = find_weights(read_torch_file(save({"model": net}, tmp_path / "a.pth", is_zip=is_zip)))
    assert (found.place, found.is_module) == ("model", True)
    assert set(found.tensors) == set(net.state_dict())
    for name, tensor in net.state_dict().items():
        assert torch.equal(found.tensors[name], tensor)


@formats
def test_objects_of_other_classes_become_notes_and_the_rest_is_read(tmp_path, is_zip):
    value = {
        "args": argparse.Namespace(lr=0.1, names=["a"]),
        "best": np.float64(0.5),
        "scores": np.arange(3),
        "labels": np.array(["cat", "dog"]),
        "counts": collections.Counter(a=2),
        "tables": collections.defaultdict(list, a=[1]),
        "dtype": torch.float16,
        "ids": {3, 4},
        "state_dict": {"w": torch.ones(2)},
    }
    ours = read_torch_file(save(value, tmp_path / "a.pth", is_zip=is_zip))
    assert isinstance(ours["args"], Foreign) and ours["args"].name == "argparse.Namespace"
    assert ours["args"].state == {"lr": 0.1, "names": ["a"]}
    assert (ours["best"], ours["scores"].tolist(), ours["tables"]) == (0.5, [0, 1, 2], {"a": [1]})
    assert (ours["dtype"].name, ours["dtype"].arguments) == ("torch.float16", None)
    assert isinstance(ours["labels"], Foreign) and ours["ids"] == {3, 4}
    assert ours["counts"].arguments == ({"a": 2},)
    found = find_weights(ours)
    assert found.place == "state_dict"
    assert found.foreign[0] == "argparse.Namespace"


class Kind(dict):
    """A dictionary with attributes, as many configurations are."""


def test_tables_of_other_classes_keep_their_entries(tmp_path):
    kind = Kind(state_dict=Kind(w=torch.ones(2)))
    kind.extra = 3
    ours = read_torch_file(save(kind, tmp_path / "a.pth"))
    assert ours.name.endswith("test_torch_file.Kind")
    assert ours.state == {"extra": 3}
    assert find_weights(ours).tensors["w"].tolist() == [1, 1]


def test_a_file_of_python_2_has_texts(tmp_path):
    # What torch.save of Python 2 writes: names are byte texts.
    whole = save({"conv.weight": torch.ones(2)}, tmp_path / "a.pth", is_zip=False).read_bytes()
    name = b"X\x0b\x00\x00\x00conv.weight"
    assert whole.count(name) == 1
    (tmp_path / "b.pth").write_bytes(whole.replace(name, b"U\x0bconv.weight"))
    assert list(read_torch_file(tmp_path / "b.pth")) == ["conv.weight"]


def rezipped(path, to, change, compression=zipfile.ZIP_STORED):
    """The archive with other entries: ``change`` gets and gives name and content."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w", compression) as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for entry in old.infolist():
            for name, content in change(entry.filename, old.read(entry)):
                new.writestr(name, content)
    return to


def test_a_file_of_a_big_endian_machine_is_turned_round(tmp_path):
    value = {
        "f": torch.tensor([1.5, -2.0]),
        "i": torch.tensor([1, 258]),
        "c": torch.tensor([1 + 2j]),
        "b": torch.ones(3),
    }
    value["b"] = value["b"].bool()
    widths = {"0": 4, "1": 8, "2": 4, "3": 1}

    def turned(name, content):
        if name.endswith("byteorder"):
            content = b"big"
        elif "/data/" in name:
            content = np.frombuffer(content, f"u{widths[name.split('/')[-1]]}").byteswap().tobytes()
        return [(name, content)]

    path = rezipped(save(value, tmp_path / "a.pth"), tmp_path / "b.pth", turned)
    assert_same(read_torch_file(path), value)
    assert_same(torch.load(path, weights_only=True), value)


# Hostile files.


class Calls:
    def __init__(self, function, *arguments):
        self.pair = (function, arguments)

    def __reduce__(self):
        return self.pair


@formats
@pytest.mark.parametrize("protocol", [1, 2, 4])
def test_what_a_file_would_call_is_noted_and_not_called(tmp_path, is_zip, protocol):
    witness = tmp_path / "witness"
    text = f"open({str(witness)!r}, 'w')"
    value = {
        "a": Payload(witness),
        "b": Calls(eval, text),
        "c": Calls(exec, text),
        "d": Calls(os.mkdir, str(witness)),
        "w": torch.ones(2),
    }
    ours = read_torch_file(save(value, tmp_path / "a.pth", is_zip=is_zip, protocol=protocol))
    assert not witness.exists()
    assert ours["a"].name in ("posix.system", "nt.system")
    assert ours["b"].name.endswith(".eval") and ours["b"].arguments == (text,)
    assert ours["w"].tolist() == [1, 1]


def container(tmp_path, data, *storages):
    """A zip file of torch.save with a pickle of one's own."""
    path = tmp_path / "hostile.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", data)
        archive.writestr("x/byteorder", "little")
        for number, content in enumerate(storages):
            archive.writestr(f"x/data/{number}", content)
    return path


def test_chains_of_calls_stay_notes(tmp_path):
    # getattr(__import__("os"), "system")("touch ...")
    data = (
        b"\x80\x02}X\x01\x00\x00\x00acbuiltins\ngetattr\ncbuiltins\n__import__\nX\x02\x00\x00\x00os\x85R"
        b"X\x06\x00\x00\x00system\x86RX\x09\x00\x00\x00touch RAN\x85Rs."
    )
    value = read_torch_file(container(tmp_path, data))["a"]
    assert value.name == "builtins.getattr"
    assert value.arguments[0].name == "builtins.getattr" and value.arguments[1] == ("touch RAN",)
    assert value.arguments[0].arguments[0].name == "builtins.__import__"


def tensor_program(*, key="0", count=4, offset=0, size=(4,), stride=(1,), kind="FloatStorage"):
    """A pickle of ``{"w": tensor}``."""

    class Id:
        pass

    class Written(pickle.Pickler):
        def persistent_id(self, value):
            return (("storage", getattr(torch, kind), key, "cpu", count)) if isinstance(value, Id) else None

        def reducer_override(self, value):
            if value is mark:
                arguments = (Id(), offset, size, stride, False, collections.OrderedDict())
                return torch._utils._rebuild_tensor_v2, arguments
            return NotImplemented

    mark = Payload(None)
    out = io.BytesIO()
    Written(out, 2).dump({"w": mark})
    return out.getvalue()


FOUR = np.arange(4, dtype=np.float32).tobytes()


def test_the_program_of_the_tests_is_that_of_torch_save(tmp_path):
    path = container(tmp_path, tensor_program(size=(2, 2), stride=(2, 1)), FOUR)
    assert read_torch_file(path)["w"].tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": (5,)}, "beyond the end"),
        ({"offset": 1}, "beyond the end"),
        ({"offset": -1}, "impossible shape"),
        ({"size": (-1,)}, "impossible shape"),
        ({"stride": (-1,)}, "impossible shape"),
        ({"stride": (1 << 61,)}, "beyond the end"),
        ({"size": (1 << 61,), "stride": (0,)}, "larger than the whole file"),
        ({"size": (0, 1 << 61, 1 << 61), "stride": (1, 1, 1)}, "impossible shape"),
        ({"size": (4.0,)}, "impossible shape"),
        ({"size": (2, 2)}, "impossible shape"),
        ({"size": (1,) * 65, "stride": (1,) * 65}, "impossible shape"),
        ({"size": [4]}, "no shape"),
        ({"count": 1 << 40}, "announced"),
        ({"count": 3}, "announced"),
        ({"count": -4}, "no size"),
        ({"kind": "DoubleStorage"}, "announced"),
        ({"kind": "device"}, "storages of the type torch.device"),
        ({"key": "../../../etc/passwd"}, "lacks"),
        ({"key": "9"}, "lacks"),
        ({"key": 0}, "no key"),
    ],
)
def test_tensors_that_cannot_be_are_refused(tmp_path, changes, words):
    path = container(tmp_path, tensor_program(**changes), FOUR)
    with pytest.raises(RunError, match=words) as error:
        read_torch_file(path)
    assert str(path) in str(error.value)


def test_archives_that_unfold_are_refused(tmp_path):
    path = save({"w": torch.zeros(1000)}, tmp_path / "a.pth")
    packed = rezipped(path, tmp_path / "b.pth", lambda *entry: [entry], zipfile.ZIP_DEFLATED)
    with pytest.raises(RunError, match="is compressed"):
        read_torch_file(packed)
    twice = rezipped(path, tmp_path / "c.pth", lambda *entry: [entry, entry])
    with pytest.raises(RunError, match="twice"):
        read_torch_file(twice)
    empty = rezipped(path, tmp_path / "d.pth", lambda name, content: [(name.replace("data.pkl", "d.pkl"), content)])
    with pytest.raises(RunError, match="another kind of archive"):
        read_torch_file(empty)


def test_storages_that_overlap_in_the_archive_are_refused(tmp_path):
    path = save([torch.zeros(3000), torch.ones(3000), torch.ones(3000)], tmp_path / "a.pth")
    data = bytearray(path.read_bytes())
    # All entries of the directory at the end point to the first storage, with its checksum.
    places, start = [], 0
    while (start := data.find(b"PK\x01\x02", start)) >= 0:
        name = bytes(data[start + 46 :][: struct.unpack_from("<H", data, start + 28)[0]])
        places += [(start, name)] if b"/data/" in name else []
        start += 4
    (first, _), *others = places
    for place, _ in others:
        data[place + 16 : place + 28] = data[first + 16 : first + 28]
        data[place + 42 : place + 46] = data[first + 42 : first + 46]
    path.write_bytes(data)
    with pytest.raises(RunError, match=r"overlap|File name in directory"):
        read_torch_file(path)


DEEP = 100_000


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02" + b"]" * DEEP + b"a" * (DEEP - 1) + b".",
        b"\x80\x02)" + b"\x85" * DEEP + b".",
        b"\x80\x02" + b"cx\ny\n" + b")\x81" + b"\x85R" * DEEP + b".",
        b"\x80\x02cx\ny\n" + b"q\x00h\x00)\x81" * DEEP + b"b" * (DEEP // 2) + b".",
        b"\x80\x02]q\x00h\x00a.",
        b"\x80\x02cx\ny\n)\x81q\x00h\x00b.",
        tensor_program().replace(b"K\x04\x85", b")" + b"\x85" * DEEP),
    ],
)
def test_depth_and_circles_exhaust_nothing(tmp_path, data):
    path = container(tmp_path, data, FOUR)
    try:
        value = read_torch_file(path)
    except RunError:
        return
    with pytest.raises(WeightsError):
        find_weights(value)


def test_a_model_that_is_a_part_of_itself_is_refused():
    model = Foreign("x.Module", ())
    model.state = {"_parameters": {"w": torch.ones(1)}, "_modules": {"a": model, "b": model}}
    with pytest.raises(WeightsError, match="part of itself"):
        find_weights(model)
    for _ in range(60):  # 2 ** 60 names
        model = Foreign("x.Module", (), {"_parameters": {}, "_modules": {"a": model, "b": model}})
        model.state["_modules"]["a"].state.setdefault("_modules", {})
    with pytest.raises(WeightsError, match="more parts"):
        find_weights(model)


def test_a_table_of_tensors_in_many_modules_is_refused():
    table = {str(number): torch.ones(1) for number in range(1000)}
    inner = Foreign("x.Module", (), {"_parameters": table})
    with pytest.raises(WeightsError, match="more parts"):
        find_weights(Foreign("x.Module", (), {"_parameters": {}, "_modules": {str(n): inner for n in range(300)}}))
    long = {"a" * 1001: torch.ones(1)}
    with pytest.raises(WeightsError, match="more parts"):
        find_weights(Foreign("x.Module", (), {"_parameters": long}))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"PK\x03\x04" + bytes(100), b"no", pickle.dumps({"a": 1})])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"a\.pth: no readable file of torch\.save"):
        read_torch_file(path)
    assert is_torch_file(path) == content.startswith(b"PK")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "gone.pth", tmp_path):
        assert not is_torch_file(path)
        with pytest.raises(RunError):
            read_torch_file(path)


def small():
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    return {"state_dict": net.state_dict(), "epoch": 3, "names": ["a", "b"], "args": argparse.Namespace(lr=0.1)}


def test_a_thousand_damaged_archives_are_refused_or_read_as_they_were(tmp_path):
    path = save(small(), tmp_path / "a.pth")
    whole, before = path.read_bytes(), read_torch_file(path)
    generator = random.Random(0)
    refused = 0
    for _ in range(1000):
        damaged = bytearray(whole)
        for _ in range(generator.randint(1, 4)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged[: generator.choice([len(damaged), len(damaged), generator.randrange(len(damaged))])])
        try:
            after = read_torch_file(path)
        except RunError:
            refused += 1
            continue
        before["args"] = after["args"] = None
        assert_same(after, before)
    assert 300 < refused < 1000


def test_a_thousand_damaged_files_of_the_older_format_are_refused_or_read(tmp_path):
    path = save({**small(), "args": None}, tmp_path / "a.pth", is_zip=False)
    whole = path.read_bytes()
    generator = random.Random(0)
    refused = same = 0
    for _ in range(1000):
        damaged = bytearray(whole)
        for _ in range(generator.randint(1, 3)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            ours = read_torch_file(path)
        except RunError:
            refused += 1
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                theirs = torch.load(path, weights_only=True)
        except Exception:  # many kinds; PyTorch looks at more of the file, such as names of devices
            continue
        assert_same(ours, theirs)
        same += 1
    assert refused > 100
    assert same > 50


OPCODES = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
PIECES = (
    b"cx\ny\n", b"ccollections\nOrderedDict\n", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"cbuiltins\nset\n", b"X\x01\x00\x00\x000",
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ",
    b"K\x04\x85", b"q\x00", b"h\x00",
)  # fmt: skip


@settings(max_examples=1500)
@given(st.lists(st.sampled_from(OPCODES) | st.sampled_from(PIECES) | st.binary(min_size=1, max_size=3), max_size=30))
def test_any_program_gives_a_value_or_a_refusal(tmp_path_factory, pieces):
    path = container(tmp_path_factory.getbasetemp(), b"\x80\x02}" + b"".join(pieces) + b".", FOUR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of Python's, for odd escapes in texts
            find_weights(read_torch_file(path))
    except (RunError, WeightsError):
        return
