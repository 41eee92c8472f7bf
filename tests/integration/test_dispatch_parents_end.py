"""A parent ends with its last effective child, whatever moment that comes in (spec 3.2, 3.3)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from sqlalchemy import text

from mail_orchestration.dispatch.claims import Claim, HeldClaim, claim_next
from mail_orchestration.dispatch.mail_jobs import mail_job
from mail_orchestration.dispatch.settling import end_claim
from mail_orchestration.kernel.fleet_settings import MailcasterParameters
from mail_orchestration.kernel.states import MailJobState
from tests.integration.dispatch_rows import HANG_AFTER_S, NOW, World, mailcaster, world

__all__ = ["world"]

EAGER = mailcaster("eager", small_audience_threshold=2, min_job_size=10, max_job_size=20)


def claims_of(world: World, who: MailcasterParameters = EAGER, *, now: datetime = NOW) -> Iterator[Claim]:
    """What a mailcaster is given, until there is nothing more."""
    while (
        claimed := claim_next(world.database, world.installation_id, who, now=now, hang_after_s=HANG_AFTER_S)
    ) is not None:
        yield claimed


def divide(world: World, messages: int) -> list[Claim]:
    """All children of a new parent, RUNNING."""
    parent = world.queue(messages, kind="parent")
    claims = list(claims_of(world))
    assert {claimed.parent_id for claimed in claims} == {parent}
    return claims


def parent_of(claims: list[Claim]) -> int:
    parent = claims[0].parent_id
    assert parent is not None
    return parent


def finish(world: World, claimed: Claim, now: datetime = NOW) -> MailJobState:
    """All its messages have a result, and it ends."""
    world.deliver(claimed)
    with HeldClaim(world.database, claimed) as held:
        return held.finish(now)


@pytest.mark.rule("3.2")
def test_a_failure_that_meets_a_stop_is_stopped_and_a_finish_finishes(world: World) -> None:
    claims = divide(world, 60)
    for claimed in claims:
        world.deliver(claimed)
        world.set_state(claimed.mail_job_id, "STOPPING")
    with HeldClaim(world.database, claims[0]) as held:
        assert held.finish(NOW) is MailJobState.FINISHED
    with HeldClaim(world.database, claims[1]) as held:
        assert held.fail("too much was refused", NOW) is MailJobState.STOPPED_R
    assert world.state(parent_of(claims)) == "P_ASSIGNED"


@pytest.mark.rule("3.2")
@pytest.mark.rule("3.7")
@pytest.mark.parametrize(
    ("failing", "end"),
    [(0, "P_FINISHED"), (1, "P_PARTIAL_FINISHED"), (5, "P_PARTIAL_FINISHED"), (6, "P_FAILED")],
)
def test_a_parent_ends_with_its_last_child(world: World, failing: int, end: str) -> None:
    claims = divide(world, 60)
    assert len(claims) == 6
    for number, claimed in enumerate(claims):
        assert world.state(parent_of(claims)) == "P_ASSIGNED"
        with HeldClaim(world.database, claimed) as held:
            if number < failing:
                assert held.fail("too much was refused", NOW) is MailJobState.FAILED
            else:
                world.deliver(claimed)
                held.finish(NOW)
    with world.database.begin() as connection:
        parent = mail_job(connection, parent_of(claims))
    assert parent.state == end
    assert parent.ended_at == NOW


@pytest.mark.rule("3.3")
def test_a_parent_does_not_count_children_that_were_replaced(world: World) -> None:
    claims = divide(world, 30)
    finish(world, claims[0])
    later = NOW + timedelta(seconds=HANG_AFTER_S + 1)
    large = mailcaster("large", small_audience_threshold=2, min_job_size=10, max_job_size=20)
    recovered = list(claims_of(world, large, now=later))
    assert len(recovered) == len(claims) - 1
    for claimed in recovered:
        assert world.state(parent_of(claims)) == "P_ASSIGNED"
        finish(world, claimed, later)
    assert world.state(parent_of(claims)) == "P_FINISHED"


@pytest.mark.rule("3.2")
def test_of_children_that_end_at_once_the_last_one_ends_the_parent(world: World) -> None:
    for _ in range(5):
        claims = divide(world, 60)
        for claimed in claims:
            world.deliver(claimed)
        start = threading.Barrier(len(claims))

        def finish_with_others(claimed: Claim, start: threading.Barrier = start) -> None:
            with HeldClaim(world.database, claimed) as held:
                start.wait()
                held.finish(NOW)

        with ThreadPoolExecutor(len(claims)) as pool:
            list(pool.map(finish_with_others, claims))
        assert world.state(parent_of(claims)) == "P_FINISHED"


@pytest.mark.rule("3.2")
def test_the_second_of_two_that_end_sees_the_first(world: World) -> None:
    """The first has ended and not committed: the second waits for it, and then knows that it is the last."""
    claims = divide(world, 30)
    *others, first, second = claims
    for claimed in others:
        finish(world, claimed)
    for claimed in (first, second):
        world.deliver(claimed)

    def finish_second() -> MailJobState:
        with HeldClaim(world.database, second) as held:
            return held.finish(NOW)

    with ThreadPoolExecutor(1) as pool:
        with world.database.begin() as connection:
            end_claim(connection, first, MailJobState.FINISHED, reason="", now=NOW)
            ending = pool.submit(finish_second)
            while not (ending.done() or _somebody_waits_for_a_row(world)):
                time.sleep(0.01)
            assert not ending.done()
        assert ending.result() is MailJobState.FINISHED
    assert world.state(parent_of([first])) == "P_FINISHED"


def _somebody_waits_for_a_row(world: World) -> bool:
    with world.database.begin() as connection:
        waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'")
        return bool(connection.scalar(waiting))


@pytest.mark.rule("3.2")
def test_a_child_that_ends_while_the_last_messages_are_handed_out_is_seen(world: World) -> None:
    """The first child ends before, the last one is made after: the parent's row orders the two."""
    parent = world.queue(30, kind="parent")
    finish(world, next(claims_of(world)))
    assert world.state(parent) == "P_ASSIGNING"
    for claimed in claims_of(world):
        finish(world, claimed)
    assert world.state(parent) == "P_FINISHED"
