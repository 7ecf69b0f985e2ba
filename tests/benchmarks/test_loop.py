"""The loop's figure compares like with like: every side reports the same losses of the same training."""

import csv
import json

import pytest

from benchmarks import loop

STEPS = 2 * loop.LOG_EVERY


def losses_by_hand(folder):
    return [float(loss) for _, loss in csv.reader((folder / "log.csv").open())]


@pytest.mark.parametrize("row", ["by_hand", "by_hand_fused", "by_hand_kernels"])
def test_ours_and_the_loops_by_hand_take_the_same_steps(tmp_path, row):
    (tmp_path / "ours").mkdir()
    loop.ours(STEPS, tmp_path / "ours")
    loop.ROWS[row](STEPS, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "ours" / "metrics.jsonl").read_text().splitlines()]
    assert [row["values"]["loss"] for row in rows] == pytest.approx(losses_by_hand(tmp_path), rel=1e-5)


def test_a_step_is_counted_once():
    loop.run_once(loop.bare, STEPS)
    assert len(loop.STAMPS) == STEPS


def test_a_step_of_ours_takes_fewer_function_calls_than_the_same_duties_by_hand():
    ours, by_hand = loop.calls_a_step(loop.ours), loop.calls_a_step(loop.by_hand)
    assert ours <= by_hand, f"{ours:.0f} calls a step, by hand {by_hand:.0f}"
