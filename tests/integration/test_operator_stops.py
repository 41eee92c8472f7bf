"""Stopping by the operator: what waits, what is in hand, what a dead holder leaves (spec 5.6)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from mail_orchestration.dispatch.claims import HeldClaim
from mail_orchestration.dispatch.mail_jobs import mail_job, queue_mail_job
from mail_orchestration.dispatch.operating import Operated
from mail_orchestration.dispatch.stopping import end_stopping_of_dead, mail_jobs_to_stop
from mail_orchestration.kernel.errors import ClaimLost, NotFound
from mail_orchestration.kernel.states import MailJobState
from tests.integration.dispatch_rows import HANG_AFTER_S, LARGE_ONLY, NOW, World, mailcaster, world
from tests.integration.operator_rows import DISPATCHER, LATER, SOON, claim, claimed, restart, stop, told

__all__ = ["world"]

pytestmark = [pytest.mark.rule("5.6"), pytest.mark.rule("3.2")]
HUNG = NOW + timedelta(seconds=HANG_AFTER_S + 1)


@pytest.mark.parametrize("kind", ["small", "parent"])
def test_what_waits_is_stopped_at_once_and_not_taken(world: World, kind: str) -> None:
    waiting = world.queue(30, kind=kind)
    left = "QUEUED" if kind == "small" else "P_QUEUED"
    assert told(stop(world, waiting)) == [(waiting, left, "STOPPED_Q")]
    assert claim(world) is None
    [again] = stop(world, waiting)
    assert not again.is_changed
    assert again.note == "it is stopped already"


def test_a_parent_is_stopped_with_its_children(world: World) -> None:
    parent = world.queue(50, kind="parent")
    running, finished, recovering = claimed(world), claimed(world), claimed(world)
    world.deliver(finished)
    with HeldClaim(world.database, running) as held:
        with HeldClaim(world.database, finished) as other:
            other.finish(SOON)
        world.set_state(recovering.mail_job_id, "RECOVERING")
        done = stop(world, parent)
        assert told(done) == [
            (parent, "P_ASSIGNING", "STOPPED_R"),
            (running.mail_job_id, "RUNNING", "STOPPING"),
            (recovering.mail_job_id, "RECOVERING", "STOPPED_R"),
        ]
        assert claim(world) is None
        assert held.is_asked_to_stop()
        assert held.let_go_stopped(SOON) is MailJobState.STOPPED_R
    assert told(stop(world, parent)) == []


def test_a_child_is_stopped_alone(world: World) -> None:
    parent = world.queue(20, kind="parent")
    first, second = claimed(world), claimed(world)
    with HeldClaim(world.database, first) as held:
        assert told(stop(world, first.mail_job_id)) == [(first.mail_job_id, "RUNNING", "STOPPING")]
        held.let_go_stopped(SOON)
    world.deliver(second)
    with HeldClaim(world.database, second) as held:
        held.finish(SOON)
    assert world.state(parent) == "P_ASSIGNED", "its stopped child is still to be sent"


@pytest.mark.parametrize("queued_by", ["SOON", "a restart"])
def test_what_is_being_assembled_is_stopped_instead_of_queued(world: World, queued_by: str) -> None:
    with world.database.begin() as connection:
        release = world.create(connection, 30, kind="parent")
    [asked] = stop(world, release)
    assert (asked.entered, asked.note) == (
        MailJobState.QUEUING,
        "it becomes STOPPED_Q instead of being queued",
    )
    if queued_by == "a restart":
        [asked] = restart(world, release)
        assert asked.note == "it will be queued after all"
    with world.database.begin() as connection:
        entered = queue_mail_job(connection, release, SOON)
    assert entered == ("P_QUEUED" if queued_by == "a restart" else "STOPPED_Q")
    assert (claim(world) is None) == (entered == "STOPPED_Q")
    assert told(restart(world, release)) == (
        [] if queued_by == "a restart" else [(release, "STOPPED_Q", "P_QUEUED")]
    )


def test_the_last_message_may_get_its_result_while_it_is_stopping(world: World) -> None:
    parent = world.queue(20, kind="parent")
    claims = [claimed(world), claimed(world)]
    stop(world, parent)
    for each in claims:
        world.deliver(each)
        with HeldClaim(world.database, each) as held:
            assert held.finish(SOON) is MailJobState.FINISHED
    assert world.state(parent) == "P_FINISHED", "there is nothing left of it to stop"


def test_a_stopped_parent_with_messages_left_stays_stopped(world: World) -> None:
    parent = world.queue(30, kind="parent")
    only = claimed(world)
    stop(world, parent)
    world.deliver(only)
    with HeldClaim(world.database, only) as held:
        assert held.finish(SOON) is MailJobState.FINISHED
    assert world.state(parent) == "STOPPED_R"


@pytest.mark.parametrize("kind", ["small", "parent"])
def test_a_dead_holder_does_not_block_a_stop(world: World, kind: str) -> None:
    work = world.begun(20, kind=kind)
    old = world.claim_of(work)
    assert told(stop(world, work, LATER)) == [(work, "RUNNING", "STOPPED_R")]
    with pytest.raises(ClaimLost), HeldClaim(world.database, old) as held:
        held.heartbeat(LATER)
    assert claim(world, LARGE_ONLY, HUNG) is None


def test_a_holder_that_was_silent_for_a_moment_only_is_not_dead(world: World) -> None:
    """Between claim and hold, and while it opens a lost session anew, a living holder has no lock."""
    work = world.begun(20, kind="small")
    assert told(stop(world, work, SOON)) == [(work, "RUNNING", "STOPPING")]
    with HeldClaim(world.database, world.claim_of(work)) as held:
        assert told(stop(world, work, LATER)) == [], "it holds its lock: it lives, though its heart is slow"
        assert held.let_go_stopped(LATER) is MailJobState.STOPPED_R


def test_a_holder_that_hangs_is_fenced_out(world: World) -> None:
    work = world.begun(20, kind="small")
    with HeldClaim(world.database, world.claim_of(work)) as held:
        stop(world, work)
        assert told(stop(world, work, HUNG)) == [(work, "STOPPING", "STOPPED_R")]
        with pytest.raises(ClaimLost):
            held.let_go_stopped(HUNG)


def test_nobody_must_ask_twice_when_the_holder_dies_while_it_lets_go(world: World) -> None:
    works = [world.begun(20, kind="parent"), world.begun(5, kind="small")]
    complete = world.begun(20, kind="parent")
    world.deliver(world.claim_of(complete))
    for each in (*works, complete):
        stop(world, each)

    def end() -> list[Operated]:
        return end_stopping_of_dead(world.database, world.installation_id, DISPATCHER, LATER)

    assert end_stopping_of_dead(world.database, world.installation_id, DISPATCHER, SOON) == []
    with ThreadPoolExecutor(3) as executor:
        ended = [found for each in executor.map(lambda _: end(), range(3)) for found in told(each)]
    assert sorted(ended) == [
        (works[0], "STOPPING", "STOPPED_R"),
        (works[1], "STOPPING", "STOPPED_R"),
        (complete, "STOPPING", "FINISHED"),
    ]
    parent = world.claim_of(complete).parent_id
    assert parent is not None
    assert world.state(parent) == "P_FINISHED"
    with world.database.begin() as connection:
        assert mail_job(connection, complete).accepted == 20


def test_a_holder_that_hands_back_while_it_is_stopping_is_done(world: World) -> None:
    work = world.begun(20, kind="small")
    with HeldClaim(world.database, world.claim_of(work)) as held:
        stop(world, work)
        held.hand_back()
    ended = end_stopping_of_dead(world.database, world.installation_id, DISPATCHER, SOON)
    assert told(ended) == [(work, "STOPPING", "STOPPED_R")]


def test_a_number_stands_for_the_last_of_its_chain(world: World) -> None:
    first = world.begun(20, kind="small")
    second = claimed(world, mailcaster("any"), HUNG)
    assert second.recovers_id == first
    assert told(stop(world, first, HUNG)) == [(second.mail_job_id, "RUNNING", "STOPPING")]


def test_what_has_ended_says_so(world: World) -> None:
    work = world.begun(20, kind="small")
    world.deliver(world.claim_of(work))
    with HeldClaim(world.database, world.claim_of(work)) as held:
        held.finish(SOON)
    [done] = stop(world, work)
    assert (done.left, done.entered, done.note) == (
        MailJobState.FINISHED,
        MailJobState.FINISHED,
        "it has ended",
    )


def test_numbers_of_others_are_not_found(world: World) -> None:
    work = world.queue(20, kind="small")
    world.execute("INSERT INTO installation (name) VALUES ('other')")
    world.installation_id += 1
    for number in (work, 4711):
        with pytest.raises(NotFound, match=f"there is no mail job {number}"):
            stop(world, number)


def test_a_campaign_or_everything(world: World) -> None:
    world.queue(20, kind="small")
    world.begun(20, kind="parent")
    world.execute(
        "INSERT INTO campaign (installation_id, name, digest) VALUES (:id, 'autumn', '')",
        id=world.installation_id,
    )
    world.campaign_id += 1
    autumn = world.queue(20, kind="small")
    with world.database.begin() as connection:
        assert mail_jobs_to_stop(connection, world.installation_id, "autumn") == [autumn]
        assert len(mail_jobs_to_stop(connection, world.installation_id)) == 3
        with pytest.raises(NotFound, match="there is no campaign 'winter'"):
            mail_jobs_to_stop(connection, world.installation_id, "winter")


def test_what_was_asked_for_can_be_read(world: World) -> None:
    with world.database.begin() as connection:
        release = world.create(connection, 30, kind="parent")
    stop(world, release)
    with world.database.begin() as connection:
        assert mail_job(connection, release).asked_state is MailJobState.STOPPED_Q
