"""Held mails come back into the frequency queue: what was given up before it could be sent (spec 8.9)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from mail_orchestration.dispatch.held_mails import HeldMailEnding
from mail_orchestration.kernel.clock import day_of
from mail_orchestration.kernel.frequency_lock import lock_frequency
from mail_orchestration.kernel.statements import STATEMENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveredHeld:
    """What of the history came back."""

    mails: int
    """Mails that wait again."""
    sent_since: int
    """Mails that do not: their contacts got the same from another release since, or wait for it (spec 6.6)."""
    overtaken: int
    """Mails that do not: another occurrence of their campaign waits for their contacts, or a later one was sent since
    (spec 8.7)."""
    too_late: int
    """Mails that do not: their campaign's expiry has passed."""


def recover_held_mails(
    connection: Connection,
    installation_id: int,
    *,
    expired: bool,
    deleted: bool,
    shelf_life_days: int,
    time_zone: ZoneInfo,
    now: datetime,
    by: str,
) -> RecoveredHeld:
    """Bring back what later releases had that were given up before they were queued, each of them as a whole.

    With `expired` and `deleted` also what ended so. Takes the lock of the policy, after those under which campaigns are
    deduplicated: a release of the same content that is resolved just then has seen them wait, or is seen here.
    `shelf_life_days` holds where the release does not say it. Part of the caller's transaction.
    """
    endings = [
        ending.value
        for ending, is_wanted in ((HeldMailEnding.EXPIRED, expired), (HeldMailEnding.DELETED, deleted))
        if is_wanted
    ]
    what = {"installation_id": installation_id, "endings": endings, "now": now}
    connection.execute(STATEMENTS["lock_dedup_of_held"], what)
    lock_frequency(connection, installation_id)
    counted = connection.execute(
        STATEMENTS["recover_held_mails"],
        {
            **what,
            "shelf_life_days": shelf_life_days,
            "today": day_of(now, time_zone),
            "time_zone": time_zone.key,
            "ended_by": by,
        },
    ).one()
    return RecoveredHeld(**counted._mapping)
