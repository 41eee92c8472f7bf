"""An installation whose releases are of days before today, for the tests of what is kept and what is dropped."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import pytest

from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.database_clock import database_now
from mail_orchestration.kernel.partitions import day_partitions
from mail_orchestration.kernel.retention_settings import RetentionSettings
from mail_orchestration.maintenance.retention import Retained, drop_what_is_old
from tests.integration.feedback_fixtures import (
    Release,
    a_result,
    add_installation,
    add_release,
    add_results,
    execute,
    noon_of,
)

RETENTION = RetentionSettings(
    history_days=7,
    messages_days=20,
    results_days=40,
    delivery_log_days=30,
    daily_log_days=100,
    records_days=60,
)
MESSAGES = {"assembled_message", "message_block"}
OF_RELEASES = {"recipient", "bypass", "result", "place_given_back"} | MESSAGES


@dataclass
class World:
    """The installation `main` in the database of a test."""

    database: Database
    installation_id: int
    today: date

    def day(self, days_ago: int) -> date:
        """So many days before today."""
        return self.today - timedelta(days=days_ago)

    def release(self, days_ago: int, *outcomes: Outcome, state: str = "FINISHED") -> Release:
        """A release of three recipients, one of them bypassed, whose results came on its day."""
        made = add_release(
            self.database,
            self.installation_id,
            recipients=3,
            messages=2,
            bypassed=[(3, "manual")],
            state=state,
            released_on=self.day(days_ago),
        )
        execute(
            self.database,
            "UPDATE mail_job SET queued_at = released_at, last_message = 2 FROM release "
            "WHERE mail_job.mail_job_id = release.release_id AND mail_job_id = :id",
            id=made.release_id,
        )
        at = noon_of(made.released_on)
        results = [a_result(number, outcome, at=at) for number, outcome in enumerate(outcomes, start=1)]
        if results:
            add_results(self.database, made, results)
        return made

    def set_mail_job(self, made: Release, assignments: str) -> None:
        """Change the release's own mail job directly: `state = 'RUNNING', ended_at = NULL`, say."""
        execute(
            self.database,
            f"UPDATE mail_job SET {assignments} WHERE mail_job_id = :id",
            id=made.release_id,
        )

    def close_days(self, days_ago: int = 1) -> None:
        """The nightly run has counted every result up to that day."""
        execute(
            self.database,
            "INSERT INTO closed_day VALUES (:i, :day, now(), 0, 0) ON CONFLICT DO NOTHING",
            i=self.installation_id,
            day=self.day(days_ago),
        )

    def clean(self, retention: RetentionSettings = RETENTION) -> Retained:
        """What Clean delivery queue does about retention."""
        return drop_what_is_old(self.database, self.installation_id, retention)

    def tables(self, days_ago: int) -> set[str]:
        """The tables that have a partition of that day."""
        with self.database.begin() as connection:
            return {each.parent for each in day_partitions(connection) if each.day == self.day(days_ago)}


@pytest.fixture
def world(database: Database) -> World:
    """An installation without releases."""
    with database.begin() as connection:
        today = database_now(connection).date()
    return World(database, add_installation(database), today)
