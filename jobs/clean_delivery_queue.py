"""Clean delivery queue: what was cut off is marked, what is dead is said to be, what is old goes (spec
6.5)."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import dagster as dg

from assets import shown
from assets.failures import told_to_operators
from assets.mail_system import MailSystem, presence_of
from jobs.dead_runs import fail_abandoned_runs, fail_dead_runs
from jobs.mailcaster import mailcaster
from jobs.old_keys import delete_old_keys
from jobs.old_runs import delete_old_runs
from jobs.tags import PROCESS
from mail_orchestration import maintenance
from mail_orchestration.dispatch.mail_jobs import mail_job
from mail_orchestration.dispatch.presence import is_present
from mail_orchestration.dispatch.retention import mail_jobs_ended_before
from mail_orchestration.dispatch.shifts import shifts
from mail_orchestration.holding import why_held
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.database_clock import database_now


@dg.op(tags={"stage": "dispatch"}, out=dg.Out(dg.Nothing))
def clean(context: dg.OpExecutionContext, mail: dg.ResourceParam[MailSystem]) -> None:
    """Mark mail jobs whose dedup was cut off, end stops in the place of dead mailcasters, fail runs whose
    process is gone, drop what is past its retention."""
    with told_to_operators(), mail.opened("cleaning", context.run.run_id) as installation:
        # Heartbeats are told by the database's clock: one of a host that is off would have every run for dead.
        with installation.database.begin() as connection:
            now = database_now(connection)
        summary = maintenance.clean_delivery_queue(installation, now=now)
        last_signs = last_signs_of_life(installation)
        held = why_held(installation)
        dead = fail_dead_runs(context.instance, last_signs, job_name=mailcaster.name, now=now)
        with installation.database.begin() as connection:
            dead += fail_abandoned_runs(
                context.instance,
                lambda run_id: is_present(connection, presence_of(run_id)),
                but_of=mailcaster.name,
                now=now,
            )
        before = now - timedelta(days=installation.settings.retention.dagster_days)
        keys = delete_old_keys(context.instance, lambda numbers: ended_before(installation, numbers, before))
    runs = delete_old_runs(context.instance, before)
    retained = summary.retained
    context.log.info(
        "%d mail jobs interrupted, %d stopped, %d dead runs, %d partitions dropped, %d old partition keys, %d old runs",
        len(summary.interrupted),
        len(summary.stopped),
        len(dead),
        len(retained.dropped),
        keys,
        runs,
    )
    for each in held:
        context.log.warning("nothing is sent: %s", each.reason)
    context.add_output_metadata(
        {
            "sending": "; ".join(f"held: {each.reason}" for each in held) or "not held",
            "interrupted": shown.table(
                ("mail job",),
                ((str(mail_job_id),) for mail_job_id in summary.interrupted),
                nothing="No dedup was cut off.",
            ),
            "stopped": shown.table(
                ("mail job",),
                ((str(mail_job_id),) for mail_job_id in summary.stopped),
                nothing="No campaign was edited or deleted while a mail job of it waited.",
            ),
            "let_go": shown.table(
                ("mail job",),
                ((str(mail_job_id),) for mail_job_id in summary.let_go),
                nothing="No mailcaster died while it was to stop.",
            ),
            "dead_runs": shown.table(("run",), ((run_id,) for run_id in dead), nothing="No run is dead."),
            "dropped": shown.table(
                ("table", "day", "octets"),
                ((each.parent, str(each.day), f"{each.octets:,}") for each in retained.dropped),
                nothing="Nothing is past its retention.",
            ),
            "dropped_octets": sum(each.octets for each in retained.dropped),
            "kept": shown.table(
                ("day", "number", "why"),
                ((str(each.day), each.number, each.reason) for each in retained.kept),
                nothing="Nothing that is past its retention is needed still.",
            ),
            "in_use": shown.table(
                ("partition",),
                ((name,) for name in retained.in_use),
                nothing="Nothing that was to be dropped was in use.",
            ),
            "reservations_taken_back": summary.run_out,
            "unused_domains_forgotten": summary.domains,
            "old_records": retained.records,
            "old_partition_keys": keys,
            "old_runs": runs,
        }
    )


def ended_before(installation: Installation, mail_jobs: Sequence[int], before: datetime) -> set[int]:
    """Which of these mail jobs ended before a moment, or are known no more."""
    with installation.database.begin() as connection:
        return mail_jobs_ended_before(connection, mail_jobs, before)


def last_signs_of_life(installation: Installation) -> dict[str, datetime]:
    """When each mailcaster was last heard of: from its shift, or from the mail job that it works on."""
    signs = {}
    with installation.database.begin() as connection:
        for shift in shifts(connection, installation.installation_id):
            beats = [shift.heartbeat_at]
            if shift.mail_job_id is not None:
                beats.append(mail_job(connection, shift.mail_job_id).heartbeat_at or shift.heartbeat_at)
            signs[shift.mailcaster] = max(beats)
    return signs


@dg.job(
    name="clean_delivery_queue",
    description=(
        "Clean delivery queue: marks mail jobs whose dedup was cut off as INTERRUPTED, stops those that wait and "
        "whose campaign was edited or deleted, ends stops that no mailcaster is alive to end, reports the runs "
        "of mailcasters whose process is gone as failed, takes back what dead workers reserved, and drops what is past "
        "its retention: partitions of days, and partition keys, runs and events of Dagster."
    ),
    executor_def=dg.in_process_executor,
    tags={PROCESS: "clean_delivery_queue"},
    owners=shown.OWNERS,
)
def clean_delivery_queue() -> None:
    """One op: the cleaning."""
    clean()
