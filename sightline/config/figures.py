"""What the name of a figure tells: whether it is a loss, and which of two values is the better one."""

from collections.abc import Collection
from typing import Literal

Direction = Literal["max", "min"]


def is_loss(figure: str) -> bool:
    """Whether a figure's name is that of a loss: ``loss`` or ``loss/...``."""
    return figure.partition("/")[0] == "loss"


def better_direction(figure: str, smaller_is_better: Collection[str] = ()) -> Direction:
    """Whether a larger (max) or a smaller (min) value is better: smaller for losses and for the figures named so.

    Args:
        figure: Its name.
        smaller_is_better: Names of figures, beside losses, that are better the smaller they are.
    """
    return "min" if is_loss(figure) or figure in smaller_is_better else "max"
