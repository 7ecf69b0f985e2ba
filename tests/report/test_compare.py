import io
import json

import pytest
from PIL import Image

from sightline.config.errors import RunError
from sightline.report import plots
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


def other_task(folder, *, state="running", steps=(10, 20, 30)):
    """A run of a classifier, in the middle."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("recipe: ''\nlr: 0.1\nevaluate:\n  best: {metric: top1, direction: max}\n")
    rows = [{"step": step, "epoch": 0, "kind": "train", "values": {"loss": 1.0 / step}} for step in steps]
    rows += [{"step": step, "epoch": 0, "kind": "eval", "values": {"top5": 0.9, "top1": step / 100}} for step in steps]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "status.json").write_text(json.dumps({"state": state, "step": 30, "total_steps": 90}))
    return folder


def panels_of(monkeypatch, folders):
    """Titles and lines of the picture."""
    drawn = []
    monkeypatch.setattr(plots, "stacked_plot", lambda panels: drawn.extend(panels) or b"png")
    compare_runs(folders)
    return {title: list(lines) for title, lines in drawn}


def test_unfinished_runs_of_different_tasks_are_compared_as_far_as_they_go(tmp_path, monkeypatch):
    folders = [
        write_run(tmp_path / "a" / "1"),
        other_task(tmp_path / "b" / "1"),
        other_task(tmp_path / "c" / "1", steps=()),
    ]
    comparison = compare_runs(folders)
    figures = {row.name: row.values for row in comparison.figures}
    assert figures["state"] == ("done", "running", "running")
    assert figures["steps"] == ("1,200", "30 of 90", "0 of 90")
    assert figures["last loss"][1:] == ("0.0333", "-")
    assert figures["best step"][1:] == ("30", "-")
    assert figures["best top1"] == ("-", "0.3000", "-")
    assert figures["best AP"][1:] == ("-", "-")
    assert panels_of(monkeypatch, folders) == {
        "AP": ["a/1"],
        "top1": ["b/1"],  # its own main figure, and not the first one
        "training loss": ["a/1", "b/1"],
    }


def test_runs_of_one_task_share_a_panel(tmp_path, monkeypatch):
    folders = [other_task(tmp_path / name / "1") for name in "abc"]
    assert panels_of(monkeypatch, folders) == {name: ["a/1", "b/1", "c/1"] for name in ("top1", "training loss")}


def test_what_a_run_does_is_the_word_of_who_asked_the_system(tmp_path):
    folders = [other_task(tmp_path / "a" / "1"), other_task(tmp_path / "b" / "1")]
    figures = {row.name: row.values for row in compare_runs(folders, states=["running", "dead"], draw=False).figures}
    assert figures["state"] == ("running", "dead")


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
