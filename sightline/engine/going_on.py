"""How to go on with a run: by a command, or by the program that defines its configuration."""

from __future__ import annotations

from pathlib import Path
from shlex import quote


def class_name(kind: type[object]) -> str:
    """A class with its module: ``sightline.recipes.yolov7.YOLOv7Run``, ``__main__.MyRun``."""
    return f"{kind.__module__}.{kind.__qualname__}"


def how_to_resume(run_dir: Path, configuration: str, *changes: str) -> str:
    """What to type.

    Args:
        run_dir: The run's folder.
        configuration: ``class_name`` of its configuration; empty where it is not known.
        changes: ``key=value`` texts.
    """
    if configuration.startswith("sightline.") or not configuration:
        return " ".join(["sightline resume", quote(str(run_dir)), *map(quote, changes)])
    arguments = [repr(str(run_dir)), *([repr(list(changes))] if changes else [])]
    return f"sightline.resume({', '.join(arguments)}) in the program that defines {configuration.rpartition('.')[2]}"
