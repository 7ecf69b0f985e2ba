import math
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.config.errors import ConfigError
from sightline.config.safe_file import FileReadError, read_regular_file
from sightline.config.safe_yaml import YamlError, parse_yaml, read_yaml, read_yaml_document


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-3", 0.001),
        ("1", 1),
        ("-07", -7),
        ("0x1F", 31),
        ("0o17", 15),
        ("+1.5", 1.5),
        (".5", 0.5),
        ("5.", 5.0),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("~", None),
        ("", None),
        ("null", None),
        ("'1'", "1"),
        ('"true"', "true"),
        ("2024-01-31", "2024-01-31"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("|\n  a\n  b\n", "a\nb\n"),
        ("[1, [a, {b: c}]]", [1, ["a", {"b": "c"}]]),
        ("{a: 1, b: {c: [2]}}", {"a": 1, "b": {"c": [2]}}),
        ("- 1\n- {}\n- []\n", [1, {}, []]),
        ("0: person\n1: bicycle\n", {0: "person", 1: "bicycle"}),
        ("a: &x [1, 2]\nb: *x\n", {"a": [1, 2], "b": [1, 2]}),
        ("a: &x 5\nb: *x\n", {"a": 5, "b": 5}),
        ("\ufeffa: 1", {"a": 1}),
        ("a: 1  # why\n", {"a": 1}),
        ("# nothing\n", None),
    ],
)
def test_texts_are_read_as_plain_values(text, value):
    assert parse_yaml(text.encode()).value == value


def test_not_a_number():
    assert math.isnan(parse_yaml(b".nan").value)


def test_an_alias_is_a_copy_that_can_be_changed_alone():
    value = parse_yaml(b"a: &x [1]\nb: *x\n").value
    value["a"].append(2)
    assert value["b"] == [1]


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join(f'*a{i - 1}' for _ in range(9))}]\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    "text, line, words",
    [
        ("a: 1\nb: 2\na: 3\n", 3, "'a' is given twice (first in line 1)"),
        ("a:\n  b: 1\n  b: 2\n", 3, "'b' is given twice (first in line 2)"),
        ("1: a\n1.0: b\n", 2, "given twice"),
        ("a: !!python/object/apply:os.system [echo]\n", 1, "tag"),
        ("a: !!str 5\n", 1, "tag"),
        ("!thing {a: 1}\n", 1, "tag"),
        ("a: ! 5\n", 1, "tag"),
        ("base: &b {x: 1}\nc:\n  <<: *b\n", 3, "merge keys"),
        ("[1, 2]: 3\n", 1, "cannot be a key"),
        ("{a: 1}: 3\n", 1, "cannot be a key"),
        ("a: 1\n--- \nb: 2\n", 2, "more than one document"),
        ("a: *nothing\n", 1, "names no anchor"),
        ("a: &x [1, *x]\n", 1, "inside itself"),
        ("a: &x 1\nb: [" + ", ".join(["*x"] * 101) + "]\n", 2, "more than 100 aliases"),
        (BOMB, 7, "unfold to more than 1,000,000"),
        ("[" * 65 + "]" * 65, 1, "nested more than 64"),
        ("[" * 100_000, 1, "nested more than 64"),
        ("a: [1, 2\nb: 3\n", 2, ""),
        ("a: 1\n b: 2\n", 2, "b: 2"),
        ("a: 'open\n", 2, "quoted"),
        ("a: b: c\n", 1, "a: b: c"),
        ("\tkey: 1\n", 1, ""),
        ("a: 1\nb: \x00\n", 2, "control character"),
    ],
)
def test_unsafe_or_broken_texts_are_refused_with_their_line(text, line, words):
    with pytest.raises(YamlError) as caught:
        parse_yaml(text.encode())
    assert caught.value.line == line
    assert words in caught.value.message


def test_depth_counts_what_aliases_unfold_to():
    nested = "[" * 40 + "1" + "]" * 40
    with pytest.raises(YamlError, match="nested more than 64"):
        parse_yaml(f"a: &a {nested}\nb: {'[' * 30}*a{']' * 30}\n".encode())


def test_bytes_that_are_no_text():
    with pytest.raises(YamlError, match="not UTF-8") as caught:
        parse_yaml(b"a: 1\nb: \xff\xfe\n")
    assert caught.value.line == 2


def test_lines_of_keys_and_items():
    document = parse_yaml(b"optimizer:\n  lr: 0.1\nnames:\n  - cat\n  - dog\n")
    assert document.lines[("optimizer",)] == 1
    assert document.lines[("optimizer", "lr")] == 2
    assert document.lines[("names", 1)] == 5


def test_file_errors_name_file_line_and_column(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("lr: 0.1\nlr: 0.2\n")
    with pytest.raises(ConfigError, match=r"run\.yaml:2:1: change file: the key 'lr' is given twice"):
        read_yaml(path, what="change file")
    path.write_text("lr: 0.1\n")
    assert read_yaml_document(path, what="change file").value == {"lr": 0.1}


@pytest.mark.parametrize("kind", ["missing", "folder", "huge", "pipe", "loop", "null byte", "below a file"])
def test_files_that_cannot_be_read(tmp_path, kind):
    path = tmp_path / "run.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "huge":
        path.write_text("a: " + "x" * (1 << 20))
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "null byte":
        path = Path("run\0.yaml")
    elif kind == "below a file":
        path.write_text("")
        path = path / "deeper.yaml"
    with pytest.raises(ConfigError, match=r"change file .*run.*yaml"):
        read_yaml(path, what="change file")


def test_a_file_without_permission_is_named(tmp_path, monkeypatch):
    # The tests may run as root, whom permissions do not stop; so the system call itself refuses.
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(FileReadError, match="no permission") as caught:
        read_regular_file(tmp_path / "a", limit=10)
    assert caught.value.kind == "unreadable_file"


DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(plain)
def test_what_pyyaml_writes_comes_back(value):
    text = yaml.dump(value, Dumper=DUMPER).encode("utf-8", "surrogatepass")
    assert parse_yaml(text).value == value


@settings(derandomize=True, max_examples=300, deadline=None)
@given(plain, st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=3)), max_size=3))
def test_damaged_text_is_a_value_or_a_yaml_error(value, damages):
    data = bytearray(yaml.dump(value, Dumper=DUMPER).encode("utf-8", "surrogatepass"))
    for place, piece in damages:
        data[place : place + len(piece)] = piece
    try:
        parse_yaml(bytes(data))
    except YamlError as error:
        assert error.message
