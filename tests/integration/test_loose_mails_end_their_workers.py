"""A mail that ends each worker that takes it is a dead letter in the end, and takes no other along (6.3, 5.1)."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from sqlalchemy import text

from mail_orchestration.dispatch import loose_mails
from mail_orchestration.dispatch.dead_letters import Chosen, resubmit_loose_mails
from mail_orchestration.dispatch.loose_mail_lists import list_loose_mails
from mail_orchestration.dispatch.loose_mails import (
    MOST_RUN_OUTS,
    end_run_out_reservations,
    give_back,
)
from mail_orchestration.dispatch.resting import rest_loose_mails
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.failure_codes import FailureCode
from mail_orchestration.kernel.loose_mail_states import LooseMailState
from tests.integration.dispatch_rows import NOW
from tests.integration.loose_rows import LEASE_S, LooseWorld

LEASE = timedelta(seconds=LEASE_S)


@pytest.fixture
def loose(database: Database) -> LooseWorld:
    return LooseWorld(database)


def worker_dies(loose: LooseWorld, at: datetime) -> datetime:
    """Its reservations run out, and somebody notices; the moment."""
    with loose.database.begin() as connection:
        end_run_out_reservations(connection, loose.world.installation_id, at + LEASE)
    return at + LEASE


@pytest.mark.rule("6.3", "7.2")
@pytest.mark.parametrize("place", range(5))
def test_only_the_guilty_one_is_a_dead_letter(loose: LooseWorld, place: int) -> None:
    everyone = loose.add(1, 2, 3, 4, 5)
    guilty = everyone[place]
    at, deaths, batches = NOW, 0, []
    while mails := loose.reserve(at=at):
        batches.append([mail.loose_mail_id for mail in mails])
        if guilty in batches[-1]:
            at, deaths = worker_dies(loose, at), deaths + 1
        else:
            assert all(loose.write(mail, at=at) for mail in mails)
    assert loose.states() == {guilty: "FAILED"}
    assert deaths == MOST_RUN_OUTS
    assert sorted(map(len, batches)) == [1] * (len(batches) - 1) + [5], "after the first time each goes alone"
    with loose.database.begin() as connection:
        (dead,) = list_loose_mails(
            connection, loose.world.installation_id, states=[LooseMailState.FAILED], campaign="spring"
        )
        accepted = connection.scalar(text("SELECT count(*) FROM result WHERE outcome = 'accepted'"))
        assert accepted == 4
        assert (dead.code, dead.attempts) == (FailureCode.IO_EXCEPTION, 1), "no attempt is known of"
        assert "3 times in a row" in (dead.description or "")
        resubmit_loose_mails(
            connection, loose.world.installation_id, Chosen(), history=timedelta(days=7), now=at
        )
    (again,) = loose.reserve(at=at)
    assert (again.loose_mail_id, again.run_outs) == (guilty, 0)


@pytest.mark.rule("6.3")
def test_one_that_may_be_guilty_waits_until_its_worker_has_nothing_else_in_hand(loose: LooseWorld) -> None:
    suspect, other = loose.add(1, 2)
    loose.reserve(most=1)
    at = worker_dies(loose, NOW)
    assert loose.reserve(at=at, is_free=False) == []
    (mail,) = loose.reserve(at=at)
    assert (mail.loose_mail_id, mail.run_outs) == (suspect, 1)
    (mail,) = loose.reserve(at=at, is_free=False)
    assert mail.loose_mail_id == other


@pytest.mark.rule("6.3")
def test_a_result_clears_it_and_a_return_does_not(loose: LooseWorld) -> None:
    loose.add(1)
    loose.reserve()
    at = worker_dies(loose, NOW)
    (mail,) = loose.reserve(at=at)
    with loose.database.begin() as connection:
        give_back(connection, [mail])
    (mail,) = loose.reserve(at=at)
    assert mail.run_outs == 1
    assert loose.write(mail, Outcome.DEFERRED, LooseMailState.SCHEDULED, at=at)
    (mail,) = loose.reserve(at=at + timedelta(hours=1))
    assert mail.run_outs == 0


@pytest.mark.rule("6.3", "3.4")
def test_one_that_is_to_rest_rests_instead(loose: LooseWorld) -> None:
    (number,) = loose.add(1)
    at = NOW
    for _ in range(MOST_RUN_OUTS - 1):
        loose.reserve(at=at)
        at = worker_dies(loose, at)
    loose.reserve(at=at)
    with loose.database.begin() as connection:
        rest_loose_mails(connection, loose.world.installation_id, LooseMailState.PAUSED)
    worker_dies(loose, at)
    assert loose.states() == {number: "PAUSED"}


@pytest.mark.rule("6.3")
def test_a_report_that_waited_for_it_is_made_anew(loose: LooseWorld) -> None:
    loose.add(1)
    loose.world.execute("UPDATE release SET reported_at = :now", now=NOW)
    at = NOW
    for deaths in range(1, MOST_RUN_OUTS + 1):
        loose.reserve(at=at)
        at = worker_dies(loose, at)
        with loose.database.begin() as connection:
            reported_at = connection.scalar(text("SELECT reported_at FROM release"))
        assert (reported_at is None) == (deaths == MOST_RUN_OUTS)


@pytest.mark.rule("6.2")
def test_a_batch_holds_so_many_octets_or_a_single_larger_message(
    loose: LooseWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = loose.add(1, 2, 3, 4, 5)
    loose.world.execute(
        "UPDATE message_block "
        "SET block = CAST(repeat('x', CASE first_message WHEN 4 THEN 900 ELSE 400 END) AS bytea)"
    )
    monkeypatch.setattr(loose_mails, "RESERVED_OCTETS", 800)
    batches = []
    while mails := loose.reserve():
        batches.append([mail.loose_mail_id for mail in mails])
    assert batches == [numbers[:2], numbers[2:3], numbers[3:4], numbers[4:]]
