"""Runs whose process is gone with its machine: Dagster calls them STARTED for ever, and they would keep the place of
their mailcaster, or of their release.

What a run *sent* is safe in the results log, and what it held is recovered by the lease (spec 5.2, 5.3).
This is only about Dagster's own books. (While the code server lives it tells of a process that it started and that
died; who else would, when the machine is gone?)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from jobs.tags import MAILCASTER, PROCESS

GONE_AFTER = timedelta(minutes=5)
"""A shift beats every 10 s: one that has been silent for as long as this is not coming back."""

_AT_MOST = 200


def fail_dead_runs(
    instance: dg.DagsterInstance, last_signs: Mapping[str, datetime], *, job_name: str, now: datetime
) -> list[str]:
    """Report the started runs whose mailcaster has been silent for GONE_AFTER as failed; returns their
    ids.

    `last_signs` is the last heartbeat of each mailcaster by name. A mailcaster that never had a shift
    counts as silent since its run began.
    """
    dead = []
    for record in _started(instance, job_name):
        name = record.dagster_run.tags.get(MAILCASTER)
        began = datetime.fromtimestamp(record.start_time or record.create_timestamp.timestamp(), UTC)
        last_sign = max(began, last_signs.get(name, began)) if name else began
        if now - last_sign <= GONE_AFTER:
            continue
        instance.report_run_failed(
            record.dagster_run,
            f"The run's process is gone: mailcaster {name} has given no sign since {last_sign.isoformat()}. "
            "Nothing is lost; what it had not sent is recovered.",
        )
        dead.append(record.dagster_run.run_id)
    return dead


def fail_abandoned_runs(
    instance: dg.DagsterInstance, is_present: Callable[[str], bool], *, but_of: str, now: datetime
) -> list[str]:
    """Report the started runs of our other jobs as failed that have said nothing for GONE_AFTER and whose process holds
    no lock; returns their ids.

    `is_present` tells by a run's id whether its process is there. Runs of the job `but_of` are left alone.
    """
    dead = []
    for record in _started(instance):
        run = record.dagster_run
        if run.job_name == but_of or PROCESS not in run.tags:
            continue
        said = instance.get_records_for_run(run.run_id, limit=1, ascending=False).records
        last = said[0].timestamp if said else record.create_timestamp.timestamp()
        if now - datetime.fromtimestamp(last, UTC) <= GONE_AFTER or is_present(run.run_id):
            continue
        instance.report_run_failed(
            run, "The run's process is gone. Nothing is lost; the sensor has the work taken up where it was."
        )
        dead.append(run.run_id)
    return dead


def _started(instance: dg.DagsterInstance, job_name: str | None = None) -> Sequence[dg.RunRecord]:
    """The latest runs of this job, or of all, that Dagster believes to be there."""
    statuses = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    return instance.get_run_records(dg.RunsFilter(job_name=job_name, statuses=statuses), limit=_AT_MOST)
