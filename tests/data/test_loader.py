"""Batches made ahead of time: the same bits whoever makes them, and nothing left behind."""

import contextlib
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from sightline.config.errors import DataError
from sightline.data.draws import sample_generator
from sightline.data.loader import BatchLoader
from sightline.data.sampler import Sampler

ROOT = Path(__file__).parents[2]


class Numbers:
    """A source of random rows; remembers what it was asked for, and fails where it is told to."""

    def __init__(self, length=23, *, broken=(), missing=(), deadly=(), delay=0.0):
        self.length, self.delay = length, delay
        self.broken, self.missing, self.deadly = set(broken), set(missing), set(deadly)
        self.touched = []

    def __len__(self):
        return self.length

    def layout(self, num_samples, input_hw):
        return {"rows": ((num_samples, 5), np.float64), "ids": ((num_samples,), np.int32)}

    def fill(self, request, slot, arrays):
        index = request.sample_ids[slot]
        self.touched.append((request.epoch, index))
        time.sleep(self.delay)
        if index in self.broken:
            raise ZeroDivisionError("no way")
        if index in self.missing:
            raise DataError(f"file {index} is missing")
        if index in self.deadly:
            os._exit(9)
        generator = sample_generator(0, request.epoch, index)
        arrays["rows"][slot] = generator.random(5)
        arrays["ids"][slot] = index
        return generator.random(generator.integers(0, 4))

    def collate(self, request, arrays, extras):
        return {"rows": arrays["rows"], "ids": arrays["ids"], "extras": extras, "request": request}

    def describe(self, index):
        return f"folder/{index}.txt"

    def prepare_worker(self):
        pass


def loader_of(source=None, *, batch_size=4, **options):
    source = source or Numbers()
    return BatchLoader(source, Sampler(len(source), batch_size, seed=1), **options)


def copied(fetched):
    batch = fetched.batch
    return (
        fetched.epoch,
        fetched.index,
        batch["rows"].copy(),
        batch["ids"].tolist(),
        [extra.tolist() for extra in batch["extras"]],
    )


def run(loader, **place):
    with loader:
        return [copied(fetched) for fetched in loader.iterate(**place)]


def assert_equal_runs(first, second):
    assert [(e, k, ids, extras) for e, k, _, ids, extras in first] == [
        (e, k, ids, extras) for e, k, _, ids, extras in second
    ]
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a[2], b[2])


KINDS = [
    pytest.param({"workers": 1}, id="1 thread"),
    pytest.param({"workers": 3}, id="3 threads"),
    pytest.param({"workers": 2, "prefetch": 5}, id="2 threads far ahead"),
    pytest.param({"workers": 2, "kind": "processes", "start_method": "fork"}, id="2 forked processes"),
    pytest.param({"workers": 2, "kind": "processes", "start_method": "spawn"}, id="2 spawned processes"),
]
QUICK_KINDS = [{"workers": 0}, {"workers": 2}, {"workers": 2, "kind": "processes", "start_method": "fork"}]


@pytest.fixture(scope="module")
def reference():
    """Three epochs of 6 batches, made by the caller."""
    return run(loader_of(workers=0), epochs=3)


@pytest.mark.parametrize("options", KINDS)
def test_all_workers_make_the_same_bits(options, reference):
    assert_equal_runs(run(loader_of(**options), epochs=3), reference)


def test_places_are_counted_over_all_epochs(reference):
    assert [(epoch, index) for epoch, index, *_ in reference] == [(e, k) for e in range(3) for k in range(6)]
    assert all(len(ids) == (3 if index == 5 else 4) for _, index, _, ids, _ in reference)


@pytest.mark.parametrize("options", QUICK_KINDS)
@pytest.mark.parametrize(("epoch", "index"), [(0, 5), (1, 0), (1, 3), (2, 5), (1, 6)])
def test_starting_anywhere_gives_the_rest_of_the_run(options, epoch, index, reference):
    assert_equal_runs(run(loader_of(**options), epoch=epoch, index=index, epochs=3), reference[6 * epoch + index :])


