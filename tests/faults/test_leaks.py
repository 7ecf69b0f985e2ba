"""A run leaves nothing behind in its process: no open file, no thread, no process, no shared memory."""

import contextlib
import gc
import os
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.faults.lives import PATIENCE_S
from tests.faults.tiny import train

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to count open files")


def belongings():
    """What this process holds: open files by name, threads, shared memory."""
    gc.collect()
    files: Counter[str] = Counter()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing itself
            files[str(path.readlink())] += 1
    threads = sorted(thread.name for thread in threading.enumerate())
    mapped = sorted(one.path for one in psutil.Process().memory_maps() if "memfd" in one.path or "/dev/shm" in one.path)
    return {"files": files, "threads": threads, "mapped": mapped}


def names_in_shared_memory():
    """What this user has there."""
    found = set()
    for path in Path("/dev/shm").iterdir() if Path("/dev/shm").is_dir() else ():
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_uid == os.getuid():
                found.add(path)
    return found


def stay(names):
    """Whether one of these names stays: those of other processes, which have nothing to do with the test, go."""
    deadline = time.monotonic() + PATIENCE_S
    while (left := names & names_in_shared_memory()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def children_of(process):
    return [one for one in process.children(recursive=True) if "resource_tracker" not in " ".join(one.cmdline())]


def compare_two_runs(folder, changes):
    """Exit code 0 if a second run leaves this process as it found it. The first pays for lazy imports."""
    train(folder / "first", "epochs=1", *changes)
    before, names_before = belongings(), names_in_shared_memory()
    train(folder / "second", "epochs=2", *changes)
    after, new_names = belongings(), names_in_shared_memory() - names_before
    for what in before:
        if before[what] != after[what]:
            print(f"{what}: {before[what]} -> {after[what]}")
    left = children_of(psutil.Process())
    print("children:", left)
    left_names = stay(new_names)
    print("shared memory:", left_names)
    return 0 if before == after and not left and not left_names else 1


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_nothing_is_left_behind(tmp_path, begin_life, kind):
    train(tmp_path / "warm", "epochs=1")
    changes = ("workers=2", f"data.loader={kind}")
    life = begin_life(partial(compare_two_runs, tmp_path, changes))
    assert life.exit_code() == 0, life.said()
