"""Random numbers as functions of names."""

import numpy as np
import pytest

from sightline.data.draws import epoch_order, sample_generator


def test_the_same_names_give_the_same_numbers():
    first = sample_generator(3, 5, 7).random(100)
    sample_generator(3, 5, 8).random(10)  # what others draw in between changes nothing
    np.testing.assert_array_equal(first, sample_generator(3, 5, 7).random(100))


@pytest.mark.parametrize("other", [(4, 5, 7), (3, 6, 7), (3, 5, 8), (5, 3, 7), (7, 5, 3)])
def test_other_names_give_other_numbers(other):
    first, second = sample_generator(3, 5, 7).random(1000), sample_generator(*other).random(1000)
    assert not np.isin(first, second).any()


def test_numbers_of_neighbouring_samples_are_uniform_and_uncorrelated():
    draws = np.stack([sample_generator(0, 0, index).random(8) for index in range(4000)])
    # Standard error of a mean of 4000 uniform numbers: 0.0046; of a correlation: 0.016. Bounds at 5 of them.
    assert np.abs(draws.mean(axis=0) - 0.5).max() < 0.023
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.08


def test_an_order_has_every_sample_once():
    for length in (0, 1, 2, 1000):
        np.testing.assert_array_equal(np.sort(epoch_order(1, 2, length)), np.arange(length))


def test_orders_of_epochs_and_seeds_differ():
    orders = [tuple(epoch_order(seed, epoch, 50)) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len(set(orders)) == 6


def test_every_sample_comes_first_equally_often():
    counts = np.bincount([epoch_order(9, epoch, 10)[0] for epoch in range(5000)], minlength=10)
    # Binomial(5000, 0.1): mean 500, standard deviation 21. Bound at 5 of them.
    assert np.abs(counts - 500).max() < 106


def test_an_order_is_the_sort_of_raw_philox_numbers():
    # Independent of numpy's shuffle: the raw stream of a bit generator is fixed for all versions.
    raw = np.random.Philox(key=11, counter=[0, 0, 4, 1]).random_raw(6)
    assert list(epoch_order(11, 4, 6)) == sorted(range(6), key=lambda i: int(raw[i]))


@pytest.mark.parametrize("names", [(-1, 0, 0), (0, -1, 0), (0, 0, -1), (2**63, 0, 0)])
def test_impossible_names_are_refused(names):
    with pytest.raises(ValueError, match=r"must be in \[0, 2\*\*63\)"):
        sample_generator(*names)


def test_a_negative_length_is_refused():
    with pytest.raises(ValueError, match="length"):
        epoch_order(0, 0, -1)
