"""Holding a claim and ending it: progress, stops, and whose it is."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text

from mail_orchestration.dispatch.claims import HeldClaim
from mail_orchestration.dispatch.mail_jobs import mail_job, transition
from mail_orchestration.dispatch.repeating import count_repeatable, repeatable_messages
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.errors import ClaimLost, DatabaseUnavailable, StateConflict
from mail_orchestration.kernel.statements import STATEMENTS
from mail_orchestration.kernel.states import MailJobState
from tests.integration.dispatch_rows import NOW, World, world

__all__ = ["world"]


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


@pytest.mark.rule("5.1")
def test_progress_waits_for_no_disk_and_results_of_the_same_session_do(world: World) -> None:
    """The session that told progress may be the results log's next."""
    claimed = world.claim_of(world.begun(50, kind="small"))
    own = {"mail_job_id": claimed.mail_job_id, "fence": claimed.fence}
    progress = {"accepted": 1, "deferred": 0, "rejected": 0, "uncertain": 0, "stopped": 0, **own}
    setting = text("SELECT current_setting('synchronous_commit')")
    with world.database.dedicated(autocommit=False) as connection, connection.begin():
        connection.execute(text("SET LOCAL synchronous_commit TO 'on'"))
        connection.execute(STATEMENTS["record_progress"], progress)
        assert connection.execute(setting).scalar_one() == "off"
    with world.database.dedicated() as connection:
        connection.execute(text("SET synchronous_commit TO 'on'"))
        connection.execute(STATEMENTS["record_progress"], progress)
        assert connection.execute(setting).scalar_one() == "on"


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
