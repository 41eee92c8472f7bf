"""The results log against PostgreSQL: durable, many connections to a commit."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, text

from mail_orchestration.feedback.results_log import ResultsLog
from mail_orchestration.kernel.attempts import DeliveryResult, Outcome
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.errors import DatabaseUnavailable
from tests.integration.feedback_fixtures import a_result, execute
from tests.integration.results_log_fixtures import BUMP, log_of, mail_job_id, waits_for_a_lock, written

__all__ = ["mail_job_id"]


async def _deliver(log: ResultsLog, connections: int, messages: int) -> None:
    numbers = iter(range(1, messages + 1))

    async def connection() -> None:
        for number in numbers:
            await log.record(a_result(number))

    await asyncio.gather(*(connection() for _ in range(connections)))


@pytest.mark.rule("5.1")
def test_connections_share_commits_and_every_result_is_there_once(
    database: Database, mail_job_id: int
) -> None:
    async def run() -> ResultsLog:
        async with log_of(database, mail_job_id) as log:
            await _deliver(log, connections=50, messages=2000)
        return log

    log = asyncio.run(run())
    assert written(database) == list(range(1, 2001))
    assert log.counts == {Outcome.ACCEPTED: 2000}
    assert log.flushes <= 2000 / 10


def test_what_resolved_is_seen_by_others_at_once(database: Database, mail_job_id: int) -> None:
    async def run() -> None:
        async with log_of(database, mail_job_id) as log:
            await log.record(a_result(7))
            assert await asyncio.to_thread(written, database) == [7]

    asyncio.run(run())


def test_every_field_comes_back_as_it_was(database: Database, mail_job_id: int) -> None:
    odd = 'a "quoted" \\ back\\slash, {braces}, NULL\r\n\tü 漢 \N{PILE OF POO}'
    results = [
        a_result(1, Outcome.REJECTED, reply_text=odd, relay='relay "two", {x}', enhanced_code="5.1.1"),
        a_result(2, Outcome.UNCERTAIN, reply_text="", enhanced_code=None),
        a_result(3, Outcome.STOPPED, reply_text="NULL", relay=""),
        a_result(4, Outcome.DEFERRED, reply_text="nul \0 and \udcff here"),
        a_result(5, Outcome.EXPIRED),
    ]

    async def run() -> None:
        async with log_of(database, mail_job_id) as log:
            await asyncio.gather(*(log.record(result) for result in results))

    asyncio.run(run())
    rows = execute(
        database,
        "SELECT message_no, contact_id, outcome, reply_code, enhanced_code, reply_text, relay, occurred_at"
        " FROM result ORDER BY message_no",
    )
    read = [DeliveryResult(*row[:2], Outcome(row[2]), *row[3:]) for row in rows]
    expected = [
        *results[:3],
        a_result(4, Outcome.DEFERRED, reply_text="nul \N{REPLACEMENT CHARACTER} and ? here"),
    ]
    assert read == [*expected, results[4]]


@pytest.mark.rule("5.1")
def test_results_of_connections_that_were_cancelled_arewritten_before_the_end(
    database: Database, mail_job_id: int
) -> None:
    async def run() -> None:
        async with log_of(database, mail_job_id) as log:
            for number in range(1, 6):
                log.record(a_result(number)).cancel()

    asyncio.run(run())
    assert written(database) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("is_flushing", [True, False])
def test_a_database_that_goes_away_is_said_so_and_nothing_is_reported_durable(
    database: Database, server_url: str, mail_job_id: int, is_flushing: bool
) -> None:
    def terminate() -> None:
        with psycopg.connect(server_url, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE query LIKE '%INSERT INTO result%' AND pid <> pg_backend_pid()"
            )

    async def run() -> None:
        async with log_of(database, mail_job_id) as log:
            await log.record(a_result(1))
            if is_flushing:
                with database.begin() as recovery:
                    recovery.execute(text(BUMP), {"id": mail_job_id})
                    waiting = [log.record(a_result(number)) for number in (2, 3)]
                    assert await asyncio.to_thread(waits_for_a_lock, database, waiting[0])
                    waiting.append(log.record(a_result(4)))
                    await asyncio.to_thread(terminate)
                    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
                assert [type(outcome) for outcome in outcomes] == [DatabaseUnavailable] * 3
            else:
                await asyncio.to_thread(terminate)
                with pytest.raises(DatabaseUnavailable):
                    await log.record(a_result(2))
            assert log.counts == {Outcome.ACCEPTED: 1}

    with pytest.raises(DatabaseUnavailable):
        asyncio.run(run())
    assert written(database) == [1]


@pytest.mark.rule("5.1")
def test_a_database_that_goes_away_while_the_log_connects_is_said_so(
    database: Database, mail_job_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserved = Database.reserved

    @contextlib.contextmanager
    def reserved_and_lost(itself: Database) -> Iterator[Connection]:
        with reserved(itself) as connection:
            pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            execute(database, "SELECT pg_terminate_backend(:pid, 5000)", pid=pid)
            yield connection

    async def run() -> None:
        async with log_of(database, mail_job_id):
            raise AssertionError("there is nothing to write to")

    with monkeypatch.context() as patched:
        patched.setattr(Database, "reserved", reserved_and_lost)
        with pytest.raises(DatabaseUnavailable):
            asyncio.run(run())

    async def record_one() -> None:
        async with log_of(database, mail_job_id) as log:
            await log.record(a_result(1))

    asyncio.run(record_one())
    assert written(database) == [1], "the connection that was lost is not used again"


@pytest.mark.rule("5.1")
def test_what_is_written_late_is_written_once(database: Database, mail_job_id: int) -> None:
    """A session that is lost does not say whether its last flush was written: here another one has written it."""

    async def write(*numbers: int) -> None:
        async with log_of(database, mail_job_id) as log:
            await asyncio.gather(*(log.record(a_result(number)) for number in numbers))

    async def lose(log: ResultsLog, *numbers: int) -> None:
        async with log:
            execute(database, "SELECT pg_terminate_backend(:pid, 5000)", pid=log._pgconn.backend_pid)
            await asyncio.gather(*(log.record(a_result(number)) for number in numbers))

    asyncio.run(write(1, 2))
    log = log_of(database, mail_job_id)
    with pytest.raises(DatabaseUnavailable):
        asyncio.run(lose(log, 1, 2, 3))
    assert sorted(result.message_no for result in log.unwritten) == [1, 2, 3]
    for _ in range(2):
        with database.begin() as connection:
            log.write_late(connection, 1)
        assert written(database) == [1, 2, 3]


_DELIVERS_FOR_EVER = """
import asyncio, sys
from collections.abc import Iterator
from pathlib import Path
from mail_orchestration.feedback.results_log import ResultsLog
from mail_orchestration.kernel.database import Database
from tests.integration.feedback_fixtures import DAY, a_result

