"""Held mails wait: who goes first, who waits on, how each wait ends, and how mails come back (spec 8.4, 8.9)."""

from __future__ import annotations

import random
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest

from mail_orchestration.audience.resolving import resolve_recipients
from mail_orchestration.audience.suppressing import suppress_contact
from mail_orchestration.dispatch.campaigns import delete_campaign, pause_campaign, resume_campaign
from mail_orchestration.dispatch.held_mails import HeldMailEnding
from mail_orchestration.frequency.disabling import disable_policy, what_disabling_does
from mail_orchestration.frequency.queue import counts, delete, empty, recover
from mail_orchestration.frequency.releasing import Released, release_held
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.errors import NotFound, StateConflict
from tests.integration.frequency_world import FrequencyWorld, database, days_later

__all__ = ["database"]

WEEK = 7
LONG = {"shelf_life_days": 30}
"""Nothing expires while a test is about something else."""


def waiting(world: FrequencyWorld) -> list[tuple[int, int]]:
    """(mail job, contact) of what waits, most important first."""
    rows = world.rows(
        "SELECT release_id, contact_id FROM held_mail WHERE installation_id = :i "
        "ORDER BY priority DESC, held_at, held_mail_id",
        i=world.inst.installation_id,
    )
    return [(release_id, world.number[contact_id]) for release_id, contact_id in rows]


def endings(world: FrequencyWorld) -> dict[tuple[int, int], str]:
    """(mail job, contact) → how its wait ended."""
    rows = world.rows(
        "SELECT release_id, contact_id, ending FROM held_mail_log WHERE installation_id = :i",
        i=world.inst.installation_id,
    )
    return {(release_id, world.number[contact_id]): ending for release_id, contact_id, ending in rows}


def first_waiting(world: FrequencyWorld) -> int:
    """The number of the mail that waits for the first contact longest."""
    found = world.rows(
        "SELECT min(held_mail_id) FROM held_mail WHERE installation_id = :i", i=world.inst.installation_id
    )
    return int(found[0][0])


def important(world: FrequencyWorld, at: datetime, priority: int, campaign: str, **columns: Any) -> int:
    """A release of this priority to everybody, sent to whom the gate lets through."""
    world.night(at)
    release_id = world.made(at, campaign=campaign, **columns)
    world.execute("UPDATE mail_job SET priority = :p WHERE mail_job_id = :r", p=priority, r=release_id)
    resolve_recipients(
        world.inst.database,
        release_id,
        small_audience_threshold=1000,
        time_zone=world.inst.settings.zone,
        now=at,
    )
    world.sent(release_id, at)
    return release_id


def at_its_limit(database: Database, contacts: int = 3, **section: Any) -> tuple[FrequencyWorld, int]:
    """One mail in seven days, and everybody has it: the world, and the release whose mails are all held since."""
    world = FrequencyWorld(database, [(1, WEEK)], contacts=contacts, **{**LONG, **section})
    world.sent(world.released(days_later(0), campaign="first"), days_later(0))
    held = world.released(days_later(1), campaign="second")
    world.becomes(held, "STOPPED", days_later(1))
    assert len(waiting(world)) == contacts
    return world, held


def next_week(world: FrequencyWorld) -> Released:
    """The first mail counts no more on the eighth day after it."""
    world.night(days_later(8))
    return release_held(world.inst, now=days_later(8))


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
            world.execute(
                "INSERT INTO held_mail (installation_id, contact_id, campaign_id, release_id, audience_id, priority, "
                "held_at, expires_at, max_mails, days) "
                "SELECT :i, :c, campaign_id, release_id, audience_ids[1], :p, :at, :end, 4, 7 "
                "FROM release WHERE release_id = :r",
                i=world.inst.installation_id,
                c=contact_id,
                p=priority,
                end=days_later(WEEK),
                at=days_later(0) + timedelta(minutes=minute),
                r=release_id,
            )
        ordered = [release_id for _, _, release_id in sorted(mails)]
        rooms = [(releases[release_id][0] - had, releases[release_id][1]) for release_id in ordered]
        expected.update(r for r, goes in zip(ordered, fold(rooms), strict=True) if goes)
    gone = release_held(world.inst, now=days_later(0))
    assert {each.held_from: each.mails for each in gone.later} == dict(expected)
    assert len(waiting(world)) == gone.waiting > 0


