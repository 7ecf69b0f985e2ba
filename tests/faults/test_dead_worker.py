"""A data worker that dies in the middle of a run costs nothing but a line of text."""

import multiprocessing
import os
import signal
import threading
import time

import pytest

from sightline.data import worker_processes
from tests.faults.lives import PATIENCE_S
from tests.faults.tiny import assert_same_bits, is_past, train

pytestmark = pytest.mark.skipif(os.name != "posix", reason="worker processes need Linux or macOS")


def kill_workers(run, steps, killed):
    """SIGKILL for a data worker after each of these steps."""
    deadline = time.monotonic() + PATIENCE_S
    for number, step in enumerate(steps):
        while not is_past(run, step) and time.monotonic() < deadline:
            time.sleep(0.002)
        name = f"sightline-data-{number % 2}"
        for child in multiprocessing.active_children():
            if child.name == name and child.is_alive():
                os.kill(child.pid, signal.SIGKILL)
                killed.append(name)
                break


def test_a_run_whose_data_workers_are_killed_has_the_bits_of_an_unbroken_one(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(worker_processes._log, "warning", lambda text, *parts: said.append(text % parts))
    assert train(tmp_path / "unbroken", "epochs=4") == 0
    killed = []
    killer = threading.Thread(target=kill_workers, args=(tmp_path / "run", (2, 5), killed))
    killer.start()
    assert train(tmp_path / "run", "epochs=4", "workers=2", "data.loader=processes") == 0
    killer.join()
    assert killed
    assert said
    assert all("exit code -9 (SIGKILL)" in text and text.split()[0] in killed for text in said)
    assert_same_bits(tmp_path / "run", tmp_path / "unbroken")
