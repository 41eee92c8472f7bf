"""The counters of the frequency policy: counted anew from the daily log each day, and places given back (spec 8.2).

A contact's counters are the mails of closed days in the window of each rule, and the *places* of mails that are on
their way or were accepted on a day that is not closed. A place that was taken ends in one of two ways, once: the close
of a day moves it into the daily log, or it is given back since the mail has not arrived and never will.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from sqlalchemy import Connection, Row

from mail_orchestration.feedback.daily_counts import LATE_RESULTS, log_day
from mail_orchestration.kernel.clock import day_of
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.frequency import Policy
from mail_orchestration.kernel.frequency_in_force import policy_in_force
from mail_orchestration.kernel.frequency_lock import lock_frequency
from mail_orchestration.kernel.statements import STATEMENTS


def put_in_force(
    connection: Connection, installation_id: int, policy: Policy, today: date, now: datetime
) -> None:
    """Let a policy hold from now on, and count its windows from the daily log. Needs the lock."""
    connection.execute(
        STATEMENTS["put_policy_in_force"],
        {
            "installation_id": installation_id,
            "policy": orjson.dumps(policy).decode(),
            "today": today,
            "now": now,
        },
    )
    count_windows(connection, installation_id)


def count_anew(database: Database, installation_id: int, today: date) -> bool:
    """Count the mails in the windows as they are on `today`, in one pass of the daily log; False when they are so.

    Places are not touched. Counters of an earlier day only hold too much, so it may come late.
    """
    with database.begin() as connection:
        in_force = policy_in_force(connection, installation_id)
        if in_force is None or in_force.counted_for >= today:
            return False
        lock_frequency(connection, installation_id)
        if not count_for(connection, installation_id, today):
            return False
        crash_point("counters_rebuilt")
    return True


def count_for(connection: Connection, installation_id: int, day: date) -> bool:
    """The same for any day, in a transaction that holds the lock."""
    binds = {"installation_id": installation_id, "today": day}
    if not connection.execute(STATEMENTS["count_for_day"], binds).rowcount:
        return False
    count_windows(connection, installation_id)
    return True


def count_windows(connection: Connection, installation_id: int) -> int:
    """Count the windows from the daily log, for the day that is counted for; how many counters were other ones.

    Needs the lock, and a policy that holds.
    """
    in_force = policy_in_force(connection, installation_id)
    assert in_force is not None
    firsts = in_force.first_days(in_force.counted_for)
    connection.execute(STATEMENTS["set_count_memory"])
    return connection.execute(
        STATEMENTS["count_windows"],
        {"installation_id": installation_id, "firsts": firsts, "first": min(firsts)},
    ).rowcount


def give_back_places(
    database: Database,
    installation_id: int,
    time_zone: ZoneInfo,
    *,
    queued_after: datetime,
    now: datetime,
) -> int:
    """Give back the places of mails that have not arrived and never will; how many.

    Those that were rejected, stopped or expired, or bypassed after the gate; and all that is left of a release of which
    nothing can be sent any more: what failed can be restarted if it was queued after `queued_after`. A mail that may
    have arrived, an uncertain one, keeps its place until the close of the day. A transaction for each release.
    """
    binds = {"installation_id": installation_id, "now": now, "queued_after": queued_after}
    with database.begin() as connection:
        found = [release.release_id for release in _open_releases(connection, binds)]
    given_back = 0
    for release_id in found:
        with database.begin() as connection:
            lock_frequency(connection, installation_id)
            for release in _open_releases(connection, binds, only=release_id):
                key = {"release_id": release_id, "released_on": release.released_on}
                if release.may_send:
                    given_back += connection.execute(STATEMENTS["give_back_places"], key).rowcount
                else:
                    given_back += _settle(connection, installation_id, key, time_zone, now)
            crash_point("places_given_back")
    return given_back


def releases_without_places(
    connection: Connection,
    installation_id: int,
    *,
    queued_after: datetime,
    open_since: datetime,
    now: datetime,
) -> list[tuple[int, date]]:
    """Releases, with the days of their partitions, whose mails no window counts and no place stands for.

    Of them something may still be sent, or arrived after `open_since`, when the first day began that is not closed.
    """
    found = connection.execute(
        STATEMENTS["find_releases_without_places"],
        {
            "installation_id": installation_id,
            "queued_after": queued_after,
            "open_since": open_since,
            "now": now,
        },
    )
    return [(row.release_id, row.released_on) for row in found]


def last_closed_day(connection: Connection, installation_id: int) -> date | None:
    """The last day whose mails are in the daily log; None before the first was closed."""
    last: date | None = connection.scalar(
        STATEMENTS["find_last_closed_day"], {"installation_id": installation_id}
    )
    return last


def close_days_of_release(
    connection: Connection,
    installation_id: int,
    release_id: int,
    released_on: date,
    time_zone: ZoneInfo,
    now: datetime,
    *,
    closed_before: datetime | None = None,
) -> None:
    """Close the days once more on which mails of a release arrived; all, or those `closed_before` a moment.

    Needs the lock. Closed again, a day finds what became known since, and the places that its mails have by now.
    """
    days = closed_days_of_release(
        connection, installation_id, release_id, released_on, time_zone, closed_before=closed_before
    )
    for day in days:
        log_day(connection, installation_id, day, time_zone, now)


def closed_days_of_release(
    connection: Connection,
    installation_id: int,
    release_id: int,
    released_on: date,
    time_zone: ZoneInfo,
    *,
    closed_before: datetime | None = None,
) -> Sequence[date]:
    """The closed days from the first on which a mail of a release arrived to the last; all, or those closed before."""
    key = {"release_id": release_id, "released_on": released_on}
    span = connection.execute(STATEMENTS["find_span_of_arrivals"], key).one()
    if span.first_at is None:
        return []
    return connection.scalars(
        STATEMENTS["find_closed_days"],
        {
            "installation_id": installation_id,
            "first": day_of(span.first_at, time_zone),
            "last": day_of(span.last_at, time_zone),
            "before": closed_before,
        },
    ).all()


def _open_releases(
    connection: Connection, binds: Mapping[str, object], only: int | None = None
) -> Sequence[Row[Any]]:
    return connection.execute(STATEMENTS["find_open_releases"], {**binds, "only": only}).all()


def _settle(
    connection: Connection, installation_id: int, key: Mapping[str, Any], time_zone: ZoneInfo, now: datetime
) -> int:
    """Give back all that is left of a release of which nothing is sent any more; how many places."""
    given_back = connection.execute(STATEMENTS["give_back_rest"], key).rowcount
    # What a suspended mailcaster wrote after the close of the day is in no log yet.
    ended_at = connection.scalar(STATEMENTS["find_end_of_release"], key)
    if ended_at is not None:
        close_days_of_release(
            connection,
            installation_id,
            key["release_id"],
            key["released_on"],
            time_zone,
            now,
            closed_before=ended_at + LATE_RESULTS,
        )
    connection.execute(STATEMENTS["settle_places"], {**key, "now": now})
    return given_back
