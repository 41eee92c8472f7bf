"""Held mails wait: who goes, who goes first, and who waits on (spec 8.4, 8.5)."""

from __future__ import annotations

import json
import random
from collections import Counter
from datetime import datetime, timedelta

import pytest

from mail_orchestration import campaigns, control
from mail_orchestration.audience.suppressing import suppress_contact
from mail_orchestration.feedback import frequency_figures
from mail_orchestration.frequency import prepare_gate
from mail_orchestration.frequency.queue import empty, rescan
from mail_orchestration.frequency.releasing import Released, release_held
from mail_orchestration.frequency.showing import overview
from mail_orchestration.kernel.database import Database
from tests.integration.frequency_queue_world import (
    LONG,
    WEEK,
    at_its_limit,
    endings,
    important,
    next_week,
    waiting,
)
from tests.integration.frequency_world import FrequencyWorld, database, days_later

__all__ = ["database"]


@pytest.mark.rule("8.4")
def test_a_held_mail_goes_in_a_later_release_that_is_as_the_first_was(database: Database) -> None:
    world = FrequencyWorld(database, [(1, WEEK)], contacts=3, **LONG)
    world.sent(world.released(days_later(0), campaign="first"), days_later(0))
    held = world.released(
        days_later(1),
        campaign="second",
        occurrence="May",
        topic="news",
        canary_messages=5,
        canary_most_rejected=1,
    )
    world.becomes(held, "STOPPED", days_later(1))
    assert not release_held(world.inst, now=days_later(7)).later
    (later,) = next_week(world).later
    assert (later.held_from, later.campaign, later.mails, later.suppressed) == (held, "second", 3, 0)
    assert world.passed(later.mail_job_id) == {1, 2, 3}
    assert world.rows(
        "SELECT a.files, a.digest, a.content_digest, a.occurrence, a.topic, a.audience_ids, a.expires_at "
        "FROM release AS a WHERE release_id = :held",
        held=held,
    ) == world.rows(
        "SELECT files, digest, content_digest, occurrence, topic, audience_ids, expires_at FROM release "
        "WHERE release_id = :later",
        later=later.mail_job_id,
    )
    assert world.rows(
        "SELECT j.state, j.kind, r.canary_messages, r.takes_places, r.recipient_count, r.bypassed_count "
        "FROM release AS r JOIN mail_job AS j ON j.mail_job_id = r.release_id WHERE r.release_id = :r",
        r=later.mail_job_id,
    ) == [("QUEUING", "small", None, True, 3, 0)]
    assert set(endings(world).values()) == {"sent"}
    assert world.faults() == []
    assert release_held(world.inst, now=days_later(8)) == Released()


@pytest.mark.rule("8.4")
def test_the_most_important_goes_first_then_the_oldest(database: Database) -> None:
    world = FrequencyWorld(database, [(1, 1)], contacts=2)
    important(world, days_later(0), 0, "opens")
    dull = important(world, days_later(0.1), 1, "dull")
    older = important(world, days_later(0.2), 5, "older")
    newer = important(world, days_later(0.3), 5, "newer")
    went = []
    for day in (1, 2, 4, 6, 8):
        world.night(days_later(day))
        for later in release_held(world.inst, now=days_later(day)).later:
            went.append((day, later.held_from))
            world.sent(later.mail_job_id, days_later(day))
    # A mail of one day counts on the next one too: every second day is free.
    assert went == [(2, older), (4, newer), (6, dull)]
    assert world.faults() == []


@pytest.mark.rule("8.4")
def test_whose_own_rules_let_it_through_goes_before_what_is_more_important(database: Database) -> None:
    world = FrequencyWorld(database, [(1, WEEK)], contacts=1, **LONG)
    important(world, days_later(0), 0, "opens")
    strict = important(world, days_later(1), 9, "strict")
    easy = important(world, days_later(1), 0, "easy", frequency_rules='[{"max_mails": 1, "days": 1}]')
    world.night(days_later(2))
    (later,) = release_held(world.inst, now=days_later(2)).later
    assert later.held_from == easy
    assert waiting(world) == [(strict, 1)]


@pytest.mark.rule("8.5")
def test_what_does_not_count_waits_for_room_and_takes_none(database: Database) -> None:
    world = FrequencyWorld(database, [(1, WEEK)], contacts=1, **LONG)
    important(world, days_later(0), 0, "opens")
    free = important(world, days_later(1), 5, "free", counts=False)
    counting = important(world, days_later(1), 0, "counting")
    gone = next_week(world)
    assert {each.held_from for each in gone.later} == {free, counting}
    assert world.places() == {1: 1}
    assert world.faults() == []


