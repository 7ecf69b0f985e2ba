"""Checkpoints under kills, full and read-only disks, and damage.

The work is done in forked children, so that they can be killed and their disks taken away without a line of
the product knowing about tests.
"""

import errno
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch

from sightline.engine.checkpoint import host_buffer
from sightline.engine.checkpoint import writer as checkpoint_writer
from sightline.engine.checkpoint.layout import CheckpointState, folder_name, read_manifest
from sightline.engine.checkpoint.reader import (
    find_checkpoints,
    load_tensors,
    named_checkpoint,
    newest_whole,
    open_checkpoint,
    set_aside,
)
from sightline.engine.checkpoint.retention import CheckpointConfig, KeepLast
from sightline.engine.checkpoint.writer import CheckpointWriteError, CheckpointWriter
from sightline.engine.run_folder.lock import RunLock
from tests.forked import forked

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork to kill processes cheaply")

KEEP_ONE = CheckpointConfig(keep=(KeepLast(count=1),))


def state_at(step: int, size: int = 500) -> CheckpointState:
    """Every number of it tells the step."""
    groups = {name: {"a": torch.full((size,), float(step)), "b": torch.tensor(step)} for name in ("model", "optimizer")}
    return CheckpointState(groups, {"step": step})


def assert_is(checkpoint, step):
    assert (checkpoint.step, checkpoint.state) == (step, {"step": step})
    for group in load_tensors(checkpoint).values():
        assert (group["a"] == step).all() and group["b"] == step


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def never(message):
    raise AssertionError(message)


def in_child(work) -> tuple[int, dict]:
    """Run ``work(tell)`` in a forked child. Returns how it ended (as ``os.waitpid``) and the last thing it told."""
    read_end, write_end = os.pipe()

    def tell(**facts):
        os.write(write_end, json.dumps(facts).encode() + b"\n")

    def telling():
        try:
            work(tell)
        except BaseException as error:
            tell(error=repr(error))
            raise

    pid = forked(telling)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        told = pipe.read().splitlines()
    _, ended = os.waitpid(pid, 0)
    return ended, json.loads(told[-1]) if told else {}


class Points:
    """Counts what a process does to a disk, and acts before the operation number ``at`` (from 1).

    Operations are the interpreter's own audit events, and every chunk of a tensor file.
    """

    EVENTS = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.scandir"})

    def __init__(self, at, act, *, forever=False):
        self.at, self.act, self.forever, self.count, self.armed = at, act, forever, 0, True
        host_buffer.CHUNK_BYTES = 512
        chunks = host_buffer.HostBuffer.chunks

        def counted(buffer):
            for chunk in chunks(buffer):
                self.hit()
                yield chunk

        host_buffer.HostBuffer.chunks = counted
        sys.addaudithook(lambda event, _: self.hit() if event in self.EVENTS else None)

    def hit(self):
        if not self.armed:
            return
        self.count += 1
        if self.count == self.at or (self.forever and self.count > self.at):
            self.act()


def kill_myself():
    os.kill(os.getpid(), signal.SIGKILL)


def refuse():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def a_run_with_two(run, step):
    """Checkpoints 1 (the best) and ``step``."""
    with CheckpointWriter(run, KEEP_ONE) as writer:
        writer.save(state_at(1), step=1, epoch=1, metrics={"AP": 0.9})
        writer.save(state_at(step), step=step, epoch=2, metrics={"AP": 0.1})


@pytest.mark.parametrize("new_step", [3, 2], ids=["a new step", "the same step again"])
def test_a_kill_at_every_single_operation_of_a_save_leaves_whole_checkpoints(tmp_path, new_step):
    kills = 0
    for at in range(1, 1000):
        run = tmp_path / str(at)
        a_run_with_two(run, 2)
        with CheckpointWriter(run, KEEP_ONE) as writer:  # made before the counting starts

            def save(tell, writer=writer, at=at):
                Points(at, kill_myself)
                writer.save(state_at(new_step), step=new_step, epoch=3, metrics={"AP": 0.2})
                writer.close()

            ended, told = in_child(save)
        assert "error" not in told
        found = newest_whole(run, never)
        assert found.step in (2, new_step)
        assert_is(found, found.step)
        # The next process cleans up, and everything is as if nothing had happened.
        CheckpointWriter(run, KEEP_ONE).close()
        assert not [name for name in names_in(run / "checkpoints") if name.startswith(".")]
        assert_is(newest_whole(run, never), found.step)
        assert_is(named_checkpoint(run, "best", never), 1)
        assert open_checkpoint(run / "checkpoints" / "latest").step == found.step
        shutil.rmtree(run)
        if ended == 0:
            assert found.step == new_step
            break
        assert os.WTERMSIG(ended) == signal.SIGKILL
        kills += 1
    else:
        pytest.fail("no save came to its end")
    assert kills >= 25  # each file, each chunk, each rename, each removal


