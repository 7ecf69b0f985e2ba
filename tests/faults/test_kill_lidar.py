"""LiDAR detectors that are killed again and again end with the bits of ones that never were.

As ``test_kill``, with what is drawn at random for point clouds: pasted objects, noise, flips, turns, sizes, the order
of points.
"""

import json
import os
import random
import time

import pytest

from tests.faults.moments import is_evaluating, is_writing
from tests.faults.tiny import assert_same_bits, logged_step
from tests.faults.tiny_lidar import live

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork to kill processes cheaply")

STEPS_PER_KILL = 2
EPOCHS = 6
RUNS = {
    "epochs": ("ema.decay=0.9", "precision=bf16"),
    "one long epoch": ("ema.decay=0.9", "data.one_long_epoch=true"),
}
WORKERS = {"epochs": ("workers=2", "data.loader=threads"), "one long epoch": ("workers=0",)}
MOMENTS = {"any time": lambda run, pid: True, "checkpoint": is_writing, "evaluation": is_evaluating}


def kill_at(moment, life, run, generator, *, after_step):
    """Let a life go on to the moment after a step, and end it. False if it ended by itself before."""
    happens = MOMENTS[moment]
    reached = life.wait_for(lambda: logged_step(run) >= after_step) and life.wait_for(lambda: happens(run, life.pid))
    time.sleep(generator.uniform(0, 0.02))
    life.kill()
    return reached and os.waitstatus_to_exitcode(life.ended) < 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", RUNS)
def test_6_kills_cost_not_one_bit(tmp_path, begin_life, kind):
    changes = (f"epochs={EPOCHS}", "checkpoint.every_steps=2", *RUNS[kind])
    run, unbroken = tmp_path / "run", tmp_path / "unbroken"
    assert live(unbroken, *changes) == 0
    seed = random.SystemRandom().randrange(2**32)  # training has seeded the usual one
    print(f"seed {seed}")
    generator = random.Random(seed)
    moments = [*MOMENTS] * 2
    generator.shuffle(moments)
    for count, moment in enumerate(moments):
        life = begin_life(lambda: live(run, *changes, *WORKERS[kind]))
        killed = kill_at(moment, life, run, generator, after_step=count * STEPS_PER_KILL)
        assert killed, f"seed {seed}: ended by itself with {life.exit_code()} after {count} kills\n{life.said()}"
    last = begin_life(lambda: live(run))
    assert last.exit_code() == 0, f"seed {seed}\n{last.said()}"
    assert_same_bits(run, unbroken, f"seed {seed}: the run")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    # 7 frames in batches of 3: 3 steps an epoch, the last of one frame; all 42 together make 6 x 2 full batches.
    steps = 12 if kind == "one long epoch" else 3 * EPOCHS
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, steps + 1))
