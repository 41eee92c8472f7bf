"""How far apart slots are, and how late each may be used: what a limit allows (spec 6.7). Lengths are microseconds.

A message of a slot begins between the slot's moment and `lateness` after it. So in any window of W there are at most
the slots of W + lateness, and with `interval = (W + lateness) / n` these are n: nobody has to know what the others
really did. Patience costs: a line on which a slot may be used a second late carries half of a limit per second. While
that is enough it is worth it: an envelope may go ahead of the reply to the message before. Where there would be more
than SLOTS_A_SECOND, several messages share a slot.
"""

from __future__ import annotations

from dataclasses import dataclass

SECOND = 1_000_000
"""Microseconds."""
HOUR, DAY = 3600 * SECOND, 86_400 * SECOND
SLOTS_A_SECOND = 1000
MOST_LATENESS = 2 * SECOND
_PATIENCE = (SECOND, SECOND // 4, 38_000)
"""How late slots may be used on a line that is hardly used, on one that is used more, and on one that somebody waits
for: with a limit per second these carry a half, four fifths and 96 % of it."""
_LEAST_PATIENCE = {SECOND: 0, 60 * SECOND: 2 * SECOND}
"""Of a minute so much is no more than 3 %."""
_TRANSIT = 18_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Most messages in any window of each length; 0 is no limit."""

    per_second: int = 0
    per_minute: int = 0
    per_hour: int = 0
    per_day: int = 0

    def __bool__(self) -> bool:
        return any((self.per_second, self.per_minute, self.per_hour, self.per_day))

    @property
    def paced(self) -> dict[int, int]:
        """Windows kept by even spacing: microseconds → messages."""
        return {w: n for w, n in ((SECOND, self.per_second), (60 * SECOND, self.per_minute)) if n}

    @property
    def quotas(self) -> dict[int, int]:
        """Windows kept by counting: microseconds → messages."""
        return {w: n for w, n in ((HOUR, self.per_hour), (DAY, self.per_day)) if n}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """One way to go along a line."""

    interval: int
    """From one slot to the next."""
    lateness: int
    """Until when the relay must have got the messages of a slot, from its moment on."""
    weight: int = 1
    """Messages of a slot."""

    @property
    def rate(self) -> float:
        """Messages per second."""
        return self.weight * SECOND / self.interval


def transit_of(lateness: int) -> int:
    """Of the lateness, this much is left for the way from us to the relay, whose process may be busy."""
    return max(_TRANSIT, lateness // 10)


def paces_of(limits: Limits, rate: float | None = None) -> list[Pace]:
    """The ways to go, from the most patient to the fastest; none where nothing is paced.

    `rate`, in messages per second, slows down. There is one way then, and no more patience than the limits leave: the
    relay asked for less, and wants it evenly.
    """
    paced = limits.paced
    if not paced:
        return [] if rate is None else [_slowed(Pace(interval=0, lateness=MOST_LATENESS), rate)]
    weight = _weight(min(n * SECOND / w for w, n in paced.items()))
    # Slots that several messages share do not add up to n: the last one may take all of them that it stands for.
    whole = {w: n - weight + 1 for w, n in paced.items()}
    if rate is None:
        # Where a minute's limit is the stricter one, there are fewer than three.
        return list(dict.fromkeys(_pace(whole, weight, patience) for patience in _PATIENCE))
    return [_slowed(_pace(whole, min(weight, _weight(rate)), _PATIENCE[-1]), rate)]


def fastest(limits: Limits, rate: float | None = None) -> float | None:
    """The most messages per second, in the long run; None where nothing is paced."""
    paces = paces_of(limits, rate)
    return paces[-1].rate if paces else None


def _pace(whole: dict[int, int], weight: int, patience: int) -> Pace:
    interval = max(-(-(w + max(patience, _LEAST_PATIENCE[w])) * weight // n) for w, n in whole.items())
    lateness = min(n * interval // weight - w for w, n in whole.items())
    return Pace(interval=interval, lateness=min(lateness, MOST_LATENESS), weight=weight)


def _slowed(pace: Pace, rate: float) -> Pace:
    return Pace(
        interval=max(pace.interval, round(pace.weight * SECOND / rate)),
        lateness=pace.lateness,
        weight=pace.weight,
    )


def _weight(rate: float) -> int:
    return max(1, int(rate / SLOTS_A_SECOND))
