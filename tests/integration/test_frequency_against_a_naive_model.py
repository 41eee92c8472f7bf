"""Random policies, releases, rejections, missed nights and crashes beside a model that looks at every single mail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mail_orchestration.audience import frequency_gate, resolving
from mail_orchestration.feedback import daily_counts, frequency_counters
from mail_orchestration.frequency import applying
from mail_orchestration.frequency.queue import rescan
from mail_orchestration.kernel.clock import day_of
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.frequency import Rule, contradictions
from tests.integration.frequency_world import NOON, FrequencyWorld, database

__all__ = ["database"]

CONTACTS = 3
WITH_CRASH_POINTS = (frequency_gate, resolving, daily_counts, frequency_counters, applying)
MAY_HAVE_ARRIVED = ("accepted", "uncertain")

rules = (
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9)), min_size=1, max_size=3)
    .map(lambda found: tuple(sorted(found, key=lambda rule: rule[1])))
    .filter(lambda found: not contradictions([Rule(*rule) for rule in found]))
)
outcomes = st.sampled_from(
    ["accepted", "accepted", "accepted", "uncertain", "rejected", "uncertain rejected"]
)
crashes = st.one_of(st.none(), st.integers(1, 4))


@dataclass(frozen=True, kw_only=True)
class Release:
    """To some contacts, under the policy or beside it."""

    to: frozenset[int]
    frequency_policy: str = "per_policy"
    counts: bool = True
    upkeep: bool = True
    crash: int | None = None


@dataclass(frozen=True, kw_only=True)
class Send:
    """The oldest release that was not sent is, with these outcomes by contact; what the relay said `hours_ago`."""

    outcomes: tuple[str, ...]
    hours_ago: int = 0


@dataclass(frozen=True, kw_only=True)
class Night:
    """So many hours pass, and perhaps the nightly run comes, perhaps to be killed and run again."""

    hours: int
    is_run: bool = True
    crash: int | None = None


@dataclass(frozen=True, kw_only=True)
class Change:
    """The settings wish for other rules."""

    rules: tuple[tuple[int, int], ...]


steps = st.lists(
    st.one_of(
        st.builds(
            Release,
            to=st.frozensets(st.integers(1, CONTACTS), min_size=1),
            frequency_policy=st.sampled_from(["per_policy", "per_policy", "per_policy", "override_policy"]),
            counts=st.sampled_from([True, True, True, False]),
            upkeep=st.sampled_from([True, True, False]),
            crash=crashes,
        ),
        st.builds(
            Send,
            outcomes=st.tuples(*[outcomes] * CONTACTS),
            hours_ago=st.sampled_from([0, 0, 5, 40]),
        ),
        st.builds(
            Night, hours=st.integers(5, 60), is_run=st.sampled_from([True, True, False]), crash=crashes
        ),
        st.builds(Change, rules=rules),
    ),
    min_size=4,
    max_size=10,
)


class Killed(BaseException):
    """The process died here."""


@contextmanager
def killed_at(passing: int | None) -> Iterator[None]:
    """Whoever passes crash points in the block dies at that one, with the transaction that it is in."""
    left = passing

    def crash_point(name: str) -> None:
        nonlocal left
        if left is not None:
            left -= 1
            if left == 0:
                raise Killed

    with ExitStack() as stack:
        for module in WITH_CRASH_POINTS:
            stack.enter_context(patch.object(module, "crash_point", crash_point))
        yield


def done(work: Callable[[], object], crash: int | None) -> None:
    """Whoever dies in its midst, another comes and begins anew."""
    try:
        with killed_at(crash):
            work()
    except Killed:
        work()


@dataclass(kw_only=True)
class Mail:
    """One mail to one contact that passed the gate."""

    contact: int
    release_id: int
    counts: bool
    arrived_on: date | None = None
    is_lost: bool = False


@dataclass(kw_only=True)
class Model:
    """What everybody got and is about to get, mail by mail."""

    rules: tuple[tuple[int, int], ...]
    window: str
    mails: list[Mail] = field(default_factory=list)

    def allows(self, contact: int, today: date) -> bool:
        """Whether one more is allowed."""
        return all(self._counted(contact, days, today) < most for most, days in self.rules)

    def exceeds(self, contact: int, today: date) -> bool:
        """Whether more has arrived than is allowed."""
        for most, days in self.rules:
            arrived = [mail for mail in self._of(contact) if self._is_in(mail.arrived_on, days, today)]
            if len(arrived) > most:
                return True
        return False

    def _counted(self, contact: int, days: int, today: date) -> int:
        return sum(
            1
            for mail in self._of(contact)
            if mail.arrived_on is None or self._is_in(mail.arrived_on, days, today)
        )

    def _of(self, contact: int) -> list[Mail]:
        return [mail for mail in self.mails if mail.contact == contact and mail.counts and not mail.is_lost]

    def _is_in(self, day: date | None, days: int, today: date) -> bool:
        gone_after = days if self.window == "rolling" else days - 1
        return day is not None and (today - day).days <= gone_after


class Course:
    """The system and the model, step by step."""

    def __init__(
        self, database: Database, rules: tuple[tuple[int, int], ...], window: str, zone: str
    ) -> None:
        self.world = FrequencyWorld(
            database, rules, contacts=CONTACTS, window=window, time_zone=zone, shelf_life_days=365
        )
        self.model = Model(rules=rules, window=window)
        self.wish = rules
        self.at = NOON.replace(month=3, day=20)
        self.to_send: list[int] = []
        self.began: dict[int, datetime] = {}
        self.may_exceed = False
        self.night(None)

    @property
    def today(self) -> date:
        return day_of(self.at, self.world.inst.settings.zone)

    def take(self, step: Release | Send | Night | Change) -> None:
        self.at += timedelta(minutes=10)
        match step:
            case Release():
                self.release(step)
            case Send():
                self.send(step)
            case Night():
                self.at += timedelta(hours=step.hours)
                if step.is_run:
                    self.night(step.crash)
            case Change():
                self.wish = step.rules
                self.world.wishes(step.rules, window=self.model.window, shelf_life_days=365)
                self.may_exceed = True

    def release(self, step: Release) -> None:
        is_checked = step.frequency_policy == "per_policy"
        self.may_exceed |= not is_checked
        if step.upkeep:
            done(lambda: self.world.night(self.at), step.crash)
            self.model.rules = self.wish
        release_id = self.world.made(
            self.at, step.to, frequency_policy=step.frequency_policy, counts=step.counts
        )
        done(lambda: self.world.resolved(release_id, self.at), step.crash)
        passed = self.world.passed(release_id)
        allowed = {no for no in step.to if not is_checked or self.model.allows(no, self.today)}
        if step.upkeep:
            assert passed == allowed
        else:
            assert passed <= allowed
        self._passed(release_id, passed, step.counts)

    def send(self, step: Send) -> None:
        if not self.to_send:
            return
        release_id = self.to_send.pop(0)
        arrived_at = max(self.at - timedelta(hours=step.hours_ago), self.began[release_id])
        words = dict(enumerate(step.outcomes, start=1))
        self.world.sent(release_id, arrived_at, words, ended_at=self.at)
        for mail in self.model.mails:
            if mail.release_id == release_id:
                if any(word in MAY_HAVE_ARRIVED for word in words[mail.contact].split()):
                    mail.arrived_on = day_of(arrived_at, self.world.inst.settings.zone)
                else:
                    mail.is_lost = True
        if not self.may_exceed:
            assert not any(self.model.exceeds(no, self.today) for no in range(1, CONTACTS + 1))

    def night(self, crash: int | None) -> None:
        done(lambda: rescan(self.world.inst, now=self.at), crash)
        self.model.rules = self.wish
        for release_id in self.world.releases_of_held_mails() - self.began.keys():
            self._passed(release_id, self.world.passed(release_id), self.world.counts(release_id))
        for release_id, no in self.world.waiting():
            assert self._is_unqueued(release_id) or not self.model.allows(no, self.today), "held without need"
        done(lambda: self.world.night(self.at), None)
        assert self.world.faults() == []

    def _is_unqueued(self, release_id: int) -> bool:
        """Whether some of it are to get it and nobody has: what it holds goes no earlier."""
        return release_id in self.to_send and any(mail.release_id == release_id for mail in self.model.mails)

    def _passed(self, release_id: int, contacts: set[int], counts: bool) -> None:
        self.began[release_id] = self.at
        self.to_send.append(release_id)
        self.model.mails += [Mail(contact=no, release_id=release_id, counts=counts) for no in contacts]


@pytest.mark.rule("8.2", "8.3", "8.4", "8.8")
@settings(max_examples=8)
@given(
    rules=rules,
    window=st.sampled_from(["rolling", "calendar"]),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]),
    steps=steps,
)
@example(
    rules=((1, 1),),
    window="rolling",
    zone="UTC",
    steps=[
        Release(to=frozenset({1})),
        Release(to=frozenset({1, 2})),
        Send(outcomes=("accepted",) * CONTACTS),
    ],
)
def test_never_more_than_the_rules_allow_and_never_held_without_need(
    database: Database,
    rules: tuple[tuple[int, int], ...],
    window: str,
    zone: str,
    steps: list[Release | Send | Night | Change],
) -> None:
    course = Course(database, rules, window, zone)
    for step in steps:
        course.take(step)
        assert course.world.faults() == []
    course.take(Night(hours=24 * 12))
