"""Partition keys: a release is a partition of `mail_jobs`, a piece of it that one mailcaster takes one of
`child_jobs`.

A key is the mail job's number and nothing else, as in every other face. Keys can be typed in by anyone who
may use Dagster's UI, so each is checked before it reaches the database.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import dagster as dg

from mail_orchestration.kernel.errors import BadInput

MAIL_JOBS = dg.DynamicPartitionsDefinition(name="mail_jobs")
"""One key for each release: the number of its top-level mail job."""

CHILD_JOBS = dg.DynamicPartitionsDefinition(name="child_jobs")
"""One key for each child and each small mail job: what a mailcaster delivers at one go."""

NO_FAN_OUT = dg.SpecificPartitionsPartitionMapping([])
"""Shows the lineage between assets whose partitions differ, and pulls no partition of one into a backfill
of the other.

Dagster's default would take every child of every release for upstream of each report.
"""

_KEY = re.compile(r"[1-9][0-9]{0,17}")
_KEYS_AT_ONCE = 5_000
"""Adding dynamic partitions holds one statement's worth of binds: this many are well within it."""


def mail_job_id_of(partition_key: str) -> int:
    """The mail job that a partition key names. Raises BadInput when the key is no mail job's number."""
    if not _KEY.fullmatch(partition_key):
        raise BadInput(
            f"the partition key {partition_key[:80]!r} names no mail job: a key is a mail job's number, "
            "such as 101; they are added by the sensors and by the job release_campaign, not by hand"
        )
    return int(partition_key)


def partition_key_of(mail_job_id: int) -> str:
    """The partition key of a mail job."""
    return str(mail_job_id)


def add_keys(
    instance: dg.DagsterInstance, partitions: dg.DynamicPartitionsDefinition, mail_job_ids: Iterable[int]
) -> None:
    """Make the mail jobs' partitions known to Dagster; those that are known already stay as they are."""
    assert partitions.name is not None
    keys = [partition_key_of(mail_job_id) for mail_job_id in mail_job_ids]
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        instance.add_dynamic_partitions(partitions.name, keys[start : start + _KEYS_AT_ONCE])
