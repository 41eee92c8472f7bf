"""The ramp of a relay that is new: so many messages on its first day, and more each day (spec 6.7). Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from mail_orchestration.egress.pace import DAY, Limits

MOST_PER_DAY = 1_000_000_000
"""A ramp that has come so far limits nothing any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    """How a relay's day limit grows."""

    messages_on_first_day: int
    growth: float
    """Above 1: each day's limit as a multiple of the last one's."""

    def per_day(self, used_for: int) -> int:
        """The most messages in a day after `used_for` microseconds of use; 0: no limit any more."""
        days = max(0, used_for) // DAY
        if days * math.log(self.growth) >= math.log(MOST_PER_DAY / self.messages_on_first_day):
            return 0
        return int(self.messages_on_first_day * self.growth**days)


def ramped(limits: Limits, ramp: Ramp | None, used_for: int) -> Limits:
    """The limits of a relay that has been in use for so many microseconds."""
    most = ramp.per_day(used_for) if ramp is not None else 0
    return replace(limits, per_day=min(most, limits.per_day or most)) if most else limits
