"""Rows for the tests of dispatch: an installation with a campaign, and releases in the state that a test wants."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime

import pytest
from sqlalchemy import Connection, text

from mail_orchestration.dispatch.claim import Claim, claim_of
from mail_orchestration.dispatch.mail_jobs import create_mail_job, queue_mail_job
from mail_orchestration.kernel.clock import steady_seconds
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.fleet_settings import MailcasterParameters

NOW = datetime(2026, 5, 20, 12, 0, tzinfo=UTC)
DAY = date(2026, 5, 20)
HANG_AFTER_S = 7200.0


@dataclass
class World:
    """One installation and its campaign in a database."""

    database: Database
    installation_id: int = field(init=False)
    campaign_id: int = field(init=False)

    def __post_init__(self) -> None:
        with self.database.begin() as connection:
            connection.execute(text("SELECT ensure_day_partitions(:day)"), {"day": DAY})
            self.installation_id = connection.scalar(
                text("INSERT INTO installation (name) VALUES ('main') RETURNING installation_id")
            )
            self.campaign_id = connection.scalar(
                text(
                    "INSERT INTO campaign (installation_id, name, digest) VALUES (:id, 'spring', '') "
                    "RETURNING campaign_id"
                ),
                {"id": self.installation_id},
            )

    def create(
        self, connection: Connection, messages: int, *, kind: str, priority: int = 0, topic: str = ""
    ) -> int:
        """A resolved and assembled release whose mail job is QUEUING; without rows of messages."""
        release_id = create_mail_job(connection, self.installation_id, priority, NOW)
        connection.execute(
            text("UPDATE mail_job SET kind = CAST(:kind AS mail_job_kind) WHERE mail_job_id = :id"),
            {"kind": kind, "id": release_id},
        )
        connection.execute(
            text(
                "INSERT INTO release (release_id, campaign_id, released_at, released_on, files, digest, "
                "  content_digest, topic, audience_ids, resolved_at, audience_rows, duplicates, recipient_count, "
                "  assembled_at, message_count) "
                "VALUES (:id, :campaign_id, :now, :day, '{}', '', '', :topic, '{}', :now, CAST(:messages AS integer), "
                "  0, CAST(:messages AS integer), :now, CAST(:messages AS integer))"
            ),
            {
                "id": release_id,
                "campaign_id": self.campaign_id,
                "now": NOW,
                "day": DAY,
                "topic": topic,
                "messages": messages,
            },
        )
        return release_id

    def queue(
        self, messages: int, *, kind: str, priority: int = 0, now: datetime = NOW, topic: str = ""
    ) -> int:
        """A mail job that is QUEUED or P_QUEUED."""
        with self.database.begin() as connection:
            release_id = self.create(connection, messages, kind=kind, priority=priority, topic=topic)
            queue_mail_job(connection, release_id, now)
        return release_id

    def begun(self, messages: int, *, kind: str, state: str = "RUNNING") -> int:
        """A small mail job, or the one child of a parent, that `before` claimed at NOW. Returns its number."""
        release_id = self.queue(messages, kind=kind)
        held = "mailcaster = 'before', fence = 1, started_at = :now, heartbeat_at = :now"
        with self.database.begin() as connection:
            if kind == "small":
                connection.execute(
                    text(
                        f"UPDATE mail_job SET state = CAST(:state AS mail_job_state), {held} WHERE mail_job_id = :id"
                    ),
                    {"state": state, "now": NOW, "id": release_id},
                )
                return release_id
            connection.execute(
                text(
                    "UPDATE mail_job SET state = 'P_ASSIGNED', next_message = last_message + 1 "
                    "WHERE mail_job_id = :id"
                ),
                {"id": release_id},
            )
            child: int = connection.scalar(
                text(
                    "INSERT INTO mail_job (release_id, installation_id, parent_id, kind, state, queued_at, "
                    "  first_message, last_message, mailcaster, fence, started_at, heartbeat_at) "
                    "SELECT release_id, installation_id, mail_job_id, 'child', CAST(:state AS mail_job_state), "
                    "  queued_at, first_message, last_message, 'before', 1, :now, :now "
                    "FROM mail_job WHERE mail_job_id = :id RETURNING mail_job_id"
                ),
                {"state": state, "now": NOW, "id": release_id},
            )
            return child

    def claim_of(self, mail_job_id: int) -> Claim:
        """The claim that the row of a mail job stands for."""
        with self.database.begin() as connection:
            row = connection.execute(
                text(
                    "SELECT mail_job_id, installation_id, release_id, CAST(:day AS date) AS released_on, parent_id, "
                    "  kind, first_message, last_message, fence, mailcaster, recovers_id "
                    "FROM mail_job WHERE mail_job_id = :id"
                ),
                {"day": DAY, "id": mail_job_id},
            ).one()
        return claim_of(row, steady_seconds())

    def execute(self, statement: str, **binds: object) -> None:
        """Run one statement in its own transaction."""
        with self.database.begin() as connection:
            connection.execute(text(statement), binds)

    def add_messages(self, release_id: int, count: int) -> None:
        """Rows of messages 1 … count, each to a contact of its own, and a block for each."""
        with self.database.begin() as connection:
            connection.execute(
                text(
                    "WITH new AS (INSERT INTO contact (installation_id, address, address_key) "
                    "  SELECT :installation_id, 'r' || n || '@example.org', :id || '-' || n || '@example.org' "
                    "  FROM generate_series(1, :count) AS n RETURNING contact_id, address) "
                    "INSERT INTO assembled_message (released_on, release_id, message_no, recipient_no, contact_id, "
                    "  size, place_in_block, address) "
                    "SELECT :day, :id, row_number() OVER (ORDER BY contact_id), "
                    "  row_number() OVER (ORDER BY contact_id), contact_id, 5, 0, address FROM new"
                ),
                {"installation_id": self.installation_id, "id": release_id, "count": count, "day": DAY},
            )
            connection.execute(
                text(
                    "INSERT INTO message_block (released_on, release_id, first_message, block) "
                    "SELECT :day, :id, n, 'bytes' FROM generate_series(1, :count) AS n"
                ),
                {"id": release_id, "count": count, "day": DAY},
            )

    def deliver(self, claim: Claim, first: int | None = None, last: int | None = None) -> None:
        """Results for messages of a claim's range, as if they had been accepted."""
        with self.database.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO result (released_on, release_id, message_no, mail_job_id, contact_id, occurred_at, "
                    "  outcome, relay) "
                    "SELECT :day, :release_id, n, :mail_job_id, n, :now, 'accepted', 'test' "
                    "FROM generate_series(CAST(:first AS integer), CAST(:last AS integer)) AS n"
                ),
                {
                    "day": DAY,
                    "release_id": claim.release_id,
                    "mail_job_id": claim.mail_job_id,
                    "now": NOW,
                    "first": first or claim.first_message,
                    "last": last or claim.last_message,
                },
            )

    def set_state(self, mail_job_id: int, state: str) -> None:
        """Force a mail job into a state, for what operators do in a later part of the system."""
        with self.database.begin() as connection:
            connection.execute(
                text(
                    "UPDATE mail_job SET state = CAST(:state AS mail_job_state), ended_at = NULL "
                    "WHERE mail_job_id = :id"
                ),
                {"state": state, "id": mail_job_id},
            )

    def state(self, mail_job_id: int) -> str:
        """The state that a mail job is in."""
        with self.database.begin() as connection:
            return str(
                connection.scalar(
                    text("SELECT state FROM mail_job WHERE mail_job_id = :id"), {"id": mail_job_id}
                )
            )


def mailcaster(name: str, **parameters: object) -> MailcasterParameters:
    """A mailcaster with these parameters and defaults for the rest."""
    return MailcasterParameters.model_validate({"name": name, **parameters})


SMALL_ONLY = mailcaster(
    "small-only", small_audience_threshold=2000, min_job_size=1, max_job_size=1999, small_job_only=True
)
SMALL_PRIORITY = mailcaster(
    "small-priority", small_audience_threshold=2000, min_job_size=200, max_job_size=2000
)
LARGE_PRIORITY = mailcaster(
    "large-priority", small_audience_threshold=2000, min_job_size=2000, max_job_size=5000
)
LARGE_ONLY = mailcaster(
    "large-only", small_audience_threshold=2000, min_job_size=2000, max_job_size=5000, large_job_only=True
)


@pytest.fixture
def world(database: Database) -> World:
    return World(database)
