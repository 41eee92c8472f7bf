"""Is a process at work already? Asked by every sensor before it asks for a run.

Run keys are not used: a key that was used once would block the same mail job or mailcaster for ever.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import dagster as dg

UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

PAUSE_AFTER_FAILURE_S = 60
"""What failed is tried again after a minute, not after a tick: a run costs seconds of a core."""


def is_occupied(instance: dg.DagsterInstance, job_name: str, tags: Mapping[str, str]) -> str | None:
    """Why no run of the job with these tags should be asked for now; None when one should."""
    unfinished = instance.get_runs(
        dg.RunsFilter(job_name=job_name, tags=dict(tags), statuses=UNFINISHED), limit=1
    )
    if unfinished:
        return "at work"
    latest = instance.get_run_records(dg.RunsFilter(job_name=job_name, tags=dict(tags)), limit=1)
    for record in latest:
        ended = record.end_time or record.update_timestamp.timestamp()
        if record.dagster_run.status is dg.DagsterRunStatus.FAILURE and (
            time.time() - ended < PAUSE_AFTER_FAILURE_S
        ):
            return f"failed less than {PAUSE_AFTER_FAILURE_S} s ago"
    return None
