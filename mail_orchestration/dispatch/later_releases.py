"""Held mails that may go are sent in later releases, one for each release that they were held in (spec 8.4).

A later release says what that one froze, whatever became of the campaign's folder, and goes through assembly and queue
like any other. Whose mails are taken is decided for each contact in the order of importance: priority, then the time
since which a mail waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Connection

from mail_orchestration.dispatch.held_mails import BY_ITSELF, HeldMailEnding, ensured_log_day
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.frequency import Window
from mail_orchestration.kernel.frequency_in_force import PolicyInForce
from mail_orchestration.kernel.partitions import ensure_day
from mail_orchestration.kernel.statements import STATEMENTS

NOBODY_LEFT = "no recipients: all were suppressed while their mails were held"
"""Why a later release is STOPPED at once (spec 1.7)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaterRelease:
    """A release that sends held mails."""

    mail_job_id: int
    released_on: date
    """The partition of its recipients."""
    held_from: int
    """The mail job that they were held in."""
    campaign: str
    counts: bool
    """Whether its mails count for the policy."""
    mails: int
    """Recipients who are written to."""
    suppressed: int
    """Those who were suppressed while their mails were held: they are bypassed."""


def are_held_mails_freed(connection: Connection, installation_id: int) -> bool:
    """Whether the operator resumed or restarted what kept held mails, and the queue was not looked through since."""
    found = connection.execute(STATEMENTS["are_held_mails_freed"], {"installation_id": installation_id})
    return bool(found.scalar_one())


def release_held_mails(
    connection: Connection,
    installation_id: int,
    in_force: PolicyInForce | None,
    *,
    released_on: date,
    small_audience_threshold: int,
    now: datetime,
    ended_by: str = BY_ITSELF,
) -> list[LaterRelease]:
    """Move every held mail that may go into a later release; those that count have their places from the caller.

    `in_force` None: no policy holds, and all that waits goes. `released_on` is the day of `now` in the installation's
    time zone. Set-based, in the caller's transaction, which holds the lock of the policy and calls this once: all or
    nothing.
    """
    binds: dict[str, object] = {
        "installation_id": installation_id,
        "released_on": released_on,
        **ensured_log_day(connection, now),
    }
    ensure_day(connection, released_on)
    connection.execute(STATEMENTS["see_freed_held_mails"], {"installation_id": installation_id})
    connection.execute(STATEMENTS["make_held_candidates"])
    connection.execute(
        STATEMENTS["find_held_candidates"],
        {
            **binds,
            "most": None if in_force is None else in_force.most,
            "is_calendar": in_force is not None and in_force.window is Window.CALENDAR,
            "today": released_on if in_force is None else in_force.counted_for,
        },
    )
    while connection.execute(STATEMENTS["decide_held_candidates"]).rowcount:
        pass
    crash_point("held_mails_chosen")
    made = connection.execute(STATEMENTS["make_later_releases"], binds)
    binds["later_ids"] = [row.release_id for row in made]
    if not binds["later_ids"]:
        return []
    connection.execute(STATEMENTS["insert_later_recipients"], binds)
    ending = HeldMailEnding.POLICY_DISABLED if in_force is None else HeldMailEnding.SENT
    connection.execute(
        STATEMENTS["log_held_mails_sent"], {**binds, "ending": ending.value, "ended_by": ended_by}
    )
    finished = connection.execute(
        STATEMENTS["finish_later_releases"],
        {**binds, "threshold": small_audience_threshold, "nobody": NOBODY_LEFT},
    )
    later = [LaterRelease(**row._mapping) for row in finished]
    return sorted(later, key=lambda each: each.mail_job_id)
