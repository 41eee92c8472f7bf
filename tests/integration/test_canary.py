"""The first messages of a release go alone, and the rest only when the relays did not refuse too many of them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sqlalchemy import text

from mail_orchestration.dispatch.claim import Claim
from mail_orchestration.dispatch.held_claim import HeldClaim
from mail_orchestration.dispatch.mail_jobs import queue_mail_job, waiting_work
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.mailcaster import run_shift
from tests.integration.dispatch_rows import DAY, HANG_AFTER_S, NOW, World, world
from tests.integration.operator_rows import EAGER, SOON, claim, claimed, restart, stop
from tests.scenarios.installations import released, site_with_sink, state, tally

__all__ = ["world"]

MESSAGES, CANARY = 100, 20


def queued(world: World, *, canary: int = CANARY, most_rejected: float = 5, kind: str = "parent") -> int:
    """A release with a canary, and rows of its messages."""
    with world.database.begin() as connection:
        release_id = world.create(connection, MESSAGES, kind=kind)
        connection.execute(
            text(
                "UPDATE release SET canary_messages = :canary, canary_most_rejected = :most WHERE release_id = :id"
            ),
            {"canary": canary, "most": most_rejected, "id": release_id},
        )
        queue_mail_job(connection, release_id, NOW)
    world.add_messages(release_id, MESSAGES)
    return release_id


def end(world: World, held: Claim, *, rejected: int = 0) -> None:
    """Every message of a claim has a result, the first ones `rejected`; it is FINISHED."""
    world.execute(
        "INSERT INTO result "
        "  (released_on, release_id, message_no, mail_job_id, contact_id, occurred_at, outcome, relay) "
        "SELECT released_on, release_id, message_no, :job, contact_id, :now, "
        "  CASE WHEN message_no < :first + :rejected THEN CAST('rejected' AS outcome) ELSE 'accepted' END, 'sink' "
        "FROM assembled_message WHERE released_on = :day AND release_id = :id AND message_no BETWEEN :first AND :last",
        job=held.mail_job_id,
        now=NOW,
        day=DAY,
        id=held.release_id,
        first=held.first_message,
        last=held.last_message,
        rejected=rejected,
    )
    with HeldClaim(world.database, held) as holder:
        holder.finish(SOON)


def has_work(world: World) -> bool:
    with world.database.begin() as connection:
        return waiting_work(connection, EAGER, SOON, HANG_AFTER_S, installation_id=world.installation_id)


def test_the_canary_goes_alone_and_the_rest_follows(world: World) -> None:
    release_id = queued(world)
    canary = claimed(world)
    assert (canary.first_message, canary.last_message) == (1, CANARY)
    assert claim(world) is None
    assert not has_work(world)
    end(world, canary, rejected=1)  # 5 % of 20 is not more than 5 %
    assert world.state(release_id) == "P_ASSIGNING"
    assert has_work(world)
    assert claimed(world).first_message == CANARY + 1


def test_a_canary_that_is_refused_stops_the_mail_job_until_the_operator_restarts_it(world: World) -> None:
    release_id = queued(world)
    end(world, claimed(world), rejected=2)
    assert world.state(release_id) == "STOPPED_R"
    assert claim(world) is None
    with world.database.begin() as connection:
        why = connection.scalar(
            text("SELECT reason FROM mail_job WHERE mail_job_id = :id"), {"id": release_id}
        )
    assert why == "canary: 2 of the first 20 messages were rejected, more than 5 %"
    restart(world, release_id)
    assert claimed(world).first_message == CANARY + 1


def test_a_canary_whose_child_fails_stops_the_mail_job(world: World) -> None:
    release_id = queued(world)
    with HeldClaim(world.database, claimed(world)) as holder:
        holder.fail("no relay could be reached", SOON)
    assert world.state(release_id) == "STOPPED_R"
    assert claim(world) is None
    restart(world, release_id)
    assert {claimed(world).first_message, claimed(world).first_message} == {1, CANARY + 1}


def test_a_canary_that_hangs_is_recovered_before_it_is_judged(world: World) -> None:
    release_id = queued(world)
    lost = claimed(world)
    world.execute(
        "UPDATE mail_job SET heartbeat_at = 'epoch' WHERE mail_job_id = :id",
        id=lost.mail_job_id,
    )
    recovered = claimed(world)
    assert recovered.recovers_id == lost.mail_job_id
    assert claim(world) is None
    end(world, recovered, rejected=20)
    assert world.state(release_id) == "STOPPED_R"


@pytest.mark.rule("3.2")
def test_a_canary_that_was_stopped_is_judged_after_its_restart(world: World) -> None:
    release_id = queued(world)
    canary = claimed(world)
    stop(world, release_id)
    # It was complete when the stop came: its holder finishes it, and its parent stays stopped.
    end(world, canary, rejected=3)
    assert world.state(release_id) == "STOPPED_R"
    # The operator has not seen the canary's end yet: it is told now, and nothing more leaves.
    restart(world, release_id)
    assert world.state(release_id) == "STOPPED_R"
    restart(world, release_id)
    assert world.state(release_id) == "P_ASSIGNING"


@pytest.mark.parametrize(
    ("canary", "kind"),
    [
        pytest.param(MESSAGES, "parent", id="no rest would follow"),
        pytest.param(CANARY, "small", id="a small mail job is never divided"),
    ],
)
def test_there_is_no_canary_where_nothing_follows_it(world: World, canary: int, kind: str) -> None:
    queued(world, canary=canary, kind=kind)
    with world.database.begin() as connection:
        assert connection.scalar(text("SELECT count(*) FROM mail_job WHERE canary_messages IS NOT NULL")) == 0


def test_a_relay_that_refuses_everybody_gets_the_canary_only(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site_with_sink(
        tmp_path,
        database_url,
        monkeypatch,
        sink_options=("-f", "RCPT", "-B", "550 5.7.1 not from you"),
        contacts=400,
        campaign={"canary": {"messages": 30}},
        mailcasters=[{"name": "m1", "min_job_size": 100, "max_job_size": 400}],
    ) as (inst, _):
        release_id = released(inst)
        run_shift(inst, "m1", stop=threading.Event())
        stopped, reason = state(inst, release_id)
        assert stopped is MailJobState.STOPPED_R
        assert reason == "canary: 30 of the first 30 messages were rejected, more than 2 %"
        found = tally(inst, release_id)
        assert (found.rejected, found.waiting) == (30, 370)
