"""Dropping what is past its retention while results are written, beside deleting it row by row.

    python -m benchmarks.clean_up --rows 10000000 --days 10

Fills days of long ago with so many rows, half of them results and half recipients. Then 50 connections that wait for
each result write to the results log, as a mailcaster's do, with `--relay-ms` for the relay between two (0: results at
full speed, which takes both cores of a small machine). Meanwhile runs the reference, DELETE of the results of one day;
and a second time the clean-up of `mail-orchestration clean`, which drops all days. The rate of results during each
stands beside the rate right before it, and the longest wait for a result to be durable.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import uvloop
from sqlalchemy import text

from benchmarks.harness import command_line
from benchmarks.harness.databases import empty_database
from benchmarks.harness.measurements import Measurement
from mail_orchestration.feedback.results_log import ResultsLog
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.model import DeliveryResult, Outcome
from mail_orchestration.kernel.retention_settings import RetentionSettings
from mail_orchestration.maintenance.retention import drop_what_is_old

CONNECTIONS = 50
BEFORE_S = 4.0
"""How long results are written before something else begins."""
RETENTION = RetentionSettings(messages_days=30, results_days=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    rows: int = 10_000_000
    days: int = 10
    relay_ms: float = 5.0
    rounds: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """How results did while something else was done."""

    seconds: float
    rate_before: float
    rate: float
    longest_wait_before_ms: float
    longest_wait_ms: float


def measure(sizes: Sizes) -> list[Measurement]:
    """Each round on a database of its own."""
    cleaning, deleting = [], []
    for _ in range(sizes.rounds):
        with empty_database() as database:
            installation_id, mail_job_id, days = fill(database, sizes.rows, sizes.days)

            def delete(database: Database = database, day: date = days[0]) -> None:
                with database.begin() as connection:
                    connection.execute(text("DELETE FROM result WHERE released_on = :day"), {"day": day})

            def clean(database: Database = database, installation_id: int = installation_id) -> None:
                retained = drop_what_is_old(database, installation_id, RETENTION)
                assert retained.dropped, retained
                assert not retained.kept, retained
                assert not retained.in_use, retained

            deleting.append(beside_results(database, mail_job_id, delete, sizes.relay_ms / 1000))
            cleaning.append(beside_results(database, mail_job_id, clean, sizes.relay_ms / 1000))
    return [
        Measurement(
            name=f"clean-up of {sizes.rows:,} rows of {sizes.days} days",
            unit="s",
            runs=tuple(each.seconds for each in cleaning),
            reference="DELETE of one day's results",
            reference_runs=tuple(each.seconds for each in deleting),
        ),
        Measurement(
            name="results meanwhile",
            unit="results/s",
            runs=tuple(each.rate for each in cleaning),
            reference="right before it",
            reference_runs=tuple(each.rate_before for each in cleaning),
        ),
        Measurement(
            name="longest wait for a result meanwhile",
            unit="ms",
            runs=tuple(each.longest_wait_ms for each in cleaning),
            reference="right before it",
            reference_runs=tuple(each.longest_wait_before_ms for each in cleaning),
        ),
    ]


def fill(database: Database, rows: int, number_of_days: int) -> tuple[int, int, list[date]]:
    """Days of long ago with one ended release each, and a mail job of today that is being worked on."""
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
    for day in [today, *days]:
        mail_job_id = add_release(database, installation_id, campaign_id, day, is_over=day != today)
        if day == today:
            working = mail_job_id
            continue
        binds = {"r": mail_job_id, "day": day, "rows": rows // number_of_days // 2}
        with database.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO recipient SELECT :day, :r, n, 1, n, NULL "
                    "FROM generate_series(1, CAST(:rows AS integer)) AS n"
                ),
                binds,
            )
            connection.execute(
                text(
                    "INSERT INTO result SELECT :day, :r, n, :r, n, CAST(:day AS date) + interval '12 hours', "
                    "'accepted', 250, '2.0.0', NULL, 'relay', 1, NULL "
                    "FROM generate_series(1, CAST(:rows AS integer)) AS n"
                ),
                binds,
            )
    with database.connect_autocommit() as connection:
        closed = text("INSERT INTO closed_day VALUES (:i, :day, now(), 0, 0)")
        connection.execute(closed, {"i": installation_id, "day": today})
        connection.execute(text("VACUUM ANALYZE"))
        connection.execute(text("CHECKPOINT"))
    return installation_id, working, days


def add_release(
    database: Database, installation_id: int, campaign_id: int, day: date, *, is_over: bool
) -> int:
    with database.begin() as connection:
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


def beside_results(database: Database, mail_job_id: int, work: Callable[[], None], relay_s: float) -> Beside:
    """Results before and during `work`."""
    durable: list[tuple[float, float]] = []
    span: list[float] = []

    def do() -> None:
        span.append(time.perf_counter())
        work()
        span.append(time.perf_counter())

    uvloop.run(_results(database, mail_job_id, do, durable, relay_s))
    begun, ended = span
    before = [wait for at, wait in durable if begun - BEFORE_S + 1 <= at < begun]
    # The group that was under way at the end belongs to it: short work has no other.
    during = [wait for at, wait in durable if begun <= at and at - wait < ended]
    return Beside(
        seconds=ended - begun,
        rate_before=len(before) / (BEFORE_S - 1),
        rate=len(during) / (ended - begun),
        longest_wait_before_ms=1000 * max(before),
        longest_wait_ms=1000 * max(during, default=0),
    )


async def _results(
    database: Database,
    mail_job_id: int,
    work: Callable[[], None],
    durable: list[tuple[float, float]],
    relay_s: float,
) -> None:
    day, numbers, is_over = datetime.now(UTC).date(), iter(range(1, 1_000_000_000)), threading.Event()

    async def connection(log: ResultsLog) -> None:
        while not is_over.is_set():
            await asyncio.sleep(relay_s)
            number = next(numbers)
            result = DeliveryResult(
                message_no=number,
                contact_id=number,
                outcome=Outcome.ACCEPTED,
                reply_code=250,
                enhanced_code="2.0.0",
                reply_text=None,
                relay="relay",
                occurred_at=datetime.now(UTC),
            )
            begun = time.perf_counter()
            await log.record(result)
            now = time.perf_counter()
            durable.append((now, now - begun))

    async def beside() -> None:
        await asyncio.sleep(BEFORE_S)
        try:
            await asyncio.to_thread(work)
        finally:
            is_over.set()

    async with ResultsLog(
        database, release_id=mail_job_id, released_on=day, mail_job_id=mail_job_id, fence=1
    ) as log:
        await asyncio.gather(beside(), *(connection(log) for _ in range(CONNECTIONS)))


if __name__ == "__main__":
    command_line.run(__doc__, measure, full=Sizes(), quick=Sizes(rows=50_000, days=3, rounds=1))
