"""The time of day, asked for in one place so that everything below it can take `now` as an argument."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import partial
from zoneinfo import ZoneInfo


def utc_now() -> datetime:
    """The present moment, aware, in UTC."""
    return datetime.now(UTC)


# Linux' monotonic clock stands still while the machine sleeps; this one does not.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


# Asked for several times for each message: a function of our own around it would take three times as long.
steady_seconds: Callable[[], float] = partial(time.clock_gettime, _STEADY)
"""Seconds of a clock that nobody sets and that goes on while the machine sleeps: for leases."""


def day_of(moment: datetime, time_zone: ZoneInfo) -> date:
    """The calendar day of `moment` in the installation's time zone: a day of the spec is a day there."""
    return moment.astimezone(time_zone).date()
