"""Held mails come back into the queue: given up before they were queued, expired, deleted (spec 8.9)."""

from __future__ import annotations

import pytest

from mail_orchestration.dispatch.held_mails import HeldMailEnding
from mail_orchestration.frequency.queue import delete, empty, recover
from mail_orchestration.frequency.releasing import release_held
from mail_orchestration.kernel.database import Database
from tests.integration.frequency_queue_world import (
    LONG,
    WEEK,
    at_its_limit,
    endings,
    first_waiting,
    next_week,
    waiting,
)
from tests.integration.frequency_world import FrequencyWorld, database, days_later

__all__ = ["database"]


@pytest.mark.rule("8.9")
def test_what_failed_before_it_was_queued_comes_back(database: Database) -> None:
    world, held = at_its_limit(database)
    (later,) = next_week(world).later
    assert recover(world.inst, by="me", now=days_later(8)).recovered.mails == 0
    world.execute(
        "UPDATE mail_job SET state = 'FAILED', ended_at = now() WHERE mail_job_id = :r", r=later.mail_job_id
    )
    done = recover(world.inst, by="me", now=days_later(9))
    assert (done.recovered.mails, done.recovered.sent_since, done.recovered.too_late) == (3, 0, 0)
    # The places of what failed are free again: they go at once.
    (again,) = done.released.later
    assert (again.held_from, again.mails) == (held, 3)
    assert world.places() == {1: 1, 2: 1, 3: 1}
    assert world.faults() == []
    assert recover(world.inst, by="me", now=days_later(9)).recovered.mails == 0


@pytest.mark.rule("6.6", "8.9")
def test_who_got_the_same_since_does_not_get_it_again(database: Database) -> None:
    world, held = at_its_limit(database)
    (later,) = next_week(world).later
    world.execute(
        "UPDATE mail_job SET state = 'FAILED', ended_at = now() WHERE mail_job_id = :r", r=later.mail_job_id
    )
    world.sent(world.released(days_later(8.1), [2], campaign="second"), days_later(8.1))
    done = recover(world.inst, by="me", now=days_later(9))
    assert (done.recovered.mails, done.recovered.sent_since) == (2, 1)
    (again,) = done.released.later
    assert world.passed(again.mail_job_id) == {1, 3}
    assert endings(world) == {(held, 1): "sent", (held, 2): "deleted", (held, 3): "sent"}


@pytest.mark.rule("8.9")
def test_what_expired_or_was_deleted_comes_back_when_it_is_asked_for(database: Database) -> None:
    world, held = at_its_limit(database)
    first = first_waiting(world)
    delete(world.inst, [first], by="me", now=days_later(2))
    world.execute("UPDATE held_mail SET expires_at = :at WHERE release_id = :r", at=days_later(3), r=held)
    world.night(days_later(3))
    assert release_held(world.inst, now=days_later(3)).ended == {HeldMailEnding.EXPIRED: 2}
    assert recover(world.inst, by="me", now=days_later(4)).recovered.mails == 0
    assert recover(world.inst, deleted=True, by="me", now=days_later(4)).recovered.mails == 1
    assert waiting(world) == [(held, 1)]
    assert recover(world.inst, expired=True, by="me", now=days_later(4)).recovered.mails == 2
    assert waiting(world) == [(held, 1), (held, 2), (held, 3)]
    assert world.rows("SELECT DISTINCT expires_at FROM held_mail WHERE release_id = :r", r=held) == [
        (days_later(34.5),)
    ]
    assert endings(world) == {}


@pytest.mark.rule("8.9")
def test_what_is_past_its_campaigns_expiry_does_not_come_back(database: Database) -> None:
    world, held = at_its_limit(database, contacts=1)
    world.execute("UPDATE release SET expires_at = :at WHERE release_id = :r", at=days_later(4), r=held)
    empty(world.inst, by="me", now=days_later(2))
    done = recover(world.inst, deleted=True, by="me", now=days_later(4)).recovered
    assert (done.mails, done.too_late) == (0, 1)


@pytest.mark.rule("8.7", "8.9")
def test_what_a_later_occurrence_has_overtaken_does_not_come_back(database: Database) -> None:
    world = FrequencyWorld(database, [(1, WEEK)], contacts=3, **LONG)
    world.sent(world.released(days_later(0), campaign="first"), days_later(0))
    monday = world.released(days_later(1), campaign="daily", occurrence="monday")
    world.becomes(monday, "STOPPED", days_later(1))
    empty(world.inst, by="me", now=days_later(2))
    # One gets Tuesday's, and for another Wednesday's waits; of the third nothing is known since.
    sent_at, urgent = days_later(2.1), {"frequency_policy": "override_policy"}
    world.sent(world.released(sent_at, [1], campaign="daily", occurrence="tuesday", **urgent), sent_at)
    wednesday = world.released(days_later(3), [2], campaign="daily", occurrence="wednesday")
    done = recover(world.inst, deleted=True, by="me", now=days_later(3)).recovered
    assert (done.mails, done.overtaken, done.sent_since) == (1, 2, 0)
    assert set(waiting(world)) == {(wednesday, 2), (monday, 3)}
    assert recover(world.inst, deleted=True, by="me", now=days_later(3)).recovered.mails == 0


@pytest.mark.rule("8.7", "8.9")
def test_of_several_occurrences_the_latest_comes_back(database: Database) -> None:
    world = FrequencyWorld(database, [(1, WEEK)], contacts=1, **LONG)
    world.sent(world.released(days_later(0), campaign="first"), days_later(0))
    held = []
    for day, columns in enumerate(({"occurrence": "monday"}, {"occurrence": "tuesday"}, {}), start=1):
        held.append(world.released(days_later(day), campaign="daily", **columns))
        world.becomes(held[-1], "STOPPED", days_later(day))
        empty(world.inst, by="me", now=days_later(day))
    monday, tuesday, by_hand = held
    done = recover(world.inst, deleted=True, by="me", now=days_later(4)).recovered
    assert (done.mails, done.overtaken) == (2, 1)
    assert waiting(world) == [(tuesday, 1), (by_hand, 1)]
    assert endings(world) == {(monday, 1): "deleted"}
