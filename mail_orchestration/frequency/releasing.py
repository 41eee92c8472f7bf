"""Held mails go as soon as the policy lets them, most important first (spec 8.4)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

from sqlalchemy import Connection

from mail_orchestration.audience.frequency_gate import take_places
from mail_orchestration.dispatch.held_mails import (
    BY_ITSELF,
    HeldMailEnding,
    count_held_mails,
    end_held_mails,
)
from mail_orchestration.dispatch.later_releases import LaterRelease, release_held_mails
from mail_orchestration.feedback.frequency_counters import count_for
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.clock import day_of
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.database_clock import database_now
from mail_orchestration.kernel.days import day_bounds
from mail_orchestration.kernel.frequency_in_force import PolicyInForce, policy_in_force
from mail_orchestration.kernel.frequency_lock import lock_frequency

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """What became of the frequency queue."""

    later: Sequence[LaterRelease] = ()
    """The mail jobs that send what was let go: the process Assemble carries them on."""
    ended: Mapping[HeldMailEnding, int] = field(default_factory=dict)
    """Mails whose wait ended without being sent, by ending."""
    waiting: int = 0
    """Mails that wait still."""

    @property
    def mails(self) -> int:
        """How many mails were let go."""
        return sum(each.mails + each.suppressed for each in self.later)

    def then(self, after: Released) -> Released:
        """This, and what became of the queue after it."""
        return Released(
            later=[*self.later, *after.later],
            ended=Counter(self.ended) + Counter(after.ended),
            waiting=after.waiting,
        )


def release_held(inst: Installation, *, now: datetime | None = None) -> Released:
    """Let every held mail go that the policy allows, and end the wait of what is not to be sent any more.

    Now by the database's clock, or at `now`. Goes by the counters as they are: see `upkeep.bring_up_to_date`, which
    calls this when places became free. One transaction: all or nothing, and repeated it does nothing more.
    """
    with inst.database.begin() as connection:
        if not count_held_mails(connection, inst.installation_id):
            return Released()
        lock_frequency(connection, inst.installation_id)
        released = let_go(
            connection,
            inst,
            policy_in_force(connection, inst.installation_id),
            now=now or database_now(connection),
        )
    crash_point("held_mails_committed")
    for each in released.later:
        _log.info(
            "mail job %d sends %d mails of campaign %s that were held in mail job %d",
            each.mail_job_id,
            each.mails,
            each.campaign,
            each.held_from,
        )
    return released


def release_as_of(inst: Installation, day: date, *, now: datetime) -> Released:
    """Count for a day whose night was missed, and let go what was allowed on it; not once a later day is counted for.

    One transaction: nobody else counts for the next day before what this one lets go has gone.
    """
    with inst.database.begin() as connection:
        lock_frequency(connection, inst.installation_id)
        in_force = policy_in_force(connection, inst.installation_id)
        if in_force is None or in_force.counted_for > day:
            return Released()
        count_for(connection, inst.installation_id, day)
        in_force = policy_in_force(connection, inst.installation_id)
        return let_go(connection, inst, in_force, now=now)


def let_go(
    connection: Connection,
    inst: Installation,
    in_force: PolicyInForce | None,
    *,
    now: datetime,
    by: str = BY_ITSELF,
    is_disabled: bool = False,
) -> Released:
    """`release_held` under `in_force`, in a transaction that holds the policy's lock.

    `is_disabled`: that policy ends, and all goes that waits.
    """
    zone = inst.settings.zone
    holds_on = None if is_disabled else in_force
    # A shelf life ends as a day begins, at the very moment at which mails leave the windows: what may go then goes. It
    # ends by the day that is counted for: a night that has not come yet, or was missed, costs nobody a mail.
    night, next_night = (None, None) if in_force is None else day_bounds(in_force.counted_for, zone)
    passed = next_night if is_disabled else night
    ended = Counter(end_held_mails(connection, inst.installation_id, now=now, shelf_ends_before=passed))
    later = release_held_mails(
        connection,
        inst.installation_id,
        holds_on,
        released_on=day_of(now, zone),
        small_audience_threshold=inst.settings.dispatcher.small_audience_threshold,
        now=now,
        ended_by=by,
    )
    if holds_on is not None:
        for each in later:
            if each.counts:
                take_places(connection, each.mail_job_id, each.released_on)
    ended.update(end_held_mails(connection, inst.installation_id, now=now, shelf_ends_before=next_night))
    crash_point("held_mails_released")
    return Released(later=later, ended=ended, waiting=count_held_mails(connection, inst.installation_id))
