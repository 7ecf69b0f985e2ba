import json
import math
import re

import pytest

from sightline.report import plots
from sightline.report.compare import compare_runs
from sightline.report.history import read_run
from sightline.report.layout import ClassRow, Confusion, Evaluation
from sightline.report.page import MAX_MATRICES, MAX_MATRIX, history_plots
from sightline.report.tables import MAX_PAIRS, MAX_UNSORTED, class_table, confused_pairs
from tests.report.example_classifier import NAMES, write_classifier
from tests.report.example_run import write_run
from tests.report.page_reader import HOSTILE, page_of, replace_json


def numbered(count):
    return [f"class {index}" for index in range(count)]


def titles(page):
    return re.findall(r"<h3>(.*?)</h3>", page.source)


def heads(page, section):
    part = page.source.partition(f'<section id="{section}">')[2].partition("</section>")[0]
    return re.findall(r"<th>(.*?)</th>", part)


def test_a_whole_run_of_a_classifier_shows_everything(tmp_path):
    page = page_of(write_classifier(tmp_path / "resnet18" / "3"))
    assert "Notes" not in page.text
    assert titles(page) == [
        *("Figures of the evaluations", "Losses", "Top-1 accuracy", "Learning rate", "Negative log-likelihood"),
        *("Expected calibration error", "samples per second", "Figures", "Reliability"),
        *("Confusion, share of each true class", "Confusion, counts", "Most confused classes", "Images per class"),
    ]
    # All of these but two tables, and two pictures.
    assert page.tags["img"] == 11 + 2
    assert heads(page, "classes") == ["class", "accuracy", "top5", "precision", "F1", "images"]
    assert heads(page, "data") == ["split", "images", "classes", "source"]
    tiles = re.findall(r"<dt>(.*?)</dt>", page.source)
    assert tiles[:3] == ["top1", "top5", "balanced accuracy"]
    below_the_style = page.text.partition("@media print")[2]
    assert not re.search(r"\b(box|boxes|background|detections?|missed|IoU)\b", below_the_style)


def test_top1_of_training_and_of_evaluations_share_a_plot(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "lines_plot", lambda lines, **options: drawn.append((list(lines), options)) or b"")
    run = read_run(write_classifier(tmp_path / "run"))
    by_title = {title: (draw(), drawn.pop()[0], caption) for title, draw, caption in history_plots(run)}
    assert by_title["Top-1 accuracy"][1] == ["top1", "eval top1"]
    assert "augmented" in by_title["Top-1 accuracy"][2]
    assert by_title["Losses"][1] == ["loss"]  # its only part is the same line
    assert by_title["Figures of the evaluations"][1] == ["top1", "top5", "balanced_accuracy"]


@pytest.mark.parametrize(
    ("count", "matrices"), [(MAX_MATRICES, 2), (MAX_MATRICES + 1, 1), (MAX_MATRIX, 1), (MAX_MATRIX + 1, 0)]
)
def test_of_many_classes_the_matrix_becomes_one_and_then_a_table_alone(quick, tmp_path, count, matrices):
    page = page_of(write_classifier(tmp_path / "run", names=numbered(count)))
    assert len([title for title in titles(page) if title.startswith("Confusion,")]) == matrices
    assert "Most confused classes" in titles(page)
    assert (f"A matrix of more than {MAX_MATRIX} classes is not drawn" in page.text) == (matrices == 0)
    assert "#confusion" in page.values("href")


def test_the_page_of_a_thousand_classes_stays_light(tmp_path):
    page = page_of(write_classifier(tmp_path / "run", names=numbered(1000), picture_names=()))
    assert len(page.source) < 1 << 20
    assert "Notes" not in page.text
    assert "All 1,000 classes, the least accurate first" in page.text
    assert page.text.count("class 999") >= 1


def test_many_classes_stand_with_the_worst_first_and_few_in_their_order():
    accuracies = [0.5, None, 0.25, math.nan, 0.75]
    rows = [ClassRow(name=str(index), accuracy=value, num_images=4) for index, value in enumerate(accuracies)]
    assert [row.name for row in class_table(Evaluation(classes=rows)).rows] == list("01234")
    perfect = [ClassRow(name="x", accuracy=1.0)] * MAX_UNSORTED
    table = class_table(Evaluation(classes=rows + perfect))
    assert table.worst_first
    names = [row.name for row in table.rows]
    assert names[:3] == ["2", "0", "4"]
    assert names[-2:] == ["1", "3"]


def test_columns_are_those_that_some_class_fills():
    rows = [ClassRow(name="a", accuracy=0.5, num_images=2), ClassRow(name="b", accuracy=None, num_images=0)]
    table = class_table(Evaluation(classes=rows))
    assert [column.title for column in table.columns] == ["accuracy", "images"]
    assert class_table(Evaluation(classes=[ClassRow(name="a", precision=0.5)])) is None


def test_confused_pairs_are_the_largest_cells_beside_the_diagonal():
    # Columns are true: of 10 a's 3 are told to be b; of 4 b's 1 is told to be a and 2 to be c.
    pairs = confused_pairs(Confusion(counts=[[7, 1, 0], [3, 1, 0], [0, 2, 5]]), ["a", "b", "c"])
    assert [(pair.true, pair.predicted, pair.count, pair.share) for pair in pairs] == [
        ("a", "b", 3, 0.3),
        ("b", "c", 2, 0.5),
        ("b", "a", 1, 0.25),
    ]


def test_only_the_first_confused_pairs_are_listed():
    counts = [[1] * 30 for _ in range(30)]
    assert len(confused_pairs(Confusion(counts=counts), numbered(30))) == MAX_PAIRS


