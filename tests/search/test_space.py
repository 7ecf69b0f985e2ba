"""Ranges as users write them, and their values."""

import pytest

from sightline.config.errors import ConfigError
from sightline.config.override import Change
from sightline.search.space import is_range, parse_range, parse_space


def of(text, key="lr"):
    return parse_range(Change(key, text, "space.yaml:3"))


def test_a_place_is_a_value_on_the_scale_of_its_range():
    assert [of("uniform(0, 8)").at(place) for place in (0, 0.25, 1)] == [0, 2, 8]
    assert [of("log(1e-4, 1)").at(place) for place in (0, 0.25, 0.5, 1)] == [1e-4, 1e-3, 1e-2, 1]
    assert [of("int(2, 5)").at(place) for place in (0, 0.24, 0.26, 0.99, 1)] == [2, 2, 3, 5, 5]
    assert [of("choice(sgd, 0.5, null, [1, 2])").at(place) for place in (0, 0.3, 0.5, 1)] == ["sgd", 0.5, None, [1, 2]]


def test_numbers_have_six_digits_and_stay_inside():
    assert of("uniform(0, 1)").at(1 / 3) == 0.333333
    assert of("uniform(0, 0.12345678)").at(1) == 0.12345678  # not 0.123457, which lies outside
    assert of("uniform(0.12345678, 1)").at(0) == 0.123457


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("log(0, 1)", "log needs a low end above 0"),
        ("uniform(2, 1)", r"comes first and is smaller: uniform\(1, 2\)"),
        ("int(3, 3)", "both ends are equal"),
        ("int(1, 2.5)", "int takes two whole numbers"),
        ("uniform(1)", "uniform takes two numbers"),
        ("uniform(a, b)", "uniform takes two numbers"),
        ("uniform(0, .inf)", "uniform takes two numbers"),
        ("uniform(false, true)", "uniform takes two numbers"),
        ("choice(1)", "two values or more"),
        ("choice(1, 2, 1)", "named twice"),
        ("choice([1, 2)", "cannot read the value"),
        ("lgo(1, 2)", "Did you mean 'log'"),
        ("loguniform(1, 2)", "Did you mean 'uniform'"),
        ("0.1", "is no range"),
        (0.1, "is no range"),
        ([1, 2], "is no range"),
    ],
)
def test_a_wrong_range_is_refused(text, cure):
    with pytest.raises(ConfigError, match=cure):
        of(text)


def test_only_what_looks_like_a_range_is_one():
    assert all(map(is_range, ("log(1, 2)", " choice( a, b ) ", "lgo(1,2)", "unifrom(1,2)")))
    assert not any(map(is_range, ("0.1", "my_data (copy)", "data(1)", "log", "[log(1,2)]", "")))


def test_a_key_has_one_range_and_so_has_its_group():
    ranges = [Change("ema", "choice(null, 1)", "a"), Change("ema.decay", "uniform(0, 1)", "b")]
    with pytest.raises(ConfigError, match=r"b: ema\.decay has a range already, by ema="):
        parse_space(ranges)
    with pytest.raises(ConfigError, match="lr has a range already"):
        parse_space([Change("lr", "log(1, 2)", "a"), Change("lr", "log(1, 3)", "b")])
    with pytest.raises(ConfigError, match="no key has a range"):
        parse_space([])
