"""Figures of the frequency policy: contacts at a rule's limit, the queue day by day, counters that are wrong."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from mail_orchestration.feedback.frequency_figures import (
    LEAST_DAYS,
    QueueDay,
    counted_contacts,
    queue_by_day,
    wrong_counters,
)
from mail_orchestration.feedback.plots import held_plot
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.frequency import Policy, Rule, Window
from mail_orchestration.kernel.frequency_in_force import PolicyInForce
from tests.integration.feedback_fixtures import add_installation, execute

TODAY = date(2026, 7, 20)
RULES = (Rule(1, 1), Rule(3, 7))


def _in_force(window: Window = Window.ROLLING) -> PolicyInForce:
    policy = Policy(rules=RULES, window=window, hold=True, count=True, shelf_life_days=7)
    return PolicyInForce(policy=policy, counted_for=TODAY, applied_at=datetime(2026, 7, 1, tzinfo=UTC))


def _counter(database: Database, installation_id: int, contact: int, mails: list[int], places: int) -> None:
    execute(
        database,
        "INSERT INTO frequency_counter VALUES (:contact, :installation_id, :first, :second, 0, 0, :places)",
        contact=contact,
        installation_id=installation_id,
        first=mails[0],
        second=mails[1],
        places=places,
    )


def _log(database: Database, installation_id: int, contact: int, day: date, mails: int) -> None:
    execute(database, "SELECT ensure_day_partitions(:day)", day=day)
    execute(
        database,
        "INSERT INTO daily_mail_count VALUES (:day, :installation_id, :contact, :mails)",
        day=day,
        installation_id=installation_id,
        contact=contact,
        mails=mails,
    )


@pytest.mark.rule("8.2")
def test_contacts_at_a_limit_are_those_with_places_too(database: Database) -> None:
    main, other = add_installation(database), add_installation(database, "other")
    _counter(database, main, 1, [0, 2], 1)
    _counter(database, main, 2, [0, 3], 0)
    _counter(database, main, 3, [0, 1], 0)
    _counter(database, other, 4, [9, 9], 9)
    with database.begin() as connection:
        one, seven = counted_contacts(connection, main, _in_force()).rules
    assert (one.rule, one.contacts, one.at_limit) == (RULES[0], 3, 1)
    assert (seven.rule, seven.contacts, seven.at_limit) == (RULES[1], 3, 2)


@pytest.mark.rule("8.2")
@pytest.mark.parametrize(
    ("window", "further"), [(Window.ROLLING, 0), (Window.CALENDAR, 1)], ids=["rolling", "calendar"]
)
def test_counters_that_are_not_what_the_log_adds_up_to_are_found(
    database: Database, window: Window, further: int
) -> None:
    main, other = add_installation(database), add_installation(database, "other")
    first_of_one, first_of_seven = (TODAY - timedelta(days=rule.days - further) for rule in RULES)
    _log(database, main, 1, first_of_one, 2)
    _log(database, main, 1, first_of_seven, 1)
    _log(database, main, 1, first_of_seven - timedelta(days=1), 4)
    _log(database, other, 5, first_of_one, 1)
    _counter(database, main, 1, [2, 3], 7)
    _counter(database, main, 2, [0, 0], 1)
    in_force = _in_force(window)
    with database.begin() as connection:
        assert wrong_counters(connection, main, in_force) == 0
        # That one has no counter at all.
        assert wrong_counters(connection, other, in_force) == 1
    execute(database, "UPDATE frequency_counter SET mails_2 = 4 WHERE contact_id = 1")
    execute(database, "UPDATE frequency_counter SET mails_1 = 1 WHERE contact_id = 2")
    with database.begin() as connection:
        assert wrong_counters(connection, main, in_force) == 2


@pytest.mark.rule("8.9")
def test_the_queue_is_told_day_by_day_in_the_days_of_the_installation(database: Database) -> None:
    main, other = add_installation(database), add_installation(database, "other")
    zone = ZoneInfo("Europe/Berlin")
    day = "2026-07-%02d 22:30+00"  # of the day after, in Berlin
    waiting = (
        "INSERT INTO held_mail VALUES "
        "(DEFAULT, :inst, :contact, 1, 1, 1, 0, CAST(:held AS timestamptz), now(), 3, 7)"
    )
    ended = (
        "INSERT INTO held_mail_log VALUES (:day, :number, :inst, 1, 1, 1, 1, 0, "
        "CAST(:held AS timestamptz), now(), 3, 7, CAST(:ended AS timestamptz), CAST(:ending AS held_mail_ending), "
        ":later, '')"
    )
    for date_of_month in range(10, 21):
        execute(database, "SELECT ensure_day_partitions(:day)", day=date(2026, 7, date_of_month))
    for contact, (inst, held) in enumerate(((main, 12), (main, 18), (main, 18), (other, 18))):
        execute(database, waiting, inst=inst, contact=contact, held=day % held)
    for number, (inst, held, end, ending) in enumerate(
        (
            (main, 12, 15, "sent"),
            (main, 12, 15, "expired"),
            (main, 12, 16, "deleted"),
            (main, 18, 18, "policy_disabled"),
            (main, 13, 13, "earlier_waits"),
            (other, 12, 15, "sent"),
        )
    ):
        later = 7 if ending in ("sent", "policy_disabled") else None
        execute(
            database,
            ended,
            inst=inst,
            number=number,
            day=date(2026, 7, end),
            held=day % held,
            ended=day % end,
            ending=ending,
            later=later,
        )
    with database.begin() as connection:
        found = queue_by_day(connection, main, zone, TODAY)
    assert found == [
        QueueDay(day=date(2026, 7, number), held=held, sent=sent, ended_unsent=unsent, waiting=left)
        for number, held, sent, unsent, left in (
            (13, 4, 0, 0, 4),
            (14, 0, 0, 0, 4),
            (15, 0, 0, 0, 4),
            (16, 0, 1, 1, 2),
            (17, 0, 0, 1, 1),
            (18, 0, 0, 0, 1),
            (19, 3, 1, 0, 3),
            (20, 0, 0, 0, 3),
        )
    ]
    assert len(held_plot(found, "frequency queue")) > 5000


@pytest.mark.rule("8.9")
def test_a_queue_in_which_nothing_ever_waited(database: Database) -> None:
    with database.begin() as connection:
        found = queue_by_day(connection, add_installation(database), ZoneInfo("UTC"), TODAY)
    assert [each.waiting for each in found] == [0] * LEAST_DAYS
    assert found[-1].day == TODAY
    assert held_plot(found).startswith(b"\x89PNG")
