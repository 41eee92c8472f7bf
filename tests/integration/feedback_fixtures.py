"""Rows of mail jobs, releases and messages for the tests of feedback, put in directly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import text

from mail_orchestration.feedback.books import Books, books
from mail_orchestration.kernel.attempts import DeliveryResult, Outcome
from mail_orchestration.kernel.database import Database

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
DAY = NOON.date()


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release in the database of a test."""

    installation_id: int
    release_id: int
    released_on: date


def execute(database: Database, sql: str, **parameters: Any) -> Sequence[Any]:
    """Run one statement in a transaction of its own and return its rows."""
    with database.begin() as connection:
        rows = connection.execute(text(sql), parameters)
        return list(rows) if rows.returns_rows else []


def add_installation(database: Database, name: str = "main") -> int:
    """A new installation."""
    [[number]] = execute(
        database, "INSERT INTO installation (name) VALUES (:name) RETURNING installation_id", name=name
    )
    return int(number)


def add_mail_job(
    database: Database,
    release_id: int | None,
    *,
    installation_id: int,
    kind: str | None = "small",
    state: str = "RUNNING",
    first: int | None = 1,
    last: int | None = 100,
    fence: int = 1,
    recovers_id: int | None = None,
) -> int:
    """A mail job; with no release_id it is a release's own."""
    ended = state in ("STOPPED", "RECOVERED", "FINISHED", "FAILED", "P_FINISHED")
    [[number]] = execute(
        database,
        """
        INSERT INTO mail_job (
            release_id, installation_id, parent_id, recovers_id, kind, state, queued_at,
            first_message, last_message, next_message, mailcaster, heartbeat_at, fence, ended_at
        ) VALUES (
            coalesce(:release_id, currval(pg_get_serial_sequence('mail_job', 'mail_job_id'))),
            :installation_id, :parent_id, :recovers_id,
            CAST(:kind AS mail_job_kind), CAST(:state AS mail_job_state), :now, :first, :last,
            :next, 'one', :now, :fence, :ended_at
        ) RETURNING mail_job_id
        """,
        release_id=release_id,
        installation_id=installation_id,
        parent_id=release_id if kind == "child" else None,
        recovers_id=recovers_id,
        kind=kind,
        state=state,
        now=NOON,
        first=first,
        last=last,
        next=None if kind != "parent" or last is None else last + 1,
        fence=fence,
        ended_at=NOON if ended else None,
    )
    return int(number)


def add_release(
    database: Database,
    installation_id: int,
    *,
    recipients: int = 0,
    duplicates: int = 0,
    kind: str | None = "small",
    state: str = "RUNNING",
    messages: int = 0,
    bypassed: Sequence[tuple[int, str]] = (),
    assembled_up_to: int | None = None,
    released_on: date = DAY,
) -> Release:
    """A release with recipients 1 … n, the first that are not bypassed assembled as messages 1 … m.

    `bypassed` are recipient numbers with what dedup knew of them. Without `assembled_up_to` assembly is over.
    """
    release_id = add_mail_job(
        database,
        None,
        installation_id=installation_id,
        kind=kind,
        state=state,
        last=messages or None,
        first=1 if messages else None,
    )
    execute(database, "SELECT ensure_day_partitions(:day)", day=released_on)
    execute(
        database,
        """
        WITH made AS (
            INSERT INTO campaign (installation_id, name, digest) VALUES (:installation_id, :name, '')
            RETURNING campaign_id
        )
        INSERT INTO release (
            release_id, campaign_id, released_at, released_on, files, digest, content_digest, audience_ids,
            resolved_at, audience_rows, duplicates, recipient_count, assembled_up_to
        )
        SELECT :release_id, campaign_id, :now, :day, '{}', '', '', '{}', :now, :rows, :duplicates, :recipients, :up_to
        FROM made
        """,
        installation_id=installation_id,
        name=f"campaign {release_id}",
        release_id=release_id,
        now=noon_of(released_on),
        day=released_on,
        rows=recipients + duplicates,
        duplicates=duplicates,
        recipients=recipients,
        up_to=recipients if assembled_up_to is None else assembled_up_to,
    )
    reasons = dict(bypassed)
    with database.begin() as connection:
        if recipients:
            connection.execute(
                text("INSERT INTO recipient VALUES (:day, :release_id, :no, 1, :no, :reason)"),
                [
                    {"day": released_on, "release_id": release_id, "no": no, "reason": reasons.get(no)}
                    for no in range(1, recipients + 1)
                ],
            )
    if messages:
        add_messages(
            database, release_id, [no for no in range(1, recipients + 1) if no not in reasons][:messages]
        )
    if assembled_up_to is None:
        execute(
            database,
            """
            UPDATE release SET assembled_at = resolved_at, message_count = :messages,
                bypassed_count = recipient_count - :messages
            WHERE release_id = :id
            """,
            messages=messages,
            id=release_id,
        )
    return Release(installation_id=installation_id, release_id=release_id, released_on=released_on)


