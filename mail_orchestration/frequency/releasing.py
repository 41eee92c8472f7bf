"""Held mails go as soon as the policy lets them, most important first (spec 8.4)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection

from mail_orchestration.audience.frequency_gate import take_places
from mail_orchestration.dispatch.held_mails import (
    BY_ITSELF,
    HeldMailEnding,
    count_held_mails,
    end_held_mails,
)
from mail_orchestration.dispatch.later_releases import LaterRelease, release_held_mails
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
        crash_point("held_mails_released")
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


def let_go(
    connection: Connection,
    inst: Installation,
    in_force: PolicyInForce | None,
    *,
    now: datetime,
    by: str = BY_ITSELF,
) -> Released:
    """`release_held` under `in_force` (None: all that waits), in a transaction that holds the policy's lock."""
    today = day_of(now, inst.settings.zone)
    # A shelf life ends as a day begins, at the very moment at which mails leave the windows: what may go then goes.
    day_began, _ = day_bounds(today, inst.settings.zone)
    ended = Counter(
        end_held_mails(
            connection, inst.installation_id, now=now, spared=None if in_force is None else day_began
        )
    )
    later = release_held_mails(
        connection,
        inst.installation_id,
        in_force,
        released_on=today,
        small_audience_threshold=inst.settings.dispatcher.small_audience_threshold,
        now=now,
        ended_by=by,
    )
    for each in later:
        if each.counts and in_force is not None:
            take_places(connection, each.mail_job_id, each.released_on)
    # By counters of yesterday nothing has left the windows yet: what was spared waits until they are those of today.
    if in_force is None or in_force.counted_for >= today:
        ended.update(end_held_mails(connection, inst.installation_id, now=now))
    return Released(later=later, ended=ended, waiting=count_held_mails(connection, inst.installation_id))
