"""A trained model as other programs run it: named tensors in, named tensors out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

PixelType = Literal["uint8", "float32"]
"""Pixels that the network normalises, or images that are normalised already."""


class OpenAxis(NamedTuple):
    """An axis that may have any length."""

    letter: str
    """In shapes, to tell a user."""
    name: str
    """In the file."""


BATCH = OpenAxis("B", "batch")
PILLARS = OpenAxis("V", "pillars")


@dataclass(frozen=True)
class GraphInput:
    """A tensor that goes in."""

    name: str
    shape: tuple[int | OpenAxis, ...]
    meaning: str

    def __str__(self) -> str:
        """Name, shape and meaning."""
        sizes = [axis.letter if isinstance(axis, OpenAxis) else str(axis) for axis in self.shape]
        return f"{self.name} ({', '.join(sizes)}{',' * (len(sizes) == 1)}): {self.meaning}"


@dataclass(frozen=True)
class GraphOutput:
    """A tensor that comes out."""

    name: str
    meaning: str
    """With its shape."""
    by_element: bool = False
    """Whether each number is compared in its own size, because they are of different units; otherwise all are in the
    size of the largest."""

    def __str__(self) -> str:
        """Name and meaning."""
        return f"{self.name}: {self.meaning}"


@dataclass(frozen=True)
class Graph:
    """A trained model as other programs run it."""

    module: nn.Module
    """Takes the inputs in their order; gives the output, or a tuple of several."""
    inputs: tuple[GraphInput, ...]
    outputs: tuple[GraphOutput, ...]
    facts: Mapping[str, Any]
    """What whoever prepares the inputs and uses the outputs has to know, as plain values."""
    examples: Sequence[tuple[Tensor, ...]]
    """Inputs to try it on, each a tensor for every input; in the first one open axes are longer than 1."""
    undecided: Callable[..., tuple[Tensor, ...]] | None = None
    """Takes the inputs; says for every output which of its numbers (a mask of its shape) may jump by a rounding."""

    def outputs_of(self, module: nn.Module, example: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What a module with these inputs and outputs gives."""
        given = module(*example)
        return given if isinstance(given, tuple) else (given,)