def fold(mails: list[tuple[int, bool]]) -> list[bool]:
    """By hand: one contact's mails in their order, each with its room and whether it counts."""
    taken, decided = 0, []
    for room, counts_ in mails:
        decided.append(room > taken)
        taken += decided[-1] and counts_
    return decided


def waits(
    world: FrequencyWorld, release_id: int, contact_ids: list[int], at: datetime, priority: int = 0
) -> None:
    """Mails of a release to these contacts are held, for a week after the world's first day."""
    world.execute(
        "INSERT INTO held_mail (installation_id, contact_id, campaign_id, release_id, audience_id, priority, "
        "held_at, expires_at, max_mails, days) "
        "SELECT :i, c, campaign_id, release_id, audience_ids[1], :p, :at, :end, 4, 7 "
        "FROM release CROSS JOIN unnest(CAST(:c AS bigint[])) AS c WHERE release_id = :r",
        i=world.inst.installation_id,
        c=contact_ids,
        p=priority,
        end=days_later(WEEK),
        at=at,
        r=release_id,
    )


@pytest.mark.rule("8.5")
@pytest.mark.parametrize("window", ["rolling", "calendar"])
def test_what_counts_by_own_rules_is_what_the_log_has_in_the_window_of_each(
    database: Database, window: str
) -> None:
    dice = random.Random(5)
    world = FrequencyWorld(database, [(90, 90)], contacts=30, window=window)
    world.night(days_later(0))
    today = days_later(0).date()
    log = {
        (contact_id, back): dice.choice([1, 1, 2])
        for contact_id in world.contact_ids
        for back in dice.sample([1, 2, 3, 4, 9, 10, 11, 29, 30, 31], dice.randrange(5))
    }
    for (contact_id, back), mails in log.items():
        day = today - timedelta(days=back)
        world.execute("SELECT ensure_day_partitions(:day)", day=day)
        world.execute(
            "INSERT INTO daily_mail_count (day, installation_id, contact_id, mails) VALUES (:day, :i, :c, :mails)",
            day=day,
            i=world.inst.installation_id,
            c=contact_id,
            mails=mails,
        )
    expected: dict[int, set[int]] = {}
    # None of them counts, so that each is decided alone.
    for number, own in enumerate(([(1, 3)], [(2, 10)], [(1, 3), (2, 10)], [(1, 1), (3, 10), (4, 30)])):
        rules = json.dumps([{"max_mails": most, "days": days} for most, days in own])
        release_id = world.made(
            days_later(0), [1], campaign=f"c{number}", frequency_rules=rules, counts=False
        )
        world.becomes(release_id, "FINISHED", days_later(0))
        waits(world, release_id, world.contact_ids, days_later(0))
        expected[release_id] = {
            no
            for contact_id, no in world.number.items()
            if all(
                most
                > sum(
                    mails
                    for (of, back), mails in log.items()
                    if of == contact_id and back <= days - (window == "calendar")
                )
                for most, days in own
            )
        }
    gone = release_held(world.inst, now=days_later(0))
    assert {each.held_from: world.passed(each.mail_job_id) for each in gone.later} == expected
    assert {len(passed) for passed in expected.values()}.isdisjoint({0, 30})


@pytest.mark.rule("8.4", "8.5")
def test_whatever_waits_is_decided_mail_by_mail_in_the_order_of_importance(database: Database) -> None:
    """Random mails of campaigns with rules of their own, or that do not count, against a loop over single mails."""
    dice = random.Random(8)
    world = FrequencyWorld(database, [(4, WEEK)], contacts=60)
    world.night(days_later(0))
    releases: dict[int, tuple[int, bool]] = {}
    for number in range(8):
        own, counting = dice.choice([None, 1, 2, 6]), dice.random() < 0.7
        rules = None if own is None else f'[{{"max_mails": {own}, "days": 30}}]'
        release_id = world.made(
            days_later(0), [1], campaign=f"c{number}", frequency_rules=rules, counts=counting
        )
        world.becomes(release_id, "FINISHED", days_later(0))
        releases[release_id] = (own or 4, counting)
    expected: Counter[int] = Counter()
    for contact_id in world.contact_ids:
        had = dice.randrange(3)
        if had:
            world.execute(
                "INSERT INTO frequency_counter (contact_id, installation_id, places) VALUES (:c, :i, :had)",
                c=contact_id,
                i=world.inst.installation_id,
                had=had,
            )
        mails = []
        for release_id in dice.sample(sorted(releases), dice.randrange(6)):
            priority, minute = dice.randrange(3), dice.randrange(10_000)
            mails.append((-priority, minute, release_id))
            waits(world, release_id, [contact_id], days_later(0) + timedelta(minutes=minute), priority)
        ordered = [release_id for _, _, release_id in sorted(mails)]
        rooms = [(releases[release_id][0] - had, releases[release_id][1]) for release_id in ordered]
        expected.update(r for r, goes in zip(ordered, fold(rooms), strict=True) if goes)
    gone = release_held(world.inst, now=days_later(0))
    assert {each.held_from: each.mails for each in gone.later} == dict(expected)
    assert len(waiting(world)) == gone.waiting > 0


