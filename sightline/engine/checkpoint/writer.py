"""Takes checkpoints while training goes on.

The trainer waits for a copy into memory that is kept for the whole run; a thread hashes and writes it. A
checkpoint is written into a folder with another name, flushed to the disk, and renamed; then the pointers
move, and only then older ones go. At any moment, a kill or a full disk leaves the older checkpoints whole.

One checkpoint is in flight at a time. When the next is due before it is on disk, ``save`` waits for it: no
checkpoint is skipped, and a disk that is too slow for the chosen period shows as waiting, not as memory.
"""

import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from sightline.engine.checkpoint.host_buffer import HostBuffer
from sightline.engine.checkpoint.layout import (
    BEST,
    CHECKPOINTS_FOLDER,
    DISPLACED,
    LATEST,
    STATE_FILE,
    CheckpointState,
    DamagedCheckpointError,
    FileEntry,
    Manifest,
    folder_name,
    manifest_bytes,
    read_manifest,
    state_text,
    step_of,
)
from sightline.engine.checkpoint.retention import BestBy, CheckpointConfig, Saved, improvements, kept_steps, ranked
from sightline.files.atomic_file import WRITING, fsync_path, replace_file

REMOVING = ".removing-"
"""Start of the name of a checkpoint that is being deleted."""
_SPARE_BYTES = 64 << 10
"""Room for ``state.json``, pointers and folders."""
_log = logging.getLogger(__name__)


class CheckpointWriteError(OSError):
    """A checkpoint did not reach the disk. Older ones are untouched, and another save may be tried."""


