import io

import pytest
from PIL import Image

from sightline.config.errors import RunError
from sightline.report.compare import compare_runs
from tests.report.example_run import write_run


def test_runs_are_compared_by_what_differs_and_how_it_went(tmp_path):
    runs = [write_run(tmp_path / "tiny" / "1"), write_run(tmp_path / "tiny" / "2", seed=1, lr=0.02)]
    comparison = compare_runs(runs)
    assert comparison.run_names == ("tiny/1", "tiny/2")
    assert [(row.name, row.values) for row in comparison.configuration] == [("lr", ("0.01", "0.02"))]
    figures = {row.name: row.values for row in comparison.figures}
    assert figures["steps"] == ("1,200", "1,200")
    assert 0 < float(figures["best AP"][0]) < 1
    assert "best AP_large" not in figures  # nothing defines it in either run
    assert Image.open(io.BytesIO(comparison.picture)).format == "PNG"


def test_a_dash_stands_for_what_one_run_lacks(tmp_path):
    runs = [write_run(tmp_path / "a" / "1"), write_run(tmp_path / "b" / "1")]
    (runs[1] / "config.yaml").write_text("recipe: other\n")
    (runs[1] / "metrics.jsonl").write_text('{"step": 5, "epoch": 0, "kind": "eval", "values": {"top1": 0.5}}\n')
    comparison = compare_runs(runs)
    assert {row.name: row.values for row in comparison.configuration}["optimizer.name"] == ("sgd", "-")
    figures = {row.name: row.values for row in comparison.figures}
    assert figures["best top1"] == ("-", "0.5000")
    assert figures["last loss"][1] == "-"


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path):
    runs = [write_run(tmp_path / "x" / "tiny" / "1"), write_run(tmp_path / "y" / "tiny" / "1")]
    assert compare_runs(runs).run_names == (str(runs[0]), str(runs[1]))
    assert compare_runs(runs).configuration == ()


def test_one_run_is_no_comparison(tmp_path):
    with pytest.raises(RunError, match="two or more"):
        compare_runs([write_run(tmp_path / "a")])


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="no such folder"):
        compare_runs([write_run(tmp_path / "a"), tmp_path / "b"])


def test_a_configuration_with_tags_is_refused(tmp_path):
    runs = [write_run(tmp_path / "a" / "1"), write_run(tmp_path / "b" / "1")]
    (runs[1] / "config.yaml").write_text("!!python/object/apply:os.system ['true']\n")
    with pytest.raises(RunError, match=r"config\.yaml"):
        compare_runs(runs)
