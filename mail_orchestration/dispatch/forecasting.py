"""When messages will be through, on paper (pure): what is deferred comes back later and is not foreseen."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mail_orchestration.dispatch.flow import FURTHEST_S, STEPS, Ceiling, Flow, Team

CURVE_POINTS = 100

Curve = Sequence[tuple[float, int]]
"""(seconds from now, messages through by then): a point for each further hundredth, and CURVE_POINTS at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainForecast:
    """When the last message for one recipient domain, or group of domains, leaves."""

    domain: str
    messages: int
    seconds: float | None
    """From now; None when that is more than a year off."""
    curve: Curve

    def reached(self, share: float) -> float | None:
        """Seconds from now until that share of the messages is through; None when that is more than a year off."""
        return reached(self.curve, share * self.messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """How long a number of messages will take."""

    messages: int
    seconds: float | None
    """None when not all are through within a year."""
    limited_by: str
    """What holds them back most of the time: the name of a ceiling, or `send window`."""
    domains: Sequence[DomainForecast]
    curve: Curve

    def reached(self, share: float) -> float | None:
        """As of a domain, of all messages."""
        return reached(self.curve, share * self.messages)


class _Drawn:
    """A curve while messages go through: bounded, however many steps they take."""

    def __init__(self, messages: float) -> None:
        self.points: list[tuple[float, int]] = []
        self._apart = max(1.0, messages / CURVE_POINTS)
        self._next = self._apart

    def add(self, seconds: float, through: float, *, is_last: bool) -> None:
        if is_last or through >= self._next:
            self.points.append((seconds, round(through)))
            self._next = through + self._apart


def forecast(
    messages: Mapping[str, int],
    *,
    fleet: Ceiling,
    relays: Sequence[Ceiling],
    domains: Mapping[str, Ceiling],
    closed_for: Callable[[float], float] = lambda seconds: 0.0,
    in_hand: float = math.inf,
    aside: float = math.inf,
) -> Forecast:
    """How long `messages`, by recipient domain or group, take through fleet, relays, and `domains` of the same names.

    `closed_for` tells, for so many seconds from now, for how many nothing may be sent (the send window, spec 6.7);
    `in_hand` and `aside` are those of a `Flow`.
    """
    left = {name: float(count) for name, count in messages.items() if count > 0}
    total = sum(left.values())
    teams = [Team(ceiling=fleet)]
    flow = Flow(left, teams=teams, relays=relays, domains=domains, in_hand=in_hand, aside=aside)
    done_at: dict[str, float] = {}
    held_back: Counter[str] = Counter()
    curve = _Drawn(total)
    curves = {name: _Drawn(count) for name, count in left.items()}
    now = 0.0
    while left and now < FURTHEST_S:
        if (closed_s := closed_for(now)) > 0:
            held_back["send window"] += (
                max(1, round(closed_s / flow.step_s)) if closed_s < FURTHEST_S else STEPS
            )
            now += closed_s
        else:
            through = flow.through(left, now)
            step_ends = now + flow.step_s * through.share_of_step
            held_back[through.held_back_by] += 1
            for name, count in through.sent.items():
                left[name] -= count
                if is_done := left[name] < 1e-6 * total:
                    done_at[name] = step_ends
                    del left[name]
                curves[name].add(step_ends, messages[name] - left.get(name, 0.0), is_last=is_done)
            curve.add(step_ends, total - sum(left.values()), is_last=not left)
            now += flow.step_s
    return Forecast(
        messages=round(total),
        seconds=None if left else max(done_at.values(), default=0.0),
        limited_by=held_back.most_common(1)[0][0] if held_back else "",
        domains=[
            DomainForecast(domain=name, messages=count, seconds=done_at.get(name), curve=curves[name].points)
            for name, count in messages.items()
            if count > 0
        ],
        curve=curve.points,
    )


def reached(curve: Curve, messages: float) -> float | None:
    """Seconds from now until so many are through, by a curve; None when they are not within a year."""
    return next((seconds for seconds, through in curve if through >= messages), None)
