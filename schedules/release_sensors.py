"""The sensors that carry a release from its assembly to its report: Assemble, Queue for delivery, report."""

from collections.abc import Iterable

import dagster as dg

from assets.mail_system import MailSystem
from assets.partitions import MAIL_JOBS, add_keys, partition_key_of
from jobs.asset_jobs import assemble, queue_for_delivery, report
from mail_orchestration.broadcast import releases_to_assemble, releases_to_queue, releases_to_report
from mail_orchestration.processes import process
from schedules.lookout import look_out
from schedules.runs import why_not_now

ASSEMBLE, QUEUE_FOR_DELIVERY, REPORT = map(process, ("assemble", "queue_for_delivery", "report"))

LOOK_EVERY_S = 2
"""Dagster's daemon looks every 5 s; an interval just below that is due each time, one of 5 s only every
second time."""

RUNS_AT_ONCE = 10
"""Of each kind in one tick: Dagster starts a run in seconds, and what is left is found by the next tick."""


@dg.sensor(
    name=ASSEMBLE.name,
    job=assemble,
    minimum_interval_seconds=LOOK_EVERY_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=ASSEMBLE.description,
)
def assemble_sensor(
    context: dg.SensorEvaluationContext, mail: dg.ResourceParam[MailSystem]
) -> dg.SensorResult:
    """Released and not assembled: one run each."""
    installation = mail.shared()
    return _runs_for(context, assemble.name, look_out(lambda: releases_to_assemble(installation)))


@dg.sensor(
    name=QUEUE_FOR_DELIVERY.name,
    job=queue_for_delivery,
    minimum_interval_seconds=LOOK_EVERY_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=QUEUE_FOR_DELIVERY.description,
)
def queue_for_delivery_sensor(
    context: dg.SensorEvaluationContext, mail: dg.ResourceParam[MailSystem]
) -> dg.SensorResult:
    """Assembled and not queued: one run each."""
    installation = mail.shared()
    return _runs_for(context, queue_for_delivery.name, look_out(lambda: releases_to_queue(installation)))


@dg.sensor(
    name=REPORT.name,
    job=report,
    minimum_interval_seconds=LOOK_EVERY_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=REPORT.description,
)
def report_sensor(context: dg.SensorEvaluationContext, mail: dg.ResourceParam[MailSystem]) -> dg.SensorResult:
    """Ended and not reported: one run each."""
    return _runs_for(context, report.name, releases_to_report(mail.shared()))


def _runs_for(
    context: dg.SensorEvaluationContext, job_name: str, release_ids: Iterable[int]
) -> dg.SensorResult:
    wanted: list[int] = []
    skipped: list[str] = []
    for release_id in release_ids:
        key = partition_key_of(release_id)
        reason = why_not_now(context.instance, job_name, {"dagster/partition": key})
        if reason is None:
            wanted.append(release_id)
        else:
            skipped.append(f"mail job {key}: {reason}")
        if len(wanted) == RUNS_AT_ONCE:
            break
    if not wanted:
        return dg.SensorResult(skip_reason="; ".join(skipped) or "No mail job waits for this.")
    # Before the requests, so that their keys are known when Dagster looks them up.
    add_keys(context.instance, MAIL_JOBS, wanted)
    return dg.SensorResult(
        run_requests=[dg.RunRequest(partition_key=partition_key_of(release_id)) for release_id in wanted]
    )
