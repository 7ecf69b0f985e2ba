from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from sightline.config.base import Config
from sightline.config.errors import ConfigError
from sightline.config.explain import keys_of
from sightline.config.foreign_names import KEYS
from sightline.config.override import (
    Change,
    apply_changes,
    changes_of,
    leaves,
    nearest_key,
    parse_change,
    parse_value,
    refuse_contradictions,
    refuse_without_effect,
)
from sightline.recipes import RECIPES, recipe


class Inner(Config):
    momentum: float = Field(0.9, ge=0, lt=1)
    betas: tuple[float, float] = (0.9, 0.999)


class Last(Config):
    rule: Literal["last"] = "last"
    count: int = 2


class Every(Config):
    rule: Literal["every"] = "every"
    epochs: int


class Reset(Config):
    step: int = 0


class Average(Config):
    decay: float = 0.9
    reset: Reset | None = None
    kind: Literal["plain", "slow"] = "plain"
    slowness: int = 3

    def without_effect(self) -> dict[str, str]:
        return {"slowness": "nothing is slow (kind=plain)"} if self.kind == "plain" else {}


class Outer(Config):
    epochs: int = 3
    lr: float = 0.01
    name: str = "a"
    inner: Inner = Inner()
    average: Average | None = None
    keep: tuple[Annotated[Last | Every, Field(discriminator="rule")], ...] = ()


