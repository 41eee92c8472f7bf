"""The frequency policy in figures, for people: who is at a rule's limit, and what waited (spec 8.2, 8.4).

No address of a person is in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from sqlalchemy import Connection, Row

from mail_orchestration.kernel.database_clock import database_now
from mail_orchestration.kernel.frequency import Rule
from mail_orchestration.kernel.frequency_in_force import PolicyInForce
from mail_orchestration.kernel.statements import STATEMENTS

LEAST_DAYS = 7
"""So many are told of, though nothing was held on the first of them."""
COUNTED_AT_ONCE = 100_000
"""So many contacts are counted whenever somebody asks: it takes some hundredths of a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleFigures:
    """One rule of the policy that holds."""

    rule: Rule
    contacts: int
    """Contacts that anything counts for."""
    at_limit: int
    """Contacts who are not written to before something of theirs has aged out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactsAtLimit:
    """How many contacts are at the limit of each rule, at one moment."""

    rules: Sequence[RuleFigures]
    """Narrowest first."""
    counted_at: datetime
    """By the database's clock."""
    releases_since: int
    """Releases on their way that have taken places since: their recipients may be at a limit by now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDay:
    """What happened in the frequency queue on one day of the installation's time zone."""

    day: date
    held: int
    """Mails that began to wait."""
    sent: int
    """Mails that later mail jobs took."""
    ended_unsent: int
    """Mails that expired, were deleted, or ended with their campaign or mail job."""
    waiting: int
    """Mails that waited at the day's end."""


def counted_contacts(
    connection: Connection, installation_id: int, in_force: PolicyInForce
) -> ContactsAtLimit:
    """How many contacts are at the limit of each rule: one pass over the counters, a second for some millions; kept."""
    counted_at = database_now(connection)
    found = connection.execute(
        STATEMENTS["count_contacts_at_limit"], {"installation_id": installation_id, "most": in_force.most}
    ).one()
    at_limit = (found.first, found.second, found.third, found.fourth)[: len(in_force.most)]
    figures = _Figures(
        counted_at=counted_at, contacts=found.contacts, at_limit=at_limit, releases=found.releases
    )
    connection.execute(
        STATEMENTS["keep_contacts_at_limit"],
        {
            "installation_id": installation_id,
            "applied_at": in_force.applied_at,
            "figures": orjson.dumps(figures).decode(),
        },
    )
    return _contacts_at_limit(figures, in_force, releases_since=0)


def contacts_at_limit(
    connection: Connection, installation_id: int, in_force: PolicyInForce
) -> ContactsAtLimit:
    """As they were counted last under these rules: at night, say. Counted now where they are few, or never were."""
    kept = connection.scalar(
        STATEMENTS["read_contacts_at_limit"],
        {"installation_id": installation_id, "applied_at": in_force.applied_at},
    )
    if kept is None or kept["contacts"] <= COUNTED_AT_ONCE:
        return counted_contacts(connection, installation_id, in_force)
    figures = _Figures(**{**kept, "counted_at": datetime.fromisoformat(kept["counted_at"])})
    releases_since = connection.execute(
        STATEMENTS["count_other_releases_with_places"],
        {"installation_id": installation_id, "known": figures.releases},
    ).scalar_one()
    return _contacts_at_limit(figures, in_force, releases_since=releases_since)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Figures:
    """What is kept of them."""

    counted_at: datetime
    contacts: int
    at_limit: Sequence[int]
    releases: Sequence[int]
    """Those on their way whose places were counted."""


def _contacts_at_limit(figures: _Figures, in_force: PolicyInForce, *, releases_since: int) -> ContactsAtLimit:
    return ContactsAtLimit(
        rules=[
            RuleFigures(rule=rule, contacts=figures.contacts, at_limit=number)
            for rule, number in zip(in_force.policy.rules, figures.at_limit, strict=True)
        ],
        counted_at=figures.counted_at,
        releases_since=releases_since,
    )


def queue_by_day(
    connection: Connection, installation_id: int, zone: ZoneInfo, today: date, days: int = 30
) -> list[QueueDay]:
    """The frequency queue on each of the last `days` days, today being the last, from when anything was held."""
    first = today - timedelta(days=days - 1)
    rows = connection.execute(
        STATEMENTS["count_held_mails_by_day"],
        {"installation_id": installation_id, "time_zone": zone.key, "first_day": first},
    ).all()
    waiting = sum(row.waiting for row in rows)
    by_day = {row.day: row for row in rows}
    found: list[QueueDay] = []
    for back in range(days):
        day = today - timedelta(days=back)
        row = by_day.get(day)
        held, sent, unsent = (row.held, row.sent, row.ended_unsent) if row is not None else (0, 0, 0)
        found.append(QueueDay(day=day, held=held, sent=sent, ended_unsent=unsent, waiting=waiting))
        waiting += sent + unsent - held
        if waiting == 0 and len(found) >= LEAST_DAYS and min(by_day, default=day) >= day:
            break
    return found[::-1]


def wrong_counters(connection: Connection, installation_id: int, in_force: PolicyInForce) -> int:
    """Contacts whose counters are not what the daily log adds up to. There should be none (spec 8.2)."""
    firsts = in_force.first_days(in_force.counted_for)
    binds = {"installation_id": installation_id, "first_days": firsts, "first_of_all": min(firsts)}
    return int(connection.execute(STATEMENTS["count_wrong_counters"], binds).scalar_one())


def wrong_places(connection: Connection, installation_id: int, zone: ZoneInfo) -> int:
    """Contacts who have other places than their mails on their way, and those of days that are not closed, come to.

    There should be none (spec 8.2). Reads the recipients and results of releases that have places; in a transaction
    that holds the lock of the policy nothing moves meanwhile. Once in a transaction: until its end the temporary
    table misplaced_contact has them, with their right places.
    """
    found = releases_with_places(connection, installation_id, zone)
    binds = {
        "installation_id": installation_id,
        "release_ids": [row.release_id for row in found],
        "open_ids": [row.release_id for row in found if row.is_open],
        "days": sorted({row.released_on for row in found}),
        "closed_up_to": found[0].closed_up_to if found else None,
    }
    connection.execute(STATEMENTS["make_misplaced_contacts"])
    return connection.execute(STATEMENTS["find_wrong_places"], binds).rowcount


def releases_with_places(connection: Connection, installation_id: int, zone: ZoneInfo) -> Sequence[Row[Any]]:
    """The releases whose mails may have places: release_id, released_on, is_open, closed_up_to."""
    return connection.execute(
        STATEMENTS["find_releases_with_places"], {"installation_id": installation_id, "time_zone": zone.key}
    ).all()
