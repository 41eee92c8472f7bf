"""The time of day, asked for in one place so that everything below it can take `now` as an argument."""

from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo


def utc_now() -> datetime:
    """The present moment, aware, in UTC."""
    return datetime.now(UTC)


def day_of(moment: datetime, time_zone: ZoneInfo) -> date:
    """The calendar day of `moment` in the installation's time zone: a day of the spec is a day there."""
    return moment.astimezone(time_zone).date()
