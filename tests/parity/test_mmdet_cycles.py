"""The order of training and validation passes in the workflows of the mmdetection family.

Theirs are counted from a resume, ours from the run's start; only runs that begin at epoch 0 are compared. Where they
go over the validation data several times in a row, we do so once, since the losses are the same. Where the run ends
inside of a turn, version 0.2.8 stops, and so do we; 1.x goes over the validation data once more.
"""

import json
from itertools import groupby

import pytest

from sightline.engine.evaluation import val_follows
from tests.conftest import oracle


def recorded(name):
    """Workflow, length and order of passes of every recorded run by epochs from epoch 0."""
    for case, run in json.loads(oracle("mmdet", "runner", name).read_text())["cases"].items():
        if not isinstance(run, dict) or "workflow" not in run or run.get("runner", "Epoch").startswith("Iter"):
            continue
        events = run.get("events") or run.get("events_of_HIGHEST") or []
        epochs = run.get("max_epochs", run.get("max"))
        if run.get("start_epoch_iter", [0, 0]) == [0, 0] and events and epochs:
            order = [mode for call, mode, *_ in events if call in ("before_train_epoch", "before_val_epoch")]
            yield case, run["workflow"], int(epochs), order


def order_of(cycle, epochs):
    """The passes of our run."""
    order = []
    for done in range(epochs + 1):
        order += ["train"] if done else []
        order += ["val"] if val_follows(cycle, epochs=done, total_epochs=epochs) else []
    return order


@pytest.mark.parametrize("name", ["hook_traces_mmcv028.json", "hook_traces_mmcv172.json"])
def test_passes_come_in_the_recorded_order(name):
    compared = 0
    for case, workflow, epochs, order in recorded(name):
        cycle = tuple((kind, count) for kind, count in workflow)
        once = [mode for mode, run in groupby(order) for _ in (run if mode == "train" else [0])]
        ours = order_of(cycle, epochs)
        is_cut = epochs % sum(count for kind, count in cycle if kind == "train") != 0
        assert once[: len(ours)] == ours, case
        assert once[len(ours) :] in ([], ["val"] if is_cut else []), case
        compared += 1
    assert compared


@pytest.mark.parametrize(
    "cycle, epochs, order",
    [
        ([("train", 2), ("val", 1)], 3, "t t v t"),
        ([("train", 2), ("val", 1)], 4, "t t v t t v"),
        ([("val", 1), ("train", 1)], 2, "v t v t"),
        ([("train", 1), ("val", 1), ("train", 2), ("val", 1)], 6, "t v t t v t v t t v"),
        ([("val", 1), ("train", 2), ("val", 1)], 4, "v t t v t t v"),
    ],
)
def test_turns_follow_each_other_to_the_end_of_the_run(cycle, epochs, order):
    assert " ".join(kind[0] for kind in order_of(tuple(cycle), epochs)) == order
