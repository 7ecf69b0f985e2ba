import pytest
from pydantic import Field

from sightline.config.base import Config
from sightline.config.errors import ConfigError
from sightline.config.override import apply_changes, changes_of, leaves, parse_change, parse_value


class Inner(Config):
    momentum: float = Field(0.9, ge=0, lt=1)
    betas: tuple[float, float] = (0.9, 0.999)


class Outer(Config):
    epochs: int = 3
    lr: float = 0.01
    name: str = "a"
    inner: Inner = Inner()


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


def test_nested_and_dotted_mappings_are_the_same_changes():
    nested = changes_of({"inner": {"momentum": 0.5}, "epochs": 2}, origin="f")
    dotted = changes_of({"inner.momentum": 0.5, "epochs": 2}, origin="f")
    assert nested == dotted


def test_leaves_list_every_value_once():
    assert dict(leaves(Outer())) == {
        "epochs": 3, "lr": 0.01, "name": "a", "inner.momentum": 0.9, "inner.betas": (0.9, 0.999),
    }  # fmt: skip
