"""How fast results become durable: `python -m benchmarks.results_log` (an embedded server in a temporary folder).

Side by side in one run, each with 20, 50 and 100 connections that wait for each result: the results log; a commit for
each message on one connection, which is what it replaces; and BEGIN, COPY, COMMIT for a group, the other candidate.
Then the time that a heartbeat takes while the log is at full speed, because both touch the mail job's row.
Prints a table, and JSON as the last line. `--database-url` measures another server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psycopg
import uvloop
from sqlalchemy import text

from mail_orchestration.feedback.results_log import ResultsLog
from mail_orchestration.kernel.bulk import copy_rows
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.migrations import migrate
from mail_orchestration.kernel.model import DeliveryResult, Outcome

_DAY = date(2026, 7, 1)
_COLUMNS = (
    "released_on, release_id, message_no, mail_job_id, contact_id, occurred_at, outcome, reply_code, relay"
)
_Record = Callable[[DeliveryResult], Awaitable[None]]


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--database-url")
    arguments.add_argument("--results", type=int, default=60_000, help="for the log, with 100 connections")
    arguments.add_argument("--repeats", type=int, default=3)
    given = arguments.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mo-", dir="/tmp")))
        folder.chmod(0o711)
        database = stack.enter_context(
            Database.open(given.database_url, folder, application_name="benchmark")
        )
        database.ensure_schemas()
        migrate(database)
        mail_job_id = _mail_job(database)
        figures: dict[str, float] = {}
        for connections in (20, 50, 100):
            for name, measure in (("log", _log), ("copy", _copy)):
                results = given.results * connections // 100
                rates, costs = zip(
                    *(measure(database, mail_job_id, connections, results) for _ in range(given.repeats)),
                    strict=True,
                )
                figures[f"{name}_{connections}_per_s"] = statistics.median(rates)
                figures[f"{name}_{connections}_cpu_us"] = statistics.median(costs)
                print(
                    f"{name:5} {connections:4} connections {statistics.median(rates):10,.0f} results/s"
                    f" {statistics.median(costs):7.1f} µs CPU each"
                )
        figures["commit_each_per_s"] = _commit_each(database, mail_job_id, 2000)
        print(f"a commit for each message    {figures['commit_each_per_s']:10,.0f} results/s")
        figures["heartbeat_ms"], figures["heartbeat_worst_ms"] = _heartbeats(database, mail_job_id)
        print(
            f"a heartbeat meanwhile takes  {figures['heartbeat_ms']:10.1f} ms,"
            f" at worst {figures['heartbeat_worst_ms']:.1f} ms"
        )
        print(json.dumps({name: round(value, 1) for name, value in figures.items()}))


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


def _heartbeats(database: Database, mail_job_id: int) -> tuple[float, float]:
    """Median and worst milliseconds of the heartbeat's UPDATE while 100 connections record."""
    taken: list[float] = []

    def beat(connection: Any) -> float:
        begun = time.perf_counter()
        connection.execute(
            text("UPDATE mail_job SET heartbeat_at = now() WHERE mail_job_id = :id AND fence = 1"),
            {"id": mail_job_id},
        )
        return (time.perf_counter() - begun) * 1000

    async def run() -> None:
        async with ResultsLog(
            database, release_id=mail_job_id, released_on=_DAY, mail_job_id=mail_job_id, fence=1
        ) as log:
            delivery = asyncio.create_task(_waiting_connections(log.record, 100, 100_000))
            with database.dedicated() as connection:
                while not delivery.done():
                    taken.append(await asyncio.to_thread(beat, connection))
                    await asyncio.sleep(0.01)
            await delivery

    uvloop.run(run())
    return statistics.median(taken), max(taken)


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
    return results / (time.perf_counter() - begun), (time.process_time() - cpu) * 1e6 / results


def _on_an_empty_table(database: Database, run: Any) -> tuple[float, float]:
    with database.begin() as connection:
        connection.execute(text("TRUNCATE result"))
    measured: tuple[float, float] = uvloop.run(run)
    return measured


if __name__ == "__main__":
    main()
