"""``run.json``: who ran what, where and when. One session per start, so a resumed run has several.

Secrets stay out: of the environment only names known to matter are written, and what looks like a password
or token, there or on the command line, is written as ``***``.
"""

import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import Field, ValidationError

from sightline.config.base import Config
from sightline.config.errors import RunError
from sightline.engine.run_folder.process_identity import ProcessIdentity
from sightline.files.atomic_file import replace_file

RUN_FILE = "run.json"
Outcome = Literal["done", "failed", "interrupted"]

ENVIRONMENT = re.compile(
    r"SIGHTLINE_\w+|PYTHON(HASHSEED|OPTIMIZE|PATH)|(OMP|MKL|OPENBLAS)_NUM_THREADS|KMP_\w+|CUDA_(VISIBLE_DEVICES|\w*BLOCKING)|"
    r"CUBLAS_WORKSPACE_CONFIG|NVIDIA_TF32_OVERRIDE|(PY)?TORCH_\w+|NCCL_\w+|RANK|WORLD_SIZE|LOCAL_(RANK|WORLD_SIZE)|"
    r"MASTER_(ADDR|PORT)|SLURM_(JOB_ID|JOB_NUM_NODES|NTASKS|CPUS_PER_TASK)"
)
"""Environment variables that may change what a run computes."""

_SENSITIVE = r"(token|secret|passw(or)?d|passphrase|credential|api[_-]?key|access[_-]?key|auth)"
_SECRET_NAME = re.compile(_SENSITIVE, re.IGNORECASE)
_SECRET_PAIR = re.compile(rf"^([^=]*{_SENSITIVE}[^=]*=)(.+)$", re.IGNORECASE | re.DOTALL)
_SECRET_OPTION = re.compile(rf"^--?[\w.-]*{_SENSITIVE}[\w.-]*$", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(\w+://)[^/\s@]+@")
_KNOWN_STARTS = "gh[opsu]_|github_pat_|hf_|glpat-|sk-|xox[abp]-|AKIA"
_KNOWN_TOKEN = re.compile(rf"\b({_KNOWN_STARTS})[\w-]{{12,}}")
_SUSPECT = re.compile(rf"{_SENSITIVE}|://|{_KNOWN_STARTS}", re.IGNORECASE)

PACKAGES = ("sightline", "torch", "torchvision", "numpy", "opencv-python-headless", "pillow", "safetensors", "pydantic")


class Session(Config):
    """One start of a run, up to its end."""

    command: tuple[str, ...]
    """The command line, secrets replaced."""
    started: datetime
    ended: datetime | None = None
    """None while it runs, or if it was killed."""
    outcome: Outcome | None = None
    exit_code: int | None = None
    from_step: int = 0
    """Steps that were taken before."""
    processes: int = 1
    """How many trained together."""
    launch: str = ""
    """What the launcher calls the job; equal in all of its restarts."""
    process: ProcessIdentity
    versions: dict[str, str]
    """Of Python and the packages that do the arithmetic."""
    code_commit: str | None
    """Commit of the checkout that sightline runs from, if it is one."""
    folder_commit: str | None
    """Commit of the checkout that the command was given in, if it is one."""
    machine: dict[str, str | int | float]
    devices: tuple[str, ...]
    """What it computes on."""
    environment: dict[str, str]
    """Variables that may change what is computed."""


class RunRecord(Config):
    """The content of ``run.json``."""

    version: Literal[1] = 1
    recipe: str = ""
    configuration: str = ""
    """The class of the run's configuration, with its module."""
    smaller_is_better: tuple[str, ...] = ()
    """Figures of its evaluation, beside losses, that are better the smaller they are."""
    sessions: tuple[Session, ...] = Field(min_length=1)

    @property
    def is_done(self) -> bool:
        """Whether the run reached its planned end."""
        return self.sessions[-1].outcome == "done"


def start_session(
    run_dir: Path,
    *,
    command: Sequence[str] | None = None,
    recipe: str = "",
    configuration: str = "",
    smaller_is_better: Sequence[str] = (),
    devices: Sequence[str] = (),
    from_step: int = 0,
    processes: int = 1,
    launch: str = "",
    environment: Mapping[str, str] | None = None,
) -> RunRecord:
    """Note that this process starts, or resumes, the run. Called by the holder of the run's lock.

    Args:
        run_dir: The run's folder.
        command: The command line; this process's own by default.
        recipe: Name of the recipe of a new run.
        configuration: The class of its configuration, with its module.
        smaller_is_better: Figures of its evaluation, beside losses, that are better the smaller they are.
        devices: Names of the devices.
        from_step: Steps that were taken before.
        processes: How many train together.
        launch: What the launcher calls the job.
        environment: This process's own by default.

    Raises:
        OSError: It cannot be written.
        RunError: The existing record is broken.
    """
    path = run_dir / RUN_FILE
    before = read_record(run_dir) if path.exists() else None
    session = Session(
        command=tuple(redacted(sys.argv if command is None else command)),
        started=datetime.now(UTC),
        from_step=from_step,
        processes=processes,
        launch=launch,
        process=ProcessIdentity.here(),
        versions=_versions(),
        code_commit=git_commit(Path(__file__).parent),
        folder_commit=git_commit(Path.cwd()),
        machine=_machine(),
        devices=tuple(devices),
        environment=_allowed(os.environ if environment is None else environment),
    )
    sessions = (*before.sessions, session) if before else (session,)
    if before is not None:
        recipe, configuration = before.recipe, before.configuration
    record = RunRecord(
        recipe=recipe,
        configuration=configuration,
        smaller_is_better=tuple(smaller_is_better),
        sessions=sessions,
    )
    _write(path, record)
    return record


def end_session(run_dir: Path, outcome: Outcome, exit_code: int) -> None:
    """Note how the session that runs now ended.

    Raises:
        OSError: It cannot be written.
        RunError: There is no record, or it is broken.
    """
    record = read_record(run_dir)
    last = record.sessions[-1].but(ended=datetime.now(UTC), outcome=outcome, exit_code=exit_code)
    _write(run_dir / RUN_FILE, record.but(sessions=(*record.sessions[:-1], last)))


def read_record(run_dir: Path) -> RunRecord:
    """The record of a run.

    Raises:
        RunError: There is none, or it is broken.
    """
    path = run_dir / RUN_FILE
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}). Give the folder of a run.") from error
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise RunError(f"{path}: no record of a run ({place or 'text'}: {fault['msg']}).") from error


