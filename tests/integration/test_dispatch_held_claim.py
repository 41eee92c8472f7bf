"""Holding a claim and ending it: progress, stops, failures, and parents that end with their last child."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import text

from mail_orchestration.dispatch.claims import Claim, HeldClaim, claim_next
from mail_orchestration.dispatch.mail_jobs import mail_job, transition
from mail_orchestration.dispatch.repeating import count_repeatable, repeatable_messages
from mail_orchestration.dispatch.settling import end_claim
from mail_orchestration.kernel.errors import ClaimLost, DatabaseUnavailable, StateConflict
from mail_orchestration.kernel.model import Outcome
from mail_orchestration.kernel.states import MailJobState
from tests.integration.dispatch_rows import HANG_AFTER_S, NOW, World, mailcaster, world

__all__ = ["world"]

EAGER = mailcaster("eager", small_audience_threshold=2, min_job_size=10, max_job_size=20)


def divide(world: World, messages: int) -> list[Claim]:
    """All children of a new parent, RUNNING."""
    parent = world.queue(messages, kind="parent")
    claims = []
    while (
        claimed := claim_next(
            world.database, world.installation_id, EAGER, now=NOW, hang_after_s=HANG_AFTER_S
        )
    ) is not None:
        assert claimed.parent_id == parent
        claims.append(claimed)
    return claims


def parent_of(claims: list[Claim]) -> int:
    parent = claims[0].parent_id
    assert parent is not None
    return parent


@pytest.mark.rule("3.2")
def test_it_finishes_only_when_every_message_has_a_result(world: World) -> None:
    claimed = world.claim_of(world.begun(50, kind="small"))
    with HeldClaim(world.database, claimed) as held:
        world.deliver(claimed, 1, 49)
        with pytest.raises(StateConflict, match=f"mail job {claimed.mail_job_id} cannot finish: 1 of its"):
            held.finish(NOW)
        assert world.state(claimed.mail_job_id) == "RUNNING"
        world.deliver(claimed, 50, 50)
        assert held.finish(NOW) is MailJobState.FINISHED
        with pytest.raises(ClaimLost):
            held.finish(NOW)


@pytest.mark.rule("3.2")
def test_progress_and_heartbeat_are_kept_apart(world: World) -> None:
    claimed = world.claim_of(world.begun(50, kind="small"))
    with HeldClaim(world.database, claimed) as held:
        assert not held.progress({Outcome.ACCEPTED: 30, Outcome.DEFERRED: 2, Outcome.UNCERTAIN: 1})
        with world.database.begin() as connection:
            seen = mail_job(connection, claimed.mail_job_id)
        assert (seen.accepted, seen.deferred, seen.rejected, seen.uncertain, seen.sent) == (30, 2, 0, 1, 33)
        assert seen.heartbeat_at == NOW
        held.heartbeat(NOW + timedelta(seconds=10))
        with world.database.begin() as connection:
            assert mail_job(connection, claimed.mail_job_id).heartbeat_at == NOW + timedelta(seconds=10)


@pytest.mark.rule("3.2")
def test_a_stop_is_noticed_by_the_next_heartbeat(world: World) -> None:
    claimed = world.claim_of(world.begun(50, kind="small"))
    with HeldClaim(world.database, claimed) as held:
        assert not held.heartbeat(NOW)
        with pytest.raises(ClaimLost):
            held.let_go_stopped(NOW)
        with world.database.begin() as connection:
            transition(
                connection, claimed.mail_job_id, MailJobState.RUNNING, MailJobState.STOPPING, "asked", NOW
            )
        assert held.heartbeat(NOW)
        assert held.progress({})
        held.let_go_stopped(NOW)
    assert world.state(claimed.mail_job_id) == "STOPPED_R"


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
    world.deliver(claims[0])
    with HeldClaim(world.database, claims[0]) as held:
        held.finish(NOW)
    later = NOW + timedelta(seconds=HANG_AFTER_S + 1)
    large = mailcaster("large", small_audience_threshold=2, min_job_size=10, max_job_size=20)
    recovered = []
    while (
        found := claim_next(
            world.database, world.installation_id, large, now=later, hang_after_s=HANG_AFTER_S
        )
    ) is not None:
        recovered.append(found)
    assert len(recovered) == len(claims) - 1
    for claimed in recovered:
        assert world.state(parent_of(claims)) == "P_ASSIGNED"
        world.deliver(claimed)
        with HeldClaim(world.database, claimed) as held:
            held.finish(later)
    assert world.state(parent_of(claims)) == "P_FINISHED"


@pytest.mark.rule("3.2")
def test_of_children_that_end_at_once_the_last_one_ends_the_parent(world: World) -> None:
    for _ in range(5):
        claims = divide(world, 60)
        for claimed in claims:
            world.deliver(claimed)
        start = threading.Barrier(len(claims))

        def finish(claimed: Claim, start: threading.Barrier = start) -> None:
            with HeldClaim(world.database, claimed) as held:
                start.wait()
                held.finish(NOW)

        with ThreadPoolExecutor(len(claims)) as pool:
            list(pool.map(finish, claims))
        assert world.state(parent_of(claims)) == "P_FINISHED"


@pytest.mark.rule("3.2")
def test_the_second_of_two_that_end_sees_the_first(world: World) -> None:
    """The first has ended and not committed: the second waits for it, and then knows that it is the last."""
    claims = divide(world, 30)
    *others, first, second = claims
    for claimed in others:
        world.deliver(claimed)
        with HeldClaim(world.database, claimed) as held:
            held.finish(NOW)
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


@pytest.mark.rule("5.5")
def test_another_fence_is_another_claim(world: World) -> None:
    """Whatever its state says, a mail job belongs to the claim that has its fence."""
    claimed = world.claim_of(world.begun(50, kind="small"))
    world.deliver(claimed)
    with HeldClaim(world.database, claimed) as held:
        assert not held.heartbeat(NOW)
        world.execute("UPDATE mail_job SET fence = fence + 1")
        for state, acts in {
            "RUNNING": (
                lambda: held.heartbeat(NOW),
                lambda: held.progress({}),
                lambda: held.finish(NOW),
                lambda: held.fail("refused", NOW),
                held.hand_back,
            ),
            "STOPPING": (lambda: held.let_go_stopped(NOW),),
        }.items():
            world.set_state(claimed.mail_job_id, state)
            for act in acts:
                with pytest.raises(ClaimLost):
                    act()
            assert world.state(claimed.mail_job_id) == state


@pytest.mark.rule("3.2")
def test_a_child_that_ends_while_the_last_messages_are_handed_out_is_seen(world: World) -> None:
    """The first child ends before, the last one is made after: the parent's row orders the two."""
    parent = world.queue(30, kind="parent")
    first = claim_next(world.database, world.installation_id, EAGER, now=NOW, hang_after_s=HANG_AFTER_S)
    assert first is not None
    world.deliver(first)
    with HeldClaim(world.database, first) as held:
        held.finish(NOW)
    assert world.state(parent) == "P_ASSIGNING"
    while (
        claimed := claim_next(
            world.database, world.installation_id, EAGER, now=NOW, hang_after_s=HANG_AFTER_S
        )
    ) is not None:
        world.deliver(claimed)
        with HeldClaim(world.database, claimed) as held:
            held.finish(NOW)
    assert world.state(parent) == "P_FINISHED"


