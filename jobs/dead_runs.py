"""Runs whose process is gone: Dagster calls them STARTED for ever, and they would keep their mailcaster's
place.

What a run *sent* is safe in the results log, and what it held is recovered by the lease (spec 5.2, 5.3).
This is only about Dagster's own books.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import dagster as dg

from jobs.tags import MAILCASTER

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
    started = instance.get_run_records(
        dg.RunsFilter(
            job_name=job_name, statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
        ),
        limit=_AT_MOST,
    )
    dead = []
    for record in started:
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