def test_random_kills_never_cost_more_than_one_interval(tmp_path):
    generator = random.Random(0)
    kills = 0
    base = 0
    during_writes = 0
    while kills < 60:
        read_end, write_end = os.pipe()

        def save_for_ever(write_end=write_end):
            with RunLock(tmp_path), CheckpointWriter(tmp_path, CheckpointConfig(keep=(KeepLast(count=2),))) as writer:
                step = newest_whole(tmp_path, never).step if find_checkpoints(tmp_path) else 0
                while True:
                    step += 1
                    writer.save(state_at(step, size=20_000), step=step, epoch=step)
                    os.write(write_end, step.to_bytes(8, "little"))

        pid = forked(save_for_ever)
        os.close(write_end)
        first = os.read(read_end, 8)  # at work now
        assert len(first) == 8, "the child could not start"
        time.sleep(generator.uniform(0, 0.02))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        kills += 1
        with os.fdopen(read_end, "rb") as pipe:
            said = first + pipe.read()
        last = int.from_bytes(said[-8:], "little")
        during_writes += any(path.name.startswith(".") for path in (tmp_path / "checkpoints").iterdir())
        if last == 1 and not find_checkpoints(tmp_path):
            continue  # killed before the very first was on disk
        found = newest_whole(tmp_path, never)
        assert found.step >= max(base, last - 1)  # ``save`` of ``last`` returned, so the one before is on disk
        assert_is(found, found.step)
        base = found.step
    assert during_writes >= 20  # the kills did hit writes


@pytest.mark.parametrize("new_step", [3, 2], ids=["a new step", "the same step again"])
@pytest.mark.parametrize("forever", [False, True], ids=["one operation", "from there on all"])
def test_a_disk_that_refuses_any_operation_leaves_the_older_checkpoints_whole(tmp_path, forever, new_step):
    failures = 0
    for at in range(1, 1000):
        run = tmp_path / str(at)
        a_run_with_two(run, 2)

        def save(tell, run=run, at=at):
            writer = CheckpointWriter(run, KEEP_ONE)
            points = Points(at, refuse, forever=forever)
            try:
                writer.save(state_at(new_step), step=new_step, epoch=3, metrics={"AP": 0.2})
                writer.flush()
            except CheckpointWriteError as error:
                points.armed = False
                tell(failed=str(error))
                at_once = newest_whole(run, never).step
                for step in (new_step, 4):  # the disk is well again
                    writer.save(state_at(step), step=step, epoch=step, metrics={"AP": 0.2})
                writer.close()
                tell(failed=str(error), at_once=at_once)
                return
            tell(failed="")

        ended, told = in_child(save)
        assert ended == 0, told
        if not told["failed"]:
            break
        failures += 1
        assert f"step {new_step}" in told["failed"] and "No space left on device" in told["failed"]
        assert told["at_once"] == (new_step if "stands" in told["failed"] else 2)
        CheckpointWriter(run, KEEP_ONE).close()
        assert_is(newest_whole(run, never), 4)
        assert_is(named_checkpoint(run, "best", never), 1)
        assert names_in(run / "checkpoints") == [
            "best", "latest", folder_name(1), folder_name(4)
        ]  # fmt: skip
        shutil.rmtree(run)
    else:
        pytest.fail("no save came to its end")
    assert failures >= 25


def test_a_full_disk_is_told_and_costs_nothing_old(tmp_path):
    a_run_with_two(tmp_path, 2)

    def save(tell):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        writer = CheckpointWriter(tmp_path, KEEP_ONE)
        writer.save(state_at(3, size=100_000), step=3, epoch=3)
        try:
            writer.close()
        except CheckpointWriteError as error:
            tell(error_text=str(error), there=names_in(tmp_path / "checkpoints"))

    ended, told = in_child(save)
    assert ended == 0
    assert "checkpoint of step 3 was not written: File too large" in told["error_text"]
    assert "older ones are untouched" in told["error_text"]
    assert told["there"] == ["best", "latest", folder_name(1), folder_name(2)]
    assert_is(newest_whole(tmp_path, never), 2)


def test_too_little_space_is_seen_before_anything_is_written(tmp_path, monkeypatch):
    a_run_with_two(tmp_path, 2)
    usage = shutil.disk_usage(tmp_path)._replace(free=60_000)
    monkeypatch.setattr(checkpoint_writer.shutil, "disk_usage", lambda path: usage)
    with CheckpointWriter(tmp_path, KEEP_ONE) as writer:
        with pytest.raises(
            CheckpointWriteError, match=r"step 3 was not written: it needs 0\.1 MB, but 0\.1 MB are free"
        ):
            writer.save(state_at(3), step=3, epoch=3)
        monkeypatch.undo()
        writer.save(state_at(4), step=4, epoch=4)
    assert_is(newest_whole(tmp_path, never), 4)


