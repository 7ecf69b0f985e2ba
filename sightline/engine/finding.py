"""What is found before a run begins: by the engine, and by the run's own configuration about its data and model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from sightline.engine.run_config import Problem, RunConfig

Weight = Literal["ok", "note", "problem"]
"""``problem``: the run would not start, would break off, or could not learn most of what it is shown."""


@dataclass(frozen=True)
class Finding:
    """One line of a preflight."""

    topic: str
    """What was looked at, one or two words."""
    weight: Weight
    text: str
    cure: str = ""
    """What to do about it."""


@dataclass(frozen=True)
class DataReview:
    """A look at all of a run's data."""

    open: Callable[[RunConfig], Problem] | None
    """Opens the data for a variant of the run, such as one with another batch size, without reading it anew. It leaves
    out what the findings call broken and keeps no caches, so that the rest can be tried. None: nothing can be opened.
    """
    findings: Sequence[Finding] = ()
    memory: Mapping[str, int] = field(default_factory=dict)
    """Bytes of host memory that the run will take for its data beside its batches, by what for."""
    disk: Mapping[Path, int] = field(default_factory=dict)
    """Bytes that the run will write for its data, by folder."""
