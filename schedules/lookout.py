"""Looking for work more often than Dagster's daemon ticks.

The daemon evaluates a sensor every 5 s at most, and from a release to its first message three sensors follow upon each
other: half of their ticks was most of that time. So a sensor that finds nothing looks on until shortly before its next
tick. It is to look at the database alone, which takes a millisecond, and at nothing of Dagster's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

LOOK_ON_FOR_S = 4.0
"""With what a tick takes besides it stays below the daemon's 5 s: a sensor that is still at it misses its next tick."""
LOOK_AGAIN_S = 0.5

Found = TypeVar("Found")


def look_out(look: Callable[[], Found]) -> Found:
    """What `look` finds, as soon as it is something; else what it found last."""
    deadline = time.monotonic() + LOOK_ON_FOR_S
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(LOOK_AGAIN_S)
    return found
