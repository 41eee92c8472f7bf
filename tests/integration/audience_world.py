"""An installation with audiences and releases, whose recipients are resolved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text

from mail_orchestration.audience.handover import recipients_to_assemble
from mail_orchestration.audience.importing import ensure_audience, ensure_installation
from mail_orchestration.audience.resolving import ResolveSummary, resolve_recipients
from mail_orchestration.audience.suppressing import suppress_address
from mail_orchestration.kernel.components import Component
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.model import Bypass, Recipient

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
DAY = date(2026, 3, 2)


class World:
    """An installation with audiences and releases, written straight into the tables."""

    def __init__(self, database: Database) -> None:
        self.database = database
        with database.begin() as connection:
            self.installation_id = ensure_installation(connection, "main")
            connection.execute(text("SELECT ensure_day_partitions(:day)"), {"day": DAY})

    def audience(self, name: str, *members: str | tuple[str, dict[str, Any]], **shared: Any) -> int:
        insert = text(
            "WITH c AS (INSERT INTO contact (installation_id, address, address_key) "
            "VALUES (:installation_id, :address, :address) "
            "ON CONFLICT (installation_id, address_key) DO UPDATE SET address = contact.address RETURNING contact_id) "
            "INSERT INTO audience_member "
            "SELECT :audience_id, contact_id, :body_format, :locale, :guid, :url, CAST(:attributes AS jsonb), 1 FROM c"
        )
        with self.database.begin() as connection:
            audience_id = ensure_audience(connection, self.installation_id, name)
            for member in members:
                address, details = member if isinstance(member, tuple) else (member, {})
                empty = dict.fromkeys(("body_format", "locale", "guid", "url", "attributes"))
                key = {"installation_id": self.installation_id, "audience_id": audience_id}
                connection.execute(
                    insert, {**empty, **shared, **details, **key, "address": f"{address}@example.com"}
                )
        return audience_id

    def many(self, name: str, first: int, last: int) -> int:
        """Contacts r<first> … r<last>."""
        with self.database.begin() as connection:
            audience_id = ensure_audience(connection, self.installation_id, name)
            key = {"i": self.installation_id, "a": audience_id, "first": first, "last": last}
            series = "FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS n"
            connection.execute(
                text(
                    "INSERT INTO contact (installation_id, address, address_key) SELECT :i, "
                    f"'r' || n || '@example.com', 'r' || n || '@example.com' {series} ON CONFLICT DO NOTHING"
                ),
                key,
            )
            connection.execute(
                text(
                    "INSERT INTO audience_member SELECT :a, contact_id, NULL, NULL, NULL, NULL, NULL, 1 "
                    f"{series} JOIN contact ON address = 'r' || n || '@example.com'"
                ),
                key,
            )
        return audience_id

    def suppress(self, address: str, reason: str, topic: str = "") -> None:
        with self.database.begin() as connection:
            suppress_address(
                connection, self.installation_id, f"{address}@example.com", reason, topic=topic, now=NOW
            )

    def release(self, *audiences: int, exclude: Sequence[int] = (), topic: str = "") -> int:
        with self.database.begin() as connection:
            release_id = connection.scalars(
                text(
                    "INSERT INTO mail_job (release_id, installation_id, state) VALUES (0, :i, 'QUEUING') "
                    "RETURNING mail_job_id"
                ),
                {"i": self.installation_id},
            ).one()
            connection.execute(text("UPDATE mail_job SET release_id = mail_job_id WHERE release_id = 0"))
            campaign_id = connection.scalars(
                text(
                    "INSERT INTO campaign (installation_id, name, digest) VALUES (:i, :name, '') RETURNING campaign_id"
                ),
                {"i": self.installation_id, "name": f"campaign {release_id}"},
            ).one()
            connection.execute(
                text(
                    "INSERT INTO release (release_id, campaign_id, released_at, released_on, files, digest, "
                    "content_digest, topic, audience_ids, excluded_audience_ids) "
                    "VALUES (:r, :c, :now, :day, '{}', '', '', :topic, :audiences, :exclude)"
                ),
                {
                    "r": release_id,
                    "c": campaign_id,
                    "now": NOW,
                    "day": DAY,
                    "topic": topic,
                    "audiences": list(audiences),
                    "exclude": list(exclude),
                },
            )
        return int(release_id)

    def resolve(self, release_id: int, **options: Any) -> ResolveSummary:
        return resolve_recipients(
            self.database,
            release_id,
            **{"small_audience_threshold": 100, "time_zone": ZoneInfo("UTC"), "now": NOW, **options},
        )

    def rows(self, sql: str, **binds: Any) -> list[tuple[Any, ...]]:
        with self.database.begin() as connection:
            return [tuple(row) for row in connection.execute(text(sql), binds)]

    def recipients(self, release_id: int) -> list[tuple[Any, ...]]:
        """recipient_no, name, audience_id, bypass reason."""
        return self.rows(
            "SELECT recipient_no, split_part(address, '@', 1), audience_id, bypass_reason "
            "FROM recipient JOIN contact USING (contact_id) WHERE release_id = :r ORDER BY recipient_no",
            r=release_id,
        )

    def mail_job(self, release_id: int) -> tuple[Any, ...]:
        return self.rows("SELECT state, kind, reason FROM mail_job WHERE mail_job_id = :r", r=release_id)[0]

    def handed_over(
        self, release_id: int, after: int = 0, batch: int = 100
    ) -> tuple[list[Recipient], list[Bypass]]:
        recipients: list[Recipient] = []
        bypasses: list[Bypass] = []
        with self.database.connect_autocommit() as connection:
            for each in recipients_to_assemble(connection, release_id, after, batch):
                assert len(each.recipients) + len(each.bypasses) <= batch
                recipients += each.recipients
                bypasses += each.bypasses
        return recipients, bypasses


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


def component(stage: str, function: Callable[..., Any]) -> Component:
    return Component(name=f"rules:{stage}", stage=stage, function=function)
