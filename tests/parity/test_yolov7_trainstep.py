"""Three recorded training steps of YOLOv7: losses, gradients, weights, running statistics and their average.

Model, loss, optimizer groups, schedule, Nesterov steps and averaging are ours, and ``engine.loop.train`` runs them.

Only the first step is a plain comparison. The steps after it are chaotic: biases learn at 8 times the rate that the
warm-up leads to, from a few images, and true boxes flip from one anchor to another. Noise of one unit in the last
place of the weights moves the second loss of one recorded run by 15 %. Two tests deal with that:

- With the operations in the recorded order (``round_as_recorded``, three places) the bits are equal, and so are all
  numbers of all steps, to 1e-6. This needs a processor that rounds like the recording's. The gradients of the first
  step, which are not chaotic, tell; where their bits differ the test is skipped and says so.
- With our own order, as a run trains, every number must hold the recording's tolerance (1e-2 for losses, 1e-3 for
  norms) or, where rounding alone moves it further, 5 times the spread of 6 runs whose weights were off by up to 1e-6
  at the start, in opposite pairs. No number is exempt because of its name: the spread is measured in the test. Of 40
  runs that were off by half a unit in the last place and took the recording's place, none failed.

A norm is compared relatively to itself. A sum can be near 0 by chance, so it is compared relatively to the largest
sum that the norm allows, the norm times the root of the number of elements.
"""

from functools import cache

import numpy as np
import pytest

from tests.parity.yolov7_recipe import is_anchor, names_in
from tests.parity.yolov7_replay import Case, round_as_recorded, with_noise

CASES = names_in("trainstep", "meta.json")

LOSS_BOUND = 1e-2
"""Of the recording, for steps after the first."""
NORM_BOUND = 1e-3
"""Of the recording."""

NOISE = 1e-6
NOISY_PAIRS = 3
SPREADS = 5


@cache
def replay_of(name):
    """The recorded steps as a run of ours takes them."""
    case = Case(name)
    return case.replay(case.detector())


def is_counter(name):
    return name.endswith(".num_batches_tracked")


def recorded_rows(names, table):
    """Recorded (sum, norm) by name, without the anchors, which are no weights of ours, and without counters."""
    assert len(names) == len(table)
    return {n: row for n, row in zip(names, table, strict=True) if not is_anchor(n) and not is_counter(n)}


def distances(ours, others):
    """(entries, 2) of sums and norms from each other, relative as told above."""
    assert {name for name in ours if not is_counter(name)} == set(others)
    a, b = np.array([ours[name][:2] for name in others]), np.array([others[name][:2] for name in others])
    roots = np.sqrt([ours[name][2] for name in others])
    scale = np.maximum(b[:, 1], 1e-12)
    return np.abs(a - b) / np.stack((scale * roots, scale), axis=1)


def off_in(names, far, bound):
    """Entries of a table of distances beyond the bound, worst first, for a message."""
    worst = np.argsort(-(far / bound).max(axis=1))
    lines = [f"{names[i]}: sum, norm off by {far[i]}, bound {np.broadcast_to(bound, far.shape)[i]}" for i in worst]
    return f"{int((far > bound).any(axis=1).sum())} of {len(names)} entries. " + "; ".join(lines[:4])


@pytest.mark.parametrize("name", CASES)
def test_the_first_step_has_the_recorded_losses_gradients_and_rates(name):
    case, replay = Case(name), replay_of(name)
    np.testing.assert_allclose(replay.items[0], case.arrays["items"][0], rtol=1e-5)
    np.testing.assert_allclose(replay.losses[0], case.arrays["loss"][0], rtol=1e-5)
    gradients = recorded_rows(case.meta["param_names"], case.arrays["grad_step0"])
    far = distances(replay.first_gradients, gradients)
    # The recording asks for 1e-3. Rounding alone is left here: up to 3e-6 for operations in another order, and more
    # with other seeds and sizes, which may be recorded elsewhere.
    assert (far <= 1e-4).all(), off_in(list(gradients), far, 1e-4)
    np.testing.assert_allclose(replay.lrs_and_momentum, case.arrays["lr_pg0_pg1_pg2_momentum"], rtol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_all_steps_with_operations_in_the_recorded_order(name, monkeypatch):
    case = Case(name)
    round_as_recorded(monkeypatch)
    replay = case.replay(case.detector())
    gradients = recorded_rows(case.meta["param_names"], case.arrays["grad_step0"])
    if distances(replay.first_gradients, gradients).max() > 1e-12:
        pytest.skip("this processor, or this torch, rounds unlike the recording's")
    np.testing.assert_allclose(replay.losses, case.arrays["loss"], rtol=1e-6)
    np.testing.assert_allclose(replay.items, case.arrays["items"], rtol=1e-6)
    for ours, key in ((replay.state, "state_after"), (replay.average, "ema_after")):
        recorded = recorded_rows(case.meta["state_names"], case.arrays[key])
        far = distances(ours, recorded)
        assert (far <= 1e-6).all(), f"{key}: {off_in(list(recorded), far, 1e-6)}"


@pytest.mark.timeout(900)  # seven runs, of whatever network was recorded
@pytest.mark.parametrize("name", CASES)
def test_all_steps_as_a_run_trains(name):
    case, replay = Case(name), replay_of(name)
    detector = case.detector()
    signs = [(seed, sign) for seed in range(NOISY_PAIRS) for sign in (1, -1)]
    noisy = [case.replay(with_noise(detector, seed, sign * NOISE)) for seed, sign in signs]

    spread = np.max([np.abs(other.items / replay.items - 1) for other in noisy], axis=0)
    far = np.abs(replay.items / case.arrays["items"] - 1)
    bound = np.maximum(LOSS_BOUND, SPREADS * spread)
    assert (far <= bound).all(), f"items off by\n{far}, bounds\n{bound}"

    for key, ours, others in (
        ("state_after", replay.state, [other.state for other in noisy]),
        ("ema_after", replay.average, [other.average for other in noisy]),
    ):
        recorded = recorded_rows(case.meta["state_names"], case.arrays[key])
        names = list(recorded)
        spread = np.max([distances(ours, {n: other[n][:2] for n in names}) for other in others], axis=0)
        bound = np.maximum(NORM_BOUND, SPREADS * spread)
        far = distances(ours, recorded)
        assert (far <= bound).all(), f"{key}: {off_in(names, far, bound)}"


@pytest.mark.parametrize("name", CASES)
def test_batches_are_counted_in_the_state_and_not_in_the_average(name):
    # The recorded program runs the network once while it is built, so its counters begin at 1.
    case, replay = Case(name), replay_of(name)
    tables = zip(case.meta["state_names"], case.arrays["state_after"], case.arrays["ema_after"], strict=True)
    counters = {name: (state[0], average[0]) for name, state, average in tables if is_counter(name)}
    assert counters
    for counter, (state, average) in counters.items():
        assert replay.state[counter][0] - replay.average[counter][0] == state - average
        assert replay.average[counter][0] == 0
