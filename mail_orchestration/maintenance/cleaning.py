"""What time leaves behind in the queue is put in order, and days that are over are closed (spec 6.5, 8.2)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mail_orchestration.audience.resolving import mark_interrupted
from mail_orchestration.campaigns import stop_edited_and_deleted
from mail_orchestration.dispatch.loose_mails import end_run_out_reservations
from mail_orchestration.dispatch.releases import stop_cut_off_dry_runs
from mail_orchestration.dispatch.stopping import end_stopping_of_dead
from mail_orchestration.dispatch.throttles import forget_unused_domains
from mail_orchestration.feedback.daily_counts import ClosedDay, WindowCount, counters
from mail_orchestration.frequency.queue import rescan
from mail_orchestration.frequency.releasing import Released, release_held
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.clock import day_of
from mail_orchestration.kernel.database_clock import database_now
from mail_orchestration.maintenance.retention import Retained, drop_what_is_old

DOMAINS_DAYS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanSummary:
    """What a clean-up found and did."""

    interrupted: list[int]
    """Mail jobs whose dedup had been cut off: they can be released again."""
    stopped: list[int]
    """Mail jobs that waited and whose campaign was edited or deleted."""
    let_go: list[int]
    """Mail jobs that were to stop and whose mailcaster was dead: they are stopped now."""
    run_out: int
    """Loose mails whose worker let its reservation run out: any worker may take them."""
    domains: int
    """Recipient domains whose limits nobody used for DOMAINS_DAYS: their rows are deleted."""
    released: Released
    """What became of the frequency queue: what has expired, and what goes since its campaign was resumed, say."""
    retained: Retained
    """What was past its retention."""


def clean_delivery_queue(inst: Installation, *, now: datetime) -> CleanSummary:
    """Mark the mail jobs whose dedup was cut off as INTERRUPTED (spec 1.3, 6.5), stop those that wait and whose
    campaign was edited or deleted (spec 3.4), let go of those that were to stop in the place of dead mailcasters, take
    back what dead workers reserved, forget domains that nobody writes to, look through the frequency queue (spec 8.4),
    and drop what is past its retention.
    """
    with inst.database.begin() as connection:
        stop_cut_off_dry_runs(connection, now)
        run_out = end_run_out_reservations(connection, inst.installation_id, database_now(connection))
        domains = forget_unused_domains(connection, days=DOMAINS_DAYS)
    let_go = end_stopping_of_dead(inst.database, inst.installation_id, inst.settings.dispatcher)
    return CleanSummary(
        interrupted=mark_interrupted(inst.database, now),
        stopped=stop_edited_and_deleted(inst, now=now),
        let_go=[each.mail_job_id for each in let_go],
        run_out=run_out,
        released=release_held(inst, now=now),
        domains=domains,
        retained=drop_what_is_old(inst.database, inst.installation_id, inst.settings.retention),
    )


def close_days(inst: Installation, *, now: datetime) -> list[ClosedDay]:
    """Close every day before today that is not closed yet (spec 8.2): after missing nights, all of them.

    Then the frequency counters are those of today, and held mails go that they allow.
    """
    return rescan(inst, now=now).upkeep.closed


def frequency_summary(inst: Installation, *, now: datetime) -> list[WindowCount]:
    """How often contacts were written to in 1, 7, 30 and 90 days, from closed days alone (spec 8.3)."""
    with inst.database.begin() as connection:
        return counters(connection, inst.installation_id, day_of(now, inst.settings.zone))