@pytest.mark.parametrize("options", [{"workers": 0}, {"workers": 2}])
def test_jumping_into_the_middle_touches_no_other_sample(options):
    source = Numbers()
    rest = run(loader_of(source, **options), epoch=4, index=3, epochs=5)
    assert sorted(source.touched) == sorted((4, i) for _, _, _, ids, _ in rest for i in ids)
    assert len(source.touched) == 23 - 3 * 4


def test_workers_run_ahead_by_the_prefetch_and_no_further():
    source = Numbers(40)
    with loader_of(source, workers=2, prefetch=2) as loader:
        batches = loader.iterate(epochs=1)
        next(batches)
        deadline = time.monotonic() + 60
        while len(source.touched) < 12 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(source.touched) == 12  # the batch in use and two more


def test_inline_batches_are_made_when_asked_for():
    source = Numbers()
    batches = loader_of(source, workers=0).iterate(epochs=1)
    assert len(source.touched) == 0
    next(batches)
    assert len(source.touched) == 4


@pytest.mark.parametrize("options", QUICK_KINDS)
def test_slabs_are_used_again(options):
    prefetch = 2 if options["workers"] else 0
    with loader_of(Numbers(60), **options) as loader:
        places = [fetched.batch["rows"].ctypes.data for fetched in loader.iterate(epochs=2)]
    assert len(set(places)) == prefetch + 1
    assert all(a != b for a, b in itertools.pairwise(places)) or not prefetch


def test_workers_live_from_epoch_to_epoch_and_iteration_to_iteration():
    with loader_of(workers=2) as loader:
        list(loader.iterate(epochs=1))
        first = {thread.ident for thread in threading.enumerate() if thread.name.startswith("sightline-data")}
        list(loader.iterate(epoch=1, epochs=2))
        second = {thread.ident for thread in threading.enumerate() if thread.name.startswith("sightline-data")}
    assert len(first) == 2
    assert first == second


@pytest.mark.parametrize("options", QUICK_KINDS)
def test_an_iteration_left_early_does_not_spoil_the_next(options, reference):
    with loader_of(Numbers(delay=0.002), **options) as loader:
        for _ in range(3):
            for fetched in loader.iterate(epochs=3):
                if fetched.index == 2:
                    break
        assert_equal_runs([copied(fetched) for fetched in loader.iterate(epochs=3)], reference)


def test_a_new_iteration_ends_the_one_before():
    with loader_of(workers=1) as loader:
        first = loader.iterate(epochs=1)
        next(first)
        next(loader.iterate(epochs=1))
        with pytest.raises(RuntimeError, match="another iteration"):
            next(first)


def test_a_closed_loader_starts_again(reference):
    loader = loader_of(workers=2)
    assert_equal_runs(run(loader, epochs=3), reference)
    assert_equal_runs(run(loader, epochs=3), reference)


def test_processes_of_a_run_share_every_batch(reference):
    source = Numbers()
    parts = []
    for rank in range(2):
        sampler = Sampler(len(source), 4, seed=1, rank=rank, num_processes=2)
        parts.append(run(BatchLoader(source, sampler, workers=1), epochs=3))
    for whole, first, second in zip(reference, *parts, strict=True):
        assert whole[3][::2] == first[3]
        assert whole[3][1::2] == second[3]
        np.testing.assert_array_equal(whole[2][::2], first[2])
        np.testing.assert_array_equal(whole[2][1::2], second[2])


def test_a_share_without_samples_is_an_empty_batch():
    source = Numbers(5)
    sampler = Sampler(5, 4, rank=1, num_processes=2)
    for options in QUICK_KINDS:
        with BatchLoader(source, sampler, **options) as loader:
            assert [len(fetched.batch["ids"]) for fetched in loader.iterate(epochs=1)] == [2, 0]


