"""The base of every configuration: a frozen tree of plain values that checks itself."""

import ast
import inspect
import textwrap
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict


def as_list(given: Any) -> Any:
    """A value on its own is a list of one."""
    return [given] if isinstance(given, str | Mapping) else given


Patterns = Annotated[tuple[str, ...], BeforeValidator(as_list)]
"""Patterns on names; a single one needs no list."""


class Config(BaseModel):
    """Frozen, keyword-only, unknown keys refused; the docstring under a field is its help text, see ``field_help``."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        ser_json_inf_nan="strings",
        protected_namespaces=(),
    )

    def but(self, **changes: Any) -> Self:
        """A changed copy, checked again as a whole.

        Example:
            >>> config.but(lr=0.02, model=config.model.but(width=32))  # doctest: +SKIP
        """
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**{**values, **changes})

    @classmethod
    def useless(cls, values: Mapping[str, Any]) -> tuple[str, ...]:
        """Keys of this config alone that have no use beside such values and must stand at their defaults.

        A recipe's own values give way when a user's change leaves them without a use; what a user sets by hand is
        refused.

        Args:
            values: All values of this config, not checked yet.
        """
        return ()

    def without_effect(self) -> dict[str, str]:
        """Keys of this config (dotted, or whole groups) that change nothing as its values are, each with the reason.

        A recipe may hold such values; a user who sets one by hand is told that it does nothing.
        """
        return {}


def field_help(config: type[Config]) -> dict[str, str]:
    """The docstrings under the fields of a configuration, its own and inherited ones, by field.

    They are read from the source when they are asked for. To read them whenever a class is made costs about 2 ms a
    class, and every command makes dozens before it begins.
    """
    texts: dict[str, str] = {}
    for owner in reversed(config.__mro__):
        if issubclass(owner, Config):
            texts.update(_docstrings_under_fields(owner))
    return texts


def _docstrings_under_fields(owner: type) -> dict[str, str]:
    try:
        source = inspect.getsource(owner)
    except (OSError, TypeError):  # typed into an interpreter
        return {}
    definition = ast.parse(textwrap.dedent(source)).body[0]
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }
