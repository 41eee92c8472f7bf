"""The frequency policy in the rules' own words, one mail at a time: arithmetic and counters are held against it.

Nothing of it is shared with what it judges: a window is a number of days and its name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from datetime import date, timedelta

NaiveRule = tuple[int, int]
"""At most so many mails, in so many days."""


class NaiveFrequency:
    """Who was sent a mail on which day; contacts are whatever can be a key."""

    def __init__(self) -> None:
        self._sent: dict[Hashable, list[date]] = defaultdict(list)

    def send(self, contact: Hashable, day: date) -> None:
        """One mail that counts."""
        self._sent[contact].append(day)

    def counts(self, contact: Hashable, day: date, days: int, window: str) -> int:
        """How many mails count on `day` for a rule of so many days, of those sent until then."""
        counted = 0
        for sent_on in self._sent[contact]:
            if window == "rolling":
                # "A mail sent on day D counts through D+days and is gone on D+days+1."
                counts = sent_on <= day <= sent_on + timedelta(days=days)
            else:
                # "Today and the days−1 before it."
                counts = any(sent_on == day - timedelta(days=back) for back in range(days))
            counted += counts
        return counted

    def allowed(self, contact: Hashable, day: date, rules: Iterable[NaiveRule], window: str) -> bool:
        """Whether one more may be sent on `day`."""
        return all(self.counts(contact, day, days, window) < most for most, days in rules)

    def free_on(
        self, contact: Hashable, day: date, rules: Iterable[NaiveRule], window: str, ahead: int = 0
    ) -> date:
        """The first day from `day` on which one more is allowed, behind others that go as soon as they may."""
        then = NaiveFrequency()
        then._sent[contact] = list(self._sent[contact])
        rules = list(rules)
        while True:
            if not then.allowed(contact, day, rules, window):
                day += timedelta(days=1)
            elif ahead == 0:
                return day
            else:
                then.send(contact, day)
                ahead -= 1
