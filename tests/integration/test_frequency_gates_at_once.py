"""What meets at the gate, and processes that die in it: never more than the rules allow, nothing twice (spec 8.8)."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Barrier, Event
from time import sleep
from typing import Any
from unittest.mock import patch

import pytest

from mail_orchestration.audience import duplicates, frequency_gate, resolving
from mail_orchestration.audience.resolving import mark_interrupted, resolve_recipients
from mail_orchestration.dispatch import recovering_held
from mail_orchestration.dispatch.campaigns import CampaignChange, delete_campaign
from mail_orchestration.feedback.daily_counts import close_day
from mail_orchestration.frequency import queue
from mail_orchestration.kernel import crash_points
from mail_orchestration.kernel.database import Database
from tests.integration.frequency_queue_world import at_its_limit
from tests.integration.frequency_world import NOON, FrequencyWorld, database, days_later

__all__ = ["database"]

CONTACTS = 40
AT_ONCE = 4
pytestmark = pytest.mark.rule("8.8")


def at_once(works: list[Callable[[], Any]]) -> None:
    """All of them begin in the same moment."""
    together = Barrier(len(works))

    def begin(work: Callable[[], Any]) -> None:
        together.wait(timeout=60)
        work()

    with ThreadPoolExecutor(len(works)) as pool:
        for future in [pool.submit(begin, work) for work in works]:
            future.result(timeout=120)


def wait_for_a_waiting_lock(world: FrequencyWorld, work: Future[Any]) -> None:
    """Until somebody waits for a lock of ours, or the work is done."""
    while not work.done() and not world.rows(
        "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    ):
        sleep(0.01)


def test_of_campaigns_at_the_same_moment_no_contact_gets_more_than_the_rules_allow(
    database: Database,
) -> None:
    world = FrequencyWorld(database, [(2, 7)], contacts=CONTACTS)
    world.night(NOON)
    # Of different days: those of one day wait for each other in dedup already.
    made = [world.made(NOON - timedelta(days=no), campaign=f"campaign {no}") for no in range(AT_ONCE)]
    at_once([lambda number=number: world.resolved(number, NOON) for number in made])
    passed = Counter(no for number in made for no in world.passed(number))
    assert passed == dict.fromkeys(range(1, CONTACTS + 1), 2)
    assert world.held() == (AT_ONCE - 2) * CONTACTS
    assert world.faults() == []


def test_the_second_gate_waits_for_the_first_and_sees_whom_it_let_through(database: Database) -> None:
    world = FrequencyWorld(database, [(1, 7)])
    world.night(NOON)
    first, second = world.made(NOON), world.made(days_later(-1), campaign="other")
    has_decided, goes_on = Event(), Event()

    def crash_point(name: str) -> None:
        if name == "gate_held" and not has_decided.is_set():
            has_decided.set()
            assert goes_on.wait(60)

    with ThreadPoolExecutor(2) as pool, patch.object(frequency_gate, "crash_point", crash_point):
        of_first = pool.submit(world.resolved, first, NOON)
        assert has_decided.wait(60)
        of_second = pool.submit(world.resolved, second, NOON)
        wait_for_a_waiting_lock(world, of_second)
        goes_on.set()
        of_first.result(60)
        of_second.result(60)
    assert (world.passed(first), world.passed(second)) == ({1, 2, 3}, set())
    assert world.faults() == []


def test_a_campaign_that_is_deleted_waits_for_its_release_that_is_at_the_gate(database: Database) -> None:
    world = FrequencyWorld(database, [(1, 7)])
    world.sent(world.released(NOON, [1, 2], campaign="first"), NOON)
    made = world.made(days_later(1), campaign="second")
    world.night(days_later(1))
    has_decided, goes_on = Event(), Event()

    def crash_point(name: str) -> None:
        if name == "gate_held":
            has_decided.set()
            assert goes_on.wait(60)

    def delete() -> CampaignChange:
        with database.begin() as connection:
            return delete_campaign(connection, world.inst.installation_id, "second", days_later(1))

    with ThreadPoolExecutor(2) as pool, patch.object(frequency_gate, "crash_point", crash_point):
        release = pool.submit(world.resolved, made, days_later(1))
        assert has_decided.wait(60)
        deleted = pool.submit(delete)
        wait_for_a_waiting_lock(world, deleted)
        goes_on.set()
        release.result(60)
        assert (deleted.result(60).stopped, deleted.result(60).held) == ((made,), 2)
    assert world.held() == 0


@pytest.mark.rule("6.6", "8.9")
@pytest.mark.parametrize("first", ["release", "recovery"])
def test_what_is_recovered_while_the_same_is_released_goes_once(
    database: Database, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, _ = at_its_limit(database)
    queue.empty(world.inst, by="me", now=days_later(2))
    at = days_later(9)
    world.night(at)
    made = world.made(at, campaign="second")
    has_come, goes_on = Event(), Event()

    def stop(name: str) -> None:
        if name == first:
            has_come.set()
            assert goes_on.wait(60)

    def gate(*arguments: Any) -> None:
        """It is decided who has the same already, and nobody is at the gate yet."""
        stop("release")
        frequency_gate.pass_frequency_gate(*arguments)

    def recover_held_mails(*arguments: Any, **more: Any) -> recovering_held.RecoveredHeld:
        """The mails wait again, and nobody sees them yet."""
        found = recovering_held.recover_held_mails(*arguments, **more)
        stop("recovery")
        return found

    def release() -> None:
        resolve_recipients(
            database,
            made,
            small_audience_threshold=1000,
            history=timedelta(days=30),
            time_zone=world.inst.settings.zone,
            now=at,
        )

    def recovery() -> queue.Recovered:
        return queue.recover(world.inst, deleted=True, by="me", now=at)

    monkeypatch.setattr(duplicates, "database_now", lambda _: at)
    monkeypatch.setattr(resolving, "pass_frequency_gate", gate)
    monkeypatch.setattr(queue, "recover_held_mails", recover_held_mails)
    works: dict[str, Callable[[], Any]] = {"release": release, "recovery": recovery}
    (second,) = works.keys() - {first}
    with ThreadPoolExecutor(2) as pool:
        done = {first: pool.submit(works[first])}
        assert has_come.wait(60)
        done[second] = pool.submit(works[second])
        wait_for_a_waiting_lock(world, done[second])
        goes_on.set()
    done["release"].result()
    recovered: queue.Recovered = done["recovery"].result()
    passed = [world.passed(made), *(world.passed(each.mail_job_id) for each in recovered.released.later)]
    assert (recovered.recovered.mails, passed) == (
        (0, [{1, 2, 3}]) if first == "release" else (3, [set(), {1, 2, 3}])
    )
    assert world.faults() == []


def test_gates_closes_and_places_given_back_at_the_same_moment_leave_the_books_right(
    database: Database,
) -> None:
    world = FrequencyWorld(database, [(2, 7)], contacts=CONTACTS)
    world.sent(world.released(NOON), NOON, dict.fromkeys(range(1, 9), "rejected"))
    world.sent(world.released(NOON), NOON)
    made = [world.made(days_later(1 + no), campaign=f"campaign {no}") for no in range(2)]
    inst = world.inst
    at_once(
        [
            *(lambda number=number: world.resolved(number, days_later(1)) for number in made),
            *(lambda: world.night(days_later(1)) for _ in range(2)),
            lambda: close_day(database, inst.installation_id, NOON.date(), inst.settings.zone, days_later(1)),
        ]
    )
    world.night(days_later(1))
    assert world.faults() == []
    passed = Counter(no for number in made for no in world.passed(number))
    assert passed.keys() <= set(range(1, 9))
    assert max(passed.values(), default=0) <= 1


@pytest.mark.parametrize("point", ["gate_held", "gate_places_taken", "dedup_settled"])
def test_who_dies_in_the_gate_has_taken_no_place_and_let_nobody_through(
    database: Database, short_folder: Path, point: str
) -> None:
    world = FrequencyWorld(database, [(1, 7)], contacts=CONTACTS)
    world.released(NOON, range(1, 11))
    cut_off = world.made(NOON)
    pid = os.fork()
    if pid == 0:
        # With connections of its own: two processes on one session would mix their words.
        try:
            with Database.open(database.url, short_folder, application_name="tests") as own:
                world.inst = replace(world.inst, database=own)
                crash_points.arm(point)
                world.resolved(cut_off, NOON)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert world.places() == dict.fromkeys(range(1, 11), 1)
    assert world.held() == 0
    # Another campaign comes before the first is found and released again.
    other = world.released(NOON, range(1, 21), campaign="other")
    assert world.passed(other) == set(range(11, 21))
    assert cut_off in mark_interrupted(database, NOON)
    world.execute("UPDATE mail_job SET state = 'QUEUING' WHERE mail_job_id = :r", r=cut_off)
    world.resolved(cut_off, NOON)
    assert world.passed(cut_off) == set(range(21, CONTACTS + 1))
    assert world.faults() == []