class CheckpointWriter:
    """The one writer of a run's checkpoints. Only the process that holds the run's lock may make one.

    Cleans up after a killed process when it is made.

    Args:
        run_dir: The run's folder.
        config: Which checkpoints stay.
        best: Which one the pointer ``best`` names; by default the highest first figure of the evaluation.
        total_epochs: Epochs at which the run ends, for the rule ``final_epochs``.
        patience_s: How long ``save`` and ``flush`` wait for the disk before they give up.

    Raises:
        ConfigError: A rule does not fit the run.
        OSError: The folder cannot be made or cleaned.
    """

    def __init__(
        self,
        run_dir: Path,
        config: CheckpointConfig | None = None,
        *,
        best: BestBy | None = None,
        total_epochs: int | None = None,
        patience_s: float = 600.0,
    ) -> None:
        self.config = config or CheckpointConfig()
        self.best = best or BestBy()
        self.folder = run_dir / CHECKPOINTS_FOLDER
        self.total_epochs = total_epochs
        self.patience_s = patience_s
        self.seconds: float | None = None
        """What the last checkpoint took, from the call to its place on the disk; None before the first."""
        kept_steps([], self.config, best=self.best, total_epochs=total_epochs)  # complains about rules that do not fit
        self.folder.mkdir(parents=True, exist_ok=True)
        clean_leftovers(run_dir)
        self._saved = _existing(self.folder)
        self._point()
        self._buffers: dict[str, HostBuffer] = {}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._closed = False

    def reserve(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Get the memory for checkpoints like this one, in the background, so that the first is as quick as the rest.

        Args:
            tensors: As in ``CheckpointState``; the values do not matter.
        """
        self._wait("the memory for checkpoints")
        self._lay_out(tensors)
        buffers = list(self._buffers.values())

        def touch() -> None:
            for buffer in buffers:
                buffer.touch()

        self._start(touch)

    def save(
        self,
        state: CheckpointState,
        *,
        step: int,
        epoch: int,
        ends_epoch: bool = False,
        metrics: Mapping[str, float] | None = None,
        reason: str = "request",
        sync_first: Sequence[Path] = (),
    ) -> Path:
        """Take a checkpoint. Returns as soon as the tensors may change again.

        A checkpoint of the same step is replaced.

        Args:
            state: What to keep. Tensors on a CUDA device must be written only by work on their current stream.
            step: Optimizer steps taken.
            epoch: Complete passes over the data.
            ends_epoch: Whether the last step completed one.
            metrics: Figures of an evaluation at this step.
            reason: Why it is taken.
            sync_first: Files that the state speaks of, such as the metrics log; they are flushed to the disk
                before the checkpoint appears.

        Returns:
            The folder that will hold it.

        Raises:
            CheckpointWriteError: This or the one before cannot be written; older ones are untouched.
            ConfigError: ``metrics`` lacks the figure that a rule asks for.
            TypeError: ``state.state`` holds something that is no plain value.
            ValueError: A tensor has a type that cannot be stored.
        """
        if self._closed:
            raise RuntimeError("CheckpointWriter: save() after close().")
        since = time.monotonic()
        text = state_text(state.state)
        new = Saved(step, epoch, ends_epoch, {name: float(value) for name, value in (metrics or {}).items()})
        self._wait(f"the checkpoint before step {step}")
        # A person may delete old checkpoints of a running training.
        others = [one for one in self._saved if one.step != step and (self.folder / folder_name(one.step)).is_dir()]
        new = replace(new, improved=improvements(new, others, self.config.meanings_of_best(self.best)))
        self._lay_out(state.tensors)
        self._check_space(step)
        events = [event for name, buffer in self._buffers.items() for event in buffer.copy_from(state.tensors[name])]

        def write() -> None:
            self._write(new, others, reason, text, tuple(sync_first), events)
            self.seconds = time.monotonic() - since

        self._start(write)
        return self.folder / folder_name(step)

    def flush(self) -> None:
        """Wait until everything is on disk.

        Raises:
            CheckpointWriteError: The last checkpoint could not be written; older ones are untouched.
        """
        self._wait("the last checkpoint")

    def close(self) -> None:
        """Flush and give the memory back. Safe to call twice.

        Raises:
            CheckpointWriteError: As ``flush``.
        """
        self._closed = True
        try:
            self.flush()
        finally:
            self._buffers = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except CheckpointWriteError as failure:
            if error is None:
                raise
            error.add_note(str(failure))

    def _lay_out(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Buffers for these files, in this order; those that still fit stay."""
        old = self._buffers
        self._buffers = {}
        for name, group in tensors.items():
            buffer = old.pop(name, None)
            self._buffers[name] = buffer if buffer is not None and buffer.fits(group) else HostBuffer(group)

    def _start(self, work: Callable[[], object]) -> None:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                self._error = error

        # Not a daemon: a trainer that ends with an exception still gets its last checkpoint.
        self._thread = threading.Thread(target=run, name="checkpoint-writer")
        self._thread.start()

    def _wait(self, what: str) -> None:
        if self._thread is not None:
            self._thread.join(self.patience_s)
            if self._thread.is_alive():
                raise CheckpointWriteError(
                    f"{self.folder}: {what} is still being written after {self.patience_s:.0f} seconds. "
                    "Is the disk or the network behind it stuck?"
                )
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _check_space(self, step: int) -> None:
        needed = sum(buffer.file_bytes for buffer in self._buffers.values()) + _SPARE_BYTES
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise self._failure(step, f"it needs {needed / 1e6:.1f} MB, but {free / 1e6:.1f} MB are free")

    def _failure(self, step: int, why: str) -> CheckpointWriteError:
        return CheckpointWriteError(
            f"{self.folder}: the checkpoint of step {step} was not written: {why}. "
            "The older ones are untouched. Make room or mend the permissions, then resume the run."
        )

    def _write(
        self,
        new: Saved,
        others: list[Saved],
        reason: str,
        state_json: str,
        sync_first: tuple[Path, ...],
        events: list[torch.cuda.Event],
    ) -> None:
        """In the thread: from the buffers to a checkpoint that stands, pointers that name it, old ones gone."""
        for event in events:
            event.synchronize()
        final = self.folder / folder_name(new.step)
        displaced = self.folder / f"{DISPLACED}{final.name}"
        began = time.perf_counter()
        try:
            self._write_folder(final, displaced, new, reason, state_json, sync_first)
        except OSError as error:
            raise self._failure(new.step, error.strerror or str(error)) from error
        megabytes = sum(buffer.file_bytes for buffer in self._buffers.values()) / 1e6
        took = time.perf_counter() - began
        _log.debug("checkpoint %s (%s): %.1f MB written in %.2f s", final.name, reason, megabytes, took)
        self._saved = [*others, new]
        try:
            fsync_path(self.folder)
            _remove(displaced)
            self._point()
            self._prune()
        except OSError as error:
            raise CheckpointWriteError(
                f"{self.folder}: the checkpoint of step {new.step} stands, but the folder could not be tidied: "
                f"{error.strerror or error}. Make room or mend the permissions, then resume the run."
            ) from error

    def _write_folder(
        self, final: Path, displaced: Path, new: Saved, reason: str, state_json: str, sync_first: tuple[Path, ...]
    ) -> None:
        """Fill a folder under another name and flush it; the last rename is the moment from which it counts."""
        temporary = self.folder / f"{WRITING}{os.getpid()}-{final.name}"
        try:
            _remove(temporary)  # of an attempt that failed so badly that even this failed
            temporary.mkdir()
            files = {}
            for name, buffer in self._buffers.items():
                files[f"{name}.safetensors"] = _write_buffer(temporary / f"{name}.safetensors", buffer)
            manifest = Manifest(
                step=new.step,
                epoch=new.epoch,
                ends_epoch=new.ends_epoch,
                metrics=dict(new.metrics),
                improved=new.improved,
                reason=reason,
                files=files,
                state={},
            )
            with (temporary / STATE_FILE).open("wb") as file:
                file.write(manifest_bytes(manifest, state_json))
                file.flush()
                os.fsync(file.fileno())
            for path in (*sync_first, temporary):
                fsync_path(path)
            if final.exists():
                _remove(displaced)
                final.rename(displaced)
            temporary.rename(final)
        except BaseException:
            with suppress(OSError):
                if not final.exists() and displaced.exists():
                    displaced.rename(final)
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _point(self) -> None:
        """Let ``latest`` and ``best`` name the newest and the best checkpoint."""
        newest = sorted(self._saved, key=lambda one: -one.step)
        for pointer, found in ((LATEST, newest), (BEST, ranked(self._saved, self.best))):
            path = self.folder / pointer
            if not found:
                path.unlink(missing_ok=True)
                continue
            data = f"{folder_name(found[0].step)}\n".encode()
            if not path.is_file() or path.read_bytes() != data:
                replace_file(path, data)

    def _prune(self) -> None:
        kept = kept_steps(self._saved, self.config, best=self.best, total_epochs=self.total_epochs)
        for one in self._saved:
            if one.step not in kept:
                # Renamed first, so that a kill never leaves half a checkpoint under a checkpoint's name.
                doomed = self.folder / f"{REMOVING}{folder_name(one.step)}"
                (self.folder / folder_name(one.step)).rename(doomed)
                _remove(doomed)
                _log.debug("checkpoint %s removed: no rule of checkpoint.keep wants it", folder_name(one.step))
        self._saved = [one for one in self._saved if one.step in kept]


def clean_leftovers(run_dir: Path) -> list[str]:
    """Remove what a killed process left half written or half deleted in a run's folder and the folders in it.

    Only the holder of the run's lock may.

    Returns:
        Names of what was removed.
    """
    removed = []
    inside = [path for path in sorted(run_dir.iterdir()) if path.is_dir() and not path.is_symlink()]
    for folder in (run_dir, *inside):
        if not folder.is_dir():  # removed a moment ago
            continue
        for path in sorted(folder.iterdir()):
            if path.name.startswith(DISPLACED) and not (folder / path.name.removeprefix(DISPLACED)).exists():
                path.rename(folder / path.name.removeprefix(DISPLACED))
            elif path.name.startswith((WRITING, REMOVING, DISPLACED)):
                _remove(path)
                removed.append(path.name)
    return removed


def _remove(path: Path) -> None:
    """Remove a file or folder, if it is there; a link is removed, not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_buffer(path: Path, buffer: HostBuffer) -> FileEntry:
    """Hash and write in one pass over the memory, and wait for the disk."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for chunk in buffer.chunks():
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return FileEntry(bytes=buffer.file_bytes, sha256=digest.hexdigest())


def _existing(folder: Path) -> list[Saved]:
    """The checkpoints that stand already. One whose ``state.json`` is damaged is left alone and not counted."""
    saved = []
    for path in sorted(folder.iterdir()):
        if step_of(path.name) is None:
            continue
        try:
            found = read_manifest(path)
        except DamagedCheckpointError as error:
            _log.warning("%s It is left as it is.", error)
            continue
        saved.append(Saved(found.step, found.epoch, found.ends_epoch, found.metrics, found.improved))
    return saved