async def run(database, mail_job_id):
    numbers = iter(range(1, 100_000))
    async with ResultsLog(
        database, release_id=mail_job_id, released_on=DAY, mail_job_id=mail_job_id, fence=1
    ) as log:
        async def connection():
            for number in numbers:
                print("sent", number, flush=True)
                await log.record(a_result(number))
                print("durable", number, flush=True)
        await asyncio.gather(*(connection() for _ in range(20)))

with Database.open(sys.argv[1], Path("."), application_name="killed") as database:
    asyncio.run(run(database, int(sys.argv[2])))
"""


@pytest.mark.rule("5.1")
def test_kill_9_loses_no_result_that_resolved_and_leaves_one_open_per_connection(
    database: Database, database_url: str, mail_job_id: int
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _DELIVERS_FOR_EVER, database_url, str(mail_job_id)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        said: dict[str, set[int]] = {"sent": set(), "durable": set()}
        for line in process.stdout:
            match line.split():
                case [what, number]:
                    said[what].add(int(number))
            if len(said["durable"]) == 500:
                process.kill()
    assert len(said["durable"]) >= 500
    # The killed client's last statement may still be on its way to a commit.
    execute(database, BUMP, id=mail_job_id)
    kept = set(written(database))
    assert said["durable"] - kept == set()
    assert len(said["sent"] - kept) <= 20
