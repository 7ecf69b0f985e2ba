"""Files that would run code in the reader's process, if it let them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import torch


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"echo pwned > '{self.witness}'",)


def plain_pickle(path: Path, witness: Path) -> None:
    """As ``pickle.dump`` writes it."""
    path.write_bytes(pickle.dumps({"model": Payload(witness), "epoch": 3}))


def old_pickle(path: Path, witness: Path) -> None:
    """Protocol 0: text without a magic byte."""
    path.write_bytes(pickle.dumps(Payload(witness), protocol=0))


def zipped_pickle(path: Path, witness: Path) -> None:
    """As ``torch.save`` writes it today."""
    torch.save({"model": Payload(witness)}, path)


def legacy_pickle(path: Path, witness: Path) -> None:
    """As ``torch.save`` wrote it before version 1.6."""
    torch.save({"model": Payload(witness)}, path, _use_new_zipfile_serialization=False)


PICKLES = {"pickle": plain_pickle, "protocol 0": old_pickle, "torch zip": zipped_pickle, "torch legacy": legacy_pickle}
