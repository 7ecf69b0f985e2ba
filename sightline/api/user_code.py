"""Which code of users may run. A run folder or a checkpoint can never decide that, whoever made it.

Code runs when a person names its file, on the command line, in a change file that they train with, or in Python. What
was named so is remembered outside of all runs, by content, class and options. A resumed or repeated run names code too,
with the SHA-256 of its content; it runs only if the content is that one, and if it was named by hand on this machine
before. So a run folder of a stranger, which may hold a fitting file, runs nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from sightline.config.errors import ConfigError
from sightline.config.printable import printable

if TYPE_CHECKING:
    from sightline.engine.callback import Callback
    from sightline.engine.callbacks.user_callbacks import CallbackConfig
    from sightline.engine.console import Console
    from sightline.engine.run_config import RunConfig

UNKNOWN = "0" * 64
"""The SHA-256 of no file, for code of a run that recorded none."""


def known_code_file() -> Path:
    """``$XDG_STATE_HOME/sightline/known_code``, or ``~/.local/state/sightline/known_code``: a line for each."""
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".local" / "state") / "sightline" / "known_code"


def pinned(config: RunConfig) -> RunConfig:
    """The configuration of a run, whose code is held to the content that the run recorded."""
    if all(one.sha256 is not None for one in config.callbacks):
        return config
    return config.but(callbacks=tuple(one.but(sha256=one.sha256 or UNKNOWN) for one in config.callbacks))


def load_callbacks(config: RunConfig, console: Console, *, again: str) -> tuple[RunConfig, list[Callback]]:
    """The callbacks that a configuration names, and the configuration with what their files hold.

    Args:
        config: An entry without SHA-256 was named by hand; one with it came from a run.
        console: Is told what runs, before it runs.
        again: The command that goes on with other callbacks.

    Raises:
        ConfigError: If a file may not run, cannot be read, or is wrong; nothing of a file that may not run was run.
    """
    if not config.callbacks:
        return config, []
    from sightline.engine.callbacks.user_callbacks import load_callback, read_code

    judged = [(one, *_judged(one, *read_code(one), again=again)) for one in config.callbacks]
    callbacks = []
    for one, content, digest in judged:
        console.say(f"callback {one.shown}: runs code of this file (SHA-256 {digest[:12]})")
        callbacks.append(load_callback(one, content))
    entries = tuple(one.but(sha256=digest) for one, _, digest in judged)
    if any(one.sha256 is None for one in config.callbacks):
        _remember(entries, console)
    return config.but(callbacks=entries), callbacks


def _judged(one: CallbackConfig, content: bytes, digest: str, *, again: str) -> tuple[bytes, str]:
    if one.sha256 is None:
        return content, digest
    cure = f"If you have read it and want to run it: {again} {quote(as_change([one]))}"
    cure += f"\n  Without it: {again} 'callbacks=[]'"
    if one.sha256 != digest:
        what = "no content of it was recorded" if one.sha256 == UNKNOWN else "it has changed since the run recorded it"
        raise ConfigError(f"callbacks: {one.shown}: this run names code, and {what}.\n  {cure}")
    if _line(one, digest) not in _known():
        raise ConfigError(
            f"callbacks: {one.shown}: this run names code that nobody has named by hand on this machine.\n  {cure}"
        )
    return content, digest


def as_change(callbacks: Sequence[CallbackConfig]) -> str:
    """``callbacks=[...]``, as it is typed on a command line to name them by hand."""
    return f"callbacks=[{', '.join(map(_as_value, callbacks))}]"


def _as_value(one: CallbackConfig) -> str:
    if not one.options and not set(str(one.file)) & set(" ,:[]{}#'\"\\"):
        return f"{one.file}:{one.name}"
    options = f", options: {json.dumps(one.options)}" if one.options else ""
    return f"{{file: {json.dumps(str(one.file))}, name: {one.name}{options}}}"


def _line(one: CallbackConfig, digest: str) -> str:
    """What is remembered: content, class and options, since another class or option is another program."""
    text = json.dumps([digest, one.name, one.options], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _known() -> set[str]:
    """What was named by hand; nothing where others could have written it."""
    path = known_code_file()
    try:
        about = path.lstat()
        is_own = not hasattr(os, "getuid") or (about.st_uid == os.getuid() and not about.st_mode & 0o022)
        if not stat.S_ISREG(about.st_mode) or not is_own:
            return set()
        return {line.split(" ")[0] for line in path.read_text(errors="replace").splitlines()}
    except OSError:
        return set()


def _remember(entries: Sequence[CallbackConfig], console: Console) -> None:
    path, known = known_code_file(), _known()
    lines = {_line(one, one.sha256 or ""): one.shown for one in entries}
    text = "".join(f"{line} {shown}\n" for line, shown in lines.items() if line not in known)
    if not text:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as file:
            file.write(text)
    except OSError as error:
        console.say(
            f"{printable(path)}: cannot be written ({error.strerror}); a resume will ask for the callbacks by name"
        )
