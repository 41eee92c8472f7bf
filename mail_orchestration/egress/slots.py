"""Throttle arithmetic (spec 6.7): which moments those who share a limit may begin messages at.

A *line* is one row of moments, `interval` apart; each is a *slot* for one message. A slot may be used late, up to a
*lateness*, and is forfeited after that. So in any window of W seconds there are at most the slots of W + lateness, and
with `interval = (W + lateness) / n` these are n: nobody has to know what the others really did. A day's and an hour's
quota are too long for even spacing: what is taken is counted in a *ledger*, and bursts within the quota are fine.

Pure: moments are integer microseconds of the database's clock, and go in and come out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

SECOND = 1_000_000
"""Microseconds."""
TRACKS = 16
"""A line's slots are dealt out to so many tracks in turn. Who can only use a part of the line takes some tracks, and
others take the rest of the same time."""
PERIODS = 100
"""A quota's window is counted in so many periods: it is kept by one of them longer."""
_LATENESS = {SECOND: 40_000, 60 * SECOND: 2 * SECOND}
"""How much longer each window of a line is made: 4 % and 3 % of the limit are given for lateness."""
TRANSIT = 10_000
"""Of the lateness, this much is left for the way from us to the relay."""
MOST_LATENESS = 2 * SECOND
HORIZON = SECOND // 2
"""A taker gets slots for so long at once: the others wait for no longer, each."""
HOUR, DAY = 3600 * SECOND, 86_400 * SECOND


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


def interval_of(limits: Limits, rate: float | None = None) -> int:
    """Microseconds between two slots, 0 where nothing is paced; `rate`, in messages per second, slows the line down."""
    longest = max((-(-(w + _LATENESS[w]) // n) for w, n in limits.paced.items()), default=0)
    return longest if rate is None else max(longest, round(SECOND / rate))


def lateness_of(limits: Limits) -> int:
    """How late, in microseconds, a slot may be used: what the spacing leaves of every window.

    A line that was slowed down allows no more: it may go faster again at any moment.
    """
    interval = interval_of(limits)
    left = min((n * interval - w for w, n in limits.paced.items()), default=MOST_LATENESS)
    return min(left, MOST_LATENESS) - TRANSIT


@dataclass(frozen=True, slots=True)
class Line:
    """Slot `j` is at `origin + j * interval`; of each track (`j % TRACKS`) the first slot that nobody has."""

    origin: int
    interval: int
    heads: tuple[int, ...] = tuple(range(TRACKS))

    def moment(self, slot: int) -> int:
        """When the slot begins."""
        return self.origin + slot * self.interval

    def paced_at(self, interval: int, now: int) -> Line:
        """This line from here on, with another interval: it goes on behind the last slot that was taken."""
        if interval == self.interval:
            return self
        last = max(self.heads) - TRACKS
        return Line(max(now, self.moment(last) + interval), interval)

    def take(self, now: int, wanted: int, horizon: int) -> tuple[Line, tuple[int, ...]]:
        """At least one and at most `wanted` slots, in order, none over before `now`.

        They lie within `horizon` from the first that is free, and evenly in it: `wanted` is what the taker can use in
        that time.
        """
        soonest = -((self.origin - now) // self.interval)
        firsts = sorted(max(head, soonest + (head - soonest) % TRACKS) for head in self.heads)
        end = firsts[0] + max(1, horizon // self.interval)
        tracks = -(-wanted // max(1, (end - firsts[0]) // TRACKS))
        taken: list[int] = []
        heads = list(self.heads)
        for first in firsts[:tracks]:
            slots = range(first, end, TRACKS)[: wanted - len(taken)]
            if slots:
                taken.extend(slots)
                heads[first % TRACKS] = slots[-1] + TRACKS
        return replace(self, heads=tuple(heads)), tuple(sorted(taken))

    def give_back(self, unused: Iterable[int]) -> Line:
        """The line with slots of it free again, where nobody came after."""
        heads = list(self.heads)
        for slot in sorted(unused, reverse=True):
            if heads[slot % TRACKS] == slot + TRACKS:
                heads[slot % TRACKS] = slot
        return replace(self, heads=tuple(heads))


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
            counted, used = sorted(self._counted(window, now).items()), self.used(window, now)
            for period, messages in counted:
                if used < most:
                    break
                used -= messages
                opens = max(opens, (period + 1) * (window // PERIODS) + window)
        return opens

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


@dataclass(frozen=True, slots=True)
class Taken:
    """All that was taken under one scope's limits."""

    line: Line | None = None
    ledger: Ledger = field(default_factory=Ledger)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What one taker got: a message may begin at each of `moments`, and up to `lateness` after it."""

    moments: tuple[int, ...]
    lateness: int
    line: Line | None = None
    slots: tuple[int, ...] = ()
    """The slots of `line` that begin at `moments`."""
    opens_at: int = 0
    """Where nothing was left: the moment at which to ask again."""

    @property
    def ends_at(self) -> int:
        """After this nothing of it may begin any more."""
        return self.moments[-1] + self.lateness + TRANSIT if self.moments else 0


def allot(
    taken: Taken, limits: Limits, wanted: int, now: int, *, rate: float | None = None, horizon: int = HORIZON
) -> tuple[Taken, Grant]:
    """At most `wanted` messages (1 or more), and what is taken then."""
    left = taken.ledger.left(limits.quotas, now)
    if left == 0:
        return taken, Grant(moments=(), lateness=0, opens_at=taken.ledger.opens_at(limits.quotas, now))
    wanted = wanted if left is None else min(wanted, left)
    interval = interval_of(limits, rate)
    lateness = lateness_of(limits)
    line = taken.line
    slots: tuple[int, ...] = ()
    moments = (now,) * wanted
    if interval:
        paced = (line or Line(now, interval)).paced_at(interval, now)
        line, slots = paced.take(now, wanted, horizon)
        moments = tuple(map(line.moment, slots))
    grant = Grant(moments=moments, lateness=lateness, line=line if interval else None, slots=slots)
    ledger = taken.ledger.charged(limits.quotas, grant.ends_at, len(grant.moments), now)
    return Taken(line, ledger), grant


def hand_back(taken: Taken, limits: Limits, grant: Grant, unreached: int, unused: int, now: int) -> Taken:
    """What is taken when `unused` messages of a grant did not begin, the last `unreached` of them never will."""
    line, rest = taken.line, grant.slots[len(grant.slots) - unreached :]
    if line is not None and grant.line is not None and line.origin == grant.line.origin:
        line = line.give_back(rest)
    return Taken(line, taken.ledger.charged(limits.quotas, grant.ends_at, -unused, now))
