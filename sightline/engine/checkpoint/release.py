"""One small file to give away: the weights of a checkpoint, and in its header all that using them needs.

It is a safetensors file that any reader of that format loads. Of the texts in its header

- ``sightline`` is a JSON object, see ``ReleaseHeader``;
- ``sha256`` is the hash of the whole file with 64 zeros in the place of these digits.

Binary weights may stand in it as one bit each (``ReleaseHeader.packed``); the models know how.

So a flipped bit or a cut anywhere is found, and nothing in it can run code when it is opened. The hash does not tell
who made the file.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BeforeValidator, Field, StringConstraints, ValidationError, model_validator
from torch import Tensor

from sightline.config.base import Config
from sightline.config.errors import RunError
from sightline.config.printable import printable
from sightline.engine.checkpoint.host_buffer import CHUNK_BYTES, HostBuffer
from sightline.engine.checkpoint.layout import DamagedCheckpointError, from_state_text, state_text
from sightline.engine.checkpoint.reader import load_tensor_file, refuse_pickle
from sightline.engine.run_folder.atomic_file import replace_file

FORMAT: Literal["sightline-release"] = "sightline-release"
VERSION: Literal[2] = 2
"""The newest that is read. Packed files have version 2, and all others version 1, which earlier programs read too."""
NOTE, HASH = "sightline", "sha256"
"""Names of the two texts in the header."""
Half = Literal["fp16", "bf16"]
HALVES: dict[Half, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}

_ZEROS = "0" * 64
_MAX_HEADER_BYTES = 100_000_000
"""The most that the format allows."""
_MAX_VALUES = 5000
"""In the configuration; ours have two hundred."""
_Line = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$", max_length=1000)]
_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Shape = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...],
    Field(min_length=2, max_length=5),
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
]


class PackedNote(Config):
    """About a weight of which the file holds the signs alone."""

    shape: _Shape
    scaling: _Line
    """How the layer scales its outputs; empty for not at all."""


class ReleaseHeader(Config):
    """What a file says about its weights, as plain JSON."""

    format: Literal["sightline-release"] = FORMAT
    version: Literal[1, 2] = 1
    sightline: _Line
    """Version of the program that wrote it."""
    recipe: _Line
    configuration: _Line
    """Class of the run's configuration, with its module."""
    config: dict[str, Any]
    """The run's configuration without places on its machine, callbacks and logging."""
    left_out: tuple[str, ...]
    """Keys that had a value in the run and are not in ``config``."""
    facts: dict[str, Any]
    """What the model has to know about its data, names of the classes above all."""
    weights: Literal["averaged", "live"]
    precision: Literal["fp32", "fp16", "bf16"]
    """What the kernels and matrices are stored in; fp32 means as the run had them."""
    run: _Line
    """Names of the run's folder and of the folder around it."""
    step: Annotated[int, Field(ge=0)]
    epoch: Annotated[int, Field(ge=0)]
    metrics: dict[str, float]
    """Figures of the evaluation at this step; empty without one."""
    source_sha256: _Digest
    """Of the file that the weights come from: of a checkpoint, or of another program."""
    packed: dict[str, PackedNote] = Field(default_factory=dict)
    """Weights that are stored as one bit each, by name; of version 2."""

    @model_validator(mode="after")
    def _packed_has_its_version(self) -> Self:
        if bool(self.packed) != (self.version == 2):
            raise ValueError(f"version {self.version} {'has no' if self.packed else 'has'} packed weights")
        return self


