"""The gate: whom the policy forbids waits, is discarded or expires, and everybody else has a place."""

from __future__ import annotations

import json
from datetime import date, timedelta

import pytest

from mail_orchestration.kernel.database import Database
from tests.integration.frequency_world import NOON, FrequencyWorld, database, days_later

__all__ = ["database"]


@pytest.mark.rule("8.3", "8.4")
def test_the_example_of_may_20(database: Database) -> None:
    world = FrequencyWorld(database, [(3, 7)], contacts=1)
    mails = [world.released(NOON) for _ in range(5)]
    assert [len(world.passed(each)) for each in mails] == [1, 1, 1, 0, 0]
    assert world.bypassed(mails[3]) == {1: ("held", "3 in 7 days")}
    for each in mails[:3]:
        world.sent(each, NOON)
    assert world.passed(world.released(days_later(7.4))) == set()
    day = date(2026, 5, 28)
    two = [world.released(days_later(8)) for _ in range(2)]
    for each in two:
        assert world.passed(each) == {1}
        world.sent(each, days_later(8))
    assert world.log() == {(date(2026, 5, 20), 1): (3, 3)}
    one_more = world.released(days_later(10))
    assert world.passed(one_more) == {1}
    world.sent(one_more, days_later(10))
    assert world.passed(world.released(days_later(15.4))) == set()
    assert world.passed(world.released(days_later(16))) == {1}
    assert world.log()[day, 1] == (2, 2)
    assert world.faults() == []


@pytest.mark.rule("8.3")
def test_one_a_day_of_the_calendar_is_one_each_day(database: Database) -> None:
    world = FrequencyWorld(database, [(1, 1)], contacts=1, window="calendar", time_zone="Europe/Berlin")
    # In Berlin the day of the change of clocks has 23 hours.
    moment = NOON.replace(month=3, day=27)
    for day in range(5):
        at = moment + timedelta(days=day)
        first, second = world.released(at), world.released(at + timedelta(hours=1))
        assert (len(world.passed(first)), len(world.passed(second))) == (1, 0)
        world.sent(first, at)
    assert world.faults() == []


@pytest.mark.rule("8.4")
def test_a_held_mail_says_until_when_it_may_wait_and_which_rule_holds_it(database: Database) -> None:
    world = FrequencyWorld(database, [(1, 1), (2, 30)], contacts=2, shelf_life_days=5)
    world.sent(world.released(NOON, {1}), NOON)
    world.sent(world.released(days_later(2), {1}), days_later(2))
    ends = days_later(4)
    of_expiring = world.released(days_later(2), expires_at=ends)
    of_lasting = world.released(days_later(2))
    assert world.bypassed(of_expiring) == {1: ("held", "2 in 30 days")}
    assert world.bypassed(of_lasting) == {1: ("held", "2 in 30 days"), 2: ("held", "1 in 1 day")}
    held = world.rows(
        "SELECT release_id, contact_id, expires_at, max_mails, days FROM held_mail WHERE installation_id = :i "
        "ORDER BY 1, 2",
        i=world.inst.installation_id,
    )
    one, two = world.contact_ids
    assert held == [
        (of_expiring, one, ends, 2, 30),
        (of_lasting, one, days_later(7.5), 2, 30),
        (of_lasting, two, days_later(7.5), 1, 1),
    ]


@pytest.mark.rule("8.4", "8.5")
def test_do_not_queue_discards_and_override_goes_through_and_counts(database: Database) -> None:
    world = FrequencyWorld(database, [(1, 7)], contacts=1)
    world.released(NOON)
    discarded = world.released(NOON, frequency_policy="per_policy_do_not_queue")
    assert world.bypassed(discarded) == {1: ("discarded", "1 in 7 days")}
    assert world.passed(world.released(NOON, frequency_policy="override_policy")) == {1}
    assert world.places() == {1: 2}
    world.wishes([(2, 7)], queue=False)
    assert world.bypassed(world.released(NOON)) == {1: ("discarded", "2 in 7 days")}
    assert world.held() == 0


@pytest.mark.rule("8.5")
def test_what_does_not_count_is_checked_and_leaves_no_trace(database: Database) -> None:
    world = FrequencyWorld(database, [(1, 7)], contacts=2)
    uncounted = world.released(NOON, counts=False)
    assert world.passed(uncounted) == {1, 2}
    world.sent(uncounted, NOON)
    world.released(NOON, {1})
    assert world.passed(world.released(NOON, counts=False)) == {2}
    world.night(days_later(1))
    assert world.log() == {}
    assert world.places() == {1: 1}


