"""``sightline status`` of a run that works, and of one that was killed."""

import os
import re
import signal
import time

from sightline import api
from sightline.engine.run_folder.status import read_status
from tests.cli.tool import sightline
from tests.conftest import quiet
from tests.engine.toy import ToyTask, toy_run
from tests.forked import forked

PAUSE_S = 0.02
PATIENCE_S = 120.0


def works(folder):
    """A run of a constant pace that would take a minute."""
    forward = ToyTask.forward

    def slow(task, batch):
        time.sleep(PAUSE_S)
        return forward(task, batch)

    ToyTask.forward = slow
    config = toy_run(data_samples=12000, epochs=1, log={"heartbeat_seconds": 0.01, "trackers": []})
    api.train(config, out=folder / "run", console=quiet())


def test_a_run_that_works_tells_its_time_left_and_one_that_was_killed_is_dead(tmp_path):
    child = forked(lambda: works(tmp_path))
    try:
        until = time.monotonic() + PATIENCE_S
        while (status := read_status(tmp_path / "run")) is None or status.step < 25 or status.eta_s is None:
            assert time.monotonic() < until, status
            time.sleep(0.05)
        alive = sightline("status", "run", cwd=tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    dead = sightline("status", "run", cwd=tmp_path)
    table = sightline("status", ".", cwd=tmp_path)
    assert alive.out.splitlines()[0] == "run: running"
    assert re.fullmatch(r"step \d+/3000, epoch 0/1", alive.out.splitlines()[1])
    minutes, seconds = map(int, re.search(r"samples/s, ETA (\d+):(\d\d)$", alive.out).groups())
    assert 60 * minutes + seconds > 0.9 * 2900 * PAUSE_S
    assert dead.out.splitlines()[0] == "run: dead" and "ETA" not in dead.out
    assert "Continue with: sightline.resume('run') in the program that defines ToyRun" in dead.out
    assert table.out.splitlines()[1].split()[:2] == ["run", "dead"]
    assert "begins" in (tmp_path / "run" / "log.txt").read_text().splitlines()[0]
