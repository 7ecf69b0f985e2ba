"""Classifiers that are killed again and again end with the bits of ones that never were.

As ``test_kill``, with what classifiers draw at random: parts of images, mixing, RandAugment, erasing, dropout.
"""

import json
import os
import random
import time

import pytest

from tests.class_pictures import write_shapes
from tests.faults.moments import is_evaluating, is_writing
from tests.faults.tiny import assert_same_bits, logged_step
from tests.faults.tiny_classifier import live

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork to kill processes cheaply")

STEPS_PER_KILL = 2
WORKERS = {"small-cnn": ("workers=2", "data.loader=threads"), "lenet": ("workers=0",)}
MOMENTS = {"any time": lambda run, pid: True, "checkpoint": is_writing, "evaluation": is_evaluating}


def kill_at(moment, life, run, generator, *, after_step):
    """Let a life go on to the moment after a step, and end it. False if it ended by itself before."""
    happens = MOMENTS[moment]
    reached = life.wait_for(lambda: logged_step(run) >= after_step) and life.wait_for(lambda: happens(run, life.pid))
    time.sleep(generator.uniform(0, 0.02))
    life.kill()
    return reached and os.waitstatus_to_exitcode(life.ended) < 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("recipe", ["small-cnn", "lenet"])
def test_6_kills_cost_not_one_bit(tmp_path, begin_life, recipe):
    data = write_shapes(tmp_path / "shapes", train=3, val=2)
    run, unbroken = tmp_path / "run", tmp_path / "unbroken"
    assert live(recipe, unbroken, data, "epochs=8") == 0
    seed = random.SystemRandom().randrange(2**32)  # training has seeded the usual one
    print(f"seed {seed}")
    generator = random.Random(seed)
    moments = [*MOMENTS] * 2
    generator.shuffle(moments)
    for count, moment in enumerate(moments):
        life = begin_life(lambda: live(recipe, run, data, "epochs=8", *WORKERS[recipe]))
        killed = kill_at(moment, life, run, generator, after_step=count * STEPS_PER_KILL)
        assert killed, f"seed {seed}: ended by itself with {life.exit_code()} after {count} kills\n{life.said()}"
    last = begin_life(lambda: live(recipe, run, data))
    assert last.exit_code() == 0, f"seed {seed}\n{last.said()}"
    assert_same_bits(run, unbroken, f"seed {seed}: the run")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 25))
