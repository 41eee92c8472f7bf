"""Messages flow through ceilings, step by step, on paper (pure): what forecasts and simulations have in common.

A ceiling is what holds the flow back: a rate, amounts in sliding windows, a ramp. Some are for all messages, such as
the fleet's; each relay is one, and they are beside each other; so is each recipient domain with limits of its own.
Messages of all domains are taken to lie evenly in a mail job.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

STEPS = 2000
"""Into so many parts the time is divided that messages take at least."""
SHORTEST_STEP_S = 0.02
WINDOWS_SEEN = 50
"""Steps in a window, at least, that it takes to be seen as a window."""
FURTHEST_S = 366 * 86400.0
DAY_S = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """What lets so many messages through and no more."""

    name: str
    per_second: float = math.inf
    quotas: Sequence[tuple[float, float]] = ()
    """(messages, seconds): so many in any window of that length."""
    ramp: Callable[[float], float] | None = None
    """The most in any day, as it grows: of seconds from now; infinite once it limits nothing."""
    used: Mapping[float, Sequence[tuple[float, float]]] = field(default_factory=dict)
    """Of a window's seconds what went through before: (seconds from now until it counts no more, messages)."""

    def most_in(self, seconds: float) -> float:
        """No more than this goes through in so many seconds from now."""
        if seconds <= 0:
            return 0.0
        most = self.per_second * seconds
        for messages, window_s in self.quotas:
            most = min(
                most, messages * (math.floor(seconds / window_s) + 1) - self._still_used(window_s, seconds)
            )
        if self.ramp is not None:
            days = range(1, math.floor(seconds / DAY_S) + 2)
            ramped = sum(self.ramp(min(day * DAY_S, seconds)) for day in days)
            most = min(most, ramped - self._still_used(DAY_S, seconds))
        return max(most, 0.0)

    def _still_used(self, window_s: float, seconds: float) -> float:
        return sum(messages for until_s, messages in self.used.get(window_s, ()) if until_s > seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """Mailcasters that deliver to the same relays."""

    ceiling: Ceiling
    relays: frozenset[str] | None = None
    """Names of their ceilings; None: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Through:
    """What went through in one step."""

    sent: Mapping[str, float]
    """By recipient domain, or group of domains."""
    held_back_by: str
    """The name of the ceiling that is the narrowest."""
    share_of_step: float
    """How much of the step it took: 1 but for the last messages."""


class _Window:
    """What went through lately, of one quota. Where steps are too long to see it, it is a bucket that fills."""

    def __init__(self, seconds: float, before: Sequence[tuple[float, float]] = ()) -> None:
        """`before`: what went through already, as in `Ceiling.used`."""
        self._seconds = seconds
        self._before = before
        self._past: deque[tuple[float, float]] = deque()
        self._used = 0.0
        """In the window; of a bucket what is missing."""
        self._looked_at: float | None = None

    def room(self, most: float, now: float, step_s: float) -> float:
        """What is left of `most` in the step that begins now."""
        if step_s * WINDOWS_SEEN > self._seconds:
            refill = most / self._seconds
            # Empty at first: so it never lets through what the window would not.
            if self._looked_at is None:
                self._used = most + sum(
                    messages * (until_s - now) / self._seconds
                    for until_s, messages in self._before
                    if until_s > now
                )
            else:
                self._used = max(0.0, self._used - (now - self._looked_at) * refill)
            self._looked_at = now
            return most - self._used + refill * step_s
        while self._past and self._past[0][0] <= now - self._seconds:
            self._used -= self._past.popleft()[1]
        if not self._past:
            self._used = 0.0
        return most - self._used - sum(messages for until_s, messages in self._before if until_s > now)

    def take(self, now: float, messages: float, step_s: float) -> None:
        self._used += messages
        if step_s * WINDOWS_SEEN <= self._seconds:
            self._past.append((now, messages))


class _Meter:
    """A ceiling, with what went through it lately."""

    def __init__(self, ceiling: Ceiling) -> None:
        self.ceiling = ceiling
        self._quotas = [
            (messages, _Window(window_s, ceiling.used.get(window_s, ())))
            for messages, window_s in ceiling.quotas
        ]
        self._day = _Window(DAY_S, ceiling.used.get(DAY_S, ()))

    def room(self, now: float, step_s: float) -> float:
        """How many may go through in the step that begins now."""
        room = self.ceiling.per_second * step_s
        for most, window in self._quotas:
            room = min(room, window.room(most, now, step_s))
        if self.ceiling.ramp is not None and (most := self.ceiling.ramp(now)) < math.inf:
            room = min(room, self._day.room(most, now, step_s))
        return max(room, 0.0)

    def take(self, now: float, messages: float, step_s: float) -> None:
        if messages:
            for _, window in self._quotas:
                window.take(now, messages, step_s)
            if self.ceiling.ramp is not None:
                self._day.take(now, messages, step_s)


class Flow:
    """All ceilings of some messages, with what went through them so far."""

    def __init__(
        self,
        messages: Mapping[str, float],
        *,
        teams: Sequence[Team],
        relays: Sequence[Ceiling],
        domains: Mapping[str, Ceiling],
        common: Sequence[Ceiling] = (),
        in_hand: float = math.inf,
        aside: float = math.inf,
    ) -> None:
        """`messages` by domain or group flow through `domains` of the same names, teams, relays, and all of `common`.

        No more than `in_hand` messages are taken in hand at once, the children of the fleet, and no more than `aside`
        of them wait for a domain's limit: so no domain gets further ahead of another.
        """
        self._whole = {name: count for name, count in messages.items() if count > 0}
        self._total = sum(self._whole.values())
        self._in_hand, self._aside = in_hand, aside
        self._teams = [(team, _Meter(team.ceiling)) for team in sorted(teams, key=_choice)]
        self._relays = [_Meter(relay) for relay in relays]
        self._common = [_Meter(ceiling) for ceiling in common]
        self._domains = {name: _Meter(domains[name]) for name in self._whole if name in domains}
        self._by_relay = [0.0] * len(relays)
        self.step_s = self._step()

    def through(
        self, left: Mapping[str, float], now: float, *, again: Mapping[str, float] | None = None
    ) -> Through:
        """The step that begins `now`, in seconds from the beginning: what goes through of `left`, and of what comes
        `again`, which waits for nobody.
        """
        again = again or {}
        gates = {name: meter.room(now, self.step_s) for name, meter in self._domains.items()}
        in_turn = self._in_turn(left, gates)
        waiting = {name: left.get(name, 0.0) + again.get(name, 0.0) for name in {**left, **again}}
        caps = {
            name: min(in_turn.get(name, 0.0) + again.get(name, 0.0), gates.get(name, math.inf))
            for name in waiting
        }
        # Nobody needs more room than for everything; what is finite can be shared out.
        rooms = [min(meter.room(now, self.step_s), self._total) for meter in self._relays]
        used, team_room = self._used_by_teams(rooms, now)
        common = [(meter.room(now, self.step_s), meter.ceiling.name) for meter in self._common]
        narrowest = min([(sum(used), ""), *common])
        sent = shared_out(waiting, caps, narrowest[0])
        total, room = sum(sent.values()), narrowest[0]
        for meter in self._common:
            meter.take(now, total, self.step_s)
        for number, (meter, part) in enumerate(zip(self._relays, used, strict=True)):
            through_it = total * part / sum(used) if total else 0.0
            meter.take(now, through_it, self.step_s)
            self._by_relay[number] += through_it
        for name, meter in self._domains.items():
            meter.take(now, sent.get(name, 0.0), self.step_s)
        is_all = total >= sum(waiting.values()) * (1 - 1e-9)
        slow = {name: sent[name] / gates[name] for name in sent if gates.get(name, 0.0) > 0}
        share = max([total / room if room else 0.0, *slow.values()])
        if total >= room * (1 - 1e-9) or (is_all and share > max(slow.values(), default=0.0)):
            held_back_by = narrowest[1] or self._teams_or_relays(team_room, rooms)
        else:
            # Others may wait for the one of which most is left.
            slowest = max(gates, key=lambda name: waiting.get(name, 0.0) - sent.get(name, 0.0), default="")
            held_back_by = self._domains[slowest].ceiling.name if slowest else ""
        return Through(sent=sent, held_back_by=held_back_by, share_of_step=share if is_all else 1.0)

    def relay_shares(self) -> list[float]:
        """Of everything that went through so far, the share of each relay, in their order."""
        total = sum(self._by_relay) or 1.0
        return [through / total for through in self._by_relay]

    def _in_turn(self, left: Mapping[str, float], gates: Mapping[str, float]) -> dict[str, float]:
        """How many of each may go now: nobody gets ahead of the slowest by more than what is in hand."""
        furthest = math.inf
        for name, count in left.items():
            whole, room = self._whole[name], gates.get(name, math.inf)
            if count > room:
                lag = min(self._in_hand / self._total, self._aside / whole)
                furthest = min(furthest, (whole - count + room) / whole + lag)
        return {
            name: max(0.0, min(count, furthest * self._whole[name] - (self._whole[name] - count)))
            for name, count in left.items()
        }

    def _used_by_teams(self, rooms: Sequence[float], now: float) -> tuple[list[float], float]:
        """What goes through each relay at most, and through all teams; who has fewer relays to choose from is first."""
        free = list(rooms)
        in_all = 0.0
        for team, meter in self._teams:
            mine = {
                str(number): room
                for number, room in enumerate(free)
                if team.relays is None or self._relays[number].ceiling.name in team.relays
            }
            in_all += (room := min(meter.room(now, self.step_s), self._total))
            for number, part in shared_out(mine, mine, room).items():
                free[int(number)] -= part
        return [room - rest for room, rest in zip(rooms, free, strict=True)], in_all

    def _teams_or_relays(self, team_room: float, rooms: Sequence[float]) -> str:
        if team_room <= sum(rooms):
            return " and ".join(dict.fromkeys(meter.ceiling.name for _, meter in self._teams))
        return " and ".join(meter.ceiling.name for meter in self._relays)

    def _step(self) -> float:
        """A part of the time that it takes at least."""

        def together(seconds: float) -> float:
            beside = (self._relays, [meter for _, meter in self._teams])
            several = [sum(meter.ceiling.most_in(seconds) for meter in meters) for meters in beside]
            return min(several + [meter.ceiling.most_in(seconds) for meter in self._common])

        least_s = [least_seconds(self._total, together)]
        least_s += [
            least_seconds(self._whole[name], meter.ceiling.most_in) for name, meter in self._domains.items()
        ]
        return max(SHORTEST_STEP_S, max(least_s) / STEPS)


def least_seconds(messages: float, most_in: Callable[[float], float]) -> float:
    """The shortest time in which so many can be through; FURTHEST_S when it is longer. To a thousandth of it."""
    if most_in(FURTHEST_S) < messages:
        return FURTHEST_S
    low, high = 1e-4, FURTHEST_S
    while high > 1.001 * low:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if most_in(middle) >= messages else (middle, high)
    return high


def shared_out(left: Mapping[str, float], caps: Mapping[str, float], room: float) -> dict[str, float]:
    """What of each goes through: in proportion to what is left, up to its cap, `room` in all."""
    sent = dict.fromkeys(left, 0.0)
    open_names = {name for name in left if left[name] > 0}
    while open_names and room > 0:
        share = room / sum(left[name] for name in open_names)
        capped = {name for name in open_names if caps[name] <= left[name] * share}
        if not capped:
            for name in open_names:
                sent[name] = left[name] * share
            break
        for name in capped:
            sent[name] = caps[name]
            room -= caps[name]
        open_names -= capped
    return sent


def _choice(team: Team) -> float:
    return math.inf if team.relays is None else len(team.relays)
