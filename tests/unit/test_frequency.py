"""The frequency policy's arithmetic: which rules go together, what counts on a day, when one more is allowed."""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_orchestration.kernel.frequency import (
    Policy,
    Rule,
    Window,
    contradictions,
    first_day,
    forbidding,
    free_on,
    gone_on,
    log_days_needed,
    mails_counted,
    policy_of_document,
    rules_of_document,
)
from tests.naive_frequency import NaiveFrequency

THREE_IN_SEVEN = Rule(3, 7)
TODAY = date(2028, 3, 5)  # a few days after a leap day

rules = st.builds(Rule, max_mails=st.integers(1, 5), days=st.integers(1, 12))
policies = st.lists(rules, min_size=1, max_size=4, unique_by=lambda rule: rule.days)
windows = st.sampled_from(Window)
days_ago = st.lists(st.integers(0, 20), max_size=20)


def reachable(rule: Rule, beside: Rule, window: Window) -> bool:
    """Whether some course of mails, each allowed by both, brings `rule` to its limit: all of them are tried."""
    span = max(rule.days, beside.days) + (window is Window.ROLLING)
    for per_day in product(range(min(rule.max_mails, beside.max_mails) + 1), repeat=span):
        sent = NaiveFrequency()
        for after, mails in enumerate(per_day):
            day = TODAY + timedelta(days=after)
            for _ in range(mails):
                if sent.allowed("c", day, [(beside.max_mails, beside.days)], window):
                    sent.send("c", day)
            if sent.counts("c", day, rule.days, window) >= rule.max_mails:
                return True
    return False


@pytest.mark.rule("8.1")
@pytest.mark.parametrize(
    ("given_rules", "reasons"),
    [
        ([], []),
        ([Rule(1, 1), Rule(3, 7), Rule(8, 30), Rule(20, 90)], []),
        ([Rule(20, 90), Rule(1, 1)], []),
        ([Rule(1, 7), Rule(5, 30)], []),
        ([Rule(3, 1), Rule(3, 7)], []),
        (
            [Rule(1, 7), Rule(10, 30)],
            ["10 in 30 days could never be reached beside 1 in 7 days, which lets 5 through in that time"],
        ),
        ([Rule(2, 30), Rule(3, 7)], ["3 in 7 days could never be reached beside 2 in 30 days"]),
        ([Rule(1, 7), Rule(2, 7)], ["1 in 7 days and 2 in 7 days are of the same days"]),
        (
            [Rule(days, days) for days in (1, 2, 3, 4, 5)],
            ["there are 5 rules, and at most 4 are counted"],
        ),
        (
            [Rule(2, 1), Rule(1, 7), Rule(9, 30)],
            [
                "2 in 1 day could never be reached beside 1 in 7 days",
                "9 in 30 days could never be reached beside 1 in 7 days, which lets 5 through in that time",
            ],
        ),
    ],
)
def test_rules_that_contradict_each_other_are_told(given_rules: list[Rule], reasons: list[str]) -> None:
    assert contradictions(given_rules) == reasons


@pytest.mark.rule("8.1")
def test_what_is_refused_could_never_be_reached_and_by_the_calendar_all_else_can() -> None:
    for shorter_days, longer_days in ((1, 2), (1, 3), (2, 3), (2, 4), (3, 4)):
        for shorter_max, longer_max in product((1, 2), range(1, 7)):
            pair = (Rule(shorter_max, shorter_days), Rule(longer_max, longer_days))
            for window in Window:
                both = reachable(pair[0], pair[1], window) and reachable(pair[1], pair[0], window)
                if contradictions(pair):
                    assert not both, (window, pair)
                elif window is Window.CALENDAR:
                    assert both, pair


@pytest.mark.rule("8.3")
@pytest.mark.parametrize(
    ("window", "second", "after_that"),
    [
        # Rolling: the three of May 20 count through May 27.
        (Window.ROLLING, date(2026, 5, 28), date(2026, 6, 5)),
        (Window.CALENDAR, date(2026, 5, 27), date(2026, 6, 3)),
    ],
)
def test_five_mails_on_may_20_and_three_in_seven_days(window: Window, second: date, after_that: date) -> None:
    may_20 = date(2026, 5, 20)
    sent: Counter[date] = Counter()
    waiting = 5
    course = {}
    day = may_20
    while day <= after_that:
        while waiting and forbidding(sent, 0, [THREE_IN_SEVEN], window, day) is None:
            sent[day] += 1
            waiting -= 1
        course[day] = 3 - mails_counted(sent, 0, THREE_IN_SEVEN, window, day)
        day += timedelta(days=1)
    assert sent == {may_20: 3, second: 2}
    # One more mail may go until the two are gone.
    assert {room for day, room in course.items() if day < second} == {0}
    assert {room for day, room in course.items() if second <= day < after_that} == {1}
    assert course[after_that] == 3
    assert gone_on(THREE_IN_SEVEN, window, second) == after_that


