"""The page of features lists every row, with the result that its tests can have."""

import re
from importlib.metadata import distribution

import pytest

from tests import features
from tests.conftest import ROOT

ROW = re.compile(r"^\| ([A-Z]\d+) \| (.*) \| (.*) \| (.*) \|$", re.MULTILINE)
ROWS = pytest.mark.parametrize("row", features.ROWS, ids=lambda row: row.id)
SHOWN = {found[1]: found for found in ROW.finditer(features.PAGE.read_text() if features.PAGE.exists() else "")}


def test_the_package_is_pure_python_under_a_permissive_licence():
    package = distribution("sightline")
    assert "Root-Is-Purelib: true" in package.read_text("WHEEL")
    licences = [file for file in package.files if file.match("*.dist-info/licenses/LICENSE")]
    assert [file.read_text() for file in licences] == [(ROOT / "LICENSE").read_text()]
    assert "Apache License" in licences[0].read_text()


def test_every_row_stands_on_the_page_once():
    assert list(SHOWN) == [row.id for row in features.ROWS]
    assert [row.id for row in features.ROWS] == [
        f"{part}{number + 1}"
        for part, count in {"A": 20, "D": 17, "E": 15, "F": 5, "G": 10, "J": 16, "K": 5}.items()
        for number in range(count)
    ]


@ROWS
def test_a_row_of_the_page_says_what_the_row_says_and_claims_no_more(row):
    _, name, check, said = SHOWN[row.id].groups()
    assert (name, check) == (row.name, row.check)
    if not features.is_built(row):
        assert said == features.OPEN
    elif row.missing:
        assert said in (f"{features.PART}; missing: {row.missing}", features.SKIPPED)
    else:
        assert said in (features.PASS, features.SKIPPED)


@ROWS
def test_a_row_names_tests_that_exist_or_whose_whole_file_is_to_come(row):
    for test in row.tests:
        file, name = features.node(test).split("::")
        assert name in features.names_in(file) or not (ROOT / file).exists(), f"{file} has no {name}"


def test_results_follow_from_the_tests_of_a_row():
    row = features.Row("A0", "a", "b", ("engine/optim::a_step_by_hand", "engine/clip::the_norm_of_3_and_4_is_5"))
    one, two = (features.node(test) for test in row.tests)
    assert features.result(row, {one: {"passed"}, two: {"passed"}}) == features.PASS
    assert features.result(row._replace(missing="c"), {one: {"passed"}, two: {"passed"}}) == features.PART
    assert features.result(row, {one: {"passed"}, two: {"passed", "failed"}}) == features.FAIL
    assert features.result(row, {one: {"passed"}}) == features.FAIL  # it did not even run
    assert features.result(row, {one: {"passed"}, two: {"skipped"}}) == features.SKIPPED
    assert features.result(row._replace(tests=("engine/optim::no_such_test",)), {}) == features.OPEN
    assert features.result(row._replace(tests=()), {}) == features.OPEN


def test_some_rows_are_run_and_told(capsys, monkeypatch):
    written = features.PAGE.read_bytes()
    monkeypatch.setattr(features.pytest, "main", lambda arguments, plugins: None)
    assert features.main(["J14"]) == 0
    assert capsys.readouterr().out.split(maxsplit=1) == ["J14", "not built      checkpoints mirrored elsewhere\n"]
    assert features.PAGE.read_bytes() == written
