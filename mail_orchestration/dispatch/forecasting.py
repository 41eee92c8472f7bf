"""When messages will be through: they flow through ceilings, step by step, on paper (pure).

A ceiling is what holds the flow back: a rate, and amounts in sliding windows. The fleet is one, each relay, and each
recipient domain with limits of its own. Messages of all domains are taken to lie evenly in a mail job. What is deferred
comes back later and is not foreseen.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

STEPS = 2000
"""Of so many parts is a forecast made, if the ceiling that is slowest alone is the only one that matters."""
SHORTEST_STEP_S = 0.02
FURTHEST_S = 366 * 86400.0
CURVE_POINTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """What lets so many messages through and no more."""

    name: str
    per_second: float = float("inf")
    quotas: Sequence[tuple[int, float]] = ()
    """(messages, seconds): so many in any window of that length."""

    def seconds_for(self, messages: float) -> float:
        """How long so many messages take at least."""
        slowest = max((messages / most * window_s for most, window_s in self.quotas), default=0.0)
        return max(messages / self.per_second, slowest)


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainForecast:
    """When the last message for one recipient domain, or group of domains, leaves."""

    domain: str
    messages: int
    seconds: float | None
    """From now; None when that is more than a year off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """How long a number of messages will take."""

    messages: int
    seconds: float | None
    """None when not all are through within a year."""
    limited_by: str
    """What holds them back most of the time: the name of a ceiling, or `send window`."""
    domains: Sequence[DomainForecast]
    curve: Sequence[tuple[float, int]]
    """(seconds from now, messages through by then), CURVE_POINTS at most."""


@dataclass(slots=True)
class _Meter:
    """A ceiling, with what went through it lately."""

    ceiling: Ceiling
    _past: deque[tuple[float, float]] = field(default_factory=deque)

    def room(self, now: float, step_s: float) -> float:
        """How many may go through in the step that begins now."""
        room = self.ceiling.per_second * step_s
        longest_s = max((window_s for _, window_s in self.ceiling.quotas), default=0.0)
        while self._past and self._past[0][0] <= now - longest_s:
            self._past.popleft()
        for most, window_s in self.ceiling.quotas:
            room = min(room, most - sum(count for at, count in self._past if at > now - window_s))
        return max(room, 0.0)

    def take(self, now: float, messages: float) -> None:
        if self.ceiling.quotas and messages:
            self._past.append((now, messages))


def forecast(
    messages: Mapping[str, int],
    *,
    fleet: Ceiling,
    relays: Sequence[Ceiling],
    domains: Mapping[str, Ceiling],
    closed_for: Callable[[float], float] = lambda seconds: 0.0,
) -> Forecast:
    """How long `messages`, by recipient domain or group, take through fleet, relays, and `domains` of the same names.

    `closed_for` tells, for so many seconds from now, for how many nothing may be sent (the send window, spec 6.7).
    """
    left = {name: float(count) for name, count in messages.items() if count > 0}
    total = sum(left.values())
    gates = {name: _Meter(domains[name]) for name in left if name in domains}
    fleet_meter, lanes = _Meter(fleet), [_Meter(relay) for relay in relays]
    step_s = _step(left, fleet, relays, domains)
    done_at: dict[str, float] = {}
    held_back: Counter[str] = Counter()
    curve: list[tuple[float, int]] = []
    now = 0.0
    while left and now < FURTHEST_S:
        if (closed_s := closed_for(now)) > 0:
            held_back["send window"] += max(1, round(closed_s / step_s)) if closed_s < FURTHEST_S else STEPS
            now += closed_s
        else:
            rooms = [lane.room(now, step_s) for lane in lanes]
            fleet_room = fleet_meter.room(now, step_s)
            caps = {
                name: min(count, gates[name].room(now, step_s) if name in gates else count)
                for name, count in left.items()
            }
            sent = _shared_out(left, caps, min(fleet_room, sum(rooms)))
            through = sum(sent.values())
            fleet_meter.take(now, through)
            for lane, room in zip(lanes, rooms, strict=True):
                lane.take(now, through * room / sum(rooms) if through else 0.0)
            if through >= fleet_room:
                held_back[fleet.name] += 1
            elif through >= sum(rooms):
                held_back[" and ".join(relay.name for relay in relays)] += 1
            else:
                slowest = max(left, key=lambda name: left[name] - sent[name])
                held_back[domains[slowest].name if slowest in domains else ""] += 1
            for name, count in sent.items():
                gate = gates.get(name)
                if gate is not None:
                    gate.take(now, count)
                left[name] -= count
                if left[name] < 1e-6 * total:
                    # Of the last step only a part is needed.
                    done_at[name] = now + step_s * min(1.0, count / max(caps[name], count))
                    del left[name]
            now += step_s
        curve.append((now, round(total - sum(left.values()))))
    every = -(-len(curve) // CURVE_POINTS) or 1
    return Forecast(
        messages=round(total),
        seconds=None if left else max(done_at.values(), default=0.0),
        limited_by=held_back.most_common(1)[0][0] if held_back else "",
        domains=[
            DomainForecast(domain=name, messages=count, seconds=done_at.get(name))
            for name, count in messages.items()
            if count > 0
        ],
        curve=curve[every - 1 :: every],
    )


def _step(
    left: Mapping[str, float], fleet: Ceiling, relays: Sequence[Ceiling], domains: Mapping[str, Ceiling]
) -> float:
    total = sum(left.values())
    least_s = [fleet.seconds_for(total), *(each.seconds_for(total) / len(relays) for each in relays)]
    least_s += [domains[name].seconds_for(count) for name, count in left.items() if name in domains]
    return max(SHORTEST_STEP_S, max(least_s) / STEPS)


def _shared_out(left: Mapping[str, float], caps: Mapping[str, float], room: float) -> dict[str, float]:
    """What of each goes through: in proportion to what is left, up to its cap, `room` in all."""
    sent = dict.fromkeys(left, 0.0)
    open_names = set(left)
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