def redacted(command: Iterable[str]) -> list[str]:
    """A command line without its secrets.

    Values of options and keys named like one, passwords in addresses, and tokens known by their first letters
    become ``***``.
    """
    clean = []
    hide_next = False
    for word in command:
        if hide_next and not word.startswith("-"):
            clean.append("***")
        else:
            text = _SECRET_PAIR.sub(r"\1***", word)
            clean.append(_KNOWN_TOKEN.sub("***", _URL_PASSWORD.sub(r"\1***@", text)))
        hide_next = _SECRET_OPTION.match(word) is not None
    return clean


def may_hold_secrets(text: str) -> bool:
    """A quick look: False where ``redacted`` would surely change nothing."""
    return _SUSPECT.search(text) is not None


def is_secret(name: str) -> bool:
    """Whether an environment variable, option or key of this name is held in confidence."""
    return _SECRET_NAME.search(name) is not None


def git_commit(folder: Path) -> str | None:
    """Commit that is checked out where ``folder`` lies, read from git's files; None outside a checkout.

    It says nothing about changes that are not committed.
    """
    for parent in (folder.resolve(), *folder.resolve().parents):
        git = parent / ".git"
        try:
            if git.is_file():  # a worktree or submodule: "gitdir: PATH"
                git = (parent / git.read_text().removeprefix("gitdir:").strip()).resolve()
            elif not git.is_dir():
                continue
            return _head_commit(git)
        except (OSError, ValueError):
            return None
    return None


def _head_commit(git: Path) -> str | None:
    head = (git / "HEAD").read_text().strip()
    if not head.startswith("ref:"):
        return head if _is_commit(head) else None
    ref = head.removeprefix("ref:").strip()
    if ".." in ref or ref.startswith("/"):
        return None
    common = git / "commondir"
    folders = [git, (git / common.read_text().strip()).resolve()] if common.is_file() else [git]
    for folder in folders:
        if (folder / ref).is_file():
            commit = (folder / ref).read_text().strip()
            return commit if _is_commit(commit) else None
    for folder in folders:
        packed = folder / "packed-refs"
        for line in packed.read_text().splitlines() if packed.is_file() else ():
            commit, _, name = line.partition(" ")
            if name == ref and _is_commit(commit):
                return commit
    return None


def _is_commit(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{40}([0-9a-f]{24})?", text) is not None


def _allowed(environment: Mapping[str, str]) -> dict[str, str]:
    found = {name: environment[name] for name in sorted(environment) if ENVIRONMENT.fullmatch(name)}
    return {name: "***" if is_secret(name) else redacted([value])[0] for name, value in found.items()}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _machine() -> dict[str, str | int | float]:
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cpus": os.cpu_count() or 1,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
    }


def _processor() -> str:
    """Name of the processor. ``platform.processor`` would start a program to find out."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _write(path: Path, record: RunRecord) -> None:
    data: dict[str, Any] = record.model_dump(mode="json")
    replace_file(path, json.dumps(data, indent=1).encode() + b"\n")
