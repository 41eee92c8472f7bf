"""The results log takes results only under the fence of whoever holds the mail job, and waits for who takes it away."""

from __future__ import annotations

import asyncio
import threading

import pytest
from sqlalchemy import text

from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.errors import ClaimLost
from tests.integration.feedback_fixtures import a_result, execute
from tests.integration.results_log_fixtures import BUMP, log_of, mail_job_id, waits_for_a_lock, written

__all__ = ["mail_job_id"]


KINDS = pytest.mark.parametrize("outcome", [Outcome.ACCEPTED, Outcome.DEFERRED])
"""A flush that must be followed up is another statement."""


@pytest.mark.rule("5.5")
@KINDS
def test_a_fence_that_moved_ends_everything_that_waits(
    database: Database, mail_job_id: int, outcome: Outcome
) -> None:
    async def run() -> None:
        async with log_of(database, mail_job_id) as log:
            await log.record(a_result(1))
            await asyncio.to_thread(execute, database, BUMP, id=mail_job_id)
            waiting = [log.record(a_result(number, outcome)) for number in range(2, 12)]
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [ClaimLost] * 10
            with pytest.raises(ClaimLost, match=f"mail job {mail_job_id} under fence 1"):
                log.record(a_result(12))

    with pytest.raises(ClaimLost):
        asyncio.run(run())
    assert written(database) == [1]


@pytest.mark.rule("5.5")
@pytest.mark.parametrize(
    ("state", "is_held"), [("STOPPING", True), ("FINISHED", False), ("RECOVERED", False)]
)
def test_only_a_mail_job_that_is_worked_on_takes_results(
    database: Database, mail_job_id: int, state: str, is_held: bool
) -> None:
    execute(
        database,
        "UPDATE mail_job SET state = CAST(:state AS mail_job_state),"
        " ended_at = CASE WHEN :ended THEN now() END WHERE mail_job_id = :id",
        state=state,
        ended=not is_held,
        id=mail_job_id,
    )

    async def run() -> None:
        async with log_of(database, mail_job_id) as log:
            await log.record(a_result(1))

    if is_held:
        asyncio.run(run())
    else:
        with pytest.raises(ClaimLost):
            asyncio.run(run())
    assert written(database) == ([1] if is_held else [])


@pytest.mark.rule("5.5")
@KINDS
def test_a_flush_waits_for_who_takes_the_mail_job_away_and_then_sees_the_new_fence(
    database: Database, mail_job_id: int, outcome: Outcome
) -> None:
    async def run() -> None:
        async with log_of(database, mail_job_id) as log:
            with database.begin() as recovery:
                recovery.execute(text(BUMP), {"id": mail_job_id})
                waiting = log.record(a_result(1, outcome))
                assert await asyncio.to_thread(waits_for_a_lock, database, waiting)
            with pytest.raises(ClaimLost):
                await waiting

    with pytest.raises(ClaimLost):
        asyncio.run(run())
    assert written(database) == []


@pytest.mark.rule("5.5")
def test_who_takes_the_mail_job_away_waits_for_a_flush_and_then_reads_its_results(
    database: Database, mail_job_id: int
) -> None:
    """A trigger holds the flush's transaction open after its rows are written: a slow commit."""
    execute(
        database,
        """
        CREATE FUNCTION be_slow() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NULL; END $$
        """,
    )
    execute(database, "CREATE TRIGGER slow AFTER INSERT ON result FOR EACH ROW EXECUTE FUNCTION be_slow()")
    read_by_recovery: list[int] = []

    def recover() -> None:
        with database.begin() as connection:
            connection.execute(text(BUMP), {"id": mail_job_id})
            read_by_recovery.extend(connection.execute(text("SELECT message_no FROM result")).scalars())

    async def run() -> None:
        async with log_of(database, mail_job_id) as log:
            with database.begin() as brake:
                brake.execute(text("SELECT pg_advisory_xact_lock(42)"))
                waiting = log.record(a_result(1))
                assert await asyncio.to_thread(waits_for_a_lock, database, waiting)
                recovery = threading.Thread(target=recover)
                recovery.start()
                assert await asyncio.to_thread(waits_for_a_lock, database, waiting, 2)
                assert read_by_recovery == []
            await waiting
            await asyncio.to_thread(recovery.join)

    asyncio.run(run())
    assert read_by_recovery == [1]
