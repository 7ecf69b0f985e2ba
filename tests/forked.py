"""Children that do a part of a test, so that they can be killed."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable


def forked(work: Callable[[], int | None]) -> int:
    """Start ``work`` in a forked child, which never comes back into the test runner.

    Its exit code is what ``work`` returns, 0 for None; or 70 after an exception, which it prints.

    Returns:
        The number of the process. The caller waits for it.
    """
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            code = work() or 0
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)
    return pid
