"""Uncertain messages are tried again so often and no oftener, and each attempt says which one it follows (spec 5.7)."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import text

from mail_orchestration.dispatch.claim import Claim
from mail_orchestration.feedback.results_log import ResultsLog
from mail_orchestration.kernel.attempts import DeliveryResult, Outcome
from mail_orchestration.mailcaster.repeats import Repeats
from tests.integration.dispatch_rows import NOW, World, world

__all__ = ["world"]

pytestmark = pytest.mark.rule("5.7")


@pytest.fixture
def claim(world: World) -> Claim:
    """Three messages in a mailcaster's hands, none of them sent."""
    claimed = world.claim_of(world.begun(3, kind="small"))
    world.add_messages(claimed.release_id, 3)
    return claimed


async def record(repeats: Repeats, world: World, claim: Claim, *outcomes: Outcome) -> None:
    """One attempt of the messages 1, 2 … ends so, and is noted as the mailcaster notes it."""
    async with ResultsLog(
        world.database,
        release_id=claim.release_id,
        released_on=claim.released_on,
        mail_job_id=claim.mail_job_id,
        fence=claim.fence,
    ) as log:
        for number, outcome in enumerate(outcomes, start=1):
            result = DeliveryResult(number, number, outcome, None, None, None, "relay", NOW)
            await log.record(repeats.note(result))


@pytest.mark.rule("1.8")
def test_an_attempt_has_the_next_number_and_supersedes_the_one_before(world: World, claim: Claim) -> None:
    uncertain, accepted, rejected = Outcome.UNCERTAIN, Outcome.ACCEPTED, Outcome.REJECTED

    async def run() -> None:
        repeats = Repeats(world.database, claim, most_attempts=3)
        assert not await repeats.are_left()
        await record(repeats, world, claim, uncertain, uncertain, uncertain)
        assert await repeats.are_left()
        assert (await repeats.read(0)).result_nos == {1: 1, 2: 1, 3: 1}
        await record(repeats, world, claim, uncertain, uncertain, accepted)
        assert (await repeats.read(0)).result_nos == {1: 2, 2: 2}
        await record(repeats, world, claim, uncertain, rejected)
        assert not await repeats.are_left(), "of one message the most attempts were made"
        assert not await repeats.read(0)

    asyncio.run(run())
    with world.database.begin() as connection:
        found = connection.execute(
            text("SELECT message_no, result_no, outcome, supersedes FROM result ORDER BY 1, 2")
        ).all()
    assert found == [
        (1, 1, uncertain, None),
        (1, 2, uncertain, uncertain),
        (1, 3, uncertain, uncertain),
        (2, 1, uncertain, None),
        (2, 2, uncertain, uncertain),
        (2, 3, rejected, uncertain),
        (3, 1, uncertain, None),
        (3, 2, accepted, uncertain),
    ]


@pytest.mark.rule("5.3")
def test_whoever_recovers_a_mail_job_looks_for_what_was_left_uncertain(world: World, claim: Claim) -> None:
    async def run() -> None:
        before = Repeats(world.database, claim, most_attempts=2)
        await record(before, world, claim, Outcome.ACCEPTED, Outcome.UNCERTAIN, Outcome.ACCEPTED)
        recovered = Repeats(world.database, replace(claim, recovers_id=claim.mail_job_id), most_attempts=2)
        assert await recovered.are_left()
        assert (await recovered.read(0)).result_nos == {2: 1}

    asyncio.run(run())
