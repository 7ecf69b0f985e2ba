"""Finds checkpoints, checks every byte of them, and loads their tensors without running anything."""

import hashlib
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sightline.config.errors import RunError
from sightline.engine.checkpoint.layout import (
    BEST,
    CHECKPOINTS_FOLDER,
    DISPLACED,
    LATEST,
    SET_ASIDE,
    STATE_FILE,
    DamagedCheckpointError,
    FileEntry,
    Manifest,
    read_manifest,
    step_of,
)
from sightline.files.atomic_file import fsync_path

PICKLE_SUFFIXES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".tar")
"""Names that other systems give to pickles."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of which every byte was checked. Made by ``read_checkpoint``."""

    path: Path
    manifest: Manifest

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self.manifest.step

    @property
    def state(self) -> dict[str, Any]:
        """What was given as ``CheckpointState.state``."""
        return self.manifest.state


def find_checkpoints(run_dir: Path) -> list[Path]:
    """Folders of a run's checkpoints, newest first. They are not opened; some may be damaged."""
    folder = run_dir / CHECKPOINTS_FOLDER
    if not folder.is_dir():
        return []
    found = {}
    for path in sorted(folder.iterdir()):  # displaced ones sort first: the same step under its own name wins
        step = step_of(path.name.removeprefix(DISPLACED))
        if step is not None:
            found[step] = path
    return [path for _, path in sorted(found.items(), reverse=True)]


def read_checkpoint(path: Path) -> Checkpoint:
    """Check a checkpoint down to the last bit and describe it.

    Args:
        path: Its folder.

    Raises:
        DamagedCheckpointError: Something is missing, cut, changed, or a link; names the file and the fault.
        RunError: It is no checkpoint, or a newer version wrote it.
    """
    if not path.is_dir():
        refuse_pickle(path)
        raise RunError(f"{path}: no checkpoint; a checkpoint is a folder like step_00000900.")
    manifest = described(path)
    for name, entry in manifest.files.items():
        check_file(path / name, entry)
    return Checkpoint(path, manifest)


def described(path: Path) -> Manifest:
    """What a checkpoint's folder says of itself; the other files are not looked at.

    Raises:
        DamagedCheckpointError: Its ``state.json`` is damaged, or of another step than the folder's name.
        RunError: A newer version wrote it.
    """
    manifest = read_manifest(path)
    step = step_of(path.name.removeprefix(DISPLACED))
    if step is not None and step != manifest.step:
        raise DamagedCheckpointError(f"{path / STATE_FILE}: is of step {manifest.step}, the folder's name says {step}.")
    return manifest


def check_file(path: Path, entry: FileEntry) -> None:
    """Check one file of a checkpoint down to the last bit.

    Raises:
        DamagedCheckpointError: It is missing, cut, changed, or a link.
    """
    try:
        about = path.lstat()
        if not stat.S_ISREG(about.st_mode):
            raise DamagedCheckpointError(f"{path}: is a link or no file; a checkpoint holds its own files.")
        if about.st_size != entry.bytes:
            raise DamagedCheckpointError(f"{path}: has {about.st_size} bytes, {entry.bytes} were written.")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DamagedCheckpointError(f"{path}: cannot be read ({error.strerror}).") from error
    if digest != entry.sha256:
        raise DamagedCheckpointError(
            f"{path}: its SHA-256 is not the one in {STATE_FILE}; the file was changed after it was written."
        )


def newest_whole(run_dir: Path, on_damaged: Callable[[str], None]) -> Checkpoint:
    """The newest checkpoint of a run that is whole.

    Args:
        run_dir: The run's folder.
        on_damaged: Told about each damaged one that is passed over, in a sentence that names file and fault.

    Raises:
        RunError: There is none, or a newer version wrote it. Training never starts anew by itself.
    """
    found = find_checkpoints(run_dir)
    if not found:
        raise RunError(f"{run_dir}: holds no checkpoint yet. Train again into a new folder.")
    for path in found:
        try:
            return read_checkpoint(path)
        except DamagedCheckpointError as error:
            on_damaged(f"Checkpoint {path.name} is damaged and passed over. {error}")
    raise RunError(
        f"{run_dir}: all {len(found)} checkpoints are damaged. Put a good copy back, or train again into a new folder."
    )


def open_checkpoint(path: Path, on_damaged: Callable[[str], None] | None = None) -> Checkpoint:
    """The checkpoint that a person means by a path.

    Args:
        path: A run's folder (its newest whole checkpoint), a checkpoint's folder, or a pointer
            (``checkpoints/best``).
        on_damaged: As in ``newest_whole``. Without it a damaged newest checkpoint is an error.

    Raises:
        RunError: There is no such checkpoint, it is damaged, or the path is a pickle, which is never opened.
    """
    if path.is_dir():
        if (path / STATE_FILE).exists() or step_of(path.name) is not None:
            return read_checkpoint(path)
        return newest_whole(path, on_damaged or _refuse_damaged)
    if not path.exists():
        raise RunError(f"{path}: no such checkpoint. Give a run's folder or one of its checkpoints.")
    if path.name in (LATEST, BEST):
        return read_checkpoint(pointed_to(path))
    return read_checkpoint(path)


