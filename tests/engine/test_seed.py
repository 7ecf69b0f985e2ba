import random
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sightline.engine.seed import reseed, seed_everything, step_generator_seed

CPU = torch.device("cpu")
steps = st.integers(0, 2**32 - 1)
seeds = st.integers(0, 2**63)


def draw():
    return random.random(), np.random.rand(), torch.rand(3).tolist()


def test_seeding_everything_repeats_every_generator():
    seed_everything(7)
    first = draw()
    seed_everything(7)
    assert draw() == first
    seed_everything(8)
    other = draw()
    assert all(a != b for a, b in zip(first, other, strict=True))


@given(seed=seeds, a=steps, b=steps, rank=st.integers(0, 1000))
def test_no_two_steps_of_a_run_share_a_seed_even_in_32_bits(seed, a, b, rank):
    one, two = (step_generator_seed(seed, step, rank) for step in (a, b))
    assert (one & 0xFFFFFFFF == two & 0xFFFFFFFF) == (a == b)
    assert 0 <= one < 2**63


def test_a_hundred_thousand_steps_have_as_many_seeds_and_neighbours_differ_in_half_of_their_bits():
    values = [step_generator_seed(0, step) for step in range(100_000)]
    assert len({value & 0xFFFFFFFF for value in values}) == 100_000
    flips = np.mean([(a ^ b).bit_count() for a, b in pairwise(values)])
    assert flips == pytest.approx(31.5, abs=0.5)  # of 63


def test_processes_and_runs_draw_other_numbers():
    values = {step_generator_seed(seed, 5, rank) for seed in range(50) for rank in range(50)}
    assert len(values) == 2500


def splitmix64(value):
    """One output of the published generator, in NumPy's wrapping arithmetic. Its first output for 0 is well known."""
    with np.errstate(over="ignore"):
        value = np.uint64(value) + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))


def test_the_mixer_is_splitmix64_and_a_seed_is_a_constant_of_its_names():
    # Another function here would change every run that uses dropout.
    assert splitmix64(0) == 0xE220A8397B1DCDAF
    seed, step, rank = 12345, 678, 9
    key = splitmix64(splitmix64(seed) + np.uint64(rank))
    assert step_generator_seed(seed, step, rank) >> 32 == int(splitmix64(key ^ np.uint64(step))) >> 33


def test_dropout_after_reseeding_does_not_depend_on_history():
    reseed(CPU, 1, 100)
    expected = torch.nn.functional.dropout(torch.ones(64))
    torch.rand(17)
    reseed(CPU, 1, 100)
    assert torch.equal(torch.nn.functional.dropout(torch.ones(64)), expected)
    reseed(CPU, 1, 101)
    assert not torch.equal(torch.nn.functional.dropout(torch.ones(64)), expected)


def test_reseeding_costs_less_than_seeding_all_devices():
    def cpu_seconds(function, count):
        best = float("inf")
        for _ in range(5):
            start = time.process_time()
            for step in range(count):
                function(step)
            best = min(best, (time.process_time() - start) / count)
        return best

    assert cpu_seconds(lambda step: reseed(CPU, 1, step), 2000) < 0.5 * cpu_seconds(torch.manual_seed, 400)


@pytest.mark.gpu
def test_reseeding_a_gpu_repeats_its_numbers():
    device = torch.device("cuda")
    reseed(device, 1, 5)
    first = torch.rand(4, device=device)
    reseed(device, 1, 5)
    assert torch.equal(torch.rand(4, device=device), first)
