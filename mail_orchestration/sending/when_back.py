"""What must be written is written when the database is back: one that restarts is away for seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from mail_orchestration.kernel.errors import DatabaseUnavailable

_T = TypeVar("_T")

WAIT_S, PAUSE_S = 20.0, 0.5
"""For how long in all, and between two attempts."""


def when_back(write: Callable[[], _T], is_over: Callable[[], bool] = lambda: False) -> _T:
    """What `write` returns, as soon as the database lets it.

    Raises DatabaseUnavailable after WAIT_S seconds, or sooner when `is_over`; and what else `write` raises, at once.
    """
    until = time.monotonic() + WAIT_S
    while True:
        try:
            return write()
        except DatabaseUnavailable:
            if is_over() or time.monotonic() >= until:
                raise
        time.sleep(PAUSE_S)
