"""The base of every configuration: a frozen tree of plain values that checks itself."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Frozen, keyword-only, unknown keys refused; the docstring under a field is its help text."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
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
