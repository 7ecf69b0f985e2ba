"""The search for a batch, with memories and clocks that are known."""

import pytest

from sightline.config.errors import ConfigError
from sightline.engine.auto_batch import FoundBatch, Measured, find_batch, number_or_auto, sizes


class Machine:
    """A step takes ``fixed + each * samples`` bytes and 1 s a sample; above ``most`` bytes memory runs out."""

    def __init__(self, *, fixed=100, each=10, most=10**9, saved=0):
        self.fixed, self.each, self.most, self.saved = fixed, each, most, saved
        self.tried = []

    def __call__(self, samples):
        self.tried.append(samples)
        taken = self.fixed + self.each * samples
        return None if taken > self.most else Measured(samples, taken, float(samples), self.saved * samples)


def search(machine, *, budget, room=1000, seconds=10**6):
    left = [seconds]

    def seconds_left():
        return left[0] - sum(machine.tried)

    return find_batch(machine, budget=budget, room=room, seconds_left=seconds_left)


def test_sizes_are_powers_of_two_and_the_middles_between_them():
    assert sizes(50) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48]
    assert sizes(1) == [1]


@pytest.mark.parametrize(
    "budget, expected",
    [(100 + 10 * 16, 16), (100 + 10 * 23, 16), (100 + 10 * 24, 24), (100 + 10 * 31, 24), (121, 2), (115, 1)],
)
def test_the_largest_size_that_fits_is_found_and_was_measured(budget, expected):
    machine = Machine(saved=10)
    found = search(machine, budget=budget)
    assert found.samples == expected
    assert found.is_measured and found.bytes == 100 + 10 * expected <= budget
    assert all(100 + 10 * n <= budget for n in machine.tried[1:] if n > 1), "what cannot fit is not tried"


def test_memory_that_runs_out_before_the_budget_does_is_no_end():
    assert search(Machine(each=10, most=260), budget=10**9).samples == 16


def test_there_are_only_so_many_samples():
    assert search(Machine(), budget=10**9, room=20).samples == 16
    assert search(Machine(), budget=10**9, room=24).samples == 24
    assert search(Machine(), budget=10**9, room=1).samples == 1


def test_where_time_ends_the_size_follows_from_smaller_ones():
    machine = Machine()
    found = search(machine, budget=100 + 10 * 100, seconds=20)
    assert machine.tried == [2, 4, 8]
    assert found == FoundBatch(96, 100 + 10 * 96, (2, 4, 8), False)


def test_what_is_kept_for_the_backward_pass_counts_where_memory_shows_no_growth():
    # An allocator that had the memory already: the step seems to cost nothing more.
    machine = Machine(each=0, saved=50)
    found = search(machine, budget=100 + 50 * 10, seconds=5)  # 12 samples are 10 more than 2
    assert (machine.tried, found.samples) == ([2], 12)


def test_a_single_sample_that_does_not_fit_is_told():
    with pytest.raises(ConfigError, match="batch_size=auto: a step with a single sample does not fit"):
        search(Machine(), budget=50)


@pytest.mark.parametrize("value", [0, -1, 2.5, "big", True, None])
def test_a_batch_size_is_a_number_or_auto(value):
    with pytest.raises(ValueError, match="from 1 on, or auto"):
        number_or_auto(value)


def test_numbers_and_auto_are_taken():
    assert [number_or_auto(value) for value in (1, 16, "auto")] == [1, 16, "auto"]
