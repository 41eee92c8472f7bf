"""Loose mails that rest and whose content another mail or release has for the same contact: they are not resubmitted.

The same content is not queued twice within the history, whoever asks (spec 6.6).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from mail_orchestration.dispatch.queue_history import lock_keys
from mail_orchestration.kernel.statements import STATEMENTS


def repeats_at_rest(
    connection: Connection, chosen: Mapping[str, Any], *, history: timedelta, now: datetime
) -> dict[int, datetime]:
    """Of the chosen loose mails that rest, by number, those that would be repeats; and when the other one was queued.

    `chosen` are binds (see `dead_letters.Chosen`). A single mail repeats another one that says the same for the same
    occurrence to the same address and was queued after it and within `history` before `now`, or waits, or is chosen as
    well and is the later one. A message of a release repeats a later release of the campaign that says the same for the
    same occurrence, has not ended or was queued within `history`, and reached the contact or may still; or in which the
    mail is held. Nobody submits or deduplicates the same until the caller's transaction ends.
    """
    return _of_releases(connection, chosen, now - history, now) | _of_single_mails(
        connection, chosen, now - history
    )


def _of_single_mails(
    connection: Connection, chosen: Mapping[str, Any], since: datetime
) -> dict[int, datetime]:
    resting = connection.execute(STATEMENTS["find_remembered_at_rest"], chosen).all()
    if not resting:
        return {}
    keys = [bytes(row.history_key) for row in resting]
    lock_keys(connection, keys)
    asked = {
        "loose_mail_ids": [row.loose_mail_id for row in resting],
        "history_keys": keys,
        "moments": [row.remembered_at for row in resting],
        "first_day": since.astimezone(UTC).date(),
        "since": since,
    }
    rows = connection.execute(STATEMENTS["find_repeats_at_rest"], asked)
    return {row.loose_mail_id: row.queued_at for row in rows}


def _of_releases(
    connection: Connection, chosen: Mapping[str, Any], since: datetime, now: datetime
) -> dict[int, datetime]:
    # A statement of its own: releases that were deduplicated meanwhile are seen only by one that begins after them.
    connection.execute(STATEMENTS["lock_dedup_of_dead_letters"], chosen)
    later = connection.execute(STATEMENTS["find_later_of_same_content"], {**chosen, "since": since}).all()
    if not later:
        return {}
    asked = {
        **chosen,
        "release_ids": [row.release_id for row in later],
        "later_ids": [row.later_id for row in later],
        "may_reach": [row.may_reach for row in later],
        # Named, so that no partition of another day is read.
        "days": sorted({row.released_on for row in later}),
        "now": now,
    }
    rows = connection.execute(STATEMENTS["find_repeats_of_releases"], asked)
    return {row.loose_mail_id: row.queued_at for row in rows}
