"""Days of an installation: where one begins and ends, also when the clocks change in its middle. Pure."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo


def day_bounds(day: date, time_zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The first moment of `day` in `time_zone` and the first after it, in UTC: 23, 24 or 25 hours, mostly."""
    return _first_moment(day, time_zone), _first_moment(day + timedelta(days=1), time_zone)


def _first_moment(day: date, time_zone: ZoneInfo) -> datetime:
    # PEP 495: fold=0 of a midnight that comes twice is the first one, and of one that is skipped (clocks that
    # go forward at midnight) the moment of the change, which is where that day begins.
    return datetime.combine(day, time.min, tzinfo=time_zone).astimezone(UTC)
