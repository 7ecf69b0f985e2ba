"""``compile=true`` and ``compile=try``: modules in the hands of torch.compile."""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch
from torch import nn

from sightline.config.printable import printable

_log = logging.getLogger(__name__)


def compile_modules(modules: list[nn.Module], how: Literal[True, "try"]) -> None:
    """Let modules be compiled at their first call.

    Args:
        modules: What is compiled, in place.
        how: True: an error of the compiler is one of the run. ``try``: a module that is not compiled as a whole runs as
            it is written, which is told once, with the reason.
    """
    for module in modules:
        if how == "try":
            _compile_or_leave(module)
        else:
            module.compile()


def _compile_or_leave(module: nn.Module) -> None:
    """As a whole or not at all: the compiler then gives up before anything has run, so a batch can be run anew."""
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    compiled = torch.compile(module._call_impl, fullgraph=True)

    def call(*inputs: Any, **named: Any) -> Any:
        try:
            return compiled(*inputs, **named)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            module._compiled_call_impl = None
            _log.warning("compile=try: %s runs as it is written: %s", type(module).__name__, _reason(error))
            _log.info("compile=try: %s", error, extra={"only_in_file": True})
        return module(*inputs, **named)

    module._compiled_call_impl = call


def _reason(error: BaseException) -> str:
    """The beginning of what the compiler says, which tells what it could not do."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(" ".join(lines[:2]) or type(error).__name__, limit=300)
