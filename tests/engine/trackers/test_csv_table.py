"""``metrics.csv`` is ``metrics.jsonl`` as a table."""

import csv
import math
from pathlib import Path

import pytest

from sightline.engine.run_folder.metrics_log import MetricsLog
from sightline.engine.trackers.csv_table import CsvTracker, harmless
from sightline.engine.trackers.tracker import TrackedRow


def row(step: int, kind: str = "train", **values: float) -> TrackedRow:
    return TrackedRow(kind, step, 0, values, {"samples_per_second": 3.0}, 0.0)


def opened(folder: Path, *, log_length: int = 0) -> CsvTracker:
    tracker = CsvTracker(folder / "metrics.csv", log=folder / "metrics.jsonl", log_length=log_length)
    tracker.open()
    return tracker


def table(folder: Path) -> list[list[str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_a_row_for_each_row_and_a_column_for_each_figure(tmp_path):
    tracker = opened(tmp_path)
    tracker.write([row(1, loss=0.5), row(2, loss=-0.25)])
    tracker.write([row(2, "eval", AP=0.125)])
    tracker.write([row(3, loss=1e-9, grad_norm=7)])
    assert table(tmp_path) == [
        ["step", "epoch", "kind", "loss", "AP", "grad_norm"],
        ["1", "0", "train", "0.5", "", ""],
        ["2", "0", "train", "-0.25", "", ""],
        ["2", "0", "eval", "", "0.125", ""],
        ["3", "0", "train", "1e-09", "", "7.0"],
    ]


def test_every_number_reads_back_as_it_was(tmp_path):
    numbers = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan, -0.0]
    opened(tmp_path).write([row(step, loss=number) for step, number in enumerate(numbers)])
    read = [float(cells[3]) for cells in table(tmp_path)[1:]]
    assert [repr(number) for number in read] == [repr(number) for number in numbers]


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "  =cmd|' /C calc'!A0", "\n=1"])
def test_no_text_is_a_formula(tmp_path, name):
    opened(tmp_path).write([row(1, **{name: 0.5})])
    head, _ = table(tmp_path)
    assert head[3].startswith("'")
    assert len(table(tmp_path)) == 2


def test_names_with_commas_quotes_and_line_ends_stay_one_cell(tmp_path):
    tracker = opened(tmp_path)
    tracker.write([row(1, **{'AP of "a, b"\nc': 0.5})])
    tracker.write([row(2, loss=0.5)])
    assert table(tmp_path)[0][3:] == ['AP of "a, b" c', "loss"]
    assert [len(cells) for cells in table(tmp_path)] == [5, 5, 5]
    assert harmless("loss/box") == "loss/box"


def test_a_resumed_run_has_the_table_of_an_unbroken_one(tmp_path):
    rows = [row(1, loss=0.5), row(2, loss=0.25), row(2, "eval", AP=0.125), row(3, loss=0.5, skipped=2)]
    for name, broken_after in (("unbroken", None), ("broken", 3)):
        folder = tmp_path / name
        folder.mkdir()
        tracker, length = opened(folder), 0
        with MetricsLog(folder / "metrics.jsonl") as log:
            for count, one in enumerate(rows, start=1):
                tracker.write([one])
                log.append(step=one.step, epoch=one.epoch, kind=one.kind, values=one.values)
                length = log.length if count == broken_after else length
        if broken_after is not None:  # the checkpoint was taken then; the last row is taken anew
            tracker = opened(folder, log_length=length)
            assert len(table(folder)) == 1 + broken_after
            tracker.write(rows[broken_after:])
    assert (tmp_path / "broken/metrics.csv").read_bytes() == (tmp_path / "unbroken/metrics.csv").read_bytes()


def test_a_table_of_an_earlier_life_is_replaced(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,epoch,kind,old\n1,0,train,4\n")
    opened(tmp_path).write([row(1, loss=0.5)])
    assert table(tmp_path) == [["step", "epoch", "kind", "loss"], ["1", "0", "train", "0.5"]]
