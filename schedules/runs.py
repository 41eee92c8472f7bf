"""Is a process at work already? Asked by every sensor before it asks for a run.

Run keys are not used: a key that was used once would block the same mail job or mailcaster for ever.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import dagster as dg

from jobs.tags import MAIL_JOBS_DONE

UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

PAUSE_AFTER_FAILURE_S = 60
"""What failed is tried again after a minute, not after a tick: a run costs seconds of a core."""

PAUSE_AFTER_IDLE_SHIFT_S = 20
"""A shift that found nothing to take, since others were quicker or the work is still held, is not repeated at once."""


def why_not_now(instance: dg.DagsterInstance, job_name: str, tags: Mapping[str, str]) -> str | None:
    """Why no run of the job with these tags should be asked for now; None when one should."""
    wanted = dict(tags)
    if instance.get_runs(dg.RunsFilter(job_name=job_name, tags=wanted, statuses=UNFINISHED), limit=1):
        return "at work"
    for latest in instance.get_run_records(dg.RunsFilter(job_name=job_name, tags=wanted), limit=1):
        ended = latest.end_time or latest.update_timestamp.timestamp()
        since = time.time() - ended
        run = latest.dagster_run
        if run.status is dg.DagsterRunStatus.FAILURE and since < PAUSE_AFTER_FAILURE_S:
            return f"failed less than {PAUSE_AFTER_FAILURE_S} s ago"
        if run.tags.get(MAIL_JOBS_DONE) == "0" and since < PAUSE_AFTER_IDLE_SHIFT_S:
            return "found nothing to take just now"
    return None
