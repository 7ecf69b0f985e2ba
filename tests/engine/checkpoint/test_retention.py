import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from sightline.config.errors import ConfigError
from sightline.engine.checkpoint.retention import (
    BestBy,
    CheckpointConfig,
    DiskUse,
    KeepAll,
    KeepBest,
    KeepEpochs,
    KeepEveryEpochs,
    KeepEverySteps,
    KeepFinalEpochs,
    KeepImprovements,
    KeepLast,
    KeepRule,
    Saved,
    disk_use,
    improvements,
    kept_steps,
    ranked,
)

BEST = BestBy()


def epochs_of(figures, meanings=(BEST,)):
    """One checkpoint per figure at the end of epochs 1, 2, ..., ten steps each, as the writer notes them."""
    saved = []
    for epoch, figure in enumerate(figures, start=1):
        new = Saved(10 * epoch, epoch, True, {} if figure is None else {"AP": figure})
        saved.append(Saved(new.step, epoch, True, new.metrics, improvements(new, saved, meanings)))
    return saved


def kept_epochs(figures, *rules, total_epochs=None):
    kept = kept_steps(epochs_of(figures), CheckpointConfig(keep=rules), best=BEST, total_epochs=total_epochs)
    return sorted(step // 10 for step in kept)


RISING = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
FALLING = RISING[::-1]


@pytest.mark.parametrize(
    "rules, expected",
    [
        ((), [1, 6]),  # the best and the newest stay without any rule
        ((KeepLast(count=3),), [1, 4, 5, 6]),
        ((KeepBest(count=3),), [1, 2, 3, 6]),
        ((KeepBest(count=2, by=BestBy(direction="min")),), [1, 5, 6]),
        ((KeepEveryEpochs(every=2),), [1, 2, 4, 6]),
        ((KeepEverySteps(every=30),), [1, 3, 6]),
        ((KeepEpochs(epochs=(2, 5, 99)),), [1, 2, 5, 6]),
        ((KeepFinalEpochs(count=2),), [1, 5, 6]),
        ((KeepImprovements(),), [1, 6]),
        ((KeepAll(),), [1, 2, 3, 4, 5, 6]),
        ((KeepEpochs(epochs=(3,)), KeepLast(count=2)), [1, 3, 5, 6]),
    ],
)
def test_each_rule_keeps_what_it_says(rules, expected):
    assert kept_epochs(FALLING, *rules, total_epochs=6) == expected


def test_checkpoints_amid_epochs_push_out_none_of_the_last_epochs():
    saved = [Saved(step, step // 10, step % 10 == 0) for step in (10, 15, 20, 25, 30, 33, 36, 39)]

    def kept(rule):
        return sorted(kept_steps(saved, CheckpointConfig(keep=[rule]), best=BEST))

    assert kept(KeepLast(count=2, epoch_ends=True)) == [20, 30, 39]  # the newest always stays
    assert kept(KeepLast(count=2)) == [36, 39]


def test_improvements_are_those_that_were_best_in_their_time():
    assert kept_epochs([0.2, 0.1, 0.3, 0.3, 0.25, 0.4, 0.1], KeepImprovements()) == [1, 3, 6, 7]
    assert kept_epochs([0.2, 0.1, 0.3, 0.3, 0.25, 0.4, 0.1], KeepImprovements(from_epoch=4)) == [6, 7]


def test_the_rules_of_300_epochs_of_yolov7():
    # The first epoch, every 25th, each of the last five, and improvements from epoch 200 on: 1 + 12 + 4 more.
    rules = (
        KeepEpochs(epochs=(1,)),
        KeepEveryEpochs(every=25),
        KeepFinalEpochs(count=5),
        KeepImprovements(from_epoch=200),
    )
    expected = {1, *range(25, 301, 25), *range(296, 301)}
    assert kept_epochs([None] * 300, *rules, total_epochs=300) == sorted(expected)
    assert len(expected) == 17
    figures = [0.5] * 300
    figures[210 - 1] = 0.6
    assert kept_epochs(figures, *rules, total_epochs=300) == sorted(expected | {210})


def test_equal_figures_rank_by_age_as_asked():
    saved = epochs_of([0.5, 0.7, 0.7, 0.7])
    assert [one.epoch for one in ranked(saved, BestBy(ties="earliest"))] == [2, 3, 4, 1]
    assert [one.epoch for one in ranked(saved, BestBy(ties="latest"))] == [4, 3, 2, 1]
    assert [one.epoch for one in ranked(saved, BestBy(direction="min"))] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "figure, direction, best",
    [("AP", None, 2), ("loss", None, 1), ("loss/box", None, 1), ("lossless", None, 2), ("loss", "max", 2)],
)
def test_losses_are_better_small_and_other_figures_large_where_nothing_else_is_said(figure, direction, best):
    saved = [Saved(1, metrics={figure: 0.1}), Saved(2, metrics={figure: 0.2})]
    for metric in (None, figure):  # by its place, and by its name
        assert ranked(saved, BestBy(metric=metric, direction=direction))[0].step == best


def test_a_checkpoint_in_the_middle_of_an_epoch_is_no_epoch_checkpoint():
    saved = [Saved(5, 2, False), Saved(10, 2, False), Saved(20, 3, True)]
    config = CheckpointConfig(keep=(KeepEveryEpochs(every=2), KeepEpochs(epochs=(2,))))
    assert kept_steps(saved, config, best=BEST) == {20}


def test_final_epochs_need_a_planned_end():
    with pytest.raises(ConfigError, match="final_epochs"):
        kept_epochs(RISING, KeepFinalEpochs())


def test_rules_are_plain_values_in_a_file():
    written = {"keep": [{"rule": "last", "count": 3}, {"rule": "every_epochs", "every": 25}, {"rule": "all"}]}
    config = CheckpointConfig.model_validate(written)
    assert config.keep == (KeepLast(count=3), KeepEveryEpochs(every=25), KeepAll())
    assert CheckpointConfig.model_validate_json(config.model_dump_json()) == config
    for wrong in ({"rule": "lst"}, {"rule": "last", "count": 0}, {"rule": "last", "every": 1}, {"count": 1}):
        with pytest.raises(ValueError, match=r"rule|count|every"):
            CheckpointConfig.model_validate({"keep": [wrong]})


bests = st.builds(
    BestBy,
    metric=st.just(None),
    direction=st.sampled_from(["max", "min"]),
    ties=st.sampled_from(["earliest", "latest"]),
)
small = st.integers(1, 4)
rules = st.one_of(
    st.builds(KeepLast, count=small),
    st.builds(KeepBest, count=small, by=st.none() | bests),
    st.builds(KeepImprovements, from_epoch=st.integers(0, 5), by=st.none() | bests),
    st.builds(KeepEveryEpochs, every=small),
    st.builds(KeepEverySteps, every=st.integers(1, 50)),
    st.builds(KeepEpochs, epochs=st.lists(st.integers(1, 12), min_size=1, max_size=3).map(tuple)),
    st.builds(KeepFinalEpochs, count=small),
    st.just(KeepAll()),
)
figures = st.lists(st.none() | st.sampled_from([0.1, 0.2, 0.3, float("nan")]), min_size=1, max_size=12)


def config_and_saved(rule_list, figures, best):
    config = CheckpointConfig(keep=tuple(rule_list))
    return config, epochs_of(figures, config.meanings_of_best(best))


@given(st.lists(rules, max_size=3), figures, bests)
def test_the_newest_and_the_best_always_stay(rule_list, figures, best):
    config, saved = config_and_saved(rule_list, figures, best)
    kept = kept_steps(saved, config, best=best, total_epochs=12)
    assert saved[-1].step in kept
    assert {one.step for one in ranked(saved, best)[:1]} <= kept <= {one.step for one in saved}


@given(st.lists(rules, max_size=3), rules, figures, bests)
def test_another_rule_never_removes_anything(rule_list, more, figures, best):
    config, saved = config_and_saved([*rule_list, more], figures, best)
    fewer = kept_steps(saved, CheckpointConfig(keep=tuple(rule_list)), best=best, total_epochs=12)
    assert fewer <= kept_steps(saved, config, best=best, total_epochs=12)


@given(st.lists(rules, max_size=3), figures, bests)
@example([KeepImprovements(from_epoch=2, by=BestBy())], [0.2, 0.1, 0.2, None], BestBy(direction="min"))
def test_removing_after_every_save_ends_as_removing_once_at_the_end(rule_list, figures, best):
    config, saved = config_and_saved(rule_list, figures, best)
    alive = []
    for one in saved:
        now = Saved(one.step, one.epoch, True, one.metrics)
        alive.append(
            Saved(one.step, one.epoch, True, one.metrics, improvements(now, alive, config.meanings_of_best(best)))
        )
        kept = kept_steps(alive, config, best=best, total_epochs=12)
        alive = [other for other in alive if other.step in kept]
    assert {one.step for one in alive} == kept_steps(saved, config, best=best, total_epochs=12)


@given(st.lists(rules, max_size=3), figures, bests, st.randoms())
def test_the_order_of_the_list_does_not_matter(rule_list, figures, best, random):
    config, saved = config_and_saved(rule_list, figures, best)
    shuffled = random.sample(saved, len(saved))
    assert kept_steps(shuffled, config, best=best, total_epochs=12) == kept_steps(
        saved, config, best=best, total_epochs=12
    )


@given(st.lists(rules, max_size=3), figures, bests)
def test_the_estimate_of_disk_use_is_never_exceeded(rule_list, figures, best):
    config, saved = config_and_saved(rule_list, figures, best)
    epochs = len(figures)
    use = disk_use(config, bytes_each=100, total_steps=10 * epochs, steps_per_epoch=10, total_epochs=epochs)
    for end in range(1, epochs + 1):
        before = kept_steps(saved[: end - 1], config, best=best, total_epochs=epochs) if end > 1 else set()
        assert len(before) + 1 <= use.count  # those that stand and the one being written
    assert use.bytes == 100 * use.count


def test_disk_use_by_hand():
    # Two newest, epochs 2, 4, ... 10 (10 is among the newest), the best one, and the one being written.
    config = CheckpointConfig(keep=(KeepLast(count=2), KeepEveryEpochs(every=2)))
    use = disk_use(config, bytes_each=480_000_000, total_steps=1000, steps_per_epoch=100, total_epochs=10)
    assert use.count == len({9, 10, 2, 4, 6, 8}) + 1 + 1
    assert str(use) == "8 checkpoints, 3.84 GB"
    # Every 50 steps of 1000, all kept: 20, and the one being written.
    all_of_them = CheckpointConfig(every_steps=50, keep=(KeepAll(),))
    assert disk_use(all_of_them, bytes_each=1, total_steps=1000, steps_per_epoch=100).count == 21


@pytest.mark.parametrize(
    "use, text",
    [
        (DiskUse(1, 300_000), "1 checkpoint, 1 MB"),
        (DiskUse(12, 34_100_000), "12 checkpoints, 35 MB"),
        (DiskUse(2, 1_000_000_000), "2 checkpoints, 1.00 GB"),
    ],
)
def test_disk_use_is_told_in_the_unit_that_fits(use, text):
    assert str(use) == text


def test_every_rule_can_be_written_by_its_name():
    adapter = TypeAdapter(KeepRule)
    for rule in (KeepLast(), KeepBest(), KeepImprovements(), KeepEveryEpochs(every=1), KeepEverySteps(every=1)):
        assert adapter.validate_python(rule.model_dump()) == rule
