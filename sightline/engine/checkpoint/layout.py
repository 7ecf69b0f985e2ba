"""What a checkpoint is, in memory and on disk.

On disk it is a folder, ``checkpoints/step_00000900``, that appears whole or not at all:

- one safetensors file per group of tensors (``model``, ``ema``, ``optimizer``, ...);
- ``state.json``: everything that is no tensor, and size and SHA-256 of the files beside it. Its first line
  is ``{"sha256": "<64 hex digits>",`` and holds the hash of all bytes after that line, so the whole file is
  plain JSON and ``tail -n +2 state.json | sha256sum`` checks it by hand.

So a flipped bit or a cut anywhere in the folder is found. Beside the folders stand ``latest`` and ``best``,
text files of one line that name one. Nothing in it can run code when it is opened.

JSON has no NaN and no infinity; they are written as ``{"$float": "nan"}`` and come back as they were.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError
from torch import Tensor

from sightline.config.base import Config
from sightline.config.errors import RunError

CHECKPOINTS_FOLDER = "checkpoints"
STATE_FILE = "state.json"
LATEST, BEST = "latest", "best"
DISPLACED = ".displaced-"
"""Start of the name of a checkpoint that is just being replaced by a newer one of the same step."""
SET_ASIDE = "set_aside_"
"""Start of the name of a checkpoint that a resumed run left behind: damaged, or of steps that it takes anew."""

FORMAT: Literal["sightline-checkpoint"] = "sightline-checkpoint"
VERSION: Literal[1] = 1

_FOLDER_NAME = re.compile(r"step_(\d{8,18})")
_FIRST_LINE = re.compile(rb'\{"sha256": "([0-9a-f]{64})",\n')
_MAX_STATE_BYTES = 256 << 20


class DamagedCheckpointError(RunError):
    """A checkpoint is not what was written: cut, changed, or with files missing."""


@dataclass(frozen=True)
class CheckpointState:
    """Everything that a run needs to go on as if it had never stopped.

    Attributes:
        tensors: Tensors by name, grouped by the file that holds them: ``{"model": {...}, "ema": {...}}``.
            Any device; they are copied when the checkpoint is taken.
        state: Plain values: numbers, texts, None, and lists and string-keyed dicts of them (tuples come back
            as lists).
    """

    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any] = field(default_factory=dict)


class FileEntry(Config):
    """What must be found on disk."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


FileName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,99}\.safetensors$")]
"""A bare name: no folder, no dots that lead out of one."""


class Manifest(Config):
    """The content of ``state.json``."""

    format: Literal["sightline-checkpoint"] = FORMAT
    version: Literal[1] = VERSION
    step: Annotated[int, Field(ge=0)]
    """Optimizer steps taken."""
    epoch: Annotated[int, Field(ge=0)]
    """Complete passes over the data."""
    ends_epoch: bool
    """Whether it was taken when a pass was just complete."""
    metrics: dict[str, float]
    """Figures of the evaluation at this step; empty without one."""
    improved: tuple[str, ...]
    """Notes of the meanings of best by which it was better than every checkpoint before."""
    reason: str
    """Why it was taken: ``epoch``, ``steps``, ``minutes`` or ``request``, or how the session ended."""
    files: dict[FileName, FileEntry]
    """Size and hash of the other files."""
    state: dict[str, Any]
    """What the engine wants back."""


def folder_name(step: int) -> str:
    """``step_00000900``."""
    return f"step_{step:08d}"


def step_of(name: str) -> int | None:
    """The step that a folder name tells; None if it is no checkpoint's name."""
    match = _FOLDER_NAME.fullmatch(name)
    return int(match[1]) if match and folder_name(int(match[1])) == name else None


def state_text(state: Mapping[str, Any]) -> str:
    """The JSON text of ``CheckpointState.state``.

    Raises:
        TypeError: It holds something that is no plain value, or a key that is no text; names the place.
    """
    return json.dumps(_plain(state, "state"), allow_nan=False)


def from_state_text(text: str | bytes) -> Any:
    """What ``state_text`` was given.

    Raises:
        ValueError: It is no JSON.
        RecursionError: It is nested beyond all reason.
    """
    return json.loads(text, object_hook=_float_or_dict, parse_constant=_refuse)


def manifest_bytes(manifest: Manifest, state_json: str) -> bytes:
    """The bytes of ``state.json``.

    Args:
        manifest: Everything but ``state``, which is left empty.
        state_json: The text of ``state``, see ``state_text``.
    """
    fields = manifest.model_dump(exclude={"state"})
    lines = [
        f"{json.dumps(name)}: {json.dumps(_plain(value, name), allow_nan=False)}" for name, value in fields.items()
    ]
    body = ",\n".join([*lines, f'"state": {state_json}']).encode() + b"\n}\n"
    return b'{"sha256": "%s",\n' % hashlib.sha256(body).hexdigest().encode() + body


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``state.json``; the tensor files are not looked at.

    Raises:
        DamagedCheckpointError: It is missing, a link, cut or changed.
        RunError: A newer version of sightline wrote it.
    """
    path = folder / STATE_FILE
    if folder.is_symlink() or path.is_symlink():
        raise DamagedCheckpointError(f"{path}: is a link; a checkpoint holds its own files.")
    try:
        if path.stat().st_size > _MAX_STATE_BYTES:
            raise DamagedCheckpointError(f"{path}: is larger than {_MAX_STATE_BYTES >> 20} MiB; this is no checkpoint.")
        data = path.read_bytes()
    except OSError as error:
        raise DamagedCheckpointError(f"{path}: cannot be read ({error.strerror}).") from error
    first = _FIRST_LINE.match(data)
    if first is None or hashlib.sha256(memoryview(data)[first.end() :]).hexdigest().encode() != first[1]:
        raise DamagedCheckpointError(f"{path}: its content does not fit its own SHA-256; it was cut or changed.")
    try:
        fields = from_state_text(data)
        del fields["sha256"]
        if fields.get("format") == FORMAT and type(fields.get("version")) is int and fields["version"] > VERSION:
            raise RunError(
                f"{path}: has format version {fields['version']}, this sightline reads up to {VERSION}. "
                "Update sightline to use this checkpoint."
            )
        fields["improved"] = tuple(fields.get("improved", ()))
        return Manifest.model_validate(fields, strict=True)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise DamagedCheckpointError(f"{path}: no checkpoint state ({place}: {fault['msg']}).") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedCheckpointError(f"{path}: no checkpoint state ({error}).") from error


def _plain(value: Any, place: str) -> Any:
    """``value`` as JSON can hold it, or a TypeError that names the place."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": str(float(value))}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or key == "$float":
                raise TypeError(f"{place}: the key {key!r} cannot be stored; keys are texts other than '$float'.")
        return {key: _plain(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{place}[{number}]") for number, item in enumerate(value)]
    raise TypeError(f"{place}: a {type(value).__name__} cannot be stored; give plain numbers, texts, lists and dicts.")


def _float_or_dict(fields: dict[str, Any]) -> Any:
    return float(fields["$float"]) if fields.keys() == {"$float"} else fields


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
