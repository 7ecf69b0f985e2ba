"""Keeps what the environment holds in confidence out of messages and parameters."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from sightline.engine.run_folder.run_record import is_secret, may_hold_secrets, redacted

_URL_PASSWORD = re.compile(r"\w+://[^/\s@:]*:([^/\s@]+)@")
_JSON_PAIR = re.compile(r"""(["'])([\w.-]+)\1(\s*:\s*)(["'])(.*?)\4""")
SHORTEST = 4
"""Shorter values would hide half of every text."""


def without_secrets(text: str, environment: Mapping[str, str] | None = None) -> str:
    """A text in which ``***`` stands for tokens, passwords in addresses, and every secret of the environment.

    Args:
        text: Any text.
        environment: This process's own by default.
    """
    return redacted([Secrets.of_environment(environment).replaced_in(text)])[0]


@dataclass(frozen=True)
class Secrets:
    """The secrets of an environment, the longest first."""

    values: tuple[str, ...]

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Those of this process's own environment by default."""
        environment = os.environ if environment is None else environment
        found = {value for name, value in environment.items() if is_secret(name)}
        found |= {password for value in environment.values() for password in _URL_PASSWORD.findall(value)}
        return cls(tuple(sorted((one for one in found if len(one) >= SHORTEST), key=len, reverse=True)))

    def replaced_in(self, text: str) -> str:
        """``***`` in the place of every one of them."""
        for secret in self.values:
            text = text.replace(secret, "***")
        return text

    def hidden_in(self, text: str) -> str:
        """Without them, and word by word without tokens, passwords in addresses, and values of keys named so."""
        text = self.replaced_in(text)
        if not may_hold_secrets(text):
            return text
        parts = re.split(r"(\s+)", text)
        parts[::2] = redacted(parts[::2])
        return _JSON_PAIR.sub(_without_value, "".join(parts))


def _without_value(pair: re.Match[str]) -> str:
    return f'"{pair[2]}"{pair[3]}"***"' if is_secret(pair[2]) else pair[0]
