"""Mistakes of the user. Every one of them ends a command with exit code 2 and a short text.

The text says what is wrong, the value, where it stands and what to do about it.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something that the user must change. The message is shown as it stands, without a traceback."""


class ConfigError(UserError):
    """A key or value of a configuration is wrong."""


class DataError(UserError):
    """A data file is missing, unreadable or says something impossible. Names file and place."""


class RunError(UserError):
    """A run folder or checkpoint cannot be used as asked: missing, damaged, finished, or in use."""


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """``" Did you mean 'epochs'?"``, or an empty text when nothing known is near."""
    near = get_close_matches(wrong, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""
