"""What a dead or suspended mailcaster leaves behind is taken over, once, and by the fence's rules (spec 5)."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

import pytest
from sqlalchemy import text

from mail_orchestration.dispatch.claims import Claim, HeldClaim, claim_next, unsent_messages
from mail_orchestration.dispatch.mail_jobs import children, mail_job
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.errors import ClaimLost
from mail_orchestration.kernel.fleet_settings import MailcasterParameters
from tests.integration.dispatch_rows import (
    HANG_AFTER_S,
    LARGE_ONLY,
    LARGE_PRIORITY,
    NOW,
    SMALL_ONLY,
    SMALL_PRIORITY,
    World,
    mailcaster,
    world,
)

__all__ = ["world"]

LATER = NOW + timedelta(seconds=HANG_AFTER_S + 1)


def claim(
    world: World, parameters: MailcasterParameters = LARGE_PRIORITY, after: timedelta | None = None
) -> Claim | None:
    now = LATER if after is None else NOW + after
    return claim_next(world.database, world.installation_id, parameters, now=now, hang_after_s=HANG_AFTER_S)


def unsent_numbers(world: World, claimed: Claim) -> list[int]:
    with world.database.begin() as connection:
        return [message.message_no for message in unsent_messages(connection, claimed, 0, 10_000).to_send]


@pytest.mark.rule("5.3")
@pytest.mark.rule("5.2")
def test_a_hanging_child_becomes_a_new_one_of_what_was_not_sent(world: World) -> None:
    old_id = world.begun(3000, kind="parent")
    old = world.claim_of(old_id)
    world.add_messages(old.release_id, 3000)
    world.deliver(old, 1, 1200)
    world.deliver(old, 1250, 1260)

    assert claim(world, after=timedelta(seconds=HANG_AFTER_S)) is None
    new = claim(world)
    assert new is not None
    assert (new.recovers_id, new.parent_id, new.release_id) == (old_id, old.parent_id, old.release_id)
    assert (new.kind, new.first_message, new.last_message) == (old.kind, 1, 3000)
    assert new.fence > old.fence
    assert world.state(old_id) == "RECOVERED"
    assert world.state(new.mail_job_id) == "RUNNING"
    assert unsent_numbers(world, new) == [*range(1201, 1250), *range(1261, 3001)]
    assert claim(world) is None

    with HeldClaim(world.database, new) as held:
        world.deliver(new, 1201, 1249)
        world.deliver(new, 1261, 3000)
        held.finish(LATER)
    assert old.parent_id is not None
    assert world.state(old.parent_id) == "P_FINISHED"


@pytest.mark.rule("1.8")
def test_a_dead_holders_figures_are_those_of_its_last_results(world: World) -> None:
    """It wrote down its progress before them: recovery counts what it recorded in all."""
    old = world.claim_of(world.begun(50, kind="small"))
    with HeldClaim(world.database, old) as held:
        world.deliver(old, 1, 20)
        held.progress({Outcome.ACCEPTED: 20})
        world.deliver(old, 21, 30)
    new = claim(world)
    assert new is not None
    with world.database.begin() as connection:
        left, taken_up = mail_job(connection, old.mail_job_id), mail_job(connection, new.mail_job_id)
    assert (left.accepted, taken_up.accepted) == (30, 0)


@pytest.mark.rule("5.5")
@pytest.mark.parametrize("kind", ["small", "parent"])
def test_a_stale_claim_can_do_nothing_more(world: World, kind: str) -> None:
    old = world.claim_of(world.begun(50, kind=kind))
    with HeldClaim(world.database, old) as held:
        assert not held.heartbeat(NOW)
        new = claim(world)
        assert new is not None
        assert new.recovers_id == old.mail_job_id
        world.deliver(new)
        for act in (
            lambda: held.heartbeat(LATER),
            lambda: held.progress({Outcome.ACCEPTED: 50}),
            lambda: held.finish(LATER),
            lambda: held.fail("relay unreachable", LATER),
            lambda: held.let_go_stopped(LATER),
            held.hand_back,
        ):
            with pytest.raises(
                ClaimLost, match=f"mail job {old.mail_job_id} is no longer held by mailcaster before"
            ):
                act()
    assert world.state(old.mail_job_id) == "RECOVERED"
    assert world.state(new.mail_job_id) == "RUNNING"


@pytest.mark.rule("5.2")
def test_a_heartbeat_keeps_it(world: World) -> None:
    with HeldClaim(world.database, world.claim_of(world.begun(50, kind="small"))) as held:
        held.heartbeat(NOW + timedelta(seconds=60))
        assert claim(world) is None


@pytest.mark.rule("5.5")
@pytest.mark.parametrize("parameters", [SMALL_ONLY, SMALL_PRIORITY], ids=lambda parameters: parameters.name)
def test_small_mailcasters_do_not_take_hanging_children(
    world: World, parameters: MailcasterParameters
) -> None:
    world.begun(3000, kind="parent")
    assert claim(world, parameters) is None
    assert claim(world, LARGE_ONLY) is not None


@pytest.mark.rule("5.3")
def test_without_automatic_recovery_it_waits_for_the_operator(world: World) -> None:
    patient = mailcaster("patient", automatic_mail_job_recovery=False)
    hanging = world.begun(50, kind="small")
    assert claim(world, patient) is None
    world.set_state(hanging, "STOPPED_R")
    assert claim(world, patient) is None
    world.set_state(hanging, "RECOVERING")
    found = claim(world, patient)
    assert found is not None
    assert found.recovers_id == hanging


@pytest.mark.rule("5.3")
def test_a_restarted_one_is_passed_over_while_its_old_holder_is_letting_go(world: World) -> None:
    first, second = (world.begun(50, kind="small") for _ in range(2))
    with HeldClaim(world.database, world.claim_of(first)):
        for mail_job_id in (first, second):
            world.set_state(mail_job_id, "RECOVERING")
        found = claim(world, after=timedelta(seconds=10))
        assert found is not None
        assert found.recovers_id == second
        assert claim(world, after=timedelta(seconds=10)) is None
    found = claim(world, after=timedelta(seconds=10))
    assert found is not None
    assert found.recovers_id == first


@pytest.mark.rule("5.1")
def test_a_write_that_is_under_way_is_waited_for_by_passing_over(world: World) -> None:
    """The results log locks the mail job's row FOR SHARE while it writes: recovery leaves it until that commits."""
    hanging = world.begun(50, kind="small")
    with world.database.begin() as results_log:
        results_log.execute(
            text("SELECT FROM mail_job WHERE mail_job_id = :id AND fence = 1 FOR SHARE"), {"id": hanging}
        )
        assert claim(world) is None
    assert claim(world) is not None


