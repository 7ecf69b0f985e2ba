"""Keeps what the environment holds in confidence out of messages and parameters."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from sightline.engine.run_record import is_secret, redacted

_URL_PASSWORD = re.compile(r"\w+://[^/\s@:]*:([^/\s@]+)@")
SHORTEST = 4
"""Shorter values would hide half of every text."""


def without_secrets(text: str, environment: Mapping[str, str] | None = None) -> str:
    """A text in which ``***`` stands for tokens, passwords in addresses, and every secret of the environment.

    Args:
        text: Any text.
        environment: This process's own by default.
    """
    for secret in sorted(_secrets_of(os.environ if environment is None else environment), key=len, reverse=True):
        text = text.replace(secret, "***")
    return redacted([text])[0]


def _secrets_of(environment: Mapping[str, str]) -> set[str]:
    found = {value for name, value in environment.items() if is_secret(name)}
    found |= {password for value in environment.values() for password in _URL_PASSWORD.findall(value)}
    return {secret for secret in found if len(secret) >= SHORTEST}
