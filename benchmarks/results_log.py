"""How fast results become durable, beside a commit for each message, which is what the results log replaces.

    python -m benchmarks.results_log --results 60000 --rounds 3

With 20, 50 and 100 connections that wait for each result; beside the log stands the other candidate too: BEGIN, COPY
and COMMIT for a group. Then the time that a heartbeat takes while the log is at full speed, because both touch the mail
job's row.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import psycopg
import uvloop
from sqlalchemy import text

from benchmarks.harness import command_line
from benchmarks.harness.databases import empty_database
from benchmarks.harness.measurements import Measurement
from mail_orchestration.feedback.results_log import ResultsLog
from mail_orchestration.kernel.attempts import DeliveryResult, Outcome
from mail_orchestration.kernel.bulk import copy_rows
from mail_orchestration.kernel.database import Database

_DAY = date(2026, 7, 1)
_COLUMNS = (
    "released_on, release_id, message_no, mail_job_id, contact_id, occurred_at, outcome, reply_code, relay"
)
_CONNECTIONS = (20, 50, 100)
_Record = Callable[[DeliveryResult], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    results: int = 60_000
    """For the log, with 100 connections."""
    rounds: int = 3


def measure(sizes: Sizes) -> list[Measurement]:
    """All ways in each round."""
    runs: dict[str, list[float]] = defaultdict(list)
    with empty_database() as database:
        mail_job_id = _mail_job(database)
        for _ in range(sizes.rounds):
            runs["each"].append(_commit_each(database, mail_job_id, sizes.results // 30))
            runs["heartbeat alone"].append(_heartbeats(database, mail_job_id, 0))
            runs["heartbeat"].append(_heartbeats(database, mail_job_id, 2 * sizes.results))
            for connections in _CONNECTIONS:
                for name, way in (("log", _log), ("copy", _copy)):
                    rate, cpu_us = way(database, mail_job_id, connections, sizes.results * connections // 100)
                    runs[f"{name} {connections}"].append(rate)
                    runs[f"{name} {connections} CPU"].append(cpu_us)
    ways = [(connections, name) for connections in _CONNECTIONS for name in ("log", "copy")]
    found = [
        Measurement(
            name=f"{'results log' if name == 'log' else 'BEGIN, COPY, COMMIT'}, {connections} connections",
            unit="results/s",
            runs=tuple(runs[f"{name} {connections}"]),
            reference="a commit for each",
            reference_runs=tuple(runs["each"]),
        )
        for connections, name in ways
    ]
    found += [
        Measurement(
            name=f"a result's CPU in the results log, {connections} connections",
            unit="µs",
            runs=tuple(runs[f"log {connections} CPU"]),
            reference="BEGIN, COPY, COMMIT",
            reference_runs=tuple(runs[f"copy {connections} CPU"]),
        )
        for connections in _CONNECTIONS
    ]
    beat = Measurement(
        name="a heartbeat beside the log at full speed",
        unit="ms",
        runs=tuple(runs["heartbeat"]),
        reference="the same with nothing beside it",
        reference_runs=tuple(runs["heartbeat alone"]),
    )
    return [*found, beat]


def _mail_job(database: Database) -> int:
    with database.begin() as connection:
        connection.execute(text("SELECT ensure_day_partitions(CAST('2026-07-01' AS date))"))
        return int(
            connection.execute(
                text(
                    """
                    WITH made AS (INSERT INTO installation (name) VALUES ('benchmark') RETURNING installation_id)
                    INSERT INTO mail_job (
                        release_id, installation_id, kind, state, queued_at, first_message, last_message, mailcaster,
                        heartbeat_at, fence
                    )
                    SELECT 1, installation_id, 'small', 'RUNNING', now(), 1, 1000000, 'one', now(), 1 FROM made
                    RETURNING mail_job_id
                    """
                )
            ).scalar_one()
        )


def _log(database: Database, mail_job_id: int, connections: int, results: int) -> tuple[float, float]:
    async def run() -> tuple[float, float]:
        async with ResultsLog(
            database, release_id=mail_job_id, released_on=_DAY, mail_job_id=mail_job_id, fence=1
        ) as log:
            return await _waiting_connections(log.record, connections, results)

    return _on_an_empty_table(database, run())


def _copy(database: Database, mail_job_id: int, connections: int, results: int) -> tuple[float, float]:
    """Groups by BEGIN, FOR SHARE, COPY, COMMIT on a thread."""

    async def run() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        waiting: list[tuple[DeliveryResult, asyncio.Future[None]]] = []
        more = asyncio.Event()

        def write(group: list[tuple[DeliveryResult, asyncio.Future[None]]]) -> None:
            with database.begin() as connection:
                connection.execute(
                    text("SELECT FROM mail_job WHERE mail_job_id = :id AND fence = 1 FOR SHARE"),
                    {"id": mail_job_id},
                )
                rows = (
                    (
                        _DAY,
                        1,
                        r.message_no,
                        1,
                        r.contact_id,
                        r.occurred_at,
                        r.outcome.value,
                        r.reply_code,
                        r.relay,
                    )
                    for r, _ in group
                )
                copy_rows(connection, f"COPY result ({_COLUMNS}) FROM STDIN", rows)

        async def writer() -> None:
            while True:
                await more.wait()
                group, waiting[:] = list(waiting), []
                more.clear()
                await asyncio.to_thread(write, group)
                for _, future in group:
                    future.set_result(None)

        def record(result: DeliveryResult) -> asyncio.Future[None]:
            future = loop.create_future()
            waiting.append((result, future))
            more.set()
            return future

        task = asyncio.create_task(writer())
        try:
            return await _waiting_connections(record, connections, results)
        finally:
            task.cancel()

    return _on_an_empty_table(database, run())


def _commit_each(database: Database, mail_job_id: int, results: int) -> float:
    _emptied(database)
    now = datetime.now(UTC)
    with database.dedicated() as connection:
        driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
        begun = time.perf_counter()
        for number in range(results):
            driver.execute(
                f"INSERT INTO result ({_COLUMNS}) VALUES (%s, 1, %s, %s, %s, %s, 'accepted', 250, 'one')",
                (_DAY, number, mail_job_id, number, now),
                prepare=True,
            )
        return results / (time.perf_counter() - begun)


def _heartbeats(database: Database, mail_job_id: int, results: int) -> float:
    """Median milliseconds of the heartbeat's UPDATE while 100 connections record so many; 50 of it when none do."""
    taken: list[float] = []

    def beat(connection: Any) -> float:
        began = time.perf_counter()
        connection.execute(
            text("UPDATE mail_job SET heartbeat_at = now() WHERE mail_job_id = :id AND fence = 1"),
            {"id": mail_job_id},
        )
        return (time.perf_counter() - began) * 1000

    async def run() -> None:
        async with ResultsLog(
            database, release_id=mail_job_id, released_on=_DAY, mail_job_id=mail_job_id, fence=1
        ) as log:
            delivery = asyncio.create_task(_waiting_connections(log.record, 100, results))
            with database.dedicated() as connection:
                while len(taken) < 50 or not delivery.done():
                    taken.append(await asyncio.to_thread(beat, connection))
                    await asyncio.sleep(0.01)
            await delivery

    _emptied(database)
    uvloop.run(run())
    return statistics.median(taken)


async def _waiting_connections(record: _Record, connections: int, results: int) -> tuple[float, float]:
    """Results per second, and microseconds of this process's CPU for each."""
    numbers = iter(range(1, results + 1))

    async def connection() -> None:
        for number in numbers:
            await record(
                DeliveryResult(
                    number, number, Outcome.ACCEPTED, 250, "2.0.0", None, "relay one", datetime.now(UTC)
                )
            )

    begun, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(connection() for _ in range(connections)))
    return results / (time.perf_counter() - begun), (time.process_time() - cpu) * 1e6 / max(1, results)


def _on_an_empty_table(database: Database, run: Any) -> tuple[float, float]:
    _emptied(database)
    measured: tuple[float, float] = uvloop.run(run)
    return measured


def _emptied(database: Database) -> None:
    with database.begin() as connection:
        connection.execute(text("TRUNCATE result"))


if __name__ == "__main__":
    command_line.run(__doc__, measure, full=Sizes(), quick=Sizes(results=6_000, rounds=1))
