from pydantic import ConfigDict, Field

from sightline.config.base import Config, field_help
from sightline.engine.run_config import RunConfig


class Wheel(Config):
    """A wheel."""

    spokes: int = 8
    """How many spokes
    it has."""
    size: float = Field(1.0, gt=0)
    "Across, in metres."
    colour: str = "red"


class BigWheel(Wheel):
    size: float = Field(9.0, gt=0)
    """Across, in yards."""


class PeersReading(RunConfig):
    """The same fields as pydantic itself reads them."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    width: int = 3
    """Of the model."""


def test_the_text_under_a_field_is_its_help():
    assert field_help(Wheel) == {"spokes": "How many spokes\nit has.", "size": "Across, in metres."}


def test_fields_of_a_base_keep_their_help_and_may_get_another():
    assert field_help(BigWheel) == {"spokes": "How many spokes\nit has.", "size": "Across, in yards."}


def test_a_class_without_a_source_has_no_help():
    assert field_help(type("Typed", (Config,), {"__annotations__": {"a": int}, "a": 1})) == {}


def test_help_is_what_pydantic_reads():
    assert field_help(PeersReading)["width"] == PeersReading.model_fields["width"].description


def test_every_top_level_key_but_groups_and_the_recipe_has_help():
    groups = {name for name, field in RunConfig.model_fields.items() if isinstance(field.default, Config)}
    assert set(RunConfig.model_fields) - groups <= set(field_help(RunConfig))