@pytest.mark.parametrize("options", QUICK_KINDS)
def test_a_failing_sample_names_itself_and_its_file(options):
    with (
        loader_of(Numbers(broken=[7]), **options) as loader,
        pytest.raises(RuntimeError, match=r"sample 7 \(folder/7.txt\) failed in epoch 0, .*ZeroDivisionError: no way"),
    ):
        list(loader.iterate(epochs=1))


@pytest.mark.parametrize("options", QUICK_KINDS)
def test_an_error_of_a_file_stays_what_it_is(options):
    with loader_of(Numbers(missing=[7]), **options) as loader, pytest.raises(DataError, match=r"^file 7 is missing$"):
        list(loader.iterate(epochs=1))


@pytest.mark.parametrize("options", QUICK_KINDS)
def test_batches_before_a_failing_one_come_and_the_loader_stays_usable(options, reference):
    broken = reference[2][3][0]  # of epoch 0, batch 2
    with loader_of(Numbers(broken=[broken]), **options) as loader:
        seen = []
        with pytest.raises(RuntimeError, match="no way"):
            for fetched in loader.iterate(epochs=3):
                seen.append((fetched.epoch, fetched.index))
        assert seen == [(0, 0), (0, 1)]
        assert_equal_runs([copied(next(loader.iterate(index=3, epochs=3)))], reference[3:4])


FORKED = {"workers": 2, "kind": "processes", "start_method": "fork"}


def test_a_worker_process_that_dies_again_and_again_is_reported(caplog):
    loader = loader_of(Numbers(deadly=[7]), **FORKED)
    last_words = r"sightline-data-\d died \(process \d+\) with exit code 9 while it made sample 7 \(folder/7.txt\)"
    with loader, pytest.raises(RuntimeError, match=last_words + r"\. It is the 4th time"):
        list(loader.iterate(epochs=1))
    assert [record.getMessage().rpartition("(")[2] for record in caplog.records] == [
        f"{n} of 3 restarts)" for n in (1, 2, 3)
    ]
    with loader, pytest.raises(RuntimeError, match="died"):  # and again, not a hang
        list(loader.iterate(epochs=1))


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_killed_worker_is_replaced_and_no_bit_changes(start_method, reference, caplog):
    with loader_of(Numbers(delay=0.002), **{**FORKED, "start_method": start_method}) as loader:
        seen = []
        for fetched in loader.iterate(epochs=3):
            seen.append(copied(fetched))
            if len(seen) in (2, 7):
                victim = loader._workers._workers[len(seen) % 2].process
                os.kill(victim.pid, signal.SIGKILL)
    assert_equal_runs(seen, reference)
    said = [record.getMessage() for record in caplog.records]
    assert [text.split()[0] for text in said] == ["sightline-data-0", "sightline-data-1"]
    assert all("with exit code -9 (SIGKILL)" in text and "makes the same samples again" in text for text in said)


def test_all_workers_killed_at_once_are_replaced(reference):
    with loader_of(**FORKED) as loader:
        batches = loader.iterate(epochs=3)
        seen = [copied(next(batches))]
        for worker in loader._workers._workers:
            os.kill(worker.process.pid, signal.SIGKILL)
        assert_equal_runs(seen + [copied(fetched) for fetched in batches], reference)