@pytest.mark.rule("3.6", "8.4")
def test_nothing_goes_before_the_campaign_starts(database: Database) -> None:
    world = FrequencyWorld(database, [(1, WEEK)], contacts=1, **LONG)
    important(world, days_later(0), 0, "opens")
    held = world.released(days_later(1), campaign="second", starts_at=days_later(9))
    world.becomes(held, "STOPPED", days_later(1))
    assert not next_week(world).later
    assert len(release_held(world.inst, now=days_later(9)).later) == 1


@pytest.mark.rule("3.4", "5.6", "8.4")
@pytest.mark.parametrize("kept_by", ["a pause", "a stop"])
def test_what_the_operator_lets_go_on_is_looked_at_before_the_next_gate(
    database: Database, kept_by: str
) -> None:
    world, held = at_its_limit(database, contacts=2)
    if kept_by == "a pause":
        campaigns.pause(world.inst, "second")
    else:
        world.becomes(held, "STOPPED_Q", days_later(1))
    prepare_gate(world.inst, now=days_later(8))
    first = world.released(days_later(8), [1], campaign="third", upkeep=False)
    assert world.passed(first) == {1}, "nobody knows when the other goes on"

    if kept_by == "a pause":
        campaigns.resume(world.inst, "second")
    else:
        control.restart(world.inst, control.Scope(mail_job=held), now=days_later(8))
    prepare_gate(world.inst, now=days_later(8))
    second = world.released(days_later(8), [2], campaign="third", upkeep=False)
    assert world.passed(second) == set()
    assert waiting(world) == [(held, 1), (second, 2)]
    assert world.faults() == []


@pytest.mark.rule("1.5", "8.4")
def test_who_was_suppressed_meanwhile_is_bypassed_and_takes_no_place(database: Database) -> None:
    world, _ = at_its_limit(database)
    only = world.released(days_later(2), [2], campaign="third")
    world.becomes(only, "STOPPED", days_later(2))
    world.execute("UPDATE held_mail SET priority = 1 WHERE release_id = :r", r=only)
    with database.begin() as connection:
        suppress_contact(connection, world.contact_ids[1], "opted_out", now=days_later(3))
    gone = {each.campaign: each for each in next_week(world).later}
    assert (gone["second"].mails, gone["second"].suppressed) == (2, 0)
    assert (gone["third"].mails, gone["third"].suppressed) == (0, 1)
    assert world.rows("SELECT state FROM mail_job WHERE mail_job_id = :r", r=gone["third"].mail_job_id) == [
        ("STOPPED",)
    ]
    assert world.places() == {1: 1, 3: 1}
    assert world.faults() == []


@pytest.mark.rule("8.4")
def test_another_installations_queue_is_let_alone(database: Database) -> None:
    world, _ = at_its_limit(database)
    other = FrequencyWorld(database, [(1, WEEK)], contacts=1, **LONG)
    other.sent(other.released(days_later(0), campaign="first"), days_later(0))
    theirs = other.released(days_later(1), campaign="second")
    other.becomes(theirs, "STOPPED", days_later(1))
    other.night(days_later(8))
    next_week(world)
    assert waiting(other) == [(theirs, 1)]
    empty(world.inst, by="me", now=days_later(8))
    assert waiting(other) == [(theirs, 1)]


@pytest.mark.rule("8.9")
def test_many_contacts_at_a_limit_are_as_the_night_counted_them(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the moment, and how many releases took places since; few are counted whenever somebody asks."""

    def told(day: float) -> tuple[list[int], int]:
        found = overview(world.inst, now=days_later(day)).contacts
        assert found is not None
        return [rule.at_limit for rule in found.rules], found.releases_since

    world = FrequencyWorld(database, [(2, WEEK)], contacts=3, **LONG)
    world.released(days_later(0), {1})
    rescan(world.inst, now=days_later(0))
    world.released(days_later(0), {1, 2})
    assert told(0) == ([1], 0)
    monkeypatch.setattr(frequency_figures, "COUNTED_AT_ONCE", 0)
    world.released(days_later(0), {2, 3})
    assert told(0) == ([1], 1)
    rescan(world.inst, now=days_later(0))
    assert told(0) == ([2], 0)
    # Figures of other rules are none of these: they are counted at once.
    world.wishes([(1, WEEK)])
    world.night(days_later(0))
    assert told(0) == ([3], 0)