def named_checkpoint(run_dir: Path, name: str, on_damaged: Callable[[str], None]) -> Checkpoint:
    """The checkpoint of a run that a person calls ``latest``, ``best`` or by its step.

    Args:
        run_dir: The run's folder.
        name: ``latest`` is the newest whole one; ``best`` and a number mean exactly that one.
        on_damaged: As in ``newest_whole``.

    Raises:
        RunError: There is no such checkpoint, or it is damaged.
    """
    return newest_whole(run_dir, on_damaged) if name == LATEST else read_checkpoint(named_folder(run_dir, name))


def named_folder(run_dir: Path, name: str) -> Path:
    """As ``named_checkpoint``, the folder alone, which is not looked into; ``latest`` is the newest.

    Raises:
        RunError: There is no such checkpoint.
    """
    pointer = run_dir / CHECKPOINTS_FOLDER / BEST
    if name == BEST and pointer.is_file():
        return pointed_to(pointer)
    steps = {step_of(path.name.removeprefix(DISPLACED)): path for path in find_checkpoints(run_dir)}
    newest = max((step for step in steps if step is not None), default=None)
    step = newest if name == LATEST else int(name) if name.isascii() and name.isdigit() else step_of(name)
    if step is not None and step in steps:
        return steps[step]
    there = ", ".join(map(str, sorted(step for step in steps if step is not None))) or "none"
    raise RunError(f"{run_dir}: no checkpoint {name!r}. Say latest, best or one of these steps: {there}.")


def load_tensors(checkpoint: Checkpoint | Path, *groups: str) -> dict[str, dict[str, Tensor]]:
    """The tensors of a checkpoint, on the CPU.

    The files are mapped, so memory is taken as tensors are read; copy what must outlive the folder's files on
    systems that refuse to delete a mapped file (Windows).

    Args:
        checkpoint: A checked one, or a folder, which is checked first.
        groups: Names of the files, such as ``"model"``; all without any.

    Returns:
        Tensors by name, by group, as in ``CheckpointState.tensors``.

    Raises:
        RunError: It is damaged, or has no such group.
    """
    checkpoint = checkpoint if isinstance(checkpoint, Checkpoint) else read_checkpoint(checkpoint)
    there = [name.removesuffix(".safetensors") for name in checkpoint.manifest.files]
    for group in groups:
        if group not in there:
            raise RunError(f"{checkpoint.path}: holds no {group!r}; it holds {', '.join(there)}.")
    return {group: load_tensor_file(checkpoint.path / f"{group}.safetensors") for group in groups or there}


def load_tensor_file(path: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file, mapped, on the CPU. No hash is checked here.

    Raises:
        RunError: It is missing, a pickle (which is never opened), or no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    refuse_pickle(path)
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: no readable safetensors file ({error}).") from error
    return tensors


def tensor_kinds(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type (``F32``, ``I64``, ...) and shape of each tensor of a safetensors file; no tensor is loaded.

    Raises:
        RunError: It is missing, a pickle (which is never opened), or no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    refuse_pickle(path)
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
            return {name: (str(one.get_dtype()), tuple(one.get_shape())) for name, one in slices.items()}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: no readable safetensors file ({error}).") from error


def refuse_pickle(path: Path) -> None:
    """Stop at a file that is, or by its name may be, a pickle. Only its first bytes are looked at.

    Raises:
        RunError: It is one, or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
        size = path.stat().st_size
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}).") from error
    # A safetensors header may be 640 bytes long and start like a pickle, but its ninth byte opens a JSON object.
    is_safetensors = head[8:] == b"{" and int.from_bytes(head[:8], "little") <= size - 8
    looks_pickled = head.startswith(b"PK\x03\x04") or (head[:1] == b"\x80" and head[1:2] in b"\x00\x01\x02\x03\x04\x05")
    if not is_safetensors and (looks_pickled or path.suffix.lower() in PICKLE_SUFFIXES):
        raise RunError(
            f"{path}: is a pickle, a kind of file that can run code when it is opened. It was not opened. "
            "Give a run's folder, one of its checkpoints, or a .safetensors file."
        )


def set_aside(run_dir: Path, *, after_step: int) -> list[Path]:
    """Rename the checkpoints of later steps, so that a run resumed from ``after_step`` is not mixed with them.

    They are damaged, or belong to steps that are about to be taken anew. None is deleted. Only the holder of
    the run's lock may call this; the writer is made afterwards.

    Returns:
        Their new folders, ``checkpoints/set_aside_step_...``.
    """
    moved = []
    for path in find_checkpoints(run_dir):
        step = step_of(path.name.removeprefix(DISPLACED))
        if step is not None and step > after_step:
            name = SET_ASIDE + path.name.removeprefix(DISPLACED)
            target, number = path.with_name(name), 1
            while target.exists():
                number += 1
                target = path.with_name(f"{name}_{number}")
            moved.append(path.rename(target))
    if moved:
        fsync_path(run_dir / CHECKPOINTS_FOLDER)
    return moved


def pointed_to(pointer: Path) -> Path:
    """The folder that ``latest`` or ``best`` names.

    Raises:
        RunError: It names none, or one that is not there.
    """
    with pointer.open("rb") as file:
        name = file.read(100).decode("ascii", "replace").strip()
    if step_of(name) is None:
        raise RunError(f"{pointer}: names no checkpoint ({name!r}). Give the checkpoint's folder.")
    if not (pointer.parent / name).is_dir():
        raise RunError(f"{pointer}: names {name}, which is not there. Give another checkpoint's folder.")
    return pointer.parent / name


def _refuse_damaged(message: str) -> None:
    raise RunError(message)
