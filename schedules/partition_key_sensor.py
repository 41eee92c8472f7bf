"""Partition keys of what was released or delivered outside of Dagster, from the CLI for one."""

import dagster as dg

from assets.mail_system import MailSystem
from assets.partitions import CHILD_JOBS, MAIL_JOBS, add_keys
from mail_orchestration.dispatch.mail_jobs import children, mail_jobs
from mail_orchestration.kernel.states import MailJobKind
from mail_orchestration.processes import process

PARTITION_KEYS = process("partition_keys")

NEWEST = 200
"""Releases that one tick looks at."""


@dg.sensor(
    name=PARTITION_KEYS.name,
    target=None,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=PARTITION_KEYS.description,
)
def partition_key_sensor(
    context: dg.SensorEvaluationContext, mail: dg.ResourceParam[MailSystem]
) -> dg.SkipReason:
    """Adds keys and starts nothing. The cursor is the last release below which all have ended and are
    known."""
    settled_up_to = int(context.cursor or 0)
    installation = mail.shared()
    releases: list[int] = []
    pieces: list[int] = []
    unsettled: list[int] = []
    with installation.database.begin() as connection:
        for found in mail_jobs(connection, installation.installation_id, limit=NEWEST):
            if found.mail_job_id <= settled_up_to:
                continue
            releases.append(found.mail_job_id)
            if not found.state.is_ended:
                unsettled.append(found.mail_job_id)
            if found.kind is MailJobKind.PARENT:
                pieces.extend(child.mail_job_id for child in children(connection, found.mail_job_id))
            elif found.kind is not None:
                pieces.append(found.mail_job_id)
    add_keys(context.instance, MAIL_JOBS, sorted(releases))
    add_keys(context.instance, CHILD_JOBS, sorted(pieces))
    context.update_cursor(str(min(unsettled) - 1 if unsettled else max(releases, default=settled_up_to)))
    if not releases:
        return dg.SkipReason("All mail jobs are known.")
    return dg.SkipReason(
        f"{len(releases)} mail jobs and {len(pieces)} pieces of theirs were looked at and are known."
    )