def changed(*texts: str) -> Outer:
    return apply_changes(Outer(), [parse_change(text) for text in texts])[0]


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-3", 0.001), ("3", 3), ("-0.5", -0.5), ("1_000", 1000), ("true", True), ("False", False), ("none", None),
        ("yes", "yes"), ("no", "no"), ("[1, 2]", [1, 2]), ("{a: 1}", {"a": 1}), ("runs/x", "runs/x"), ("0x10", "0x10"),
    ],
)  # fmt: skip
def test_texts_stand_for_plain_values(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_changes_reach_every_level():
    config = changed("epochs=5", "inner.momentum=0.8", "inner.betas=[0.8, 0.99]", "lr=1e-3")
    assert (config.epochs, config.lr, config.inner) == (5, 0.001, Inner(momentum=0.8, betas=(0.8, 0.99)))


def test_a_change_makes_all_groups_on_its_way_that_are_not_there():
    average = changed("average.reset.step=5").average
    assert average is not None and (average.decay, average.reset) == (0.9, Reset(step=5))


def test_the_last_change_of_a_key_wins_and_keeps_its_origin():
    first, second = parse_change("epochs=5", origin="run.yaml:2"), parse_change("epochs=7")
    config, origins = apply_changes(Outer(), [first, second])
    assert config.epochs == 7
    assert origins == {"epochs": "command line"}


@pytest.mark.parametrize(
    "text, words",
    [
        ("epoch=5", ["command line", "'epoch'", "'epochs'"]),
        ("inner.momentun=0.5", ["'inner.momentun'", "'inner.momentum'"]),
        ("momentum=0.5", ["'momentum'", "'inner.momentum'"]),
        ("iner.momentum=0.5", ["'inner.momentum'"]),
        ("optimizer.lrr=1", ["'lr'"]),
        ("epochs=many", ["command line", "epochs", "integer", "'many'"]),
        ("inner.momentum=1.5", ["inner.momentum", "less than 1", "1.5"]),
        ("inner=3", ["group", "momentum"]),
        ("epochs.x=3", ["'epochs.x'"]),
        ("epochs", ["key=value"]),
        ("=3", ["key=value"]),
        ("inner.betas=[1", ["[1"]),
        ("inner.betas=[1]", ["inner.betas"]),
    ],
)
def test_a_wrong_change_names_key_value_and_cure(text, words):
    with pytest.raises(ConfigError) as error:
        changed(text)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert len(str(error.value).splitlines()) <= 5


@pytest.mark.parametrize(
    "text, words",
    [
        ("keep=[{rul: last}]", ["keep[0]", "'rule' is missing", "Did you mean 'rule' by 'rul'?"]),
        ("keep=[{rule: lst}]", ["keep[0]", "'lst'", "last, every", "Did you mean 'last'?"]),
        ("keep=[{rule: last}, {rule: last, cout: 1}]", ["unknown key 'keep[1].cout'", "'count'"]),
        ("keep=[{rule: every}]", ["keep[0].epochs: is missing"]),
        ("keep=[{rule: last, count: many}]", ["keep[0].count", "integer", "'many'"]),
        ("average.kind=slo", ["average.kind", "'plain' or 'slow'", "Did you mean 'slow'?"]),
        ("average.decy=1", ["'average.decy'", "'average.decay'"]),
        ("inner={momentun: 1}", ["'inner.momentun'", "'inner.momentum'"]),
        ("epochs=2.5", ["epochs", "integer", "2.5"]),
        ("inner.betas=1", ["inner.betas", "list", "1"]),
        ("keep=[{rule: !!python/object:os.system x}]", ["cannot read the value"]),
        ("keep=[{rule: last, rule: last}]", ["cannot read the value", "twice"]),
    ],
)
def test_a_mistake_inside_a_list_or_group_names_the_place_and_the_nearest_right_key(text, words):
    with pytest.raises(ConfigError) as error:
        changed(text)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_mapping_changes_only_the_keys_that_it_names():
    recipe = Outer(inner=Inner(momentum=0.5, betas=(0.1, 0.2)))
    config, origins = apply_changes(recipe, [parse_change("inner={momentum: 0.6}")])
    assert config.inner == Inner(momentum=0.6, betas=(0.1, 0.2))
    assert origins == {"inner.momentum": "command line"}


@pytest.mark.parametrize(
    "texts, words",
    [
        (["lr=1", "lr=2"], ["lr is given twice", "1", "2"]),
        (["inner.momentum=0.1", "inner={momentum: 0.2}"], ["inner.momentum is given twice"]),
        (["average=null", "average.decay=0.5"], ["average=null", "average.decay=0.5"]),
        (["average.decay=0.5", "average=null"], ["average=null", "average.decay=0.5"]),
    ],
)
def test_changes_that_contradict_each_other_are_refused(texts, words):
    with pytest.raises(ConfigError) as error:
        refuse_contradictions([parse_change(text) for text in texts])
    assert all(word in str(error.value) for word in words), str(error.value)


def test_equal_changes_and_changes_of_neighbours_do_not_contradict():
    refuse_contradictions([parse_change(text) for text in ("lr=1", "lr=1", "inner.momentum=0.1", "inner.betas=[0, 0]")])


def test_a_change_without_effect_is_refused_with_its_reason():
    change = Change("average.slowness", 5, "run.yaml:3")
    plain, _ = apply_changes(Outer(), [change])
    with pytest.raises(
        ConfigError, match=r"run.yaml:3: average.slowness=5 has no effect: nothing is slow \(kind=plain"
    ):
        refuse_without_effect(plain, [change])
    slow, _ = apply_changes(Outer(), [change, parse_change("average.kind=slow")])
    refuse_without_effect(slow, [change])


def test_nested_and_dotted_mappings_are_the_same_changes():
    nested = changes_of({"inner": {"momentum": 0.5}, "epochs": 2}, origin="f")
    dotted = changes_of({"inner.momentum": 0.5, "epochs": 2}, origin="f")
    assert nested == dotted


def test_leaves_list_every_value_once():
    assert dict(leaves(Outer())) == {
        "epochs": 3, "lr": 0.01, "name": "a", "inner.momentum": 0.9, "inner.betas": (0.9, 0.999),
        "average": None, "keep": (),
    }  # fmt: skip


class Curve(Config):
    """A group of which each kind has keys of its own."""

    kind: Literal["flat", "falling"] = "flat"
    slope: float | None = None

    @classmethod
    def useless(cls, values):
        return ("slope",) if values.get("kind") == "flat" else ()

    @model_validator(mode="after")
    def _has_a_use(self):
        if self.slope is not None and self.kind == "flat":
            raise ValueError("slope does nothing in 'flat'.")
        return self


class Drawn(Config):
    curve: Curve = Curve(kind="falling", slope=2.0)


def drawn(*texts, base=()):
    return apply_changes(Drawn(), [parse_change(t) for t in texts], base=[parse_change(t, origin="file") for t in base])


def test_values_of_a_recipe_that_a_change_leaves_without_a_use_give_way():
    config, origins = drawn("curve.kind=flat")
    assert config.curve == Curve(kind="flat", slope=None)
    assert origins == {"curve.kind": "command line", "curve.slope": "command line: no use with curve.kind=flat"}


def test_values_of_the_base_give_way_like_those_of_the_recipe():
    config, origins = drawn("curve={kind: flat}", base=["curve.slope=3"])
    assert config.curve == Curve(kind="flat")
    assert origins["curve.slope"] == "command line: no use with curve.kind=flat"


def test_what_a_user_set_by_hand_does_not_give_way():
    with pytest.raises(ConfigError, match=r"^command line: curve\.slope does nothing in 'flat'\.$"):
        drawn("curve.kind=flat", "curve.slope=2")


def test_what_still_has_its_use_stays():
    config, origins = drawn("curve.kind=falling")
    assert (config.curve.slope, list(origins)) == (2.0, ["curve.kind"])


def test_names_of_other_tools_lead_to_ours():
    known = ["lr", "epochs", "seed", "limit_batches", "optimizer.weight_decay", "other.momentum", "optimizer.momentum"]
    meant = {
        "learning_rate": "lr",
        "lr0": "lr",
        "wd": "optimizer.weight_decay",
        "trainer.max_epochs": "epochs",
        "Momentum": "optimizer.momentum",
        "optimizer.momentun": "optimizer.momentum",
        "speed": "seed",
        "zzz": None,
        "imgsz": None,  # no known key does that
    }
    assert {wrong: nearest_key(wrong, known) for wrong in meant} == meant


def test_every_name_of_another_tool_leads_to_a_key_that_a_recipe_has_and_is_none_itself():
    known = {key for name in RECIPES for key in keys_of(type(recipe(name)))}
    assert {foreign: ours for foreign, ours in KEYS.items() if ours not in known or foreign in known} == {}
