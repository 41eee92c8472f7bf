"""The daily log: how many mails each contact got on each day, and what that adds up to over rolling windows.

A day is closed once it is over, by the nightly run; closing is set-based and can be repeated, late, and after
missing nights, and gives the same figures (spec 8.2). Whether a contact may be written to is not decided
here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from mail_orchestration.kernel.clock import day_of
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.days import day_bounds
from mail_orchestration.kernel.errors import StateConflict
from mail_orchestration.kernel.frequency_in_force import policy_in_force
from mail_orchestration.kernel.frequency_lock import lock_frequency
from mail_orchestration.kernel.partitions import ensure_day
from mail_orchestration.kernel.statements import STATEMENTS

LATE_RESULTS = timedelta(hours=1)
"""A day that was closed sooner than this after its end is closed once more by the next run: a result carries
the mailcaster's time and is durable a moment later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedDay:
    """What one closed day held."""

    day: date
    mails: int
    contacts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowCount:
    """What the contacts of an installation got within one rolling window."""

    days: int
    contacts: int
    """Contacts that got a mail at all."""
    mails: int
    most: int
    """The most that one contact got."""
    histogram: Mapping[int, int]
    """Contacts by number of mails, ascending."""


def close_day(
    database: Database, installation_id: int, day: date, time_zone: ZoneInfo, now: datetime
) -> ClosedDay:
    """Count the mails that relays accepted on `day` of `time_zone`, for each contact, and close the day.

    One transaction of its own. May be repeated: results that came since are added. Raises StateConflict when
    the day is not over at `now`.
    """
    with database.begin() as connection:
        lock_frequency(connection, installation_id)
        closed = log_day(connection, installation_id, day, time_zone, now)
    crash_point("day_closed")
    return closed


def log_day(
    connection: Connection, installation_id: int, day: date, time_zone: ZoneInfo, now: datetime
) -> ClosedDay:
    """The same inside the transaction of a caller who holds the lock of `kernel.frequency_lock`."""
    starts_at, ends_at = day_bounds(day, time_zone)
    if now < ends_at:
        raise StateConflict(f"{day} is not over in {time_zone.key}, so it cannot be closed")
    span = {"installation_id": installation_id, "starts_at": starts_at, "ends_at": ends_at}
    if connection.execute(STATEMENTS["has_mails_between"], span).scalar_one():
        ensure_day(connection, day)
        in_force = policy_in_force(connection, installation_id)
        firsts = None if in_force is None else in_force.first_days(in_force.counted_for)
        connection.execute(STATEMENTS["log_mails_of_day"], {**span, "day": day, "firsts": firsts})
        crash_point("day_counted")
    totals = connection.execute(
        STATEMENTS["close_day"], {"installation_id": installation_id, "day": day, "now": now}
    ).one()
    return ClosedDay(day=day, mails=totals.mails, contacts=totals.contacts)


def close_days_due(
    database: Database, installation_id: int, time_zone: ZoneInfo, now: datetime
) -> list[ClosedDay]:
    """Close every day before today that is not closed yet, from the installation's first release on.

    Nights that were missed are caught up with; a day that was closed right after its end (LATE_RESULTS) is
    closed again. A transaction for each day: what is cut off goes on where it was. Returns the days closed
    now.
    """
    with database.begin() as connection:
        rows = connection.execute(STATEMENTS["closed_days"], {"installation_id": installation_id}).all()
    closed = {row.day: row.closed_at for row in rows if row.day is not None}
    first_released_at = rows[0].first_released_at
    begun = [*closed] if first_released_at is None else [*closed, day_of(first_released_at, time_zone)]
    today = day_of(now, time_zone)
    if not begun:
        return []
    first = min(begun)
    days = [first + timedelta(days=after) for after in range((today - first).days)]
    return [
        close_day(database, installation_id, day, time_zone, now)
        for day in days
        if day not in closed or closed[day] < day_bounds(day, time_zone)[1] + LATE_RESULTS
    ]


def counters(
    connection: Connection, installation_id: int, today: date, windows: Sequence[int] = (1, 7, 30, 90)
) -> list[WindowCount]:
    """What contacts got within each of up to four windows of days, as it counts on `today`, narrowest first.

    A mail of day D counts through D + days (spec 8.3). Taken from the daily log, so that mails of a day that
    is not closed are not in it. Reads the days of the widest window once.
    """
    if not 1 <= len(windows) <= 4 or min(windows) < 1:
        raise ValueError("one to four windows, each a number of days from 1 on")
    ascending = sorted(set(windows))
    rows = connection.execute(
        STATEMENTS["count_contacts_by_mails"],
        {
            "installation_id": installation_id,
            "today": today,
            "first_day": today - timedelta(days=max(windows)),
            "windows": ascending,
        },
    )
    histograms: dict[int, dict[int, int]] = {days: {} for days in ascending}
    for row in rows:
        histograms[row.days][row.mails] = row.contacts
    return [
        WindowCount(
            days=days,
            contacts=sum(histogram.values()),
            mails=sum(mails * contacts for mails, contacts in histogram.items()),
            most=max(histogram, default=0),
            histogram=histogram,
        )
        for days, histogram in histograms.items()
    ]
