"""Restarting by the operator: what was stopped, what failed, what is too old, what is letting go (spec 5.6)."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text

from mail_orchestration.dispatch.claim import Claim
from mail_orchestration.dispatch.claims import HeldClaim, unsent_messages
from mail_orchestration.dispatch.mail_jobs import mail_job, transition, waiting_work
from mail_orchestration.dispatch.releases import mark_reported, releases_to_report
from mail_orchestration.dispatch.restarting import mail_jobs_to_restart
from mail_orchestration.dispatch.stopping import end_stopping_of_dead
from mail_orchestration.kernel.states import MailJobState
from tests.integration.dispatch_rows import HANG_AFTER_S, LARGE_PRIORITY, NOW, World, mailcaster, world
from tests.integration.operator_rows import (
    DISPATCHER,
    EAGER,
    LATER,
    SOON,
    claim,
    claimed,
    restart,
    stop,
    told,
)

__all__ = ["world"]

pytestmark = [pytest.mark.rule("5.6"), pytest.mark.rule("3.2")]

MUCH_LATER = NOW + timedelta(hours=96, seconds=1)
HUNG = NOW + timedelta(seconds=HANG_AFTER_S + 1)


def let_go(world: World, held: Claim) -> MailJobState:
    with HeldClaim(world.database, held) as holding:
        return holding.let_go_stopped(SOON)


def end(world: World, held: Claim, *, failed: bool = False) -> None:
    with HeldClaim(world.database, held) as holding:
        if failed:
            holding.fail("too much was refused", SOON)
        else:
            holding.finish(SOON)


def unsent(world: World, held: Claim) -> list[int]:
    with world.database.begin() as connection:
        return [message.message_no for message in unsent_messages(connection, held, 0, 1000).to_send]


@pytest.mark.parametrize("kind", ["small", "parent"])
def test_what_was_stopped_while_it_waited_enters_the_queue_anew(world: World, kind: str) -> None:
    waiting = world.queue(30, kind=kind)
    entered = "QUEUED" if kind == "small" else "P_QUEUED"
    stop(world, waiting)
    assert told(restart(world, waiting, MUCH_LATER)) == [(waiting, "STOPPED_Q", entered)]
    [again] = restart(world, waiting, MUCH_LATER)
    assert (again.is_changed, again.note) == (False, "it is not stopped")
    with world.database.begin() as connection:
        assert mail_job(connection, waiting).queued_at == MUCH_LATER, (
            "it did not grow old while it was stopped"
        )


@pytest.mark.rule("5.3")
def test_a_parent_goes_on_where_it_was(world: World) -> None:
    parent = world.queue(40, kind="parent")
    world.add_messages(parent, 40)
    done, cut = claimed(world), claimed(world)
    world.deliver(done)
    world.deliver(cut, 11, 14)
    end(world, done)
    stop(world, parent)
    assert let_go(world, cut) is MailJobState.STOPPED_R
    assert told(restart(world, parent)) == [
        (parent, "STOPPED_R", "P_ASSIGNING"),
        (cut.mail_job_id, "STOPPED_R", "RECOVERING"),
    ]
    with world.database.begin() as connection:
        assert waiting_work(
            connection, LARGE_PRIORITY, SOON, HANG_AFTER_S, installation_id=world.installation_id
        )
    recovered = claimed(world)
    assert recovered.recovers_id == cut.mail_job_id
    assert unsent(world, recovered) == list(range(15, 21))
    assert world.state(cut.mail_job_id) == "RECOVERED"
    world.deliver(recovered, 15, 20)
    end(world, recovered)
    for _ in range(2):
        rest = claimed(world)
        world.deliver(rest)
        end(world, rest)
    assert world.state(parent) == "P_FINISHED"


def test_a_restart_before_the_mailcaster_let_go_is_not_forgotten(world: World) -> None:
    parent = world.queue(20, kind="parent")
    both = claimed(world), claimed(world)
    stop(world, parent)
    done = restart(world, parent)
    assert told(done) == [(parent, "STOPPED_R", "P_ASSIGNED")]
    assert {each.note for each in done[1:]} == {"it goes on when its mailcaster has let go"}
    assert claim(world) is None
    assert let_go(world, both[0]) is MailJobState.RECOVERING
    assert claimed(world).recovers_id == both[0].mail_job_id
    long_after = LATER + timedelta(seconds=10)
    ended = end_stopping_of_dead(world.database, world.installation_id, DISPATCHER, long_after)
    assert told(ended) == [(both[1].mail_job_id, "STOPPING", "RECOVERING")], "the other one was dead"


def test_a_stop_after_that_restart_counts(world: World) -> None:
    work = world.begun(20, kind="small")
    for ask in (stop, restart, stop):
        ask(world, work)
    assert let_go(world, world.claim_of(work)) is MailJobState.STOPPED_R


def test_of_a_dead_holder_it_goes_on_at_once(world: World) -> None:
    work = world.begun(20, kind="small")
    stop(world, work)
    assert told(restart(world, work, LATER)) == [(work, "STOPPING", "RECOVERING")]
    assert claimed(world, mailcaster("any"), LATER).recovers_id == work


@pytest.mark.rule("3.7")
def test_a_failed_child_takes_its_parent_along_and_is_reported_anew(world: World) -> None:
    parent = world.queue(20, kind="parent")
    first, second = claimed(world), claimed(world)
    world.deliver(first)
    end(world, first)
    end(world, second, failed=True)
    assert world.state(parent) == "P_PARTIAL_FINISHED"
    with world.database.begin() as connection:
        assert releases_to_report(connection, world.installation_id) == [parent]
        mark_reported(connection, parent, SOON)
    assert told(restart(world, parent)) == [
        (parent, "P_PARTIAL_FINISHED", "P_ASSIGNED"),
        (second.mail_job_id, "FAILED", "RECOVERING"),
    ]
    again = claimed(world)
    world.deliver(again)
    end(world, again)
    assert world.state(parent) == "P_FINISHED"
    with world.database.begin() as connection:
        assert releases_to_report(connection, world.installation_id) == [parent]


def test_a_failed_child_by_its_own_number(world: World) -> None:
    parent = world.queue(20, kind="parent")
    first, second = claimed(world), claimed(world)
    for each in (first, second):
        end(world, each, failed=True)
    assert world.state(parent) == "P_FAILED"
    assert told(restart(world, second.mail_job_id)) == [(second.mail_job_id, "FAILED", "RECOVERING")]
    assert world.state(parent) == "P_ASSIGNED"
    assert world.state(first.mail_job_id) == "FAILED"


def test_a_small_one_that_failed_is_reported_with_the_end_of_its_chain(world: World) -> None:
    work = world.queue(5, kind="small")
    only = claimed(world, mailcaster("any"))
    end(world, only, failed=True)
    with world.database.begin() as connection:
        mark_reported(connection, work, SOON)
    assert told(restart(world, work)) == [(work, "FAILED", "RECOVERING")]
    again = claimed(world, mailcaster("any"))
    with world.database.begin() as connection:
        assert releases_to_report(connection, world.installation_id) == [], "RECOVERED, and not at its end"
    world.deliver(again)
    end(world, again)
    with world.database.begin() as connection:
        assert releases_to_report(connection, world.installation_id) == [work]


def test_a_failed_one_without_unsent_messages_stays_as_it_is(world: World) -> None:
    work = world.begun(5, kind="small")
    world.deliver(world.claim_of(work))
    end(world, world.claim_of(work), failed=True)
    [done] = restart(world, work)
    assert (done.is_changed, done.note) == (False, "every message of it has a result")


def test_what_failed_in_assembly_cannot_be_restarted(world: World) -> None:
    with world.database.begin() as connection:
        release = world.create(connection, 20, kind="parent")
        transition(connection, release, MailJobState.QUEUING, MailJobState.FAILED, "a bad template", NOW)
    [done] = restart(world, release)
    assert (done.is_changed, done.note) == (
        False,
        "it failed before it was queued: release the campaign again",
    )


def test_a_child_of_a_stopped_parent_is_not_restarted_alone(world: World) -> None:
    parent = world.queue(40, kind="parent")
    child = claimed(world)
    stop(world, parent)
    let_go(world, child)
    [done] = restart(world, child.mail_job_id)
    assert done.note == f"its parent, mail job {parent}, is stopped: restart that one"
    assert world.state(child.mail_job_id) == "STOPPED_R"


@pytest.mark.rule("5.4")
def test_what_is_too_old_fails_and_expires(world: World) -> None:
    child = world.begun(20, kind="parent")
    held = world.claim_of(child)
    parent = held.parent_id
    assert parent is not None
    world.add_messages(parent, 20)
    world.deliver(held, 1, 12)
    stop(world, parent)
    let_go(world, held)
    done = restart(world, parent, MUCH_LATER)
    assert told(done) == [(parent, "STOPPED_R", "P_FAILED"), (child, "STOPPED_R", "FAILED")]
    assert done[1].note == "not recovered: it was queued more than 96 hours before; 8 messages expired"
    with world.database.begin() as connection:
        expired = connection.execute(text("SELECT count(*) FROM result WHERE outcome = 'expired'"))
        assert expired.scalar_one() == 8
    [again] = restart(world, parent, MUCH_LATER)
    assert (again.is_changed, again.note) == (False, "nothing of it can be sent any more")


@pytest.mark.rule("5.4")
def test_a_mailcaster_with_more_patience_recovers_it(world: World) -> None:
    work = world.begun(20, kind="small")
    stop(world, work)
    let_go(world, world.claim_of(work))
    assert told(restart(world, work, MUCH_LATER, expire_in_hours=200)) == [(work, "STOPPED_R", "RECOVERING")]


@pytest.mark.rule("5.3")
def test_what_hangs_without_automatic_recovery_is_stopped_and_restarted(world: World) -> None:
    patient = mailcaster("patient", automatic_mail_job_recovery=False)
    work = world.begun(20, kind="small")
    assert claim(world, patient, HUNG) is None
    [done] = restart(world, work, HUNG)
    assert (done.is_changed, done.note) == (False, "it hangs: stop it first")
    assert told(stop(world, work, HUNG)) == [(work, "RUNNING", "STOPPED_R")]
    assert claim(world, patient, HUNG) is None
    restart(world, work, HUNG)
    assert claimed(world, patient, HUNG).recovers_id == work


def test_what_is_restarted_can_be_stopped_again(world: World) -> None:
    work = world.begun(20, kind="small")
    stop(world, work, HUNG)
    restart(world, work, HUNG)
    assert told(stop(world, work, HUNG)) == [(work, "RECOVERING", "STOPPED_R")]
    assert claim(world, EAGER, HUNG) is None


def test_everything_that_is_stopped_but_not_what_failed(world: World) -> None:
    parent = world.queue(20, kind="parent")
    first, second = claimed(world), claimed(world)
    stop(world, first.mail_job_id)
    let_go(world, first)
    end(world, second, failed=True)
    failed, waits, running = (world.begun(5, kind="small") for _ in range(3))
    end(world, world.claim_of(failed), failed=True)
    world.set_state(waits, "QUEUED")
    stop(world, waits)
    with world.database.begin() as connection:
        queuing = world.create(connection, 5, kind="small")
    stop(world, queuing)
    with world.database.begin() as connection:
        chosen = mail_jobs_to_restart(connection, world.installation_id)
        assert chosen == [parent, waits, queuing]
        assert mail_jobs_to_restart(connection, world.installation_id, "spring") == chosen
    assert [each for number in chosen for each in told(restart(world, number, failed_too=False))] == [
        (first.mail_job_id, "STOPPED_R", "RECOVERING"),
        (waits, "STOPPED_Q", "QUEUED"),
    ]
    assert world.state(second.mail_job_id) == "FAILED"
    assert world.state(running) == "RUNNING"
