"""The arithmetic of the frequency policy: which rules go together, what counts on a day, when one more is allowed.

Pure: days are dates in the installation's time zone, and today is told. Spec 8.1 and 8.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from itertools import combinations
from typing import Any
from zoneinfo import ZoneInfo

from mail_orchestration.kernel.days import day_bounds

MOST_RULES = 4
MOST_DAYS = 365


class Window(StrEnum):
    """Which days a rule of so many days looks at (spec 8.3)."""

    ROLLING = "rolling"
    """A mail of day D counts through D + days: today and the days before it."""
    CALENDAR = "calendar"
    """A mail of day D counts through D + days − 1: today is one of the days."""


class CampaignPolicy(StrEnum):
    """How the policy holds for one campaign (spec 8.5)."""

    PER_POLICY = "per_policy"
    """What is forbidden waits, or is discarded where the policy says so."""
    OVERRIDE_POLICY = "override_policy"
    """Sent at once, whatever its recipients got; counted all the same."""
    PER_POLICY_DO_NOT_QUEUE = "per_policy_do_not_queue"
    """What is forbidden is discarded."""


@dataclass(frozen=True, slots=True)
class Rule:
    """At most so many mails in so many days; told as `3 in 7 days`."""

    max_mails: int
    days: int

    def __str__(self) -> str:
        return f"{self.max_mails} in {self.days} {'day' if self.days == 1 else 'days'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What holds for an installation's campaigns, where they say nothing else."""

    rules: tuple[Rule, ...]
    """Those that are active, narrowest first."""
    window: Window
    hold: bool
    """Whether what is forbidden waits; else it is discarded."""
    count: bool
    """Whether mails of campaigns that do not say it count."""
    shelf_life_days: int
    """How long a mail waits before it expires."""


def policy_of_document(document: Mapping[str, Any]) -> Policy:
    """The policy that was written down as JSON, field by field."""
    return Policy(
        rules=rules_of_document(document["rules"]),
        window=Window(document["window"]),
        hold=document["hold"],
        count=document["count"],
        shelf_life_days=document["shelf_life_days"],
    )


def rules_of_document(document: Iterable[Mapping[str, Any]]) -> tuple[Rule, ...]:
    """The rules that were written down as JSON, in their order."""
    return tuple(Rule(max_mails=each["max_mails"], days=each["days"]) for each in document)


def contradictions(rules: Sequence[Rule]) -> list[str]:
    """Why these rules do not go together (spec 8.1), a sentence each; [] when they do."""
    found = []
    if len(rules) > MOST_RULES:
        found.append(f"there are {len(rules)} rules, and at most {MOST_RULES} are counted")
    for shorter, longer in combinations(sorted(rules, key=lambda rule: rule.days), 2):
        most = shorter.max_mails * -(-longer.days // shorter.days)
        if shorter.days == longer.days:
            found.append(f"{shorter} and {longer} are of the same days")
        elif longer.max_mails < shorter.max_mails:
            found.append(f"{shorter} could never be reached beside {longer}")
        elif longer.max_mails > most:
            found.append(
                f"{longer} could never be reached beside {shorter}, which lets {most} through in that time"
            )
    return found


def log_days_needed(rules: Iterable[Rule]) -> int:
    """For how many days the daily log must be kept, so that no day goes which still counts."""
    # A day of a rolling window's own, and one for a close that comes late.
    return max(rule.days for rule in rules) + 2


def log_too_short(rules: Iterable[Rule], daily_log_days: int) -> str | None:
    """Why these rules cannot be counted from a log that is kept for so many days; None when they can."""
    needed = log_days_needed(rules)
    if daily_log_days >= needed:
        return None
    return f"rules of up to {needed - 2} days need retention.daily_log_days of {needed} or more; it is {daily_log_days}"


def expires_first(rules: Iterable[Rule], shelf_life_days: int) -> str | None:
    """That what the longest of these rules holds may expire before the rule lets it go; None when it cannot."""
    longest = max(rules, key=lambda rule: rule.days)
    if shelf_life_days >= longest.days:
        return None
    return f"what the rule {longest} holds may expire first: it waits for shelf_life_days, {shelf_life_days}, at most"


def first_day(rule: Rule, window: Window, today: date) -> date:
    """The first day whose mails count on `today`."""
    return today - timedelta(days=_further_days(rule, window))


def gone_on(rule: Rule, window: Window, day: date) -> date:
    """The first day on which a mail of `day` does not count any more."""
    return day + timedelta(days=_further_days(rule, window) + 1)


def mails_counted(
    by_day: Mapping[date, int], open_places: int, rule: Rule, window: Window, today: date
) -> int:
    """How many mails count on `today`, of one contact.

    `by_day` are mails by the day of their acceptance, `open_places` those on their way: they count as mails of today.
    """
    first = first_day(rule, window, today)
    return open_places + sum(mails for day, mails in by_day.items() if day >= first)


def forbidding(
    by_day: Mapping[date, int], open_places: int, rules: Iterable[Rule], window: Window, today: date
) -> Rule | None:
    """The rule that forbids one more mail on `today`, the one of the most days; None when it is allowed."""
    reached = [
        rule for rule in rules if mails_counted(by_day, open_places, rule, window, today) >= rule.max_mails
    ]
    return max(reached, key=lambda rule: rule.days, default=None)


def free_on(
    by_day: Mapping[date, int],
    open_places: int,
    rules: Sequence[Rule],
    window: Window,
    today: date,
    *,
    ahead: int = 0,
    ahead_from: Iterable[date] = (),
) -> date:
    """The first day from `today` on which one more mail is allowed, when nothing is sent but what waits `ahead` of it.

    Those that wait go as soon as they are allowed; those of `ahead_from` are ahead only from those days on.
    """
    mails, still_to_come = dict(by_day), list(ahead_from)
    mails[today] = mails.get(today, 0) + open_places
    day = today
    while True:
        day = max([day, *(_frees_on(mails, rule, window, day) for rule in rules)])
        ahead += sum(begins <= day for begins in still_to_come)
        still_to_come = [begins for begins in still_to_come if begins > day]
        room = min(rule.max_mails - mails_counted(mails, 0, rule, window, day) for rule in rules)
        if room > ahead:
            return day
        mails[day] = mails.get(day, 0) + room
        ahead -= room


def shelf_life_ends(held_on: date, days: int, time_zone: ZoneInfo) -> datetime:
    """The moment at which a mail that is held on a day has been on the shelf for so many days: counted as a window is.

    So a mail that a rule of as many days holds, for mails of the same day, is let go at that very moment.
    """
    return day_bounds(held_on + timedelta(days=days), time_zone)[1]


def _further_days(rule: Rule, window: Window) -> int:
    return rule.days if window is Window.ROLLING else rule.days - 1


def _frees_on(mails: Mapping[date, int], rule: Rule, window: Window, today: date) -> date:
    """The first day from `today` on which so many have aged out that this rule allows one more."""
    counted = mails_counted(mails, 0, rule, window, today)
    free = today
    for day in sorted(day for day in mails if day >= first_day(rule, window, today)):
        if counted < rule.max_mails:
            break
        counted -= mails[day]
        free = gone_on(rule, window, day)
    return free
