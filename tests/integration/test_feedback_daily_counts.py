"""Closing days: over a change of clocks, repeated, late, after missing nights; and the rolling windows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from mail_orchestration.feedback.daily_counts import ClosedDay, close_day, close_days_due, counters
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.errors import StateConflict
from tests.integration.feedback_fixtures import (
    Release,
    a_result,
    add_installation,
    add_release,
    add_results,
    execute,
)

pytestmark = pytest.mark.rule("8.2")
_UTC = ZoneInfo("UTC")
_BERLIN = ZoneInfo("Europe/Berlin")


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _accept(database: Database, release: Release, moments: Sequence[str], contact_id: int = 1) -> None:
    add_results(
        database,
        release,
        [a_result(no, at=_at(moment), contact_id=contact_id) for no, moment in enumerate(moments, 1)],
    )


def _daily_log(database: Database) -> list[tuple[date, int, int]]:
    return [
        tuple(row)
        for row in execute(database, "SELECT day, contact_id, mails FROM daily_mail_count ORDER BY 1, 2")
    ]


def test_days_are_those_of_the_installation_over_a_change_of_clocks(database: Database) -> None:
    installation_id = add_installation(database)
    release = add_release(database, installation_id, released_on=date(2026, 3, 28))
    # March 29 has 23 hours in Berlin: from 23:00 UTC of the 28th to 22:00 UTC of the 29th.
    moments = ["2026-03-28 22:59:59", "2026-03-28 23:00", "2026-03-29 21:59:59.999999", "2026-03-29 22:00"]
    _accept(database, release, moments)
    closed = close_days_due(database, installation_id, _BERLIN, _at("2026-03-31 12:00"))
    assert [(day.day.day, day.mails) for day in closed] == [(28, 1), (29, 2), (30, 1)]
    assert _daily_log(database) == [
        (date(2026, 3, 28), 1, 1),
        (date(2026, 3, 29), 1, 2),
        (date(2026, 3, 30), 1, 1),
    ]


def test_only_mails_that_may_have_arrived_count_and_of_this_installation_alone(database: Database) -> None:
    installation_id, other_id = add_installation(database), add_installation(database, "other")
    release, other = (add_release(database, number) for number in (installation_id, other_id))
    _accept(database, release, ["2026-07-01 12:00"])
    _accept(database, other, ["2026-07-01 12:00"], contact_id=2)
    arrived = (Outcome.ACCEPTED, Outcome.UNCERTAIN)
    others = [outcome for outcome in Outcome if outcome not in arrived]
    add_results(database, release, [a_result(no, outcome) for no, outcome in enumerate(others, start=2)])
    closed = close_day(database, installation_id, date(2026, 7, 1), _UTC, _at("2026-07-02 00:00"))
    assert closed == ClosedDay(day=date(2026, 7, 1), mails=1, contacts=1)
    assert _daily_log(database) == [(date(2026, 7, 1), 1, 1)]


@pytest.mark.rule("5.7")
def test_an_uncertain_mail_counts_once_on_the_day_on_which_it_may_have_arrived(database: Database) -> None:
    installation_id = add_installation(database)
    release = add_release(database, installation_id)
    histories = {
        1: "uncertain accepted",
        2: "uncertain uncertain",
        3: "uncertain rejected",
        4: "deferred uncertain accepted",
        5: "uncertain deferred accepted",
        6: "deferred rejected",
    }
    days = ["2026-07-01 12:00", "2026-07-02 12:00", "2026-07-03 12:00"]
    for number, history in histories.items():
        outcomes = [Outcome(word) for word in history.split()]
        add_results(
            database,
            release,
            [
                a_result(number, outcome, at=_at(day), result_no=no, supersedes=([None, *outcomes])[no - 1])
                for no, (outcome, day) in enumerate(zip(outcomes, days, strict=False), start=1)
            ],
        )
    close_days_due(database, installation_id, _UTC, _at("2026-07-05 12:00"))
    first, second = date(2026, 7, 1), date(2026, 7, 2)
    assert _daily_log(database) == [
        (first, 1, 1),
        (first, 2, 1),
        (first, 3, 1),
        (first, 5, 1),
        (second, 4, 1),
    ]


def test_a_repeat_gives_the_same_and_a_late_result_is_added(database: Database) -> None:
    installation_id = add_installation(database)
    release = add_release(database, installation_id)
    day, now = date(2026, 7, 1), _at("2026-07-02 03:00")
    _accept(database, release, ["2026-07-01 12:00", "2026-07-01 13:00"])
    first = close_day(database, installation_id, day, _UTC, now)
    assert close_day(database, installation_id, day, _UTC, now) == first
    _accept(database, release, ["2026-07-01 23:59:59"], contact_id=9)
    assert close_day(database, installation_id, day, _UTC, now) == ClosedDay(day=day, mails=3, contacts=2)
    assert _daily_log(database) == [(day, 1, 2), (day, 9, 1)]


def test_a_repeat_after_the_results_were_dropped_takes_nothing_away(database: Database) -> None:
    installation_id = add_installation(database)
    release = add_release(database, installation_id)
    _accept(database, release, ["2026-07-01 12:00"])
    first = close_day(database, installation_id, date(2026, 7, 1), _UTC, _at("2026-07-02 03:00"))
    execute(database, "DROP TABLE result_20260701")
    assert close_day(database, installation_id, date(2026, 7, 1), _UTC, _at("2026-09-02 03:00")) == first
    assert _daily_log(database) == [(date(2026, 7, 1), 1, 1)]


def test_missing_nights_are_caught_up_with_and_quiet_days_are_closed_too(database: Database) -> None:
    installation_id = add_installation(database)
    release = add_release(database, installation_id)
    _accept(database, release, ["2026-07-01 12:00", "2026-07-04 12:00", "2026-07-06 12:00"])
    close_day(database, installation_id, date(2026, 7, 3), _UTC, _at("2026-07-05 03:00"))
    closed = close_days_due(database, installation_id, _UTC, _at("2026-07-06 13:00"))
    assert [(day.day.day, day.mails) for day in closed] == [(1, 1), (2, 0), (4, 1), (5, 0)]
    assert close_days_due(database, installation_id, _UTC, _at("2026-07-06 14:00")) == []
    # A day without mails makes no partitions.
    assert execute(database, "SELECT to_regclass('daily_mail_count_20260702')") == [(None,)]


def test_a_day_closed_at_midnight_is_closed_once_more(database: Database) -> None:
    installation_id = add_installation(database)
    release = add_release(database, installation_id)
    assert len(close_days_due(database, installation_id, _UTC, _at("2026-07-02 00:00"))) == 1
    _accept(database, release, ["2026-07-01 23:59:59.9"])
    [again] = close_days_due(database, installation_id, _UTC, _at("2026-07-02 12:00"))
    assert again.mails == 1
    assert close_days_due(database, installation_id, _UTC, _at("2026-07-02 13:00")) == []


def test_an_installation_that_never_sent_has_nothing_to_close(database: Database) -> None:
    assert close_days_due(database, add_installation(database), _UTC, _at("2026-07-06 13:00")) == []


def test_today_cannot_be_closed(database: Database) -> None:
    installation_id = add_installation(database)
    with pytest.raises(StateConflict, match="2026-07-01 is not over in Europe/Berlin"):
        close_day(database, installation_id, date(2026, 7, 1), _BERLIN, _at("2026-07-01 21:59:59"))


@pytest.mark.rule("8.3")
def test_a_mail_counts_through_its_day_plus_the_window(database: Database) -> None:
    installation_id = add_installation(database)
    release = add_release(database, installation_id)
    day = date(2026, 7, 1)
    _accept(database, release, ["2026-07-01 12:00"] * 3, contact_id=1)
    _accept(database, release, ["2026-07-01 12:00"], contact_id=2)
    _accept(database, release, ["2026-07-05 12:00"], contact_id=2)
    close_days_due(database, installation_id, _UTC, _at("2026-07-06 12:00"))

    def histograms(after: int) -> dict[int, dict[int, int]]:
        with database.begin() as connection:
            found = counters(connection, installation_id, day + timedelta(days=after), windows=(7, 1))
        for window in found:
            assert window.contacts == sum(window.histogram.values())
            assert window.mails == sum(mails * contacts for mails, contacts in window.histogram.items())
            assert window.most == max(window.histogram, default=0)
        return {window.days: dict(window.histogram) for window in found}

    assert histograms(0) == {1: {1: 1, 3: 1}, 7: {1: 1, 3: 1}}
    assert histograms(1) == {1: {1: 1, 3: 1}, 7: {1: 1, 3: 1}}
    assert histograms(2) == {1: {}, 7: {1: 1, 3: 1}}
    assert histograms(5) == {1: {1: 1}, 7: {2: 1, 3: 1}}
    assert histograms(7) == {1: {}, 7: {2: 1, 3: 1}}
    assert histograms(8) == {1: {}, 7: {1: 1}}
    assert histograms(12) == {1: {}, 7: {}}
