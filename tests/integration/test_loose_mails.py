"""Loose mails in the queue: who gets which, in what order, for how long, and what holds them (6.2, 6.3, 3.4, 5.6)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from sqlalchemy import text

from mail_orchestration.dispatch.campaigns import delete_campaign, pause_campaign, resume_campaign
from mail_orchestration.dispatch.dead_letters import Chosen, resubmit_loose_mails
from mail_orchestration.dispatch.holds import HoldCause, place_hold
from mail_orchestration.dispatch.loose_mails import (
    give_back,
    has_due_loose_mails,
    renew_reservations,
)
from mail_orchestration.dispatch.resting import rest_loose_mails, wake_loose_mails
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.loose_mail_states import LooseMailKind, LooseMailState
from tests.integration.dispatch_rows import NOW
from tests.integration.loose_rows import LEASE_S, LooseWorld

_S = LooseMailState
LATER = NOW + timedelta(seconds=LEASE_S)


@pytest.fixture
def loose(database: Database) -> LooseWorld:
    return LooseWorld(database)


def numbers(mails: list) -> list[int]:  # type: ignore[type-arg]
    return [mail.loose_mail_id for mail in mails]


@pytest.mark.rule("6.2")
def test_what_is_due_is_reserved_by_priority_then_by_its_time(loose: LooseWorld) -> None:
    (late,) = loose.add(1, due_at=NOW - timedelta(minutes=1))
    (early,) = loose.add(2, due_at=NOW - timedelta(minutes=9))
    (urgent,) = loose.add(3, priority=5)
    (coming,) = loose.add(4, due_at=NOW + timedelta(seconds=1))
    with loose.database.begin() as connection:
        assert has_due_loose_mails(connection, loose.world.installation_id, list(LooseMailKind), NOW)
        assert not has_due_loose_mails(
            connection, loose.world.installation_id, list(LooseMailKind), NOW - timedelta(hours=1)
        )
    assert numbers(loose.reserve(most=2)) == [urgent, early]
    assert numbers(loose.reserve()) == [late]
    assert loose.reserve() == []
    assert loose.states()[coming] == "SCHEDULED"


@pytest.mark.rule("6.3", "4.6")
def test_two_workers_at_once_never_get_the_same_one(loose: LooseWorld) -> None:
    loose.add(*range(1, 10))
    barrier = Barrier(3)

    def take(worker: str) -> list[int]:
        barrier.wait()
        return [number for _ in range(3) for number in numbers(loose.reserve(worker, most=2))]

    with ThreadPoolExecutor(3) as pool:
        taken = [number for found in pool.map(take, "abc") for number in found]
    assert len(taken) == len(set(taken))
    assert sorted([*taken, *numbers(loose.reserve())]) == sorted(loose.states())


@pytest.mark.rule("6.3", "7.2")
def test_when_a_reservation_has_run_out_another_worker_takes_it_and_the_late_result_is_refused(
    loose: LooseWorld,
) -> None:
    (number,) = loose.add(1)
    (late,) = loose.reserve("slow")
    assert loose.reserve("other", at=LATER - timedelta(seconds=1)) == []
    (mail,) = loose.reserve("other", at=LATER)
    assert (mail.loose_mail_id, mail.attempts, mail.fence) == (number, 1, late.fence + 1)
    assert not loose.write(late), "somebody else has it"
    with loose.database.begin() as connection:
        assert renew_reservations(connection, [late], for_s=LEASE_S, now=LATER) == set()
        assert give_back(connection, [late]) == 0
    assert loose.states() == {number: "SENDING"}
    assert loose.write(mail, at=LATER)
    assert loose.states() == {}
    assert not loose.write(mail), "once"
    with loose.database.begin() as connection:
        assert connection.scalar(text("SELECT count(*) FROM result")) == 2
        assert connection.scalar(text("SELECT count(*) FROM delivery_log")) == 1


@pytest.mark.rule("6.3")
def test_what_is_renewed_does_not_run_out_and_what_is_given_back_costs_no_attempt(loose: LooseWorld) -> None:
    (number,) = loose.add(1)
    (mail,) = loose.reserve()
    with loose.database.begin() as connection:
        assert renew_reservations(connection, [mail], for_s=LEASE_S, now=LATER) == {number}
    assert loose.reserve("other", at=LATER + timedelta(seconds=1)) == []
    with loose.database.begin() as connection:
        assert give_back(connection, [mail]) == 1
    (again,) = loose.reserve("other")
    assert again.attempts == mail.attempts


@pytest.mark.rule("3.4", "7.1")
def test_a_paused_campaign_holds_its_loose_mails_and_a_deleted_one_stops_them(loose: LooseWorld) -> None:
    first, second, third = loose.add(1, 2, 3)
    (in_hand, _) = loose.reserve(most=2)
    installation_id = loose.world.installation_id
    with loose.database.begin() as connection:
        pause_campaign(connection, installation_id, "spring")
    assert loose.states() == {first: "SENDING", second: "SENDING", third: "PAUSED"}
    loose.write(in_hand, Outcome.DEFERRED, _S.SCHEDULED)
    (fourth,) = loose.add(4)
    assert loose.reserve() == [], "also what is deferred meanwhile"
    assert loose.states() == {first: "PAUSED", second: "SENDING", third: "PAUSED", fourth: "PAUSED"}
    with loose.database.begin() as connection:
        resume_campaign(connection, installation_id, "spring")
    assert numbers(loose.reserve()) == [third, fourth], "the first waits for its next attempt"
    with loose.database.begin() as connection:
        # Its mail job has begun and goes on; what waits by itself does not.
        delete_campaign(connection, installation_id, "spring", NOW)
    assert loose.states()[first] == "STOPPED"
    assert loose.reserve(at=LATER) == []
    assert set(loose.states().values()) == {"STOPPED"}, "when their reservation has run out"
    with loose.database.begin() as connection:
        connection.execute(text("UPDATE campaign SET state = 'live'"))
        chosen = Chosen(loose_mail_ids=[second, 10**9])
        resubmitted = resubmit_loose_mails(
            connection, installation_id, chosen, history=timedelta(days=7), now=LATER
        )
    assert resubmitted.numbers == [second]
    assert numbers(loose.reserve(at=LATER)) == [second]


@pytest.mark.rule("3.4", "7.1")
def test_what_comes_to_its_time_while_its_campaign_is_being_resumed_goes_on_too(loose: LooseWorld) -> None:
    installation_id = loose.world.installation_id
    with loose.database.begin() as connection:
        pause_campaign(connection, installation_id, "spring")
    (number,) = loose.add(1)
    with loose.database.begin() as connection:
        resume_campaign(connection, installation_id, "spring")
        assert loose.reserve() == [], "it is not resumed yet"
    assert numbers(loose.reserve()) == [number]


@pytest.mark.rule("5.6")
def test_the_retries_of_a_stopped_mail_job_rest_until_it_is_restarted(loose: LooseWorld) -> None:
    loose.add(1)
    loose.world.set_state(loose.mail_job_id, "STOPPED_R")
    assert loose.reserve() == []
    assert set(loose.states().values()) == {"PAUSED"}
    loose.world.set_state(loose.mail_job_id, "RUNNING")
    installation_id = loose.world.installation_id
    with loose.database.begin() as connection:
        assert wake_loose_mails(connection, installation_id, mail_job_id=10**9) == 0
        assert wake_loose_mails(connection, installation_id, mail_job_id=loose.mail_job_id) == 1
    (mail,) = loose.reserve()
    with loose.database.begin() as connection:
        assert rest_loose_mails(connection, installation_id, _S.PAUSED, mail_job_id=loose.mail_job_id) == 1
        assert wake_loose_mails(connection, installation_id, mail_job_id=loose.mail_job_id) == 1
    assert loose.write(mail, Outcome.DEFERRED, _S.SCHEDULED)
    assert set(loose.states().values()) == {"SCHEDULED"}, "restarted before its attempt was over"


@pytest.mark.rule("5.6")
def test_a_retry_that_comes_due_while_its_mail_job_is_being_restarted_goes_on_too(loose: LooseWorld) -> None:
    loose.world.set_state(loose.mail_job_id, "STOPPED_R")
    (number,) = loose.add(1)
    restart = text("UPDATE mail_job SET state = 'RUNNING' WHERE mail_job_id = :id")
    with loose.database.begin() as connection:
        connection.execute(restart, {"id": loose.mail_job_id})
        wake_loose_mails(connection, loose.world.installation_id, mail_job_id=loose.mail_job_id)
        assert loose.reserve() == [], "it is not restarted yet"
        assert loose.states() == {number: "SCHEDULED"}
    assert numbers(loose.reserve()) == [number]


@pytest.mark.rule("5.8", "6.7")
def test_nothing_is_reserved_while_sending_is_held(loose: LooseWorld) -> None:
    loose.add(1)
    with loose.database.begin() as connection:
        place_hold(connection, loose.world.installation_id, HoldCause.OPERATOR, "lunch", by="me", now=NOW)
    assert loose.reserve() == []
    assert set(loose.states().values()) == {"SCHEDULED"}
