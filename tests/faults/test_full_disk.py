"""A disk that fills up while a real training writes to it: exit code 1, a short message, older checkpoints whole.

With room again, ``resume`` goes on and ends with the bits of a run that never met a full disk.
"""

import contextlib
import os
import resource
import signal
import sys
import time
from functools import partial

import pytest

from sightline.cli.main import main
from sightline.engine.checkpoint.reader import find_checkpoints, read_checkpoint
from sightline.engine.trackers.tensorboard import TensorBoardTracker
from sightline.engine.trackers.tracker import TrackedRow
from tests.cli.tool import RECIPE, without_report
from tests.disks import small_disk
from tests.faults.tiny import CHANGES, assert_same_bits, live, shown_steps, train

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork to begin lives cheaply"),
    pytest.mark.timeout(900),
]

EPOCHS = "epochs=6"
"""Long after the first checkpoint, which is when the disk fills up."""


def never(message):
    raise AssertionError(message)


def command(*words):
    """What the shell's command does, in this process. Returns its exit code."""
    sys.argv = ["sightline", *words]
    try:
        with without_report():
            main()
    except SystemExit as done:
        return done.code
    return 0


def train_command(run):
    return command("train", RECIPE, "--out", str(run), *CHANGES, EPOCHS)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    run = tmp_path_factory.mktemp("unbroken") / "run"
    assert train(run, EPOCHS) == 0
    return run


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", megabytes=16) as folder:
        yield folder


def assert_short_message(life, *parts):
    said = life.said()
    assert "Traceback" not in said
    message = said[said.index("error: ") :]
    assert len(message.splitlines()) <= 5
    for part in parts:
        assert part in message


def has_a_checkpoint(run):
    return bool(find_checkpoints(run))


def free_bytes(folder):
    about = os.statvfs(folder)
    return about.f_bavail * about.f_frsize


def keep_full(disk, life, *, leave):
    """Take all but so many bytes, and what becomes free, for as long as a life lasts."""
    with (disk / "ballast").open("wb", buffering=0) as ballast:
        while life.is_alive():
            with contextlib.suppress(OSError):
                while free_bytes(disk) > leave:
                    ballast.write(bytes(min(65536, max(free_bytes(disk) - leave, 4096))))
            time.sleep(0.001)  # who sleeps is woken at once on a busy machine; who never does waits for its turn


@pytest.mark.parametrize("leave", [0, 300_000], ids=["without any room", "without room for a checkpoint"])
def test_a_disk_that_fills_up_ends_the_run_with_a_message_and_room_lets_it_go_on(disk, unbroken, begin_life, leave):
    run = disk / "run"
    life = begin_life(partial(train_command, run))
    assert life.wait_for(partial(has_a_checkpoint, run)), life.said()
    keep_full(disk, life, leave=leave)
    assert life.exit_code() == 1, life.said()
    assert_short_message(life, str(run), "resume the run")
    for path in find_checkpoints(run):
        read_checkpoint(path)
    (disk / "ballast").unlink()
    assert begin_life(partial(live, run)).exit_code() == 0
    assert_same_bits(run, unbroken)


def test_tensorboard_events_that_a_full_disk_refuses_are_left_out_whole(disk):
    def row(step):
        return TrackedRow("train", step, 0, {"loss": 0.5}, {}, time.time())

    tracker = TensorBoardTracker(disk)
    tracker.open()
    tracker.write([row(1)])
    with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))
    refused = 0
    for step in range(2, 200):
        try:
            tracker.write([row(step)])
        except OSError:
            refused += 1
    assert refused > 50
    (disk / "ballast").unlink()
    tracker.write([row(200)])
    tracker.close("done")
    shown = shown_steps(disk)
    assert shown == [*range(1, len(shown)), 200]
    assert len(shown) == 200 - refused


def test_a_file_that_may_not_grow_ends_the_run_with_a_message_and_leaves_nothing_half_written(
    tmp_path, unbroken, begin_life
):
    run = tmp_path / "run"
    life = begin_life(partial(train_command, run))
    assert life.wait_for(partial(has_a_checkpoint, run)), life.said()
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN  # Python's own choice
    resource.prlimit(life.pid, resource.RLIMIT_FSIZE, (200_000, 200_000))
    assert life.exit_code() == 1, life.said()
    assert_short_message(life, "checkpoint of step", "was not written: File too large", "older ones are untouched")
    for path in find_checkpoints(run):
        read_checkpoint(path)
    assert not list((run / "checkpoints").glob(".*"))
    assert begin_life(partial(live, run)).exit_code() == 0
    assert_same_bits(run, unbroken)
