"""The frequency queue: held mails wait until the policy lets them go, or their wait ends otherwise (spec 8.4).

How each wait ended is in the log of held mails. Those that are sent go in later releases: see `later_releases`.
Whatever changes the queue does so under the lock of the installation's policy (`kernel.frequency_lock`).
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal

from sqlalchemy import Connection

from mail_orchestration.kernel.partitions import ensure_day
from mail_orchestration.kernel.statements import STATEMENTS


class HeldMailEnding(StrEnum):
    """How the wait of a held mail ended."""

    SENT = "sent"
    """The counters allowed it: a later release sends it."""
    EXPIRED = "expired"
    """Its expiration date or its shelf life passed."""
    DELETED = "deleted"
    """The operator deleted it."""
    POLICY_DISABLED = "policy_disabled"
    """The policy was disabled: a later release sends it."""
    EARLIER_WAITS = "earlier_waits"
    """It did not wait at all: one of an earlier occurrence of the campaign waits for the same contact (spec 8.7)."""
    CAMPAIGN_DELETED = "campaign_deleted"
    """Its campaign was deleted (spec 3.4)."""
    STOPPED = "stopped"
    """What it was held in was STOPPED while it waited, or FAILED before it was queued: nothing of it is sent."""


BY_ITSELF = "the frequency queue"
"""Who ends a wait that nobody ended by hand."""


def end_held_mails(
    connection: Connection,
    installation_id: int,
    *,
    now: datetime,
    shelf_ends_before: datetime | None = None,
    ended_by: str = BY_ITSELF,
) -> dict[HeldMailEnding, int]:
    """End the wait of what is not to be sent any more, and return how many mails that were, by ending.

    What has expired, what a deleted campaign left, and what was held in a mail job of which nothing is sent.
    A shelf life that ended at `shelf_ends_before` or later has not ended yet.
    """
    rows = connection.execute(
        STATEMENTS["end_held_mails"],
        {
            "installation_id": installation_id,
            **ensured_log_day(connection, now),
            "shelf_ends_before": shelf_ends_before,
            "ended_by": ended_by,
        },
    )
    return {HeldMailEnding(row.ending): row.mails for row in rows}


def last_end_of_shelf(connection: Connection, installation_id: int, *, now: datetime) -> datetime | None:
    """The last moment by `now` at which a shelf life ended of a mail that waits still; None when none has.

    Those do not count of which the release has expired.
    """
    binds = {"installation_id": installation_id, "now": now}
    ended: datetime | None = connection.scalar(STATEMENTS["find_last_end_of_shelf"], binds)
    return ended


def delete_held_mails(
    connection: Connection,
    installation_id: int,
    *,
    held_mail_ids: Collection[int] | None = None,
    campaign_id: int | None = None,
    ending: Literal[HeldMailEnding.DELETED, HeldMailEnding.CAMPAIGN_DELETED] = HeldMailEnding.DELETED,
    now: datetime,
    ended_by: str,
) -> int:
    """Delete mails that wait, of these numbers or of a campaign, or all; how many those were."""
    binds = {
        "installation_id": installation_id,
        "held_mail_ids": None if held_mail_ids is None else sorted(held_mail_ids),
        "campaign_id": campaign_id,
        "ending": ending.value,
        "ended_by": ended_by,
        **ensured_log_day(connection, now),
    }
    return connection.execute(STATEMENTS["delete_held_mails"], binds).rowcount


def not_waiting(connection: Connection, installation_id: int, held_mail_ids: Collection[int]) -> list[int]:
    """Which of these numbers are of no mail that waits, ascending."""
    binds = {"installation_id": installation_id, "held_mail_ids": list(held_mail_ids)}
    return list(connection.scalars(STATEMENTS["find_not_waiting"], binds))


def count_held_mails(connection: Connection, installation_id: int) -> int:
    """How many mails wait."""
    found = connection.execute(STATEMENTS["count_held_waiting"], {"installation_id": installation_id})
    return int(found.scalar_one())


def ensured_log_day(connection: Connection, now: datetime) -> dict[str, object]:
    """`now`, and the day of the log that is written now, whose partition there is from here on: as binds."""
    day = now.astimezone(UTC).date()
    ensure_day(connection, day)
    return {"now": now, "day": day}
