"""Stopping by the operator, and a claim in the very moment of the stop: nothing slips through (spec 5.6)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from sqlalchemy import text

from mail_orchestration.dispatch.claims import HeldClaim
from mail_orchestration.dispatch.operating import Operated
from mail_orchestration.dispatch.stopping import mail_jobs_to_stop
from mail_orchestration.kernel.errors import ClaimLost
from tests.integration.dispatch_rows import World, mailcaster, world
from tests.integration.operator_rows import EAGER, LATER, SOON, claim, claimed, restart, stop, told

__all__ = ["world"]

pytestmark = [pytest.mark.rule("5.6"), pytest.mark.rule("3.2")]


def is_anybody_waiting(world: World) -> bool:
    """Whether a session of this database waits for a lock: a look of its own, since a transaction sees one answer."""
    with world.database.begin() as connection:
        waiting = connection.execute(
            text(
                "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
        )
        return waiting.first() is not None


def while_locked(world: World, statement: str, act: Callable[[], list[Operated]]) -> Future[list[Operated]]:
    """Run `act` in a thread while `statement` is not committed; it must wait, and goes on after the commit."""
    with ThreadPoolExecutor(1) as executor, world.database.begin() as other:
        other.execute(text(statement))
        acting = executor.submit(act)
        while not (acting.done() or is_anybody_waiting(world)):
            time.sleep(0.005)
        assert not acting.done()
        other.commit()
    return acting


def test_a_claim_of_a_small_one_in_the_moment_of_the_stop_does_not_slip_through(world: World) -> None:
    work = world.queue(20, kind="small")
    claiming = (
        "UPDATE mail_job SET state = 'RUNNING', fence = 1, mailcaster = 'm', "
        f"heartbeat_at = '{SOON.isoformat()}' WHERE mail_job_id = {work}"
    )
    acting = while_locked(world, claiming, lambda: stop(world, work))
    assert told(acting.result()) == [(work, "RUNNING", "STOPPING")]


def test_a_child_made_in_the_moment_of_the_stop_does_not_slip_through(world: World) -> None:
    parent = world.queue(50, kind="parent")
    first = claimed(world)
    claiming = (
        f"UPDATE mail_job SET next_message = 21 WHERE mail_job_id = {parent}; "
        "INSERT INTO mail_job (release_id, installation_id, parent_id, kind, state, queued_at, first_message, "
        "last_message, mailcaster, fence, heartbeat_at) SELECT release_id, installation_id, mail_job_id, 'child', "
        f"'RUNNING', queued_at, 11, 20, 'm', 1, '{SOON.isoformat()}' FROM mail_job WHERE mail_job_id = {parent}"
    )
    acting = while_locked(world, claiming, lambda: stop(world, parent))
    entered = [each.entered for each in acting.result()]
    assert entered == ["STOPPED_R", "STOPPING", "STOPPING"]
    assert world.state(first.mail_job_id) == "STOPPING"


def test_a_recovery_in_the_moment_of_the_stop_does_not_slip_through(world: World) -> None:
    """The stop waits for the row that is recovered; its successor is in no snapshot taken before."""
    child = world.begun(20, kind="parent")
    parent = world.claim_of(child).parent_id
    assert parent is not None
    recovering = (
        f"UPDATE mail_job SET state = 'RECOVERED', fence = 2, ended_at = now() WHERE mail_job_id = {child}; "
        "INSERT INTO mail_job (release_id, installation_id, parent_id, recovers_id, kind, state, queued_at, "
        "first_message, last_message, mailcaster, fence, heartbeat_at) "
        "SELECT release_id, installation_id, parent_id, mail_job_id, kind, 'RUNNING', queued_at, first_message, "
        f"last_message, 'm', 3, '{SOON.isoformat()}' FROM mail_job WHERE mail_job_id = {child}"
    )
    acting = while_locked(world, recovering, lambda: stop(world, parent))
    assert [(each.left, each.entered) for each in acting.result()] == [
        ("P_ASSIGNED", "STOPPED_R"),
        ("RUNNING", "STOPPING"),
    ]


def test_stops_and_claims_at_once_leave_nothing_running(world: World) -> None:
    """Mailcasters claim as fast as they can while everything is stopped: nothing is taken after the stop."""
    for _ in range(4):
        world.queue(200, kind="parent")
        world.queue(5, kind="small")
    begin = threading.Barrier(4)

    def take() -> None:
        begin.wait()
        while claim(world, EAGER) is not None:
            pass

    with ThreadPoolExecutor(3) as executor:
        takers = [executor.submit(take) for _ in range(3)]
        begin.wait()
        time.sleep(0.05)
        with world.database.begin() as connection:
            numbers = mail_jobs_to_stop(connection, world.installation_id)
        for number in numbers:
            stop(world, number)
        for taker in takers:
            taker.result()
    with world.database.begin() as connection:
        live = connection.execute(
            text(
                "SELECT DISTINCT state FROM mail_job WHERE state NOT IN ('STOPPED_Q', 'STOPPED_R', 'STOPPING')"
            )
        )
        assert list(live.scalars()) == []


def test_a_claim_that_was_fenced_out_before_it_is_held_sends_nothing(world: World) -> None:
    """Its process was suspended between the two for longer than a dead one is waited for."""
    work = world.begun(20, kind="small")
    old = world.claim_of(work)
    assert told(stop(world, work, LATER)) == [(work, "RUNNING", "STOPPED_R")]
    with pytest.raises(ClaimLost):
        HeldClaim(world.database, old).__enter__()
    assert told(restart(world, work, LATER)) == [(work, "STOPPED_R", "RECOVERING")]
    assert claimed(world, mailcaster("any"), LATER).recovers_id == work, "the lock is free again"
