"""Runs of long ago, deleted with their events: Dagster has no retention for either."""

from __future__ import annotations

from datetime import datetime

import dagster as dg

AT_ONCE = 200
"""Each takes some transactions: the rest is left to the next cleaning, ten minutes later."""

_OVER = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


def delete_old_runs(instance: dg.DagsterInstance, before: datetime) -> int:
    """Delete runs that were over and not touched since `before`, the oldest first; returns how many.

    What an asset without partitions was last materialised by stays: its page would be empty without.
    """
    shown = _last_of_assets(instance)
    records = instance.get_run_records(
        dg.RunsFilter(statuses=_OVER, updated_before=before), limit=AT_ONCE + len(shown), ascending=True
    )
    old = [record.dagster_run.run_id for record in records if record.dagster_run.run_id not in shown]
    for run_id in old[:AT_ONCE]:
        instance.delete_run(run_id)
    return len(old[:AT_ONCE])


def _last_of_assets(instance: dg.DagsterInstance) -> set[str]:
    records = instance.get_asset_records(instance.all_asset_keys())
    return {
        event.run_id for record in records if (event := record.asset_entry.last_materialization) is not None
    }