def test_a_perfect_classifier_confuses_nothing(quick, tmp_path):
    run = write_classifier(tmp_path / "run", names=("a", "b"))
    replace_json(run / "evaluation.json", confusion={"counts": [[5, 0], [0, 5]]})
    page = page_of(run)
    assert "Most confused classes" not in titles(page)
    assert "Confusion, counts" in titles(page)


def test_html_in_names_of_classes_stays_text(tmp_path):
    plain = page_of(write_classifier(tmp_path / "plain"))
    names = (HOSTILE, "$x$", "_", "\u202etxt", "\ud800", "")
    run = write_classifier(tmp_path / "run", names=names)
    facts = json.loads((run / "data.json").read_text())
    facts["splits"] = {HOSTILE: facts["splits"]["train"] | {"source": HOSTILE, "class_counts": [5, 4, 3, 2, 2, 2]}}
    facts["faults"][0]["place"] = HOSTILE
    (run / "data.json").write_text(json.dumps(facts))
    page = page_of(run)
    assert page.tags["script"] == 0
    assert set(page.tags) <= set(plain.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on") or name == "style"]
    assert all(value.startswith("data:image/") for value in page.values("src"))
    # The table of classes, confused pairs, the extremes, the split, its source, the fault.
    assert page.text.count("<script>alert(1)</script>") >= 6
    assert "{{ 7*7 }}" in page.text


EMPTY_BINS = {"edges": [0, 0.5, 1], "confidence": [None, None], "accuracy": [None, None], "counts": [0, 0]}


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"confusion": {"counts": [[1, 2], [3]]}}, "Confusion, counts: not drawn"),
        ({"confusion": {"counts": [[1, 2]]}}, "Confusion, counts: not drawn, the matrix is not square."),
        ({"confusion": {"counts": [[1, 2]]}}, "Most confused classes: left out, the matrix is not square."),
        ({"confusion": {"counts": [[1, 2], [0, 1]], "score_threshold": 0.25}}, None),
        ({"confusion": {"counts": []}}, "Most confused classes: left out, the matrix is not square."),
        ({"confusion": {"counts": [[1, -2], [0, 1]]}}, "confusion.counts.0.1"),
        ({"confusion": {"counts": [[10**400, 0], [1, 10**400]]}}, "Confusion, counts: not drawn"),
        ({"reliability": {**EMPTY_BINS, "counts": [1]}}, "3 edges, 2 confidences, 2 accuracies, 1 counts"),
        ({"reliability": {}}, "reliability.edges"),
        ({"reliability": EMPTY_BINS}, None),
        ({"reliability": {**EMPTY_BINS, "accuracy": ["NaN", "Infinity"]}}, None),
        ({"confusion": {"counts": [[0]]}, "class_names": ["a"]}, None),
        ({"confusion": {"counts": [[0, 3], [2, 0]]}, "class_names": []}, None),
        ({"confusion": None, "reliability": None, "classes": []}, None),
        ({"classes": [{"name": "a", "accuracy": None, "num_images": 0}]}, None),
        ({"classes": [{"name": "a", "accuracy": "NaN", "top5": "Infinity", "num_images": 10**30}]}, None),
    ],
)
def test_odd_answers_are_shown_as_far_as_they_go(tmp_path, monkeypatch, changes, note):
    monkeypatch.setattr(plots, "lines_plot", lambda lines, **options: b"")
    run = write_classifier(tmp_path / "run", names=("a", "b"), picture_names=())
    replace_json(run / "evaluation.json", **changes)
    page = page_of(run)
    assert "Notes" in page.text if note else "Notes" not in page.text
    assert (note or "") in page.text


@pytest.mark.parametrize(
    ("counts", "caption"),
    [
        ([[4, 2, 9], [1]], "In train, from 2 of b to 9 of c."),
        ([[3, 3, 3], [1, 1, 1]], "In train, 3 images of each class."),
        ([[], [1, 2, 0, 1200]], "In val, from 0 of c to 1,200 of 3."),
    ],
)
def test_images_per_class_tell_the_smallest_and_the_largest(quick, tmp_path, counts, caption):
    run = write_classifier(tmp_path / "run", names=("a", "b", "c"))
    splits = {name: {"num_images": 9, "class_counts": row} for name, row in zip(("train", "val"), counts, strict=True)}
    replace_json(run / "data.json", splits=splits)
    page = page_of(run)
    assert caption in page.text
    assert "Notes" not in page.text


def test_splits_without_counts_have_no_plot(quick, tmp_path):
    run = write_classifier(tmp_path / "run")
    replace_json(run / "data.json", splits={"train": {"num_images": 0}})
    assert "Images per class" not in page_of(run).text


def test_top1_of_classifiers_is_compared_in_one_panel(tmp_path, monkeypatch):
    panels = []
    monkeypatch.setattr(plots, "stacked_plot", lambda given: panels.extend(given) or b"png")
    runs = [write_classifier(tmp_path / name / "1", seed=seed) for seed, name in enumerate("ab")]
    comparison = compare_runs([*runs, write_run(tmp_path / "c" / "1")])
    assert {title: list(lines) for title, lines in panels} == {
        "top1": ["a/1", "b/1"],
        "AP": ["c/1"],
        "training loss": ["a/1", "b/1", "c/1"],
    }
    rows = {row.name: row.values for row in comparison.figures}
    last = [json.loads((run / "evaluation.json").read_text())["figures"]["top1"] for run in runs]
    assert rows["best top1"] == (*(f"{value:.4f}" for value in last), "-")


def test_classes_of_the_example_are_all_named(quick, tmp_path):
    page = page_of(write_classifier(tmp_path / "run"))
    assert not [name for name in NAMES if f"<td>{name}</td>" not in page.source]
