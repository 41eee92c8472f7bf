"""How fast anything is sent after a relay asked for less: additive increase, multiplicative decrease (spec 6.7).

A cut halves the rate. After that it grows by itself, a step for each further round in which nobody complains, and once
it is back at what it was it is free. So a state that is only written when the rate is cut tells it at any moment,
whoever asks. Pure: moments and lengths are integer microseconds of the database's clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

CUT = 0.5
STEPS = 20
"""Rounds from nothing back to the full rate; half as many from one cut."""
SLOWEST = 0.5
"""Messages per second that always remain: without any nobody would learn that the relay takes mail again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackedOff:
    """A rate that was cut. Rates are messages per second, of everybody who sends."""

    rate: float
    """Right after the last cut."""
    full_rate: float
    """Before the first: with this it is over."""
    since: int
    cut_at: int
    reason: str
    """Why it was cut last. Holds no address."""

    def rate_at(self, now: int, round_length: int) -> float | None:
        """The rate at a moment; None once it is free again."""
        # In the round that began with the cut there was a complaint.
        rate = self._after(max(0, (now - self.cut_at) // round_length - 1))
        return rate if rate < self.full_rate else None

    def free_at(self, round_length: int) -> int:
        """The moment at which it is free again, if nobody complains until then."""
        quiet = next(rounds for rounds in range(STEPS + 1) if self._after(rounds) >= self.full_rate)
        return self.cut_at + (quiet + 1) * round_length

    def _after(self, quiet_rounds: int) -> float:
        return self.rate + quiet_rounds * self.full_rate / STEPS


def cut(before: BackedOff | None, seen_rate: float, reason: str, now: int, round_length: int) -> BackedOff:
    """The state after a complaint at `now`; `seen_rate` is how fast it went, for when it was not cut before.

    Within a round of the last cut another complaint changes nothing: what it speaks of was sent before that.
    """
    rate = before.rate_at(now, round_length) if before is not None else None
    if before is None or rate is None:
        full_rate = max(seen_rate, 2 * SLOWEST)
        return BackedOff(rate=full_rate * CUT, full_rate=full_rate, since=now, cut_at=now, reason=reason)
    if now - before.cut_at < round_length:
        return before
    return replace(before, rate=max(SLOWEST, rate * CUT), cut_at=now, reason=reason)
