"""A training that is killed again and again ends with the bits of one that never was.

The parent has imported and used everything once, so that a life begins in milliseconds. Kills come at the start,
at any time, while a checkpoint is being written, and during evaluations; progress, not the clock alone, chooses
them, so that every training ends.
"""

import json
import os
import random
import time

import pytest

from tests.faults.lives import PATIENCE_S
from tests.faults.moments import is_evaluating, is_locked, is_writing
from tests.faults.tiny import STEPS_PER_EPOCH, assert_same_bits, live, logged_step, shown_steps, train

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork to kill processes cheaply")

STEPS_PER_KILL = 2
MOMENTS = {"start": 3, "any time": 6, "checkpoint": 3, "a little after a checkpoint began": 4, "evaluation": 4}
"""How often each comes in 20 kills, in any order."""
DELAY_S = {"start": 0.3, "any time": 0.1, "checkpoint": 0.0}
"""At most so long after the moment; 0.02 where nothing is said."""

WORKERS = {
    "no workers": ("workers=0",),
    "2 threads": ("workers=2", "data.loader=threads"),
    "2 processes": ("workers=2", "data.loader=processes"),
}


def kill_at(moment, life, run, generator, *, after_step):
    """Let a life go on to the moment after a step, and end it. False if it ended by itself before."""
    if moment != "start" and not life.wait_for(lambda: logged_step(run) >= after_step):
        return False
    happens = is_evaluating if moment == "evaluation" else is_writing if "checkpoint" in moment else is_locked
    reached = life.wait_for(lambda: happens(run, life.pid))
    if reached:
        time.sleep(generator.uniform(0, DELAY_S.get(moment, 0.02)))
        life.kill(with_children=generator.random() < 0.8)
    return reached and os.waitstatus_to_exitcode(life.ended) < 0


def epochs_for(kills):
    """So many that progress is left after the last kill."""
    return f"epochs={-(-kills * STEPS_PER_KILL // STEPS_PER_EPOCH) + 4}"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The run that nobody kills, without workers; it also warms up everything that a life needs."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    assert train(run, epochs_for(20)) == 0
    return run


def kill_again_and_again(run, unbroken, begin_life, changes, kills):
    seed = random.SystemRandom().randrange(2**32)  # training has seeded the usual one
    print(f"seed {seed}")
    generator = random.Random(seed)
    changes = (*changes, epochs_for(kills))
    moments = [moment for moment, times in MOMENTS.items() for _ in range(times * kills // 20)]
    assert len(moments) == kills
    generator.shuffle(moments)
    lives, during_writes = [], 0
    for count, moment in enumerate(moments):
        life = begin_life(lambda: live(run, *changes))
        lives.append(life)
        killed = kill_at(moment, life, run, generator, after_step=count * STEPS_PER_KILL)
        assert killed, f"seed {seed}: ended by itself with {life.exit_code()} after {count} kills\n{life.said()}"
        during_writes += is_writing(run, life.pid)
    print(f"{during_writes} of {len(lives)} kills left half a checkpoint; the last came after step {logged_step(run)}")
    last = begin_life(lambda: live(run, *changes))
    assert last.exit_code() == 0, f"seed {seed}\n{last.said()}"

    assert during_writes >= kills / 10
    assert_same_bits(run, unbroken, f"seed {seed}: the run")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if row["kind"] == "train"]
    assert steps == list(range(1, len(steps) + 1))
    assert shown_steps(run) == steps
    sessions = json.loads((run / "run.json").read_text())["sessions"]
    assert len({session["from_step"] for session in sessions}) >= kills / 3  # the kills were spread over the run
    return lives


@pytest.mark.timeout(900)
@pytest.mark.parametrize("workers", WORKERS)
def test_20_kills_cost_not_one_bit(tmp_path, unbroken, begin_life, workers):
    lives = kill_again_and_again(tmp_path / "run", unbroken, begin_life, WORKERS[workers], kills=20)
    # Workers whose trainer was killed alone notice it and end.
    deadline = time.monotonic() + PATIENCE_S
    while any(life.children_left() for life in lives) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(life.children_left() for life in lives)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("workers", WORKERS)
def test_200_kills_cost_not_one_bit(tmp_path, begin_life, workers):
    assert train(tmp_path / "unbroken", epochs_for(200)) == 0
    kill_again_and_again(tmp_path / "run", tmp_path / "unbroken", begin_life, WORKERS[workers], kills=200)
