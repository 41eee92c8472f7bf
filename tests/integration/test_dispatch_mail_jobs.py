"""Mail jobs from release to queue, their changes of state, and how they are read."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mail_orchestration.dispatch.claims import HeldClaim, claim_next
from mail_orchestration.dispatch.mail_jobs import (
    children,
    create_mail_job,
    mail_job,
    mail_jobs,
    queue_mail_job,
    transition,
)
from mail_orchestration.dispatch.shifts import end_shift, note_shift, shifts, start_shift
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.errors import NotFound, StateConflict
from mail_orchestration.kernel.states import MailJobKind, MailJobState
from tests.integration.dispatch_rows import HANG_AFTER_S, LARGE_ONLY, NOW, World, world

__all__ = ["world"]


@pytest.mark.rule("3.1")
@pytest.mark.parametrize(
    ("kind", "state", "next_message"),
    [("small", MailJobState.QUEUED, None), ("parent", MailJobState.P_QUEUED, 1)],
)
def test_queued_by_the_kind_that_dedup_fixed(
    world: World, kind: str, state: MailJobState, next_message: int | None
) -> None:
    # A parent of which assembly bypassed so many that it is small by count stays a parent: the flag is fixed.
    with world.database.begin() as connection:
        release_id = world.create(connection, 50, kind=kind)
        assert mail_job(connection, release_id).state is MailJobState.QUEUING
        assert queue_mail_job(connection, release_id, NOW) is state
        seen = mail_job(connection, release_id)
    assert (seen.state, seen.kind, seen.release_id) == (state, MailJobKind(kind), release_id)
    assert (seen.first_message, seen.last_message, seen.next_message) == (1, 50, next_message)
    assert (seen.message_count, seen.queued_at, seen.campaign) == (50, NOW, "spring")


@pytest.mark.rule("1.7")
@pytest.mark.parametrize("kind", ["small", "parent"])
def test_without_a_message_it_is_stopped(world: World, kind: str) -> None:
    with world.database.begin() as connection:
        release_id = world.create(connection, 0, kind=kind)
        assert queue_mail_job(connection, release_id, NOW) is MailJobState.STOPPED
        seen = mail_job(connection, release_id)
    assert (seen.state, seen.reason, seen.ended_at) == (MailJobState.STOPPED, "no recipients", NOW)


def test_what_is_not_assembled_or_not_queuing_is_not_queued(world: World) -> None:
    with world.database.begin() as connection:
        release_id = world.create(connection, 50, kind="small")
    world.execute("UPDATE release SET assembled_at = NULL WHERE release_id = :id", id=release_id)
    with world.database.begin() as connection:
        with pytest.raises(StateConflict, match="not assembled"):
            queue_mail_job(connection, release_id, NOW)
        with pytest.raises(NotFound, match="there is no release 999"):
            queue_mail_job(connection, 999, NOW)
        transition(connection, release_id, MailJobState.QUEUING, MailJobState.INTERRUPTED, "cut off", NOW)
        with pytest.raises(StateConflict, match=f"mail job {release_id} is INTERRUPTED, not QUEUING"):
            queue_mail_job(connection, release_id, NOW)


@pytest.mark.rule("3.2")
def test_a_change_names_the_state_that_it_leaves(world: World) -> None:
    with world.database.begin() as connection:
        mail_job_id = create_mail_job(connection, world.installation_id, 0, NOW)
        waiting = {MailJobState.QUEUING, MailJobState.QUEUED}
        with pytest.raises(NotFound, match="there is no mail job 999"):
            transition(connection, 999, waiting, MailJobState.STOPPED, "", NOW)
        assert (
            transition(connection, mail_job_id, waiting, MailJobState.STOPPED, "campaign deleted", NOW)
            is MailJobState.STOPPED
        )
        with pytest.raises(
            StateConflict,
            match=f"mail job {mail_job_id} is STOPPED, not QUEUED or QUEUING, and cannot become STOPPED",
        ):
            transition(connection, mail_job_id, waiting, MailJobState.STOPPED, "again", NOW)
        seen = mail_job(connection, mail_job_id)
    assert (seen.reason, seen.ended_at, seen.message_count, seen.campaign) == (
        "campaign deleted",
        NOW,
        0,
        None,
    )


@pytest.mark.rule("3.2")
@pytest.mark.parametrize(
    ("leaves", "enters", "said"),
    [
        (MailJobState.FINISHED, MailJobState.RECOVERING, "no way from FINISHED to RECOVERING"),
        (MailJobState.QUEUED, MailJobState.FINISHED, "no way from QUEUED to FINISHED"),
        (MailJobState.QUEUED, MailJobState.RUNNING, "by a claim only"),
    ],
)
def test_a_way_that_does_not_exist_is_a_mistake(
    world: World, leaves: MailJobState, enters: MailJobState, said: str
) -> None:
    with world.database.begin() as connection, pytest.raises(ValueError, match=said):
        transition(connection, 1, leaves, enters, "", NOW)


def test_an_ended_mail_job_that_is_restarted_has_not_ended(world: World) -> None:
    mail_job_id = world.begun(10, kind="small")
    with world.database.begin() as connection:
        transition(connection, mail_job_id, MailJobState.RUNNING, MailJobState.FAILED, "refused", NOW)
        assert mail_job(connection, mail_job_id).ended_at == NOW
        transition(connection, mail_job_id, MailJobState.FAILED, MailJobState.RECOVERING, "restarted", NOW)
        assert mail_job(connection, mail_job_id).ended_at is None


def test_a_parents_figures_are_those_of_its_children(world: World) -> None:
    parent = world.queue(11_000, kind="parent")
    small = world.queue(10, kind="small")
    for _ in range(2):
        claimed = claim_next(
            world.database, world.installation_id, LARGE_ONLY, now=NOW, hang_after_s=HANG_AFTER_S
        )
        assert claimed is not None
        with HeldClaim(world.database, claimed) as held:
            held.progress({Outcome.ACCEPTED: 100, Outcome.REJECTED: 3, Outcome.STOPPED: 1})
    with world.database.begin() as connection:
        seen = mail_job(connection, parent)
        assert (seen.accepted, seen.rejected, seen.stopped, seen.sent) == (200, 6, 2, 208)
        assert [job.mail_job_id for job in mail_jobs(connection, world.installation_id)] == [small, parent]
        assert mail_jobs(connection, world.installation_id)[1] == seen
        assert [job.mail_job_id for job in mail_jobs(connection, world.installation_id, limit=1)] == [small]
        assigning = mail_jobs(connection, world.installation_id, states={MailJobState.P_ASSIGNING})
        assert [job.mail_job_id for job in assigning] == [parent]
        assert mail_jobs(connection, world.installation_id, states=set()) == []
        assert mail_jobs(connection, world.installation_id + 1) == []
        both = children(connection, parent)
    assert [(job.parent_id, job.accepted, job.mailcaster) for job in both] == [
        (parent, 100, "large-only")
    ] * 2


def test_a_shift_is_noted_until_another_takes_the_name(world: World) -> None:
    mail_job_id = world.begun(10, kind="small")
    later = NOW + timedelta(minutes=1)
    with world.database.begin() as connection:
        first = start_shift(connection, world.installation_id, "m1", host="a", process_id=7, now=NOW)
        assert shifts(connection, world.installation_id) == [first]
        at_work = note_shift(
            connection,
            world.installation_id,
            first,
            mail_job_id=mail_job_id,
            mail_jobs_done=2,
            messages_done=300,
            now=later,
        )
        assert shifts(connection, world.installation_id) == [at_work]
        over = end_shift(
            connection, world.installation_id, at_work, mail_jobs_done=3, messages_done=310, now=later
        )
        assert shifts(connection, world.installation_id) == [over]
        assert (over.ended_at, over.mail_job_id, over.messages_done) == (later, None, 310)
        second = start_shift(connection, world.installation_id, "m1", host="b", process_id=7, now=later)
        end_shift(connection, world.installation_id, over, mail_jobs_done=9, messages_done=9, now=later)
        assert shifts(connection, world.installation_id) == [second]
