"""What the operator does with uncertain messages: settles them, or restarts the mail job that would send them again."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pytest
from sqlalchemy import text

from mail_orchestration.dispatch.claims import HeldClaim
from mail_orchestration.dispatch.mail_jobs import mail_job
from mail_orchestration.feedback.uncertain import (
    AT_REST,
    UncertainMessage,
    resend_uncertain,
    settle_uncertain,
    uncertain_messages,
)
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.model import MessageRange
from mail_orchestration.kernel.states import MailJobState
from tests.integration.dispatch_rows import DAY, NOW, World, world
from tests.integration.operator_rows import LATER, SOON, restart, stop, told

__all__ = ["world"]

pytestmark = pytest.mark.rule("5.7")


def with_uncertain(world: World, *, uncertain: int = 4) -> int:
    """A small mail job of ten messages, RUNNING: the last ones are uncertain, the others were accepted."""
    mail_job_id = world.begun(10, kind="small")
    world.add_messages(mail_job_id, 10)
    world.deliver(world.claim_of(mail_job_id), 1, 10 - uncertain)
    world.execute(
        "INSERT INTO result "
        "(released_on, release_id, message_no, mail_job_id, contact_id, occurred_at, outcome, relay) "
        "SELECT CAST(:day AS date), :id, n, :id, n, :now, 'uncertain', 'r' "
        "FROM generate_series(CAST(:first AS integer), 10) AS n",
        day=DAY,
        id=mail_job_id,
        now=NOW,
        first=11 - uncertain,
    )
    world.execute(
        "UPDATE mail_job SET accepted = :accepted, uncertain = :uncertain WHERE mail_job_id = :id",
        accepted=10 - uncertain,
        uncertain=uncertain,
        id=mail_job_id,
    )
    return mail_job_id


def finish(world: World, mail_job_id: int, *, failed: bool = False) -> None:
    with HeldClaim(world.database, world.claim_of(mail_job_id)) as held:
        if failed:
            held.fail("the relay could not be reached", NOW)
        else:
            held.finish(NOW)


def range_of(mail_job_id: int, first: int = 1, last: int = 10) -> MessageRange:
    return MessageRange(release_id=mail_job_id, released_on=DAY, first_message=first, last_message=last)


def settle(
    world: World,
    messages: MessageRange,
    outcome: Literal[Outcome.ACCEPTED, Outcome.REJECTED] = Outcome.ACCEPTED,
    recipients: set[int] | None = None,
) -> int:
    with world.database.begin() as connection:
        return settle_uncertain(connection, messages, outcome, now=SOON, recipient_nos=recipients)


def listed(world: World, mail_job_id: int) -> list[UncertainMessage]:
    with world.database.begin() as connection:
        return uncertain_messages(connection, range_of(mail_job_id))


def test_what_a_mailcaster_has_in_hand_or_will_take_is_not_settled(world: World) -> None:
    mail_job_id = with_uncertain(world)
    for state in ("RUNNING", "RECOVERING"):
        world.set_state(mail_job_id, state)
        assert settle(world, range_of(mail_job_id)) == 0
        assert {each.waits_for_the_operator for each in listed(world, mail_job_id)} == {False}
    world.set_state(mail_job_id, "STOPPED_R")
    assert [each.message_no for each in listed(world, mail_job_id)] == [7, 8, 9, 10]
    assert {each.waits_for_the_operator for each in listed(world, mail_job_id)} == {True}
    assert settle(world, range_of(mail_job_id, 7, 8)) == 2
    assert settle(world, range_of(mail_job_id), Outcome.REJECTED, {9}) == 1
    assert settle(world, range_of(mail_job_id), Outcome.REJECTED, {1, 7, 9, 77}) == 0
    assert [each.message_no for each in listed(world, mail_job_id)] == [10]
    with world.database.begin() as connection:
        shown = mail_job(connection, mail_job_id)
    assert (shown.accepted, shown.rejected, shown.uncertain) == (8, 1, 1)


@pytest.mark.rule("5.3")
def test_those_of_a_recovered_mail_job_are_where_its_chain_ends(world: World) -> None:
    first = with_uncertain(world)
    second = world.begun(10, kind="small")
    world.execute(
        "UPDATE mail_job SET release_id = :first, recovers_id = :first WHERE mail_job_id = :second",
        first=first,
        second=second,
    )
    world.execute(
        "UPDATE mail_job SET state = 'RECOVERED', ended_at = :now WHERE mail_job_id = :first",
        now=NOW,
        first=first,
    )
    assert {(each.mail_job_id, each.mail_job_state) for each in listed(world, first)} == {(second, "RUNNING")}
    assert [each.message_no for each in listed(world, first)] == [7, 8, 9, 10]


def test_the_states_of_both_sides_are_the_same(world: World) -> None:
    mail_job_id = with_uncertain(world, uncertain=1)
    for state in ("RUNNING", "STOPPING", "STOPPED_R", "RECOVERING"):
        world.set_state(mail_job_id, state)
        is_settled = settle(world, range_of(mail_job_id)) == 1
        assert is_settled is (MailJobState(state) in AT_REST)
        world.execute("DELETE FROM result WHERE result_no = 2")


def test_two_operators_settle_each_message_once(world: World) -> None:
    mail_job_id = with_uncertain(world)
    finish(world, mail_job_id)
    with ThreadPoolExecutor(2) as pool, world.database.begin() as connection:
        assert settle_uncertain(connection, range_of(mail_job_id), Outcome.ACCEPTED, now=SOON) == 4
        second = pool.submit(settle, world, range_of(mail_job_id), Outcome.REJECTED)
        waits_for_lock(world)
        connection.commit()
        assert second.result(10) == 0
    with world.database.begin() as connection:
        numbers = connection.execute(
            text("SELECT result_no, count(*) FROM result GROUP BY 1 ORDER BY 1")
        ).all()
    assert [tuple(row) for row in numbers] == [(1, 10), (2, 4)]


@pytest.mark.rule("5.6")
def test_a_restart_waits_for_who_settles_and_then_finds_nothing_to_do(world: World) -> None:
    mail_job_id = with_uncertain(world)
    finish(world, mail_job_id, failed=True)
    with ThreadPoolExecutor(1) as pool, world.database.begin() as connection:
        assert settle_uncertain(connection, range_of(mail_job_id), Outcome.ACCEPTED, now=SOON) == 4
        restarting = pool.submit(restart, world, mail_job_id)
        waits_for_lock(world)
        connection.commit()
        [untouched] = restarting.result(10)
    assert (untouched.is_changed, untouched.note) == (False, "every message of it has a result")


@pytest.mark.rule("5.6")
@pytest.mark.rule("3.2")
def test_a_failed_one_with_nothing_but_uncertain_messages_left_can_be_restarted(world: World) -> None:
    mail_job_id = with_uncertain(world)
    finish(world, mail_job_id, failed=True)
    assert told(restart(world, mail_job_id)) == [(mail_job_id, "FAILED", "RECOVERING")]


@pytest.mark.rule("5.6")
def test_one_whose_dead_mailcaster_left_uncertain_messages_is_stopped_and_not_finished(world: World) -> None:
    mail_job_id = with_uncertain(world)
    world.set_state(mail_job_id, "STOPPING")
    assert told(stop(world, mail_job_id, LATER)) == [(mail_job_id, "STOPPING", "STOPPED_R")]


def waits_for_lock(world: World) -> None:
    """Until some session waits for a lock of ours."""
    patience = threading.Event()
    for _ in range(500):
        with world.database.begin() as connection:
            waiting = connection.scalar(
                text(
                    "SELECT count(*) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
            )
        if waiting:
            return
        patience.wait(0.01)
    raise TimeoutError("nobody waits for a lock")


def test_they_are_sent_once_more_as_loose_mails_and_are_nobody_elses_meanwhile(world: World) -> None:
    mail_job_id = with_uncertain(world)
    messages = MessageRange(release_id=mail_job_id, released_on=DAY, first_message=1, last_message=10)
    with world.database.begin() as connection:
        assert resend_uncertain(connection, messages, now=NOW) == 0, "its mailcaster is at work"
    finish(world, mail_job_id, failed=True)
    with world.database.begin() as connection:
        assert resend_uncertain(connection, messages, now=NOW, recipient_nos=[7, 8]) == 2
        assert resend_uncertain(connection, messages, now=NOW, recipient_nos=[8, 9]) == 1, "not twice"
        assert settle_uncertain(connection, messages, Outcome.ACCEPTED, now=NOW) == 1, "the one that is left"
        listed = uncertain_messages(connection, messages)
    assert [(each.message_no, each.waits_for_the_operator) for each in listed] == [
        (7, False),
        (8, False),
        (9, False),
    ]
    restart(world, mail_job_id)
    with world.database.begin() as connection:
        kinds = connection.execute(text("SELECT state, attempts, result_no FROM loose_mail")).all()
        assert mail_job(connection, mail_job_id).state is MailJobState.FAILED, (
            "nothing is left to send for it"
        )
    assert {tuple(each) for each in kinds} == {("SCHEDULED", 0, 1)}
