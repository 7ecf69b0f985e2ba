"""What a search tries next is a function of names, and it finds what it looks for."""

import math
from statistics import mean

from hypothesis import given
from hypothesis import strategies as st

from sightline.config.override import Change
from sightline.search.proposals import Proposals
from sightline.search.space import parse_space, values_at

SPACE = parse_space(
    [
        Change("lr", "log(1e-5, 1)", "test"),
        Change("optimizer.momentum", "uniform(0.5, 1)", "test"),
        Change("layers", "int(1, 12)", "test"),
        Change("optimizer.name", "choice(sgd, adam, adamw)", "test"),
    ]
)


def score(values):
    """Largest, 0, at lr 1e-3, momentum 0.9, 4 layers and adam."""
    return -(
        (math.log10(values["lr"]) + 3) ** 2
        + (values["optimizer.momentum"] - 0.9) ** 2 * 20
        + ((values["layers"] - 4) / 4) ** 2
        + (values["optimizer.name"] != "adam")
    )


def searched(trials, **arguments):
    """Values and scores of a whole search."""
    proposals, found = Proposals(SPACE, **arguments), []
    for trial in range(trials):
        values = values_at(SPACE, proposals.propose(trial).places)
        found.append((values, score(values)))
        proposals.tell(found[-1][1])
    return found


def test_the_first_generation_has_one_trial_in_every_part_of_every_range():
    proposals = Proposals(SPACE, generation=8, seed=5)
    places = [proposals.propose(trial).places for trial in range(8)]
    for one in SPACE:
        assert sorted(int(8 * place[one.key]) for place in places) == list(range(8))


def test_evolution_comes_closer_than_chance():
    evolved, spread = (
        mean(max(score for _, score in searched(48, seed=seed, method=method)) for seed in range(20))
        for method in ("evolve", "random")
    )
    assert evolved > 0.5 * spread  # both are negative: half as far away


@given(st.integers(0, 9), st.integers(1, 7), st.lists(st.none() | st.floats(-1, 1), min_size=30, max_size=30))
def test_it_does_not_matter_when_proposals_are_asked_for(seed, generation, scores):
    early, late = (Proposals(SPACE, seed=seed, generation=generation) for _ in range(2))
    asked = []
    for score in scores:
        while early.is_open(len(asked)):  # as early as can be, as many jobs would
            asked.append(early.propose(len(asked)))
        early.tell(score)
        late.tell(score)
    assert [late.propose(trial) for trial in reversed(range(len(scores)))] == asked[: len(scores)][::-1]


def test_another_seed_tries_something_else():
    assert searched(9, seed=1)[0][0] != searched(9, seed=2)[0][0]
    assert searched(9, seed=1) == searched(9, seed=1)


def test_a_generation_waits_for_the_one_before():
    proposals = Proposals(SPACE, generation=4)
    assert [proposals.is_open(trial) for trial in (0, 3, 4)] == [True, True, False]
    for _ in range(4):
        proposals.tell(0.0)
    assert [proposals.is_open(trial) for trial in (4, 7, 8)] == [True, True, False]
    assert Proposals(SPACE, generation=4, method="random").is_open(99)


def test_only_the_best_trials_have_children_and_failed_ones_none():
    proposals = Proposals(SPACE, generation=10)
    for trial in range(10):
        proposals.tell(None if trial == 9 else float(trial))
    parents = [proposals.propose(trial).parent for trial in range(10, 20)]
    assert parents[0] is None  # one is drawn anew
    assert set(parents[1:]) <= {6, 7, 8}


def test_generations_of_one_change_the_best_every_time():
    proposals = Proposals(SPACE, generation=1)
    for trial in range(4):
        assert (proposals.propose(trial).parent is None) == (trial == 0)
        proposals.tell(float(trial))


def test_where_all_have_failed_all_are_drawn_anew():
    proposals = Proposals(SPACE, generation=3)
    for _ in range(3):
        proposals.tell(None)
    assert [proposals.propose(trial).parent for trial in (3, 4, 5)] == [None] * 3


def test_a_child_differs_from_its_parent():
    for seed in range(30):
        proposals = Proposals(SPACE, seed=seed)
        for trial in range(8):
            proposals.tell(float(trial))
        for trial in range(9, 16):
            child = proposals.propose(trial)
            assert all(0 <= place <= 1 for place in child.places.values())
            assert values_at(SPACE, child.places) != values_at(SPACE, proposals.propose(child.parent).places)


def test_draws_are_the_same_for_ever():
    # SHA-256 of "(0, 'parent', 8)" begins with the 64 bits below; 52 of them are the draw.
    import hashlib

    bits = int(hashlib.sha256(b"(0, 'parent', 8)").hexdigest()[:13], 16)
    assert Proposals(SPACE)._draw("parent", 8) == (bits + 0.5) / 2**52