def test_permission_that_is_lost_during_the_run_is_told_and_costs_nothing_old():
    run = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    run.chmod(0o755)
    nobody = 65534

    def save(tell):
        if os.getuid() == 0:  # root may write anywhere
            os.chown(run, nobody, nobody)
            os.setgid(nobody)
            os.setuid(nobody)
        writer = CheckpointWriter(run, KEEP_ONE)
        writer.save(state_at(1), step=1, epoch=1)
        writer.flush()
        writer.folder.chmod(0o555)
        writer.save(state_at(2), step=2, epoch=2)
        try:
            writer.flush()
        except CheckpointWriteError as error:
            found = newest_whole(run, never).step
            writer.folder.chmod(0o755)
            writer.save(state_at(3), step=3, epoch=3)
            writer.close()
            tell(error_text=str(error), found=found)

    try:
        ended, told = in_child(save)
        assert ended == 0, told
        assert "step 2 was not written: Permission denied" in told["error_text"]
        assert told["found"] == 1
        assert_is(newest_whole(run, never), 3)
    finally:
        shutil.rmtree(run)


# Damage.


def one_byte_each(path):
    """All bytes of a checkpoint as (file, place)."""
    return [(file, place) for file in sorted(path.iterdir()) for place in range(file.stat().st_size)]


@pytest.fixture
def two_checkpoints(tmp_path):
    with CheckpointWriter(tmp_path) as writer:
        for step in (1, 2):
            writer.save(state_at(step, size=5), step=step, epoch=step, metrics={"AP": 0.5, "loss": 1e-5})
    return tmp_path


def assert_passed_over(run, file):
    said = []
    assert newest_whole(run, said.append).step == 1
    assert len(said) == 1
    assert folder_name(2) in said[0] and file.name in said[0]


def test_a_flipped_bit_in_any_byte_is_found_and_the_older_checkpoint_is_used(two_checkpoints):
    generator = random.Random(1)
    places = one_byte_each(two_checkpoints / "checkpoints" / folder_name(2))
    assert len({file for file, _ in places}) == 3
    for file, place in places:
        whole = file.read_bytes()
        flipped = bytearray(whole)
        flipped[place] ^= 1 << generator.randrange(8)
        file.write_bytes(flipped)
        assert_passed_over(two_checkpoints, file)
        file.write_bytes(whole)
    assert_is(newest_whole(two_checkpoints, never), 2)


def test_every_cut_and_appended_bytes_are_found(two_checkpoints):
    for file in sorted((two_checkpoints / "checkpoints" / folder_name(2)).iterdir()):
        whole = file.read_bytes()
        for length in range(len(whole)):
            file.write_bytes(whole[:length])
            assert_passed_over(two_checkpoints, file)
        for more in (b"\0", b"\n", b" ", b"x" * 100):
            file.write_bytes(whole + more)
            assert_passed_over(two_checkpoints, file)
        file.write_bytes(bytes(len(whole)))  # what a power cut may leave: the length, and zeros
        assert_passed_over(two_checkpoints, file)
        file.unlink()
        assert_passed_over(two_checkpoints, file)
        file.write_bytes(whole)
    assert_is(newest_whole(two_checkpoints, never), 2)


def test_files_of_two_checkpoints_do_not_mix(two_checkpoints):
    folder = two_checkpoints / "checkpoints"
    for name in ("model.safetensors", "state.json"):
        whole = (folder / folder_name(2) / name).read_bytes()
        shutil.copy(folder / folder_name(1) / name, folder / folder_name(2) / name)
        assert_passed_over(two_checkpoints, folder / folder_name(2) / name)
        (folder / folder_name(2) / name).write_bytes(whole)


def test_a_run_goes_on_after_damage_and_the_damaged_one_stays_to_be_looked_at(two_checkpoints):
    file = two_checkpoints / "checkpoints" / folder_name(2) / "model.safetensors"
    cut = file.read_bytes()[:-1]
    file.write_bytes(cut)
    said = []
    found = newest_whole(two_checkpoints, said.append)
    (aside,) = set_aside(two_checkpoints, after_step=found.step)
    with CheckpointWriter(two_checkpoints, KEEP_ONE) as writer:
        writer.save(state_at(2), step=2, epoch=2)
    assert_is(newest_whole(two_checkpoints, never), 2)
    assert len(said) == 1
    assert read_manifest(aside).step == 2
    assert (aside / "model.safetensors").read_bytes() == cut


def test_many_checkpoints_leak_neither_files_nor_threads(tmp_path):
    def open_files():
        return len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0

    with CheckpointWriter(tmp_path, KEEP_ONE) as writer:
        writer.save(state_at(1), step=1, epoch=1)
        writer.flush()
        files, threads = open_files(), threading.active_count()
        for step in range(2, 102):
            writer.save(state_at(step), step=step, epoch=step)
        writer.flush()
        # What earlier tests forgot may go meanwhile, so fewer are no fault.
        assert open_files() <= files
        assert threading.active_count() <= threads
    assert names_in(tmp_path / "checkpoints") == ["latest", folder_name(101)]
