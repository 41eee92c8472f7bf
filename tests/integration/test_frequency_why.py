"""Why a mail was held, and until when: worked answers (spec 8.9)."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from mail_orchestration.dispatch.campaigns import pause_campaign
from mail_orchestration.dispatch.held_mail_lists import places_of_contact
from mail_orchestration.frequency.queue import empty, rescan
from mail_orchestration.frequency.why import WaitingMail, Why, waiting_mails, why
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.errors import NotFound
from tests.integration.frequency_world import FrequencyWorld, database, days_later

__all__ = ["database"]
pytestmark = pytest.mark.rule("8.9")

LONG = {"shelf_life_days": 60}


def asked(world: FrequencyWorld, day: float) -> Why:
    """What is answered on a day about the first contact, once the counters are up to date."""
    world.night(days_later(day))
    return why(world.inst, "r1@example.net", now=days_later(day))


def told(mail: WaitingMail) -> tuple[str, str | None, date | None]:
    """Campaign, the rule that forbids it, and until when."""
    return mail.mail.campaign, str(mail.forbidden_by), mail.free_on


def world_of_one(database: Database, rules: list[tuple[int, int]], **section: object) -> FrequencyWorld:
    world = FrequencyWorld(database, rules, contacts=1, **{**LONG, **section})
    world.execute(
        "UPDATE contact SET address = 'r1@example.net', address_key = 'r1@example.net' WHERE contact_id = :c",
        c=world.contact_ids[0],
    )
    return world


def sends(world: FrequencyWorld, day: float, campaign: str, priority: int = 0) -> int:
    """A release to the contact; whether it is sent or held, it is over."""
    release_id = world.released(days_later(day), campaign=campaign)
    world.execute("UPDATE held_mail SET priority = :p WHERE release_id = :r", p=priority, r=release_id)
    world.sent(release_id, days_later(day))
    return release_id


@pytest.mark.parametrize(
    ("window", "last", "next_one"), [("rolling", (28, 5), (4, 6)), ("calendar", (27, 3), (2, 6))]
)
def test_the_example_of_may_20(
    database: Database, window: str, last: tuple[int, int], next_one: tuple[int, int]
) -> None:
    """3 in 7 days: three mails on May 20 are sent, the fourth and the fifth wait until they count no more."""
    world = world_of_one(database, [(3, 7)], window=window)
    for name in ("a", "b", "c", "d", "e"):
        sends(world, 0, name)
    answer = asked(world, 1)
    assert [(str(each.rule), each.counted, each.is_reached) for each in answer.rules] == [
        ("3 in 7 days", 3, True)
    ]
    assert answer.by_day == {date(2026, 5, 20): 3}
    assert answer.places == []
    free = date(2026, 5, last[0])
    assert [told(each) for each in answer.waiting] == [("d", "3 in 7 days", free), ("e", "3 in 7 days", free)]
    assert not any(each.expires_first for each in answer.waiting)


def test_of_several_rules_the_last_to_let_it_through_decides(database: Database) -> None:
    """1 in 1 and 3 in 30: on the fourth day the narrow rule lets it through, the wide one in June."""
    world = world_of_one(database, [(1, 1), (3, 30)])
    for day in (0, 2, 4):
        sends(world, day, f"day {day}")
    sends(world, 4.1, "late")
    answer = asked(world, 5)
    assert [(str(each.rule), each.counted) for each in answer.rules] == [
        ("1 in 1 day", 1),
        ("3 in 30 days", 3),
    ]
    assert [told(each) for each in answer.waiting] == [("late", "3 in 30 days", date(2026, 6, 20))]
    # On the sixth day nothing forbids it by the narrow rule any more; the wide one does for the same time.
    assert [told(each) for each in asked(world, 6).waiting] == [("late", "3 in 30 days", date(2026, 6, 20))]


def test_mails_on_their_way_count_as_mails_of_today_and_are_named(database: Database) -> None:
    world = world_of_one(database, [(2, 7)])
    sends(world, 0, "arrived")
    under_way = world.released(days_later(3), campaign="on its way")
    world.becomes(under_way, "RUNNING", days_later(3))
    sends(world, 3, "held")
    answer = asked(world, 3)
    assert [(each.mail_job_id, each.campaign, each.outcome) for each in answer.places] == [
        (under_way, "on its way", None)
    ]
    assert len(answer.places) == world.places()[1]
    assert [told(each) for each in answer.waiting] == [("held", "2 in 7 days", date(2026, 5, 28))]
    # If what is on its way never arrives its place is free, and the day comes no earlier for it: one is enough.
    world.result(under_way, 1, "rejected", days_later(3))
    world.becomes(under_way, "FINISHED", days_later(3))
    answer = asked(world, 4)
    assert (answer.places, answer.waiting[0].forbidden_by, answer.waiting[0].free_on) == (
        [],
        None,
        date(2026, 5, 24),
    )


def test_everybody_is_found_in_every_release_however_large(database: Database) -> None:
    """Of 1 to 133 recipients: those that are read whole, and those that are searched by halves before."""
    world = FrequencyWorld(database, [(9, 7)], contacts=133)
    everybody = range(1, 134)
    audiences = [everybody[:size] for size in (1, 2, 31, 32, 33, 34, 64, 65)] + [everybody, everybody[1::2]]
    to = {world.released(days_later(0), audience): audience for audience in audiences}
    for number, contact_id in enumerate(world.contact_ids, start=1):
        with database.begin() as connection:
            places = places_of_contact(connection, world.inst.installation_id, contact_id, days_later(-0.5))
        found = [place.mail_job_id for place in places]
        assert found == [release_id for release_id, audience in to.items() if number in audience]


def test_what_is_ahead_goes_first(database: Database) -> None:
    """1 in 7: every eighth day one goes, the more important and then the older one first."""
    world = world_of_one(database, [(1, 7)])
    sends(world, 0, "sent")
    sends(world, 1, "third")
    sends(world, 2, "second", priority=5)
    sends(world, 3, "first", priority=9)
    answer = asked(world, 4)
    assert [(each.mail.campaign, each.mail.ahead, each.free_on) for each in answer.waiting] == [
        ("first", 0, date(2026, 5, 28)),
        ("second", 1, date(2026, 6, 5)),
        ("third", 2, date(2026, 6, 13)),
    ]
    # Without the paused one the others are earlier.
    with database.begin() as connection:
        pause_campaign(connection, world.inst.installation_id, "first")
    answer = asked(world, 4)
    assert [(each.mail.campaign, each.waits_for, each.free_on) for each in answer.waiting][:2] == [
        ("first", "campaign first is paused", date(2026, 5, 28)),
        ("second", "", date(2026, 5, 28)),
    ]
    assert [each.mail.campaign for each in waiting_mails(world.inst, limit=2, now=days_later(4))] == [
        "first",
        "second",
    ]
    assert [
        each.mail.campaign for each in waiting_mails(world.inst, campaign="third", now=days_later(4))
    ] == ["third"]


@pytest.mark.parametrize(
    ("change", "free"),
    [
        ("mail_job SET state = 'STOPPED_Q', ended_at = NULL", date(2026, 5, 28)),
        ("mail_job SET state = 'FAILED', queued_at = NULL", date(2026, 5, 28)),
        ("release SET expires_at = '2026-05-24T11:00Z'", date(2026, 5, 28)),
        ("release SET starts_at = '2026-05-28T08:00Z'", date(2026, 5, 28)),
        ("release SET starts_at = '2026-05-28T00:00Z'", date(2026, 6, 5)),
        ("release SET starts_at = '2026-05-25T08:00Z'", date(2026, 6, 5)),
        ("release SET starts_at = '2026-05-23T08:00Z'", date(2026, 6, 5)),
    ],
)
def test_what_will_not_go_first_is_not_ahead(database: Database, change: str, free: date) -> None:
    """Stopped, given up, or expired; and what starts only when the other has gone."""
    world = world_of_one(database, [(1, 7)])
    sends(world, 0, "sent")
    sends(world, 1, "second")
    first = sends(world, 2, "first", priority=9)
    world.night(days_later(4))
    world.execute(f"UPDATE {change} WHERE release_id = :r", r=first)
    _, second = why(world.inst, "r1@example.net", now=days_later(4)).waiting
    assert (second.mail.campaign, second.free_on) == ("second", free)


def test_a_wait_that_ends_before_its_day_comes_says_so(database: Database) -> None:
    world = world_of_one(database, [(1, 30)], shelf_life_days=7)
    sends(world, 0, "sent")
    sends(world, 1, "too long")
    (mail,) = asked(world, 2).waiting
    assert (mail.free_on, mail.mail.expires_at, mail.expires_first) == (
        date(2026, 6, 20),
        days_later(8.5),
        True,
    )


def test_how_earlier_waits_ended_is_told(database: Database) -> None:
    world = world_of_one(database, [(1, 7)])
    sends(world, 0, "sent")
    held = sends(world, 1, "deleted")
    empty(world.inst, by="the operator", now=days_later(2))
    (past,) = asked(world, 3).past
    assert (past.mail_job_id, past.campaign, past.ending, past.ended_by, past.later_mail_job_id) == (
        held,
        "deleted",
        "deleted",
        "the operator",
        None,
    )


def test_who_is_no_contact_is_told_so(database: Database) -> None:
    world = world_of_one(database, [(1, 7)])
    with pytest.raises(NotFound, match="nobody of that address"):
        why(world.inst, "nobody@example.net")


@pytest.mark.rule("8.3", "8.4")
def test_a_shelf_life_of_as_many_days_as_the_rule_is_long_enough(database: Database) -> None:
    world = world_of_one(database, [(1, 7)], shelf_life_days=7)
    sends(world, 0, "sent")
    sends(world, 0.1, "held")
    (mail,) = asked(world, 0.2).waiting
    assert (mail.free_on, mail.expires_first) == (date(2026, 5, 28), False)
    assert not rescan(world.inst, now=days_later(7.4)).released.later
    begins = days_later(7.5)
    assert mail.mail.expires_at == begins
    (later,) = rescan(world.inst, now=begins + timedelta(minutes=5)).released.later
    assert later.mails == 1
