"""What is counted of quotas that are too long for even spacing: an hour's, a day's (spec 6.7). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PERIODS = 100
"""A quota's window is counted in so many periods: it is kept by one of them longer."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """What was taken of each quota: window in microseconds → number of its period → messages."""

    taken: Mapping[int, Mapping[int, int]] = field(default_factory=dict)

    def used(self, window: int, now: int) -> int:
        """Messages that may have begun within the window that ends now, or will begin."""
        return sum(self._counted(window, now).values())

    def left(self, quotas: Mapping[int, int], now: int) -> int | None:
        """How many may begin from now on; None where there is no quota."""
        return min((max(0, most - self.used(window, now)) for window, most in quotas.items()), default=None)

    def opens_at(self, quotas: Mapping[int, int], now: int) -> int:
        """The moment from which at least one more may begin."""
        opens = now
        for window, most in quotas.items():
            used = self.used(window, now)
            for moment, messages in self.leaving(window, now):
                if used < most:
                    break
                used -= messages
                opens = max(opens, moment)
        return opens

    def leaving(self, window: int, now: int) -> list[tuple[int, int]]:
        """When which number of messages is used no more, the soonest first: their sum is `used`."""
        return [
            ((period + 1) * (window // PERIODS) + window, messages)
            for period, messages in sorted(self._counted(window, now).items())
        ]

    def charged(self, quotas: Mapping[int, int], moment: int, messages: int, now: int) -> Ledger:
        """With messages that begin at `moment` at the latest, or less than none: given back. Old ones are left out."""
        taken: dict[int, Mapping[int, int]] = {}
        for window in quotas:
            counted = self._counted(window, now)
            period = moment // (window // PERIODS)
            counted[period] = max(0, counted.get(period, 0) + messages)
            taken[window] = {number: count for number, count in counted.items() if count}
        return Ledger(taken)

    def _counted(self, window: int, now: int) -> dict[int, int]:
        length = window // PERIODS
        return {
            period: messages
            for period, messages in self.taken.get(window, {}).items()
            if (period + 1) * length + window > now
        }