def add_messages(
    database: Database, release_id: int, recipient_nos: Sequence[int], first_no: int = 1
) -> None:
    """Assembled messages to these recipients; every third goes to the domain b.example, the others to a.example."""
    with database.begin() as connection:
        connection.execute(
            text(
                """
                WITH message AS (
                    INSERT INTO assembled_message
                        (released_on, release_id, message_no, recipient_no, contact_id, size, place_in_block, address)
                    SELECT released_on, release_id, :message_no, :recipient_no, :recipient_no, 3, 0, :address
                    FROM release WHERE release_id = :release_id
                    RETURNING *
                )
                INSERT INTO message_block (released_on, release_id, first_message, block)
                SELECT released_on, release_id, message_no, 'abc' FROM message
                """
            ),
            [
                {
                    "message_no": first_no + index,
                    "recipient_no": no,
                    "address": f"somebody{no}@{'b' if no % 3 == 0 else 'a'}.example",
                    "release_id": release_id,
                }
                for index, no in enumerate(recipient_nos)
            ],
        )


def a_result(
    message_no: int, outcome: Outcome = Outcome.ACCEPTED, *, at: datetime = NOON, **changes: Any
) -> DeliveryResult:
    """A result of the kind that a relay's usual reply makes."""
    code, enhanced, reply_text = {
        Outcome.ACCEPTED: (250, "2.0.0", None),
        Outcome.DEFERRED: (451, "4.7.1", "try again later"),
        Outcome.REJECTED: (550, "5.1.1", f"<somebody{message_no}@a.example>: no such user"),
    }.get(outcome, (None, None, None))
    values = {
        "message_no": message_no,
        "contact_id": message_no,
        "outcome": outcome,
        "reply_code": code,
        "enhanced_code": enhanced,
        "reply_text": reply_text,
        "relay": "relay one",
        "occurred_at": at,
    }
    return DeliveryResult(**(values | changes))


def add_results(
    database: Database, release: Release, results: Sequence[DeliveryResult], mail_job_id: int | None = None
) -> None:
    """Results as the log writes them, under a mail job of the release (its own if none is named)."""
    with database.begin() as connection:
        connection.execute(
            text(
                """
                INSERT INTO result VALUES (:released_on, :release_id, :message_no, :mail_job_id, :contact_id, :at,
                    CAST(:outcome AS outcome), :reply_code, :enhanced_code, :reply_text, :relay, :result_no,
                    CAST(:supersedes AS outcome))
                """
            ),
            [
                {
                    "released_on": release.released_on,
                    "release_id": release.release_id,
                    "mail_job_id": mail_job_id or release.release_id,
                    "message_no": result.message_no,
                    "contact_id": result.contact_id,
                    "at": result.occurred_at,
                    "outcome": result.outcome.value,
                    "reply_code": result.reply_code,
                    "enhanced_code": result.enhanced_code,
                    "reply_text": result.reply_text,
                    "relay": result.relay,
                    "result_no": result.result_no,
                    "supersedes": result.supersedes,
                }
                for result in results
            ],
        )


def noon_of(day: date) -> datetime:
    """In UTC."""
    return datetime.combine(day, NOON.timetz())


def in_seconds(seconds: float) -> datetime:
    """Noon and so many seconds."""
    return NOON + timedelta(seconds=seconds)


def books_of(database: Database, release_id: int) -> Books:
    """A release's books, whose explanation says that they are wrong where they do not balance, and nowhere else."""
    with database.begin() as connection:
        counted = books(connection, release_id)
    assert counted.balances is ("WRONG" not in counted.explanation)
    return counted
