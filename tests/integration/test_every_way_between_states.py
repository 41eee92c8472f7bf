"""Each way between states that TRANSITIONS knows is gone by some code, and no way that it does not know (spec 3.2).

A trigger writes down every change of a state while the library's own functions take mail jobs through all of them.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text

from mail_orchestration.audience.resolving import mark_interrupted
from mail_orchestration.dispatch.campaigns import delete_campaign
from mail_orchestration.dispatch.claim import Claim
from mail_orchestration.dispatch.claims import HeldClaim
from mail_orchestration.dispatch.mail_jobs import queue_mail_job, transition
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.states import TRANSITIONS, MailJobState
from tests.integration.dispatch_rows import HANG_AFTER_S, NOW, SMALL_ONLY, World
from tests.integration.operator_rows import LATER, SOON, claim, claimed, restart, stop

HUNG = NOW + timedelta(seconds=HANG_AFTER_S + 60)
TOO_OLD = NOW + timedelta(hours=97)

WRITE_DOWN = """
CREATE TABLE way (leaves mail_job_state, enters mail_job_state);
CREATE FUNCTION write_down() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO way VALUES (CASE TG_OP WHEN 'UPDATE' THEN OLD.state END, NEW.state);
    RETURN NULL;
END
$$;
CREATE TRIGGER each_birth AFTER INSERT ON mail_job FOR EACH ROW EXECUTE FUNCTION write_down();
CREATE TRIGGER each_change AFTER UPDATE OF state ON mail_job FOR EACH ROW
    WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION write_down();
"""


def end(world: World, held: Claim, *, failed: bool = False) -> None:
    if not failed:
        world.deliver(held)
    with HeldClaim(world.database, held) as holding:
        if failed:
            holding.fail("too much was refused", SOON)
        else:
            holding.finish(SOON)


def let_go(world: World, held: Claim) -> None:
    with HeldClaim(world.database, held) as holding:
        holding.let_go_stopped(SOON)


def before_the_queue(world: World) -> None:
    for messages in (0, 5, 30):
        with world.database.begin() as connection:
            queue_mail_job(connection, world.create(connection, messages, kind="small"), NOW)
    with world.database.begin() as connection:
        asked = world.create(connection, 5, kind="small")
    stop(world, asked)
    with world.database.begin() as connection:
        queue_mail_job(connection, asked, NOW)
    restart(world, asked)
    with world.database.begin() as connection:
        failed = world.create(connection, 5, kind="small")
        transition(connection, failed, MailJobState.QUEUING, MailJobState.FAILED, "a bad template", NOW)
        cut_off = world.create(connection, 5, kind="small")
        connection.execute(
            text(
                "UPDATE release SET resolving_since = now(), resolved_at = NULL, assembled_at = NULL "
                "WHERE release_id = :id"
            ),
            {"id": cut_off},
        )
    assert mark_interrupted(world.database, NOW) == [cut_off]
    with world.database.begin() as connection:
        transition(connection, cut_off, MailJobState.INTERRUPTED, MailJobState.QUEUING, "again", NOW)
    assert mark_interrupted(world.database, NOW) == [cut_off]
    for _ in range(2):
        waiting = world.queue(30, kind="parent")
        stop(world, waiting)
        restart(world, waiting)
    with world.database.begin() as connection:
        delete_campaign(connection, world.installation_id, "spring", NOW)
    world.execute("UPDATE campaign SET state = 'live'")


def small_ones(world: World) -> None:
    for _ in range(2):
        stopped = world.queue(5, kind="small")
        stop(world, stopped)
        restart(world, stopped)
        work = claimed(world, SMALL_ONLY)
        stop(world, work.mail_job_id)
        restart(world, work.mail_job_id)
        let_go(world, work)
        stop(world, work.mail_job_id)
        restart(world, work.mail_job_id)
        again = claimed(world, SMALL_ONLY)
        end(world, again, failed=True)
        restart(world, again.mail_job_id)
        assert claim(world, SMALL_ONLY, TOO_OLD) is None
    last = claimed_hanging(world)
    stop(world, last.mail_job_id, HUNG)
    world.deliver(last)
    with HeldClaim(world.database, last) as holding:
        holding.finish(HUNG)


def claimed_hanging(world: World) -> Claim:
    world.queue(5, kind="small")
    hanging = claimed(world, SMALL_ONLY)
    recovered = claimed(world, SMALL_ONLY, HUNG)
    assert recovered.recovers_id == hanging.mail_job_id
    return recovered


def parents(world: World) -> None:
    for failing in (0, 1, 2):
        parent = world.queue(20, kind="parent")
        first = claimed(world)
        stop(world, parent)
        let_go(world, first)
        restart(world, parent)
        first, second = claimed(world), claimed(world)
        stop(world, parent)
        restart(world, parent)
        for held in (first, second):
            let_go(world, held)
        held = claimed(world), claimed(world)
        for number, each in enumerate(held):
            end(world, each, failed=number < failing)
        if failing:
            restart(world, parent)
            end(world, claimed(world))
            if failing == 2:
                end(world, claimed(world))
    # Its last child ends while the parent is stopped already, beside one that finished or failed.
    for failing in (0, 1):
        parent = world.queue(20, kind="parent")
        first, second = claimed(world), claimed(world)
        end(world, first, failed=failing == 1)
        stop(world, parent)
        end(world, second)
    whole = world.queue(12, kind="parent")
    end(world, claimed(world))
    assert world.state(whole) == "P_FINISHED"
    dead = world.queue(12, kind="parent")
    claimed(world, now=NOW)
    stop(world, dead, LATER)


@pytest.mark.rule("3.2")
def test_every_way_is_gone_and_no_other(database: Database) -> None:
    world = World(database)
    world.execute(WRITE_DOWN)
    before_the_queue(world)
    small_ones(world)
    parents(world)
    with database.begin() as connection:
        rows = connection.execute(text("SELECT DISTINCT leaves, enters FROM way")).all()
    gone = {(row.leaves, row.enters) for row in rows if row.leaves is not None}
    known = {
        (leaves.value, enters.value) for leaves, all_enters in TRANSITIONS.items() for enters in all_enters
    }
    assert gone - known == set()
    assert known - gone == set()
    assert {row.enters for row in rows if row.leaves is None} == {"QUEUING", "RUNNING"}
