"""What of releases is past its retention, and whether anything needs it still (spec 6.5).

The rows of a release lie in the partitions of its day, with those of all other releases of that day, of whatever
installation. So a day is dropped as a whole: when every installation lets it go, and no release of it needs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime

from sqlalchemy import Connection

from mail_orchestration.kernel.statements import STATEMENTS

OLD_RELEASES_AT_ONCE = 500
"""Records that one clean-up deletes: each takes its children along."""


def try_lock_retention(connection: Connection) -> bool:
    """Take the session lock under which partitions are dropped; False when another session holds it."""
    return bool(connection.execute(STATEMENTS["try_lock_retention"]).scalar_one())


def longest_retention(
    connection: Connection, installation_id: int, wanted: Mapping[str, int], usual: Mapping[str, int]
) -> dict[str, int]:
    """Note how many days an installation keeps what, and return how many days all together do.

    `usual` is for installations that have not said yet.
    """
    connection.execute(
        STATEMENTS["note_retention"],
        {"installation_id": installation_id, "whats": [*wanted], "days": [*wanted.values()]},
    )
    rows = connection.execute(STATEMENTS["longest_retention"], {"whats": [*usual], "days": [*usual.values()]})
    return {row.what: row.days for row in rows}


def give_up_day(
    connection: Connection, day: date, *, with_results: bool, history_since: datetime, now: datetime
) -> dict[str, int]:
    """Mark the releases of `day` as dropped, unless something needs them: what that is, with the number of each.

    With the reasons empty nobody asks for their messages any more, nor, `with_results`, for recipients and results, and
    the partitions may go. Mail jobs that were queued after `history_since` keep theirs. Needs a transaction of the
    caller, who commits it before anything is dropped.
    """
    connection.execute(STATEMENTS["lock_releases_of_day"], {"day": day})
    # By itself: only when it knows the moment PostgreSQL finds the few results after it by their index.
    closed_up_to = connection.scalar(STATEMENTS["closed_up_to"], {"day": day})
    why = connection.execute(
        STATEMENTS["why_day_is_kept"],
        {
            "day": day,
            "with_results": with_results,
            "history_since": history_since,
            "closed_up_to": closed_up_to,
        },
    )
    reasons = {row.reason: int(row.number) for row in why}
    if not reasons:
        connection.execute(STATEMENTS["mark_dropped"], {"day": day, "with_results": with_results, "now": now})
    return reasons


def delete_old_records(connection: Connection, before: date) -> int:
    """Delete the records of releases before a day, with their mail jobs, of which nothing else is left; how many."""
    found = connection.execute(
        STATEMENTS["find_old_releases"], {"before": before, "most": OLD_RELEASES_AT_ONCE}
    )
    old = {"release_ids": list(found.scalars())}
    if old["release_ids"]:
        connection.execute(STATEMENTS["forget_mail_jobs_of_shifts"], old)
        connection.execute(STATEMENTS["delete_releases"], old)
        connection.execute(STATEMENTS["delete_mail_jobs"], old)
    return len(old["release_ids"])


def are_messages_kept(connection: Connection, release_id: int) -> bool:
    """Whether the messages of a release are there, or were dropped."""
    return bool(connection.execute(STATEMENTS["are_messages_kept"], {"release_id": release_id}).scalar_one())


def mail_jobs_ended_before(connection: Connection, mail_job_ids: Sequence[int], before: datetime) -> set[int]:
    """Which of these mail jobs ended before a moment, or are known no more."""
    found = connection.execute(
        STATEMENTS["find_mail_jobs_ended_before"], {"mail_job_ids": list(mail_job_ids), "before": before}
    )
    return set(found.scalars())