@pytest.mark.rule("8.4")
def test_a_shelf_life_and_a_campaigns_expiry_end_the_wait(database: Database) -> None:
    world = FrequencyWorld(database, [(1, 30)], contacts=2, shelf_life_days=5)
    important(world, days_later(0), 0, "opens")
    shelf = important(world, days_later(1), 0, "shelf")
    dated = important(world, days_later(1), 0, "dated", expires_at=days_later(3))
    long = important(world, days_later(1), 0, "long", shelf_life_days=20)
    assert release_held(world.inst, now=days_later(2.9)).ended == {}
    assert release_held(world.inst, now=days_later(3)).ended == {HeldMailEnding.EXPIRED: 2}
    # Held on the day after the first, a shelf life of five days is over as the seventh day begins.
    assert release_held(world.inst, now=days_later(6)).ended == {}
    world.night(days_later(7))
    assert release_held(world.inst, now=days_later(7)).ended == {HeldMailEnding.EXPIRED: 2}
    assert waiting(world) == [(long, 1), (long, 2)]
    assert endings(world) == {(each, no): "expired" for each in (shelf, dated) for no in (1, 2)}


@pytest.mark.rule("8.4", "6.5")
def test_a_shelf_life_that_ends_as_the_rule_lets_go_outlasts_a_clean_up_before_the_close(
    database: Database,
) -> None:
    world = FrequencyWorld(database, [(1, WEEK)], contacts=2)
    important(world, days_later(0), 0, "opens")
    held = important(world, days_later(0.1), 0, "held")
    midnight = days_later(7.5)
    # The clean-up looks through the queue as the day begins, by counters of yesterday.
    assert release_held(world.inst, now=midnight).ended == {}
    assert waiting(world) == [(held, 1), (held, 2)]
    world.night(midnight + timedelta(minutes=15))
    (later,) = release_held(world.inst, now=midnight + timedelta(minutes=15)).later
    assert (later.held_from, later.mails) == (held, 2)


@pytest.mark.rule("8.9")
def test_the_operator_deletes_some_of_a_campaign_or_all(database: Database) -> None:
    world, held = at_its_limit(database)
    other = world.released(days_later(1), campaign="third")
    world.becomes(other, "STOPPED", days_later(1))
    first = first_waiting(world)
    with pytest.raises(NotFound, match="no held mail of the number 4711 waits"):
        delete(world.inst, [first, 4711], by="me", now=days_later(2))
    assert len(waiting(world)) == 6
    assert delete(world.inst, [first], by="me", now=days_later(2)) == 1
    assert waiting(world) == [(held, 2), (held, 3), (other, 1), (other, 2), (other, 3)]
    with pytest.raises(NotFound, match="there is no campaign 'fourth'"):
        empty(world.inst, campaign="fourth", by="me", now=days_later(2))
    assert empty(world.inst, campaign="third", by="me", now=days_later(2)) == 3
    assert [(each.campaign, str(each.held_by), each.mails) for each in counts(world.inst)] == [
        ("second", "1 in 7 days", 2)
    ]
    assert empty(world.inst, by="me", now=days_later(2)) == 2
    assert waiting(world) == []
    assert set(endings(world).values()) == {"deleted"}
    assert world.rows(
        "SELECT DISTINCT ended_by FROM held_mail_log WHERE installation_id = :i", i=world.inst.installation_id
    ) == [("me",)]
    assert not next_week(world).later


