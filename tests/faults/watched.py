"""Runs commands in a process that is watched: ``python -m tests.faults.watched COMMANDS.json EVENTS.json``.

The interpreter's audit events tell of every socket, process, pickle and change of a file. Sockets are refused. What
was seen is written as JSON: ``{"codes": [...], "refused": [...], "changed": [...]}``.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

FORBIDDEN = (
    "socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname",
    "socket.gethostbyaddr", "socket.getnameinfo", "urllib.Request", "http.client.connect", "ftplib.connect",
    "smtplib.connect", "ssl.",
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn",
    "os.startfile", "webbrowser.open", "pickle.find_class",
)  # fmt: skip
"""Starts of the names of events that no command may cause."""

CHANGES = {
    "os.rename": 2, "os.remove": 1, "os.mkdir": 1, "os.rmdir": 1, "os.truncate": 1, "os.chmod": 1, "os.chown": 1,
    "os.link": 2, "os.symlink": 2, "os.utime": 1,
}  # fmt: skip
"""Events that change what is on the disk, and how many of their first arguments are paths."""

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

refused: list[str] = []
changed: set[str] = set()
is_watching = False


def watch(event: str, arguments: tuple[object, ...]) -> None:
    """The audit hook. It cannot be taken off again."""
    if not is_watching:
        return
    if event.startswith(FORBIDDEN):
        refused.append(f"{event}{arguments!r:.200}")
        raise PermissionError(f"{event} is not allowed here")
    if event == "open":
        path, _, flags = arguments
        if isinstance(flags, int) and flags & WRITING and isinstance(path, str | bytes):
            changed.add(str(Path(os.fsdecode(path)).absolute()))
    elif event in CHANGES:
        for path in arguments[: CHANGES[event]]:
            if isinstance(path, str | bytes | os.PathLike):
                changed.add(str(Path(os.fsdecode(path)).absolute()))


def run(command: list[str]) -> object:
    """One command. Returns its exit code."""
    from sightline.cli.main import main

    sys.argv = ["sightline", *command]
    try:
        main()
    except SystemExit as end:
        return end.code
    return 0


if __name__ == "__main__":
    # What libraries do once in their own right: torch asks ldconfig for its libraries when it is imported, and
    # matplotlib lists the machine's fonts at its first use.
    for name in ("torch", "matplotlib.font_manager"):
        importlib.import_module(name)
    sys.addaudithook(watch)
    commands, events_path = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    is_watching = True
    codes = [run(command) for command in commands]
    is_watching = False
    events_path.write_text(json.dumps({"codes": codes, "refused": refused, "changed": sorted(changed)}))