@pytest.mark.rule("5.4")
@pytest.mark.parametrize("state", ["RUNNING", "RECOVERING"])
def test_too_old_a_child_fails_and_its_unsent_messages_expire(world: World, state: str) -> None:
    child = world.begun(3000, kind="parent", state=state)
    old = world.claim_of(child)
    world.add_messages(old.release_id, 3000)
    world.deliver(old, 1, 2990)
    assert claim(world, after=timedelta(hours=96, seconds=1)) is None
    assert world.state(child) == "FAILED"
    with world.database.begin() as connection:
        assert mail_job(connection, child).reason == "not recovered: it was queued more than 96 hours before"
        expired = connection.execute(
            text("SELECT message_no FROM result WHERE outcome = 'expired' AND mail_job_id = :id ORDER BY 1"),
            {"id": child},
        )
        assert list(expired.scalars()) == list(range(2991, 3001))
    assert old.parent_id is not None
    assert world.state(old.parent_id) == "P_FAILED"
    with pytest.raises(ClaimLost), HeldClaim(world.database, old) as held:
        held.heartbeat(NOW)


@pytest.mark.rule("5.4")
def test_just_in_time_it_is_recovered_and_the_chain_keeps_its_queue_time(world: World) -> None:
    hanging = world.begun(50, kind="small")
    first = claim(world, after=timedelta(hours=96))
    assert first is not None
    assert first.recovers_id == hanging
    with world.database.begin() as connection:
        assert mail_job(connection, first.mail_job_id).queued_at == NOW
    assert claim(world, after=timedelta(hours=99)) is None
    assert world.state(first.mail_job_id) == "FAILED"


