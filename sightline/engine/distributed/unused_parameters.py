"""Parameters that take no part in a step, in a run of several processes that wait for the gradients of all of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sightline.config.errors import ConfigError

if TYPE_CHECKING:
    from torch.nn.parallel import DistributedDataParallel

SHOWN = 6
"""So many names are told; of the others their number."""
_WITHOUT_GRADIENT = re.compile(r"Parameter indices which did not receive grad for rank \d+: ([\d ]+)")


@contextmanager
def all_take_part(module: DistributedDataParallel) -> Iterator[None]:
    """Around the forward and backward pass after which gradients are exchanged.

    As long as one parameter of a group has no gradient nothing of the group is exchanged, and PyTorch complains in the
    step after. So it is asked now, before the optimizer takes a step with gradients of one process alone.

    Raises:
        ConfigError: Names the parameters that have no gradient.
    """
    yield
    try:
        module._check_reducer_finalized()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        found = _WITHOUT_GRADIENT.search(str(error))
        if found is None:
            raise
        names = [name for name, value in module.module.named_parameters() if value.requires_grad]
        raise _refusal([names[int(index)] for index in found[1].split()], of=len(names)) from None


def _refusal(names: Sequence[str], *, of: int) -> ConfigError:
    shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    return ConfigError(
        f"find_unused_parameters=false: {len(names)} of {of} parameters take no part in a step: {shown}. Several "
        "processes wait for the gradients of all that are trained. Let a loss depend on them, leave them out of "
        "training (freeze), or set find_unused_parameters=true, which looks for them in every step."
    )
