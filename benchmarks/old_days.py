"""Days of long ago that are past their retention, and a mail job of today that is being worked on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import Connection, text

from mail_orchestration.kernel.database import Database

TABLES = {
    "recipient": "SELECT :day, :r, n, 1, n, NULL",
    "result": "SELECT :day, :r, n, :r, n, CAST(:day AS date) + interval '12 hours', 'accepted', 250, '2.0.0', NULL, "
    "'relay', 1, NULL",
    "queue_history": "SELECT :day, sha256(CAST(:r || ' ' || n AS bytea)), CAST(:day AS date) + interval '12 hours'",
    "delivery_log": "SELECT :day, :r * 10000000 + n, :i, 'single', :c, n, 'r' || n || '@example.net', NULL, NULL, "
    "CAST(:day AS date) + interval '11 hours', CAST(:day AS date) + interval '12 hours', 1, 'accepted', 250, '2.0.0', "
    "NULL, 'relay', NULL, NULL, NULL, 14000",
}
"""What is filled, each with a quarter of the rows; and what a row of it is, of the day's release, by its number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OldDays:
    """What was filled."""

    installation_id: int
    campaign_id: int
    mail_job_id: int
    """Of today, in a mailcaster's hands."""
    days: list[date]


def fill(database: Database, rows: int, number_of_days: int) -> OldDays:
    """So many days with one ended release each, and with so many rows in all."""
    today = datetime.now(UTC).date()
    days = [today - timedelta(days=100 + number) for number in range(number_of_days)]
    with database.begin() as connection:
        installation_id, campaign_id = connection.execute(
            text(
                "WITH i AS (INSERT INTO installation (name) VALUES ('benchmark') RETURNING installation_id) "
                "INSERT INTO campaign (installation_id, name, digest) SELECT installation_id, 'letter', '' FROM i "
                "RETURNING installation_id, campaign_id"
            )
        ).one()
        mail_job_id = _add_release(connection, installation_id, campaign_id, today, is_over=False)
    for day in days:
        with database.begin() as connection:
            old = _add_release(connection, installation_id, campaign_id, day, is_over=True)
            binds = {"r": old, "i": installation_id, "c": campaign_id, "day": day}
            binds["rows"] = rows // number_of_days // len(TABLES)
            for table, row in TABLES.items():
                insert = f"INSERT INTO {table} {row} FROM generate_series(1, CAST(:rows AS integer)) AS n"
                connection.execute(text(insert), binds)
    with database.connect_autocommit() as connection:
        closed = text("INSERT INTO closed_day VALUES (:i, :day, now(), 0, 0)")
        connection.execute(closed, {"i": installation_id, "day": today})
        connection.execute(text("VACUUM ANALYZE"))
        connection.execute(text("CHECKPOINT"))
    return OldDays(
        installation_id=installation_id, campaign_id=campaign_id, mail_job_id=mail_job_id, days=days
    )


def delete_day(database: Database, day: date) -> None:
    """Delete all of a day row by row."""
    with database.begin() as connection:
        for table in TABLES:
            column = {"queue_history": "queued_on", "delivery_log": "day"}.get(table, "released_on")
            connection.execute(text(f"DELETE FROM {table} WHERE {column} = :day"), {"day": day})


def _add_release(
    connection: Connection, installation_id: int, campaign_id: int, day: date, *, is_over: bool
) -> int:
    connection.execute(text("SELECT ensure_day_partitions(:day)"), {"day": day})
    mail_job_id = int(
        connection.scalars(
            text(
                "INSERT INTO mail_job (release_id, installation_id, kind, state, queued_at, ended_at, "
                "first_message, last_message, mailcaster, heartbeat_at, fence) "
                "VALUES (currval('mail_job_mail_job_id_seq'), :i, "
                "'small', CAST(:state AS mail_job_state), :day, :ended, 1, 100000000, 'one', now(), 1) "
                "RETURNING mail_job_id"
            ),
            {
                "i": installation_id,
                "state": "FINISHED" if is_over else "RUNNING",
                "day": datetime(day.year, day.month, day.day, tzinfo=UTC),
                "ended": datetime(day.year, day.month, day.day, 13, tzinfo=UTC) if is_over else None,
            },
        ).one()
    )
    connection.execute(
        text(
            "INSERT INTO release (release_id, campaign_id, released_at, released_on, files, digest, "
            "content_digest, audience_ids) VALUES (:r, :c, now(), :day, '{}', '', '', '{}')"
        ),
        {"r": mail_job_id, "c": campaign_id, "day": day},
    )
    return mail_job_id
