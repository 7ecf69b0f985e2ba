"""A binary network by the commands that docs/coming-from-bmxnet.md names for the options of BMXNet's script."""

import json

import pytest

from tests.cli.tool import sightline, without_report
from tests.data import class_zoo

TINY = (
    "model.channels=4", "model.hidden=8", "batch_size=4", "epochs=4", "data.drop_last=true", "device=cpu", "workers=0",
    "threads=1", "log.every_steps=1", "log.train_pictures=0", "log.eval_pictures=0", "log.trackers=[]",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a data set of three classes, and a whole run on it."""
    folder = tmp_path_factory.mktemp("classes")
    class_zoo.write_class_folders(folder / "my_data")  # 12 images to train on, 6 to evaluate
    assert train(folder, "--out", "whole").code == 0
    return folder


def train(folder, *arguments):
    with without_report():
        return sightline("train", "lenet", "--data", "my_data", *TINY, *arguments, cwd=folder)


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_interrupted_at_an_epoch_ends_with_3_and_goes_on_to_the_same_rows_and_best_checkpoint(folder):
    stopped = train(folder, "--out", "cut", "stop_at_epoch=2")
    assert stopped.code == 3 and "sightline resume cut" in stopped.out
    assert json.loads((folder / "cut" / "status.json").read_text())["epoch"] == 2
    with without_report():
        assert sightline("resume", "cut", cwd=folder).code == 0
    assert rows(folder / "cut") == rows(folder / "whole")
    best = [(folder / run / "checkpoints" / "best").read_text() for run in ("cut", "whole")]
    assert best[0] == best[1]


def test_the_console_tells_epochs_speed_time_and_the_mean_time_without_the_first_epoch(folder):
    log = (folder / "whole" / "log.txt").read_text()
    assert "epoch 4/4 step 12/12" in log and "images/s" in log and "ETA 0:00" in log
    assert "the first" in log and "the mean of the 3 after it" in log
    assert "epoch 4/4" in sightline("status", "whole", cwd=folder).out


def test_a_dry_run_writes_nothing_and_a_test_run_takes_a_batch_an_epoch(folder):
    dry = sightline("check", "lenet", "--data", "my_data", *TINY, "--out", "dry", cwd=folder)
    assert dry.code == 0 and "the run can start" in dry.out and not (folder / "dry").exists()
    assert train(folder, "--out", "test_run", "limit_batches=1").code == 0
    assert [(row["kind"], row["step"]) for row in rows(folder / "test_run")] == [
        (kind, step) for step in (1, 2, 3, 4) for kind in ("train", "eval")
    ]
