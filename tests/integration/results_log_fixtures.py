"""A results log, what it has written, and who takes its mail job away."""

from __future__ import annotations

import asyncio
import time

import pytest

from mail_orchestration.feedback.results_log import ResultsLog
from mail_orchestration.kernel.database import Database
from tests.integration.feedback_fixtures import DAY, add_installation, add_mail_job, execute

BUMP = "UPDATE mail_job SET fence = fence + 1 WHERE mail_job_id = :id"
"""Whoever holds the mail job has it no more."""


@pytest.fixture
def mail_job_id(database: Database) -> int:
    """A small mail job that somebody works on, under fence 1."""
    execute(database, "SELECT ensure_day_partitions(:day)", day=DAY)
    return add_mail_job(database, None, installation_id=add_installation(database), last=100_000)


def log_of(database: Database, mail_job_id: int) -> ResultsLog:
    """Of whoever holds the mail job."""
    return ResultsLog(database, release_id=mail_job_id, released_on=DAY, mail_job_id=mail_job_id, fence=1)


def written(database: Database) -> list[int]:
    """The messages that have a result."""
    return [no for (no,) in execute(database, "SELECT message_no FROM result ORDER BY message_no")]


def waits_for_a_lock(database: Database, result: asyncio.Future[None], how_many: int = 1) -> bool:
    """Whether so many come to wait for a lock while the result does; false as soon as it has got through."""
    deadline = time.monotonic() + 60
    while not result.done() and time.monotonic() < deadline:
        [[waiting]] = execute(
            database,
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        if waiting >= how_many:
            return not result.done()
        time.sleep(0.01)
    return False