@pytest.mark.rule("8.4")
def test_disabling_sends_all_that_waits_and_forgets_the_history(database: Database) -> None:
    world, held = at_its_limit(database)
    expired = world.released(days_later(1), campaign="third", shelf_life_days=1)
    world.becomes(expired, "STOPPED", days_later(1))
    world.night(days_later(3))
    with pytest.raises(StateConflict, match="enabled: false"):
        disable_policy(world.inst, by="me", now=days_later(3))
    world.wishes(None)
    world.night(days_later(3))
    forecast = what_disabling_does(world.inst)
    assert (forecast.mails, forecast.history.mails, forecast.history.days) == (6, 3, 1)
    done = disable_policy(world.inst, by="me", now=days_later(3))
    (later,) = done.released.later
    assert (later.held_from, later.mails) == (held, 3)
    assert done.released.ended == {HeldMailEnding.EXPIRED: 3}
    assert {endings(world)[held, no] for no in (1, 2, 3)} == {"policy_disabled"}
    for table in ("frequency_policy", "frequency_counter", "daily_mail_count", "held_mail"):
        left = world.rows(
            f"SELECT count(*) FROM {table} WHERE installation_id = :i", i=world.inst.installation_id
        )
        assert left == [(0,)], table
    with pytest.raises(StateConflict, match="no frequency policy holds"):
        disable_policy(world.inst, by="me", now=days_later(3))


@pytest.mark.rule("8.4")
def test_what_was_forgotten_is_not_counted_again(database: Database) -> None:
    world, _ = at_its_limit(database)
    empty(world.inst, by="me", now=days_later(2))
    world.wishes(None)
    disable_policy(world.inst, by="me", now=days_later(3))
    world.wishes([(1, WEEK)])
    world.night(days_later(4))
    assert world.log() == {}
    assert world.passed(world.released(days_later(4), campaign="fourth")) == {1, 2, 3}
    assert world.faults() == []


@pytest.mark.rule("3.4", "8.4")
def test_a_paused_campaign_holds_its_held_mails_and_a_deleted_one_ends_them(database: Database) -> None:
    world, _ = at_its_limit(database, contacts=2)
    other = world.released(days_later(1), campaign="third")
    world.becomes(other, "STOPPED", days_later(1))
    with database.begin() as connection:
        pause_campaign(connection, world.inst.installation_id, "second")
    (later,) = next_week(world).later
    assert later.held_from == other
    with database.begin() as connection:
        resume_campaign(connection, world.inst.installation_id, "second")
        change = delete_campaign(connection, world.inst.installation_id, "second", days_later(9))
    assert change.held == 2
    assert waiting(world) == []
    assert Counter(endings(world).values()) == {"sent": 2, "campaign_deleted": 2}


@pytest.mark.rule("8.4")
@pytest.mark.parametrize(
    ("state", "ends"), [("QUEUING", None), ("STOPPED_Q", None), ("FINISHED", "sent"), ("STOPPED", "sent")]
)
def test_held_mails_go_with_what_they_were_held_in(database: Database, state: str, ends: str | None) -> None:
    """It is to be queued first, and what the operator stopped rests. STOPPED here: nobody was left but those held."""
    world, held = at_its_limit(database, contacts=2)
    world.becomes(held, state, days_later(1))
    next_week(world)
    assert endings(world) == ({} if ends is None else {(held, 1): ends, (held, 2): ends})


@pytest.mark.rule("8.4")
@pytest.mark.parametrize("state", ["STOPPED", "FAILED"])
def test_of_what_was_stopped_or_failed_before_it_was_queued_nothing_is_sent_later(
    database: Database, state: str
) -> None:
    world = FrequencyWorld(database, [(1, WEEK)], contacts=2, **LONG)
    world.sent(world.released(days_later(0), [1], campaign="first"), days_later(0))
    held = world.released(days_later(1), campaign="second")
    assert waiting(world) == [(held, 1)]
    world.execute(
        "UPDATE mail_job SET state = CAST(:state AS mail_job_state), ended_at = now() WHERE mail_job_id = :r",
        state=state,
        r=held,
    )
    assert next_week(world).ended == {HeldMailEnding.STOPPED: 1}
    assert endings(world) == {(held, 1): "stopped"}


@pytest.mark.rule("3.6", "8.4")
def test_nothing_goes_before_the_campaign_starts(database: Database) -> None:
    world = FrequencyWorld(database, [(1, WEEK)], contacts=1, **LONG)
    important(world, days_later(0), 0, "opens")
    held = world.released(days_later(1), campaign="second", starts_at=days_later(9))
    world.becomes(held, "STOPPED", days_later(1))
    assert not next_week(world).later
    assert len(release_held(world.inst, now=days_later(9)).later) == 1


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
