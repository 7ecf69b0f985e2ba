"""One tiny round of the scripts that look at steps and epochs, and whether they look at the right moments."""

import json
import types

import pytest

from benchmarks import __main__ as command
from benchmarks import checkpoint_steps, efficiency, epoch_gap, mosaic_sample, processes
from sightline.engine.checkpoint.writer import CheckpointWriter


def line_of(capsys, *arguments):
    assert command.main(list(arguments)) == 0
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    mosaic_sample.draw_pictures(folder, 10)
    return folder


def test_the_line_of_the_slowest_steps(capsys):
    found = line_of(
        capsys,
        "checkpoint-steps",
        "--rounds",
        "1",
        "--steps",
        "50",
        "--width",
        "16",
        "--batch-size",
        "4",
        "--every",
        "5",
    )
    assert found["name"] == "checkpoint_steps"
    assert found["parameters"] == 10 * (16 * 16 + 16)
    assert found["wall_ms"].keys() == {"with", "without"}


def test_only_one_side_takes_checkpoints_and_every_step_that_counts_is_timed(monkeypatch):
    taken, save = [], CheckpointWriter.save
    monkeypatch.setattr(
        CheckpointWriter,
        "save",
        lambda self, state, **options: (taken.append(options["step"]), save(self, state, **options)),
    )
    options = types.SimpleNamespace(steps=45, width=8, batch_size=2, dir=None)
    assert len(checkpoint_steps.step_times(20, options)) == 45 - checkpoint_steps.SKIP - 1
    assert taken == [20, 40, 45]  # the last one is that of the run's end, after the last step that is timed
    taken.clear()
    checkpoint_steps.step_times(0, options)
    assert taken == [45]


def test_a_percentile_lies_between_the_two_nearest_steps():
    times = [(float(k), 0.0) for k in range(1, 102)]  # 1 to 101
    assert checkpoint_steps.percentile(times, 0, 0.99) == 100.0
    assert checkpoint_steps.percentile(times, 0, 0.5) == 51.0
    assert checkpoint_steps.percentile(times, 0, 0.995) == 100.5


def test_a_gap_is_counted_between_epochs_only():
    gaps = epoch_gap.Gaps(steps_per_epoch=3)
    for _ in range(3 * 4):
        gaps.begins()
        gaps.ended()
    assert len(gaps.seconds) == 3


def test_the_line_of_the_gap_between_epochs(capsys, monkeypatch):
    monkeypatch.setattr(epoch_gap, "IMAGES", 16)
    found = line_of(capsys, "epoch-gap", "--rounds", "1", "--epochs", "3", "--rows", "torch_persistent")
    assert found["rows"].keys() == {"ours", "torch_persistent"}
    assert found["figure"] == found["rows"]["ours"]["median"] > 0


def test_the_workers_of_a_gap_live_from_one_epoch_to_the_next(pictures, monkeypatch):
    from sightline.data import loader

    started = []
    threads = loader.Threads
    monkeypatch.setattr(
        loader, "Threads", lambda *values, **options: (started.append(1), threads(*values, **options))[1]
    )
    assert len(epoch_gap.ours(pictures, 3, "model.width=0.125")) == 2
    assert started == [1, 1]  # one for all epochs, one for the evaluation at the end


def test_the_line_of_the_efficiency(capsys, pictures):
    found = line_of(
        capsys,
        "efficiency",
        "--data",
        str(pictures),
        "--rounds",
        "1",
        "--epochs",
        "2",
        "--sizes",
        "64",
        "--rows",
        "ours",
    )
    row = found["rows"]["64"]["ours"]
    assert 0 < row["first"] < 1
    assert found["figure"] == row["efficiency"]
    assert row["first"] <= row["all"] <= row["efficiency"] or row["efficiency"] <= row["all"] <= row["first"]


def test_the_efficiency_looks_at_every_epoch_and_keeps_the_batches_of_the_last():
    clocks = efficiency.EpochClocks(epochs=2)
    model = clocks.timed(lambda batch: [clocks.keep(batch), sum(range(1000))])
    for epoch in range(2):
        clocks.begin()
        for k in range(3):
            clocks.keep([epoch, k])
            model([epoch, k])
        clocks.end()
    seen = []
    clocks.bound_s(seen.append)
    assert seen == [[1, 0], [1, 1], [1, 2]]
    assert len(clocks.epochs) == 2
    assert all(0 < inside <= whole for whole, inside in clocks.epochs)


def test_the_line_of_two_processes_counts_neither_the_first_epoch_nor_the_last(capsys, pictures, monkeypatch):
    monkeypatch.setitem(processes.ROWS, "two_threads", ("threads=1",))
    options = ["--rounds", "1", "--epochs", "3", "--rows", "two_threads", "--image-size", "64"]
    options += ["--batches", "2", "--batch-size", "4"]
    changes = ["model.width=0.125", "workers=0", "log.trackers=[]"]
    found = line_of(capsys, "processes", "--data", str(pictures), *options, *changes)
    assert found["figure"] == 1.0
    assert found["rows"]["two_threads"]["images_per_s"] > 0