@pytest.mark.rule("8.3")
@pytest.mark.parametrize(
    ("today", "rolling", "calendar"),
    [
        (date(2028, 3, 1), date(2028, 2, 23), date(2028, 2, 24)),  # over a leap day
        (date(2027, 3, 1), date(2027, 2, 22), date(2027, 2, 23)),
        (date(2027, 1, 3), date(2026, 12, 27), date(2026, 12, 28)),
        (date(2026, 10, 25), date(2026, 10, 18), date(2026, 10, 19)),  # of 25 hours in Berlin
    ],
)
def test_windows_over_the_ends_of_months(today: date, rolling: date, calendar: date) -> None:
    assert first_day(THREE_IN_SEVEN, Window.ROLLING, today) == rolling
    assert first_day(THREE_IN_SEVEN, Window.CALENDAR, today) == calendar
    for window in Window:
        last_that_is_gone = first_day(THREE_IN_SEVEN, window, today) - timedelta(days=1)
        assert gone_on(THREE_IN_SEVEN, window, last_that_is_gone) == today


@pytest.mark.rule("8.3")
def test_one_a_day_by_the_calendar_is_one_on_each_day() -> None:
    yesterday = {TODAY - timedelta(days=1): 1}
    assert forbidding(yesterday, 0, [Rule(1, 1)], Window.CALENDAR, TODAY) is None
    assert forbidding(yesterday, 0, [Rule(1, 1)], Window.ROLLING, TODAY) == Rule(1, 1)


@pytest.mark.rule("8.3")
@given(policies, windows, days_ago, st.integers(0, 4), st.integers(0, 6))
def test_it_is_what_the_rules_words_say(
    policy: list[Rule], window: Window, ago: list[int], open_places: int, ahead: int
) -> None:
    naive = NaiveFrequency()
    by_day = Counter(TODAY - timedelta(days=each) for each in ago)
    for day in [*by_day.elements(), *[TODAY] * open_places]:
        naive.send("c", day)
    plain = [(rule.max_mails, rule.days) for rule in policy]
    for rule in policy:
        counted = mails_counted(by_day, open_places, rule, window, TODAY)
        assert counted == naive.counts("c", TODAY, rule.days, window)
    forbids = forbidding(by_day, open_places, policy, window, TODAY)
    assert (forbids is None) == naive.allowed("c", TODAY, plain, window)
    wider = [rule for rule in policy if forbids is not None and rule.days > forbids.days]
    assert forbidding(by_day, open_places, wider, window, TODAY) is None
    free = free_on(by_day, open_places, policy, window, TODAY, ahead=ahead)
    assert free == naive.free_on("c", TODAY, plain, window, ahead)


@pytest.mark.rule("8.2")
@given(policies, windows, days_ago)
def test_a_log_of_the_days_needed_counts_the_same_also_on_the_day_after(
    policy: list[Rule], window: Window, ago: list[int]
) -> None:
    by_day = Counter(TODAY - timedelta(days=each) for each in ago)
    tomorrow = TODAY + timedelta(days=1)
    kept = {
        day: mails
        for day, mails in by_day.items()
        if day > tomorrow - timedelta(days=log_days_needed(policy))
    }
    for rule in policy:
        assert mails_counted(kept, 0, rule, window, TODAY) == mails_counted(by_day, 0, rule, window, TODAY)


def test_what_was_written_down_is_read_again() -> None:
    import orjson

    policy = Policy(
        rules=(Rule(1, 1), Rule(3, 7)), window=Window.CALENDAR, hold=True, count=False, shelf_life_days=5
    )
    assert policy_of_document(orjson.loads(orjson.dumps(policy))) == policy
    assert rules_of_document(orjson.loads(orjson.dumps(policy.rules))) == policy.rules
