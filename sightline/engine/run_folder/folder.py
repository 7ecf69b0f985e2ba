"""Makes the folder of a new run, or takes it back, and finds that of an old one. A run is never overwritten."""

import os
import re
from contextlib import suppress
from itertools import count
from pathlib import Path
from shlex import quote

from sightline.config.errors import RunError, did_you_mean
from sightline.engine.run_folder.lock import HOLDER_FILE, LOCK_FILE
from sightline.engine.run_folder.run_record import RUN_FILE
from sightline.files.atomic_file import WRITING

RUNS = Path("runs")
"""Where runs go when nothing else is said: ``runs/<recipe>/<number or name>``."""
CONFIG_FILE = "config.yaml"
"""The resolved configuration of a run."""
DATA_FILE = "data.json"
"""What a run wrote down about its data, names of the classes above all."""

_NAME = re.compile(r"[^/\\\x00-\x1f]{1,200}")


def new_run_folder(recipe: str, *, root: Path = RUNS, name: str | None = None, out: Path | None = None) -> Path:
    """Make the folder of a new run.

    Two processes that ask at the same time get different numbers. For a folder that the user named, the run's
    lock decides between them.

    Args:
        recipe: Name of the recipe.
        root: Folder of all runs.
        name: Name of the run in place of the next free number.
        out: The run's folder itself, in place of both.

    Raises:
        RunError: The folder holds a run or anything else already, cannot be made, or the name is no name.
    """
    try:
        if out is not None:
            return _named_folder(out)
        parent = root / _checked_name("recipe", recipe)
        if name is not None:
            return _named_folder(parent / _checked_name("run", name))
        parent.mkdir(parents=True, exist_ok=True)
        taken = [int(path.name) for path in parent.iterdir() if path.name.isascii() and path.name.isdigit()]
        for number in count(max(taken, default=0) + 1):
            try:
                (parent / str(number)).mkdir()
            except FileExistsError:
                continue
            return parent / str(number)
        raise AssertionError("numbers never end")
    except OSError as error:
        raise RunError(
            f"{error.filename or out or root}: the run's folder cannot be made ({error.strerror}). "
            "Give a folder that you may write: --out DIR."
        ) from error


def check_new_run_folder(recipe: str, *, root: Path = RUNS, name: str | None = None, out: Path | None = None) -> None:
    """See early whether ``new_run_folder`` would refuse. Makes nothing.

    Raises:
        RunError: As ``new_run_folder``.
    """
    folder = out if out is not None else root / _checked_name("recipe", recipe)
    if out is None and name is not None:
        folder /= _checked_name("run", name)
    if out is not None or name is not None:
        _refuse_taken(folder)
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "is no folder" if not there.is_dir() else "may not be written to"
        raise RunError(
            f"{folder}: the run's folder cannot be made, since {there} {why}. "
            "Give a folder that you may write: --out DIR."
        )


def remove_if_unused(run_dir: Path) -> None:
    """Take back the folder of a run that never started, and its parents.

    It holds nothing but the lock's files, and logs of processes that are not the first.
    """
    there = list(run_dir.iterdir()) if run_dir.is_dir() else []  # one of several processes may have been here
    if not all(path.name.startswith((".lock", "log_")) for path in there):
        return
    for path in there:
        path.unlink(missing_ok=True)
    with suppress(OSError):  # a folder with something in it stays
        if run_dir.is_dir():
            run_dir.rmdir()
        if RUNS in run_dir.parents:
            run_dir.parent.rmdir()
            RUNS.rmdir()


def is_run(folder: Path) -> bool:
    """Whether a run was started in a folder."""
    return (folder / RUN_FILE).is_file()


def existing_run(path: Path) -> Path:
    """``path`` if it is a run's folder.

    Raises:
        RunError: It is not there, or no run; names the runs that are near.
    """
    if is_run(path):
        return path
    if path.is_file():
        raise RunError(f"{path}: is a file; give a run's folder, such as runs/RECIPE/1.")
    if not path.is_dir():
        near = did_you_mean(path.name, _runs_in(path.parent))
        raise RunError(f"{path}: no such run.{near or ' Give the folder that the training printed.'}")
    inside = _runs_in(path)
    if inside:
        count = "a run" if len(inside) == 1 else f"{len(inside)} runs"
        raise RunError(f"{path}: holds {count}. Give the run itself, such as {quote(str(path / inside[-1]))}.")
    raise RunError(f"{path}: no run was started here. Give a folder that holds {RUN_FILE}, such as runs/RECIPE/1.")


def _named_folder(folder: Path) -> Path:
    _refuse_taken(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _refuse_taken(folder: Path) -> None:
    if is_run(folder):
        raise RunError(
            f"{folder}: holds a run already. Continue it with: sightline resume {quote(str(folder))}, "
            "or give another folder: --out DIR."
        )
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file. Give a folder: --out DIR.")
    if folder.is_dir() and not _never_began({path.name for path in folder.iterdir()}):
        raise RunError(f"{folder}: is not empty and holds no run. Give an empty or new folder: --out DIR.")


def _never_began(names: set[str]) -> bool:
    """Whether a folder is empty but for what a run leaves that was killed before its record was written."""
    if names <= {LOCK_FILE}:
        return True
    finished = {name for name in names if not name.startswith(WRITING)}
    return HOLDER_FILE in names and finished <= {LOCK_FILE, HOLDER_FILE, CONFIG_FILE, DATA_FILE}


def _checked_name(what: str, name: str) -> str:
    if not _NAME.fullmatch(name) or name.startswith("."):
        raise RunError(f"{what} name {name!r}: must not be empty, start with a dot or hold a slash.")
    return name


def _runs_in(folder: Path) -> list[str]:
    """Names of the runs in a folder, numbers in their order."""
    if not folder.is_dir():
        return []
    names = [path.name for path in folder.iterdir() if is_run(path)]
    return sorted(names, key=lambda name: (name.isdigit(), int(name) if name.isdigit() else 0, name))
