import json
import tracemalloc

import pytest

from sightline.config.errors import DataError
from sightline.data.faults import FormatError
from sightline.data.formats.safe_json import parse_json, read_json


def refusal(tmp_path, data: bytes) -> FormatError:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(FormatError) as caught:
        read_json(path)
    assert "a.json" in str(caught.value)
    return caught.value


def test_plain_values_with_or_without_byte_order_mark(tmp_path):
    value = {"a": [1, 2.5, None, True, "é\ud800"], "b": {}}
    for start in (b"", b"\xef\xbb\xbf"):
        assert parse_json(start + json.dumps(value).encode(), tmp_path) == value


@pytest.mark.parametrize(
    "data, line, words",
    [
        (b"", None, "empty"),
        (b" \n ", None, "empty"),
        (b'{"a": 1,\n "b": }', 2, "column"),
        (b'{"a": [1, 2', 1, "column"),
        (b"{'a': 1}", 1, "column"),
        (b"[NaN]", None, "NaN"),
        (b"[Infinity]", None, "Infinity"),
        (b"[-Infinity]", None, "-Infinity"),
        (b'{"a": 1, "b": 2, "a": 3}', None, "'a' is given twice"),
        (b"[" * 100_000 + b"]" * 100_000, None, "nested too deep"),
        (b'{"a":' * 100_000, None, "nested too deep"),
        (b"[" + b"9" * 5000 + b"]", None, "number cannot be read"),
        (b'\n["\xff"]', 2, "UTF-8"),
        ('["é"]'.encode("utf-16"), 1, "UTF-8"),
        (b"\x00\x01\x02", 1, ""),
    ],
)
def test_broken_texts_are_refused_with_file_and_place(tmp_path, data, line, words):
    error = refusal(tmp_path, data)
    assert error.fault.kind == "bad_json"
    assert error.fault.line == line
    assert words in error.fault.message


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_json(tmp_path / "none.json")
    with pytest.raises(DataError, match="is a folder"):
        read_json(tmp_path)


def test_objects_are_handed_to_keep_as_they_are_finished(tmp_path):
    seen = []

    def keep(value):
        seen.append(sorted(value))
        return len(value)

    assert parse_json(b'{"a": {"x": 1, "y": 2}, "b": [{"z": 0}]}', tmp_path, keep=keep) == 2
    assert seen == [["x", "y"], ["z"], ["a", "b"]]


def test_dropping_outlines_saves_the_memory_they_would_take(tmp_path):
    outline = [[float(i) for i in range(200)]]
    data = json.dumps([{"id": i, "segmentation": outline} for i in range(500)]).encode()

    def peak(keep):
        tracemalloc.start()
        value = parse_json(data, tmp_path, keep=keep)
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(value) == 500
        return result - len(data)  # the decoded text is there in both cases

    assert peak(lambda value: value["id"]) < 0.1 * peak(None)