@pytest.mark.rule("8.5")
@pytest.mark.parametrize("window", ["rolling", "calendar"])
def test_a_campaigns_own_rules_hold_in_place_of_the_policys(database: Database, window: str) -> None:
    world = FrequencyWorld(database, [(9, 30)], contacts=3, window=window)
    world.sent(world.released(NOON, {1}), NOON)
    world.released(days_later(2), {1, 2})
    rules = json.dumps([{"max_mails": 1, "days": 1}, {"max_mails": 2, "days": 3}])
    own = world.released(days_later(2), frequency_rules=rules)
    # Of the first mail's day the calendar's "3 days" knows on the third, the rolling ones on the fourth too.
    assert world.bypassed(own) == {1: ("held", "2 in 3 days"), 2: ("held", "1 in 1 day")}
    later = world.released(days_later(3), {1}, frequency_rules=rules)
    assert world.bypassed(later) == {1: ("held", "2 in 3 days" if window == "rolling" else "1 in 1 day")}
    lenient = json.dumps([{"max_mails": 20, "days": 3}])
    assert world.passed(world.released(days_later(3), frequency_rules=lenient)) == {1, 2, 3}


@pytest.mark.rule("8.7")
def test_of_a_repeating_campaign_one_mail_waits(database: Database) -> None:
    world = FrequencyWorld(database, [(1, 7)], contacts=2)
    world.released(NOON, {1})
    first = world.released(NOON, {1}, occurrence="monday")
    second = world.released(days_later(1), {1, 2}, occurrence="tuesday")
    assert world.bypassed(first) == {1: ("held", "1 in 7 days")}
    assert world.bypassed(second) == {1: ("expired", "1 in 7 days")}
    logged = world.rows(
        "SELECT contact_id, ending, later_release_id FROM held_mail_log WHERE release_id = :r", r=second
    )
    assert logged == [(world.contact_ids[0], "earlier_waits", None)]
    # What is no repetition waits beside it, and so does another campaign's.
    world.released(days_later(1), {1})
    world.released(days_later(1), {1}, campaign="other", occurrence="tuesday")
    assert world.held() == 3


@pytest.mark.rule("8.7")
def test_what_has_expired_in_the_queue_keeps_no_later_mail_from_waiting(database: Database) -> None:
    world = FrequencyWorld(database, [(1, 7)], contacts=1)
    world.released(NOON)
    world.released(NOON, occurrence="morning", expires_at=days_later(0.1))
    second = world.released(days_later(0.2), occurrence="evening")
    assert world.bypassed(second) == {1: ("held", "1 in 7 days")}


@pytest.mark.rule("8.9")
def test_a_dry_run_tells_who_would_be_held_and_changes_nothing(database: Database) -> None:
    world = FrequencyWorld(database, [(1, 7)], contacts=2)
    world.released(NOON, {1})
    dry = world.released(NOON, is_dry_run=True)
    assert world.bypassed(dry) == {1: ("held", "1 in 7 days")}
    assert world.places() == {1: 1}
    assert world.held() == 0
    of_nobody = world.released(NOON, {1}, is_dry_run=True)
    assert world.rows("SELECT reason FROM mail_job WHERE mail_job_id = :r", r=of_nobody) == [
        ("no recipients: all are bypassed (1 held)",)
    ]


@pytest.mark.rule("8.1", "8.4")
@pytest.mark.parametrize("own_rules", [None, json.dumps([{"max_mails": 1, "days": 2}])])
def test_a_dry_run_by_a_policy_that_is_only_wished_finds_what_the_release_will(
    database: Database, own_rules: str | None
) -> None:
    world = FrequencyWorld(database, contacts=9)
    world.wishes(None)
    world.sent(world.released(days_later(-9), {5}), days_later(-9))
    world.sent(world.released(days_later(-3), {1}), days_later(-3))
    world.night(days_later(-2))
    # The night was missed: nobody has closed these days.
    world.sent(world.released(days_later(-1), {2}, upkeep=False), days_later(-1))
    outcomes = {6: "rejected", 7: "uncertain", 8: "expired"}
    this_morning = world.released(days_later(-0.1), {3, 6, 7}, upkeep=False)
    world.sent(this_morning, days_later(-0.1), outcomes)
    on_its_way = world.released(NOON, {4, 8}, upkeep=False)
    world.becomes(on_its_way, "RUNNING", NOON)
    world.result(on_its_way, 8, outcomes[8], NOON)
    world.sent(world.released(NOON, {9}, upkeep=False, counts=False), NOON)
    world.wishes([(1, 7)])
    own = {} if own_rules is None else {"frequency_rules": own_rules}
    held = {1, 2, 3, 4, 7} if own_rules is None else {2, 3, 4, 7}

    dry = world.released(NOON, is_dry_run=True, upkeep=False, **own)
    assert set(world.bypassed(dry)) == held
    assert world.places() == {}
    assert (
        world.rows("SELECT 1 FROM frequency_policy WHERE installation_id = :i", i=world.inst.installation_id)
        == []
    )
    real = world.released(NOON, **own)
    assert world.bypassed(real) == world.bypassed(dry)
    again = world.released(NOON, {4}, is_dry_run=True, upkeep=False, **own)
    assert set(world.bypassed(again)) == {4}, "counted by its place, once the policy holds"


@pytest.mark.rule("8.1")
def test_without_a_policy_nobody_is_held(database: Database) -> None:
    world = FrequencyWorld(database)
    world.wishes(None)
    assert all(world.passed(world.released(NOON)) == {1, 2, 3} for _ in range(5))
    assert world.places() == {}
