"""Throttle arithmetic (spec 6.7): which moments those who share a limit may begin messages at.

A *line* is one row of moments, `interval` apart; each is a *slot* for one message, or for several where a limit is
high. A slot may be used late, up to a *lateness*, and is forfeited after that: egress/pace.py says why this keeps a
limit per second and per minute. The line goes at the most patient pace that gives takers what they wish for, and
changes pace in such a way that slots before and after the change keep the limit together. A day's and an hour's quota
are counted in a *ledger*: bursts within the quota are fine.

Pure: moments are integer microseconds of the database's clock, and go in and come out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from mail_orchestration.egress.ledger import Ledger
from mail_orchestration.egress.pace import MOST_LATENESS, SECOND, Limits, Pace, paces_of, transit_of

TRACKS = 16
"""A line's slots are dealt out to so many tracks in turn. Who can only use a part of the line takes some tracks, and
others take the rest of the same time."""
CALM = 30 * SECOND
"""A line on which nobody was short for so long becomes more patient by a step."""


@dataclass(frozen=True, slots=True)
class Line:
    """Slot `j` is at `origin + j * interval`; of each track (`j % TRACKS`) the first slot that nobody has."""

    origin: int
    interval: int
    lateness: int
    heads: tuple[int, ...] = tuple(range(TRACKS))

    def moment(self, slot: int) -> int:
        """When the slot begins."""
        return self.origin + slot * self.interval

    def at_pace(self, pace: Pace, now: int) -> Line:
        """This line from here on at a pace: it goes on behind the last slot that was taken.

        Where its slots may be used less late than those before, it begins later by the difference: they may still be
        used until then.
        """
        if (pace.interval, pace.lateness) == (self.interval, self.lateness):
            return self
        last = self.moment(max(self.heads) - TRACKS)
        begins = last + pace.interval + max(0, self.lateness - pace.lateness)
        return Line(max(now, begins), pace.interval, pace.lateness)

    def take(self, now: int, wanted: int, spread: int) -> tuple[Line, tuple[int, ...]]:
        """At least one and at most `wanted` slots, in order, none over before `now`.

        They lie within `spread` from the first that is free, and evenly in it: `wanted` is what the taker can use in
        that time.
        """
        soonest = -((self.origin - now) // self.interval)
        firsts = sorted(max(head, soonest + (head - soonest) % TRACKS) for head in self.heads)
        end = firsts[0] + max(1, spread // self.interval)
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
class Taken:
    """All that was taken under one scope's limits."""

    line: Line | None = None
    ledger: Ledger = field(default_factory=Ledger)
    short_at: int = 0
    """When a taker last got less of the line than it could use, or the line became more patient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What one taker got: `weight` messages may begin at each of `moments`, and up to `lateness` after it."""

    moments: tuple[int, ...]
    messages: int = 0
    """That it holds: fewer than the moments have room for where the last one is not for all of its own."""
    weight: int = 1
    lateness: int = 0
    ends_at: int = 0
    """After this the relay gets nothing of it any more."""
    line: Line | None = None
    slots: tuple[int, ...] = ()
    """The slots of `line` that begin at `moments`."""
    opens_at: int = 0
    """Where nothing was left: the moment at which to ask again."""


def allot(
    taken: Taken,
    limits: Limits,
    wanted: int,
    now: int,
    *,
    horizon: int,
    spread: int | None = None,
    rate: float | None = None,
) -> tuple[Taken, Grant]:
    """At most `wanted` messages (1 or more) that begin within `horizon`, and what is taken then.

    They lie evenly within `spread` of the first that is free, which is `horizon` unless given. `rate`: per second,
    where less was asked for.
    """
    left = taken.ledger.left(limits.quotas, now)
    if left == 0:
        return taken, Grant(moments=(), opens_at=taken.ledger.opens_at(limits.quotas, now))
    wanted = wanted if left is None else min(wanted, left)
    paces = paces_of(limits, rate)
    if paces:
        taken, grant = _along_the_line(
            taken, paces, wanted, now, horizon, horizon if spread is None else spread
        )
    else:
        lateness = MOST_LATENESS - transit_of(MOST_LATENESS)
        ends_at = now + MOST_LATENESS
        grant = Grant(moments=(now,), messages=wanted, weight=wanted, lateness=lateness, ends_at=ends_at)
    ledger = taken.ledger.charged(limits.quotas, grant.ends_at, grant.messages, now)
    return replace(taken, ledger=ledger), grant


def hand_back(taken: Taken, limits: Limits, grant: Grant, unreached: int, unused: int, now: int) -> Taken:
    """What is taken when `unused` messages of a grant did not begin, those of its last `unreached` slots never will."""
    line, rest = taken.line, grant.slots[len(grant.slots) - unreached :]
    if line is not None and grant.line is not None and line.origin == grant.line.origin:
        line = line.give_back(rest)
    ledger = taken.ledger.charged(limits.quotas, grant.ends_at, -unused, now)
    return replace(taken, line=line, ledger=ledger)


def _along_the_line(
    taken: Taken, paces: Sequence[Pace], wanted: int, now: int, horizon: int, spread: int
) -> tuple[Taken, Grant]:
    """Slots of the line at the most patient pace, from its present one on, that does not leave the taker short.

    He asks again before they end: half of what he wishes for within the horizon is enough.
    """
    line, short_at = taken.line, taken.short_at
    first = 0 if line is None else sum(pace.lateness > line.lateness for pace in paces[:-1])
    if first and now - short_at >= CALM:
        first, short_at = first - 1, now
    for pace in paces[first:]:
        free = Line(now, pace.interval, pace.lateness) if line is None else line.at_pace(pace, now)
        needed = -(-wanted // pace.weight)
        paced, slots = free.take(now, needed, horizon)
        soon = sum(paced.moment(slot) < now + horizon for slot in slots)
        if 2 * soon * pace.weight >= wanted:
            break
        short_at = now
    if spread < horizon:
        # What others hold of so short a time is no reason to change the pace: the rest follows behind it.
        paced, slots = free.take(now, needed, spread)
    grant = Grant(
        moments=tuple(map(paced.moment, slots)),
        messages=min(wanted, len(slots) * pace.weight),
        weight=pace.weight,
        lateness=pace.lateness - transit_of(pace.lateness),
        ends_at=paced.moment(slots[-1]) + pace.lateness,
        line=paced,
        slots=slots,
    )
    return replace(taken, line=paced, short_at=short_at), grant