@pytest.mark.rule("3.6")
def test_what_hangs_of_an_expired_release_is_not_recovered(world: World) -> None:
    hanging = world.begun(50, kind="small")
    world.execute("UPDATE release SET expires_at = :expires_at", expires_at=LATER)
    assert claim(world) is None
    assert world.state(hanging) == "FAILED"


@pytest.mark.rule("5.5")
def test_who_has_handed_back_holds_nothing_more(world: World) -> None:
    old = world.claim_of(world.begun(50, kind="small"))
    with HeldClaim(world.database, old) as held:
        held.hand_back()
        with pytest.raises(ClaimLost):
            held.heartbeat(LATER)
        with pytest.raises(ClaimLost):
            held.hand_back()


def test_what_is_handed_back_is_taken_at_once(world: World) -> None:
    old = world.claim_of(world.begun(3000, kind="parent"))
    with HeldClaim(world.database, old) as held:
        held.hand_back()
    with world.database.begin() as connection:
        assert mail_job(connection, old.mail_job_id).is_handed_back
    new = claim(world, after=timedelta(seconds=1))
    assert new is not None
    assert new.recovers_id == old.mail_job_id
    with world.database.begin() as connection:
        left, taken_up = mail_job(connection, old.mail_job_id), mail_job(connection, new.mail_job_id)
    assert left.reason == f"was handed back, recovered by {taken_up.mailcaster}"
    assert not left.is_handed_back
    assert not taken_up.is_handed_back


def test_what_hangs_without_being_handed_back_says_so(world: World) -> None:
    hanging = world.begun(50, kind="small")
    new = claim(world)
    assert new is not None
    with world.database.begin() as connection:
        left, taken_up = mail_job(connection, hanging), mail_job(connection, new.mail_job_id)
    assert left.reason == f"hung, recovered by {taken_up.mailcaster}"


def test_one_hanging_mail_job_is_recovered_once_by_many(world: World) -> None:
    hanging = {world.begun(3000 + n, kind="parent") for n in range(3)}
    found = [claim(world, LARGE_ONLY), claim(world, LARGE_PRIORITY), claim(world, LARGE_ONLY)]
    assert {each.recovers_id for each in found if each is not None} == hanging
    assert claim(world) is None
    with world.database.begin() as connection:
        parent = found[0].parent_id if found[0] is not None else None
        assert parent is not None
        assert [child.state for child in children(connection, parent)] == ["RECOVERED", "RUNNING"]


_HOLDER = """
import sys, time
from pathlib import Path
from mail_orchestration.dispatch.claims import HeldClaim
from mail_orchestration.kernel.database import Database
from tests.integration.dispatch_rows import World
with Database.open(sys.argv[1], Path(sys.argv[2]), application_name="holder") as database:
    world = World.__new__(World)
    world.database = database
    with HeldClaim(database, world.claim_of(int(sys.argv[3]))):
        print("held", flush=True)
        time.sleep(60)
"""


@pytest.mark.rule("5.5")
def test_a_killed_holders_lock_is_free_and_a_suspended_ones_does_not_stop_recovery(
    world: World, database_url: str, short_folder: object
) -> None:
    killed, suspended = (world.begun(50, kind="small") for _ in range(2))
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", _HOLDER, database_url, str(short_folder), str(mail_job_id)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for mail_job_id in (killed, suspended)
    ]
    try:
        for holder in holders:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
        holders[0].kill()
        holders[0].wait()
        assert {found.recovers_id for _ in range(2) if (found := claim(world)) is not None} == {
            killed,
            suspended,
        }
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()
