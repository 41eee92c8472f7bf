"""How fast a relay or a domain that asks for less takes mail in the long run: the back-off of egress, on paper."""

from __future__ import annotations

import math
from collections.abc import Callable

from mail_orchestration.egress.aimd import SLOWEST, BackedOff, cut
from mail_orchestration.egress.complaints import MOST_DEFERRED, WINDOW
from mail_orchestration.egress.pace import SECOND

ROUNDS = 400
"""So many are looked at; the first half of them, until it has settled, is not counted."""


def mean_rate(
    offered: float, complains: Callable[[float], bool], round_s: float, *, most: float = math.inf
) -> float:
    """Messages per second that go through in the long run where `offered` would without complaints.

    `complains` tells whether there is a complaint in a round at a rate; above `most` nothing goes through.
    """
    if offered <= SLOWEST or not complains(offered):
        return offered
    state: BackedOff | None = None
    length = round(round_s * SECOND)
    rates: list[float] = []
    for number in range(ROUNDS):
        now = number * length
        rate = state.rate_at(now, length) if state is not None else None
        rate = offered if rate is None else rate
        if complains(rate):
            state = cut(state, offered, "", now, length)
            rate = state.rate_at(now, length) or rate
        rates.append(min(rate, most))
    return sum(rates[ROUNDS // 2 :]) / (ROUNDS - ROUNDS // 2)


def of_a_relay(offered: float, tolerates_per_second: float | None, round_s: float) -> float:
    """What a relay takes that answers with 421 above a rate."""
    most = math.inf if tolerates_per_second is None else tolerates_per_second
    return mean_rate(offered, lambda rate: rate > most, round_s, most=most)


def of_a_domain(offered: float, deferred: float, round_s: float) -> float:
    """What a domain gets that defers such a share of what it is offered."""
    if deferred * WINDOW < MOST_DEFERRED:
        return offered
    return mean_rate(offered, lambda rate: rate * round_s * deferred >= MOST_DEFERRED, round_s)