@dataclass(frozen=True)
class Release:
    """A file of which every byte was checked. Made by ``read_release``."""

    path: Path
    header: ReleaseHeader
    sha256: str

    @property
    def which(self) -> str:
        """``averaged weights``, ``live weights in fp16``, ``packed averaged weights``."""
        packed = "packed " if self.header.packed else ""
        half = "" if self.header.precision == "fp32" else f" in {self.header.precision}"
        return f"{packed}{self.header.weights} weights{half}"

    def tensors_for(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights by name, on the CPU; what was halved and is float32 in ``own`` comes as float32.

        Raises:
            RunError: It is no safetensors file.
        """
        there = load_tensor_file(self.path)
        if self.header.precision == "fp32":
            return there
        half = HALVES[self.header.precision]
        back = {name for name, tensor in there.items() if tensor.dtype == half and name in own}
        return {n: t.float() if n in back and own[n].dtype == torch.float32 else t for n, t in there.items()}


def halved(tensors: Mapping[str, Tensor], half: Half, *, source: str) -> dict[str, Tensor]:
    """Float32 kernels and matrices in 16 bits.

    Vectors stay as they are: running statistics, scales and biases are a few thousandths of the bytes, and the ones
    that rounding hurts most.

    What is below zero stays below zero, however small it is: of a binary weight nothing but the sign counts.

    Args:
        tensors: By name.
        half: fp16 keeps 11 bits of a number and reaches to 65504; bf16 keeps 8 and the whole range.
        source: What they are, for messages.

    Raises:
        RunError: A number is too large for fp16.
    """
    out = {}
    for name, tensor in tensors.items():
        is_halved = tensor.dtype == torch.float32 and tensor.dim() > 1
        out[name] = _rounded(tensor, HALVES[half]) if is_halved else tensor
        if is_halved and not torch.equal(out[name].isfinite(), tensor.isfinite()):
            raise RunError(
                f"{source}: {printable(name, limit=200)} holds numbers up to {float(tensor.abs().max()):.3g}, too "
                f"large for {half}. {'Take bf16, or leave' if half == 'fp16' else 'Leave'} the weights as they are."
            )
    return out


def _rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    about = torch.finfo(dtype)
    least = about.smallest_normal * about.eps  # the number next to 0
    rounded = tensor.to(dtype)
    return rounded.masked_fill_((rounded == 0) & (tensor < 0), -least)


def write_release(path: Path, header: ReleaseHeader, tensors: Mapping[str, Tensor]) -> Release:
    """Write a file in one stroke: it appears whole, or nothing changes. Equal content gives equal bytes.

    Args:
        path: The file; its folder exists. What stands there is replaced.
        header: What it says.
        tensors: The weights by name.

    Raises:
        OSError: It cannot be written, names it.
        TypeError: The header holds something that is no plain value.
        ValueError: A tensor has a type that cannot be stored.
    """
    told = header.model_dump(exclude=None if header.packed else {"packed"})
    buffer = HostBuffer(tensors, {NOTE: state_text(told), HASH: _ZEROS})
    buffer.copy_from(tensors)
    digest = hashlib.sha256()
    for chunk in buffer.chunks():
        digest.update(chunk)
    chunks = buffer.chunks()
    first = bytes(next(chunks)).replace(_hash_text(_ZEROS), _hash_text(digest.hexdigest()))
    replace_file(path, (part for whole in ([first], chunks) for part in whole))
    return Release(path, header, digest.hexdigest())


def find_release(path: Path) -> Release | None:
    """As ``read_release``; None where it is another safetensors file.

    Raises:
        RunError: As ``read_release``.
    """
    refuse_pickle(path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            head = file.read(length) if length <= min(_MAX_HEADER_BYTES, path.stat().st_size - 8) else b""
            notes = _notes(head)
            if NOTE not in notes:
                return None
            stated = str(notes.get(HASH))
            if not re.fullmatch("[0-9a-f]{64}", stated) or head.count(_hash_text(stated)) != 1:
                raise DamagedCheckpointError(f"{printable(path)}: its header was changed: there is no hash of it.")
            digest = hashlib.sha256(length.to_bytes(8, "little"))
            digest.update(head.replace(_hash_text(stated), _hash_text(_ZEROS)))
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise RunError(f"{printable(path)}: cannot be read ({error.strerror}).") from error
    if digest.hexdigest() != stated:
        raise DamagedCheckpointError(
            f"{printable(path)}: its content does not fit its own SHA-256; it was cut or changed. Get it anew."
        )
    return Release(path, _header(path, notes[NOTE]), stated)


def read_release(path: Path) -> Release:
    """Check a file down to the last bit and give what it says.

    Raises:
        DamagedCheckpointError: It was cut or changed.
        RunError: It is missing, a pickle (which is never opened), another kind of file, or of a newer version.
    """
    release = find_release(path)
    if release is None:
        load_tensor_file(path)
        raise RunError(
            f"{printable(path)}: was not written by `sightline release`, so nothing says what model its weights are "
            "of. Give a run's folder, one of its checkpoints or a file that was."
        )
    return release


def _hash_text(digest: str) -> bytes:
    """As it stands in the header, where quotes inside of other texts are escaped."""
    return f'"{HASH}":"{digest}"'.encode()


def _notes(head: bytes) -> dict[str, Any]:
    """The texts in the header of a safetensors file; none where it is something else."""
    try:
        notes = json.loads(head)["__metadata__"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _num_values(value: object, *, depth: int) -> int:
    if depth == 0:
        raise ValueError("its configuration is nested too deeply")
    return sum(_num_values(one, depth=depth - 1) for one in value.values()) if isinstance(value, dict) else 1


def _header(path: Path, text: object) -> ReleaseHeader:
    try:
        fields = from_state_text(str(text))
        if fields.get("format") == FORMAT and type(fields.get("version")) is int and fields["version"] > VERSION:
            raise RunError(
                f"{printable(path)}: has format version {fields['version']}, this sightline reads up to {VERSION}. "
                "Update sightline to use this file."
            )
        header = ReleaseHeader.model_validate({**fields, "left_out": tuple(fields["left_out"])}, strict=True)
        if _num_values(header.config, depth=20) > _MAX_VALUES:
            raise ValueError(f"its configuration has more than {_MAX_VALUES} values")
        return header
    except ValidationError as error:
        fault = error.errors()[0]
        place = printable(".".join(map(str, fault["loc"])), limit=80)
        raise RunError(f"{printable(path)}: says nothing useful in its header ({place}: {fault['msg']}).") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        what = printable(f"{type(error).__name__}: {error}", limit=120)
        raise RunError(f"{printable(path)}: says nothing useful in its header ({what}).") from error
