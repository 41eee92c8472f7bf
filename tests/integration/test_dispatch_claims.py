"""Which work a mailcaster finds first, and that many may look at once (spec 4.3, 4.6)."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import text

from mail_orchestration.dispatch.claims import Claim, claim_chosen, claim_next
from mail_orchestration.dispatch.mail_jobs import waiting_kinds, waiting_work
from mail_orchestration.dispatch.mailcaster_types import mailcaster_type
from mail_orchestration.dispatch.search_order import SEARCH_ORDER, WorkKind
from mail_orchestration.kernel.fleet_settings import MailcasterParameters
from mail_orchestration.kernel.states import MailJobKind
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
ALL_TYPES = [SMALL_ONLY, SMALL_PRIORITY, LARGE_PRIORITY, LARGE_ONLY]
by_name = pytest.mark.parametrize("parameters", ALL_TYPES, ids=lambda parameters: parameters.name)


def claim(world: World, parameters: MailcasterParameters) -> Claim | None:
    return claim_next(world.database, world.installation_id, parameters, now=LATER, hang_after_s=HANG_AFTER_S)


def one_of_each(world: World) -> dict[WorkKind, int]:
    """One piece of work of each kind: the mail job that it is taken from."""
    assigning = world.queue(30_000, kind="parent")
    world.execute(
        "UPDATE mail_job SET state = 'P_ASSIGNING', next_message = 25_001 WHERE mail_job_id = :id",
        id=assigning,
    )
    return {
        WorkKind.P_ASSIGNING: assigning,
        WorkKind.P_QUEUED: world.queue(3000, kind="parent"),
        WorkKind.SMALL_QUEUED: world.queue(13, kind="small"),
        WorkKind.SMALL_HANGING: world.begun(14, kind="small"),
        WorkKind.SMALL_RECOVERING: world.begun(15, kind="small", state="RECOVERING"),
        WorkKind.CHILD_HANGING: world.begun(3001, kind="parent"),
        WorkKind.CHILD_RECOVERING: world.begun(3002, kind="parent", state="RECOVERING"),
    }


def source_of(claimed: Claim) -> int:
    """Where a claim came from: the mail job it recovers, its parent, or itself."""
    if claimed.recovers_id is not None:
        return claimed.recovers_id
    return claimed.parent_id if claimed.parent_id is not None else claimed.mail_job_id


@pytest.mark.rule("4.3")
@by_name
def test_each_type_searches_in_its_order(world: World, parameters: MailcasterParameters) -> None:
    work = {mail_job_id: kind for kind, mail_job_id in one_of_each(world).items()}
    taken: list[WorkKind] = []
    while (claimed := claim(world, parameters)) is not None:
        taken.append(work[source_of(claimed)])
    # A parent is taken from until it is empty: its later children are of the same class.
    assert list(dict.fromkeys(taken)) == [
        kind for kind in SEARCH_ORDER[mailcaster_type(parameters)] if kind in work.values()
    ]


@pytest.mark.rule("4.3")
@by_name
def test_waiting_work_is_what_a_claim_would_find(world: World, parameters: MailcasterParameters) -> None:
    def is_waiting() -> bool:
        with world.database.begin() as connection:
            return waiting_work(
                connection, parameters, LATER, HANG_AFTER_S, installation_id=world.installation_id
            )

    assert not is_waiting()
    one_of_each(world)
    with world.database.begin() as connection:
        found = waiting_kinds(connection, LATER, HANG_AFTER_S, installation_id=world.installation_id)
    assert found == set(WorkKind)
    assert is_waiting()
    while claim(world, parameters) is not None:
        pass
    assert not is_waiting()


@pytest.mark.rule("4.3")
def test_within_a_class_priority_then_queue_time_then_number(world: World) -> None:
    second = world.queue(10, kind="small", now=NOW)
    third = world.queue(10, kind="small", now=NOW)
    first = world.queue(10, kind="small", now=NOW - timedelta(minutes=1))
    urgent = world.queue(10, kind="small", now=NOW + timedelta(minutes=1), priority=5)
    taken = [found.mail_job_id for _ in range(4) if (found := claim(world, SMALL_ONLY)) is not None]
    assert taken == [urgent, first, second, third]


@pytest.mark.rule("3.4")
@by_name
def test_mail_jobs_of_a_paused_campaign_are_held(world: World, parameters: MailcasterParameters) -> None:
    one_of_each(world)
    world.execute("UPDATE campaign SET state = 'paused'")
    assert claim(world, parameters) is None
    world.execute("UPDATE campaign SET state = 'live'")
    assert claim(world, parameters) is not None


@pytest.mark.rule("3.4")
@by_name
def test_of_a_deleted_campaign_only_what_has_begun_is_taken(
    world: World, parameters: MailcasterParameters
) -> None:
    made = one_of_each(world)
    world.execute("UPDATE campaign SET state = 'deleted'")
    while claim(world, parameters) is not None:
        pass
    assert world.state(made[WorkKind.SMALL_QUEUED]) == "QUEUED"
    assert world.state(made[WorkKind.P_QUEUED]) == "P_QUEUED"
    with world.database.begin() as connection:
        left = waiting_kinds(connection, LATER, HANG_AFTER_S, installation_id=world.installation_id)
    assert left.isdisjoint({WorkKind.SMALL_QUEUED, WorkKind.P_QUEUED})


@pytest.mark.rule("3.6")
@by_name
def test_work_of_an_expired_release_is_taken_so_that_it_ends(
    world: World, parameters: MailcasterParameters
) -> None:
    for messages, kind in ((13, "small"), (3000, "parent")):
        world.queue(messages, kind=kind)
    world.execute("UPDATE release SET expires_at = :expires_at", expires_at=LATER)
    assert claim(world, parameters) is not None


def test_a_chosen_mail_job_is_taken_out_of_turn(world: World) -> None:
    first, second = (world.queue(10, kind="small") for _ in range(2))
    found = claim_chosen(world.database, world.installation_id, second, LARGE_ONLY, now=LATER)
    assert found is not None
    assert found.mail_job_id == second
    assert claim_chosen(world.database, world.installation_id, second, LARGE_ONLY, now=LATER) is None
    restarted = world.begun(20, kind="parent", state="RECOVERING")
    recovered = claim_chosen(world.database, world.installation_id, restarted, SMALL_ONLY, now=LATER)
    assert recovered is not None
    assert recovered.recovers_id == restarted
    waiting = claim(world, SMALL_ONLY)
    assert waiting is not None
    assert waiting.mail_job_id == first


def test_mail_jobs_of_other_installations_are_left_to_them(world: World) -> None:
    mail_job_id = world.queue(10, kind="small")
    found = claim_next(
        world.database, world.installation_id + 1, SMALL_ONLY, now=LATER, hang_after_s=HANG_AFTER_S
    )
    assert found is None
    found = claim(world, SMALL_ONLY)
    assert found is not None
    assert found.mail_job_id == mail_job_id


@pytest.mark.rule("4.4")
def test_a_whole_that_fits_becomes_one_child_and_its_parent_is_assigned(world: World) -> None:
    parent = world.queue(3000, kind="parent")
    child = claim(world, LARGE_ONLY)
    assert child is not None
    assert (child.kind, child.first_message, child.last_message) == (MailJobKind.CHILD, 1, 3000)
    assert (child.release_id, child.parent_id, child.fence) == (parent, parent, 1)
    assert world.state(parent) == "P_ASSIGNED"


@pytest.mark.rule("4.6")
def test_nobody_waits_for_the_open_transaction_of_another_claim(world: World) -> None:
    held = [world.queue(10, kind="small"), world.queue(9000, kind="parent")]
    free = [world.queue(11, kind="small"), world.queue(9001, kind="parent")]
    with world.database.begin() as another:
        another.execute(text("SET LOCAL lock_timeout = '10s'"))
        for mail_job_id in held:
            another.execute(
                text("SELECT FROM mail_job WHERE mail_job_id = :id FOR NO KEY UPDATE"), {"id": mail_job_id}
            )
        small, child = claim(world, SMALL_ONLY), claim(world, LARGE_ONLY)
        assert small is not None
        assert child is not None
        assert [small.mail_job_id, child.parent_id] == free
        assert claim(world, SMALL_ONLY) is None
    small = claim(world, SMALL_ONLY)
    assert small is not None
    assert small.mail_job_id == held[0]


@pytest.mark.rule("4.6")
def test_a_new_child_of_another_claim_does_not_make_its_parent_look_taken(world: World) -> None:
    """A row that refers to the parent locks it FOR KEY SHARE, which must not keep others from dividing it."""
    parent = world.queue(9000, kind="parent")
    with world.database.begin() as another:
        another.execute(text("SELECT FROM mail_job WHERE mail_job_id = :id FOR KEY SHARE"), {"id": parent})
        child = claim(world, LARGE_ONLY)
        assert child is not None
        assert child.parent_id == parent


@pytest.mark.rule("4.6")
def test_who_passed_over_all_there_was_looks_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = world.queue(9000, kind="parent")
    with world.database.begin() as another:
        another.execute(
            text("SELECT FROM mail_job WHERE mail_job_id = :id FOR NO KEY UPDATE"), {"id": parent}
        )
        # The other claim ends while this one pauses.
        monkeypatch.setattr("mail_orchestration.dispatch.claims.time.sleep", lambda _: another.rollback())
        child = claim(world, LARGE_ONLY)
    assert child is not None
    assert child.parent_id == parent


@pytest.mark.rule("4.6")
def test_of_eight_at_once_every_message_goes_to_one(world: World) -> None:
    parents = {world.queue(messages, kind="parent"): messages for messages in (40_000, 25_013, 7_777, 2_000)}
    smalls = {world.queue(n, kind="small") for n in range(1, 41)}
    fleet = [
        mailcaster(f"m{n}", small_audience_threshold=2000, min_job_size=300 + n, max_job_size=2001 + 100 * n)
        for n in range(8)
    ]
    start = threading.Barrier(len(fleet))

    def work(parameters: MailcasterParameters) -> list[Claim]:
        start.wait()
        found = []
        while (
            claimed := claim_next(
                world.database, world.installation_id, parameters, now=NOW, hang_after_s=HANG_AFTER_S
            )
        ) is not None:
            found.append(claimed)
        return found

    with ThreadPoolExecutor(len(fleet)) as pool:
        by_mailcaster = list(pool.map(work, fleet))
    claims = [claimed for found in by_mailcaster for claimed in found]

    messages = Counter(
        (claimed.release_id, number)
        for claimed in claims
        if claimed.kind is MailJobKind.CHILD
        for number in range(claimed.first_message, claimed.last_message + 1)
    )
    assert messages.total() == sum(parents.values())
    assert set(messages.values()) == {1}
    assert {parent: sum(c.size for c in claims if c.parent_id == parent) for parent in parents} == parents
    taken_smalls = [claimed.mail_job_id for claimed in claims if claimed.kind is MailJobKind.SMALL]
    assert sorted(taken_smalls) == sorted(smalls)
    assert {world.state(parent) for parent in parents} == {"P_ASSIGNED"}
    # They looked together, and none went home because the others were quicker.
    assert all(by_mailcaster)