def test_a_lost_connection_is_said_and_the_hold_is_taken_anew(world: World) -> None:
    claimed = world.claim_of(world.begun(50, kind="small"))
    with HeldClaim(world.database, claimed) as held:
        held.heartbeat(NOW)
        with world.database.begin() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks "
                    "WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database "
                    "  WHERE datname = current_database())"
                )
            )
        with pytest.raises(DatabaseUnavailable):
            held.heartbeat(NOW)
        assert not held.heartbeat(NOW)
        assert _advisory_locks(world) == 1
    assert _advisory_locks(world) == 0


def _advisory_locks(world: World) -> int:
    with world.database.begin() as connection:
        found = connection.scalar(
            text(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = "
                "(SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        )
    return int(found)


@pytest.mark.rule("5.7")
def test_a_mail_job_with_an_uncertain_message_finishes_when_no_attempt_is_left(world: World) -> None:
    claim = world.claim_of(world.begun(10, kind="small"))
    world.add_messages(claim.release_id, 10)
    world.deliver(claim, 1, 8)
    for number, attempts in ((9, 1), (10, 3)):
        for attempt in range(1, attempts + 1):
            world.execute(
                "INSERT INTO result (released_on, release_id, message_no, mail_job_id, contact_id, occurred_at, "
                "  outcome, relay, result_no, supersedes) "
                "VALUES (:day, :id, :no, :id, :no, :now, 'uncertain', 'r', :attempt, CAST(:last AS outcome))",
                day=claim.released_on,
                id=claim.release_id,
                no=number,
                now=NOW,
                attempt=attempt,
                last=None if attempt == 1 else "uncertain",
            )

    def found(most_attempts: int) -> list[int]:
        with world.database.begin() as connection:
            numbers = sorted(repeatable_messages(connection, claim, 0, 5, most_attempts).result_nos)
            counted = count_repeatable(connection, claim.messages, most_attempts)
        assert counted == len(numbers)
        return numbers

    assert [found(most) for most in (1, 2, 3, 4, 5)] == [[], [9], [9], [9, 10], [9, 10]]
    with HeldClaim(world.database, claim) as held:
        with pytest.raises(StateConflict, match="2 of its messages are uncertain and to be sent again"):
            held.finish(NOW, most_attempts=5)
        assert held.finish(NOW) is MailJobState.FINISHED
