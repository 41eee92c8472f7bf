"""The records of mail jobs and releases go last of all, once each of their day has ended (spec 6.5)."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mail_orchestration.dispatch.retention import mail_jobs_ended_before
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.database_clock import database_now
from tests.integration.feedback_fixtures import (
    execute,
)
from tests.integration.retention_world import World, world

__all__ = ["world"]

pytestmark = pytest.mark.rule("6.5")


def test_records_go_last(world: World) -> None:
    oldest, old, live = (world.release(days, Outcome.ACCEPTED) for days in (70, 50, 70))
    world.set_mail_job(live, "state = 'RUNNING', ended_at = NULL")
    world.close_days()
    assert world.clean().records == 0, "a mail job of that day has not ended"
    world.set_mail_job(live, "state = 'FINISHED', ended_at = now()")
    assert world.clean().records == 2
    left = execute(world.database, "SELECT mail_job_id FROM mail_job JOIN release USING (release_id)")
    assert left == [(old.release_id,)]
    with world.database.begin() as connection:
        now = database_now(connection)
        numbers = [oldest.release_id, old.release_id]
        assert mail_jobs_ended_before(connection, numbers, now - timedelta(days=365 * 100)) == {
            oldest.release_id
        }
        assert mail_jobs_ended_before(connection, numbers, now + timedelta(days=365 * 100)) == set(numbers)