def children():
    return {int(line) for line in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into /proc")


@needs_proc
@pytest.mark.parametrize("leave", ["finished", "early", "forgotten", "failed"])
@pytest.mark.parametrize("options", QUICK_KINDS[1:])
def test_closing_leaves_nothing_behind(options, leave):
    def census():
        gc.collect()
        num_files = len(list(Path("/proc/self/fd").iterdir()))
        num_maps = Path("/proc/self/maps").read_text().count("sightline-slabs")
        return {thread.name for thread in threading.enumerate()}, children(), num_files, num_maps

    before = census()
    loader = loader_of(Numbers(broken=[7] if leave == "failed" else []), **options)
    batches = loader.iterate(epochs=2)
    next(batches)
    assert len(census()[0] | census()[1]) > len(before[0] | before[1])
    if leave == "finished":
        list(batches)
    if leave == "failed":
        with pytest.raises(RuntimeError):
            list(batches)
    if leave != "forgotten":
        loader.close()
    del loader, batches
    assert census() == before
    assert before[3] == 0


def test_a_batch_outlives_its_loader():
    for options in QUICK_KINDS:
        loader = loader_of(**options)
        fetched = next(loader.iterate(epochs=1))
        before = fetched.batch["rows"].copy()
        loader.close()
        del loader
        gc.collect()
        np.testing.assert_array_equal(fetched.batch["rows"], before)


SCRIPT = """
import os, sys, time
from tests.data.test_loader import Numbers, loader_of

if __name__ == "__main__":
    options = {"workers": 2, "kind": sys.argv[1], "start_method": sys.argv[2]}
    loader = loader_of(Numbers(2000, delay=0.01), **options)
    batches = loader.iterate(epochs=5)
    next(batches)
    children = open(f"/proc/self/task/{os.getpid()}/children").read()
    try:
        print(children.strip(), flush=True)
        for _ in batches:
            pass
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        if sys.argv[3] == "close":
            loader.close()
        sys.exit(3)
"""


def is_alive(process_id):
    """Whether the process runs; a dead one that nobody has fetched the exit code of does not."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@needs_proc
@pytest.mark.parametrize(
    ("kind", "start_method", "ending"),
    [
        ("threads", "fork", "close"),
        ("processes", "fork", "close"),
        ("processes", "spawn", "close"),
        ("processes", "fork", "exit"),
        ("processes", "fork", "kill"),
        ("processes", "spawn", "kill"),
    ],
)
def test_ctrl_c_and_sigkill_end_all_processes(kind, start_method, ending, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), kind, start_method, ending],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        workers = [int(word) for word in process.stdout.readline().split()]
        assert len(workers) >= (0 if kind == "threads" else 2)  # spawn starts a helper beside them
        if ending == "kill":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
        out, errors = process.communicate(timeout=60)
        if ending != "kill":
            assert (process.returncode, out, errors) == (3, "interrupted\n", "")
        deadline = time.monotonic() + 30
        while any(map(is_alive, workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not [worker for worker in workers if is_alive(worker)]
    finally:
        with contextlib.suppress(ProcessLookupError):  # where all is well, the group is gone
            os.killpg(process.pid, signal.SIGKILL)


@needs_proc
def test_workers_ignore_sigterm():
    with loader_of(Numbers(200, delay=0.002), workers=2, kind="processes", start_method="fork") as loader:
        batches = loader.iterate(epochs=1)
        next(batches)
        workers = children()
        for process_id in workers:
            os.kill(process_id, signal.SIGTERM)
        assert len(list(batches)) == 49
        assert children() == workers  # a dead one would have been replaced


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": -1}, "workers must be at least 0"),
        ({"prefetch": 0}, "prefetch at least 1"),
        ({"kind": "fibres"}, "'threads' or 'processes'"),
    ],
)
def test_senseless_numbers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        loader_of(**arguments)


def test_a_sampler_of_another_length_is_refused():
    with pytest.raises(ValueError, match="23 samples, the sampler 22"):
        BatchLoader(Numbers(23), Sampler(22, 4))


@pytest.mark.parametrize("place", [{"epoch": -1}, {"index": -1}, {"index": 7}])
def test_a_place_that_does_not_exist_is_refused(place):
    with pytest.raises(ValueError, match="no batch"):
        loader_of().iterate(**{"epochs": 1, **place})


def test_no_epochs_left_is_no_batch():
    assert run(loader_of(workers=2), epoch=3, epochs=3) == []
