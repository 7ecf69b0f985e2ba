"""The first 20 steps of seeded runs against the numbers kept beside this file.

The files come from our own runs, so they show that nothing moved, not that it is right; the parity tests do that. A
change that is not meant to change the mathematics must leave them alone. One that is meant to replaces them with
``python -m tests.curves.yolov7_runs`` and says why.

Other machines must get the same numbers. In float32 they would not: a detector's first steps are chaotic, so that
processors that round differently part after a few of them. So the runs are in float64, at low learning rates, with
weights and pictures from a generator that never changes. Then AVX-512, AVX2 and plain kernels, one thread and two agree
to 1e-10. The files are compared to 1e-7; the second test shows that noise many times larger than rounding stays
below a tenth of that.
"""

from functools import cache

import numpy as np
import pytest

from tests.curves.yolov7_runs import COLUMNS, RUNS, Noise, path_of, run

once = cache(run)


@pytest.mark.parametrize("name", RUNS)
def test_a_seeded_run_repeats_its_curve(name):
    ours, kept = once(name), np.loadtxt(path_of(name))
    assert len(kept) == len(ours) == RUNS[name].steps
    for step, (mine, row) in enumerate(zip(ours, kept[:, 1:], strict=True), start=1):
        moved = [f"{column} {a:.10e}, not {b:.10e}" for column, a, b in zip(COLUMNS, mine, row, strict=True) if a != b]
        np.testing.assert_allclose(mine, row, rtol=1e-7, err_msg=f"step {step}: {'; '.join(moved)}")


@pytest.mark.parametrize("name", RUNS)
def test_rounding_does_not_move_the_curve(name):
    for seed in range(2):
        np.testing.assert_allclose(run(name, Noise(1e-14, seed)), once(name), rtol=1e-8)


@pytest.mark.parametrize("name", RUNS)
def test_the_same_run_gives_the_same_bits(name):
    np.testing.assert_array_equal(run(name), once(name))


@pytest.mark.parametrize("name", RUNS)
def test_the_run_learns(name):
    losses = once(name)[:, :3].sum(axis=1)
    assert losses[-4:].mean() < losses[:4].mean()
