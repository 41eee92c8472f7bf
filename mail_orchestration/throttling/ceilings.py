"""The limits of the settings as ceilings of a flow of messages on paper (pure)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

from mail_orchestration.dispatch.flow import Ceiling
from mail_orchestration.egress.ledger import Ledger
from mail_orchestration.egress.pace import SECOND, Limits, fastest
from mail_orchestration.kernel.limit_settings import (
    EACH_OTHER_DOMAIN,
    DomainSettings,
    LimitSettings,
    RampSettings,
)
from mail_orchestration.throttling.known_limits import RelayLimits, limits_of, ramp_of, strictest

DOMAINS = 20
"""So many of the largest recipient domains flow by themselves."""
OTHERS = "other domains"


def ceiling_of(
    name: str, settings: LimitSettings, *, ramp: Callable[[float], float] | None = None
) -> Ceiling:
    """What the limits of a relay or a group of domains let through in the long run."""
    return _ceiling(name, limits_of(settings), ramp)


def ceiling_of_relay(
    name: str, said: Sequence[RelayLimits], now: datetime, *, first_used: int | None
) -> Ceiling:
    """What all the installations together let through to a relay: the strictest of each kind."""
    ramps = [
        ramp
        for each in said
        if (ramp := ramp_from(each.stated.ramp, each.stated.zone, now, first_used=first_used)) is not None
    ]

    def most_in_a_day(seconds: float) -> float:
        return min(ramp(seconds) for ramp in ramps)

    return _ceiling(name, strictest(each.limits for each in said), most_in_a_day if ramps else None)


def _ceiling(name: str, limits: Limits, ramp: Callable[[float], float] | None) -> Ceiling:
    return Ceiling(
        name=name,
        per_second=fastest(limits) or math.inf,
        quotas=[(most, window / SECOND) for window, most in limits.quotas.items()],
        ramp=ramp,
    )


def as_used(ceiling: Ceiling, taken: Mapping[int, Mapping[int, int]], now: datetime) -> Ceiling:
    """The ceiling as it is after that was `taken` of its windows: microseconds → number of a period → messages."""
    moment = int(now.timestamp() * SECOND)
    ledger = Ledger(taken)
    used = {
        window / SECOND: [
            ((until - moment) / SECOND, messages) for until, messages in ledger.leaving(window, moment)
        ]
        for window in taken
    }
    return replace(ceiling, used=used)


def ramp_from(
    settings: RampSettings | None, zone: ZoneInfo, now: datetime, *, first_used: int | None = None
) -> Callable[[float], float] | None:
    """How the day limit of a new relay grows with the seconds from `now`; None where it has no ramp.

    A relay whose settings do not say since when it is used is so since `first_used`, microseconds since 1970; where
    that is not known either, from now on.
    """
    if settings is None:
        return None
    ramp, since = ramp_of(settings, zone)
    since = first_used if since is None else since
    used_for = 0 if since is None else int(now.timestamp() * SECOND) - since

    def most_in_a_day(seconds: float) -> float:
        return ramp.per_day(used_for + int(seconds * SECOND)) or math.inf

    return most_in_a_day


def groups_by_domain(groups: Iterable[DomainSettings]) -> dict[str, DomainSettings]:
    """By each domain, and by its own name, the group that limits it; `*` is among them."""
    found: dict[str, DomainSettings] = {}
    for group in groups:
        for domain in (group.name, *group.members):
            found.setdefault(domain, group)
    return found


def flow_name(domain: str, named: Mapping[str, DomainSettings]) -> str:
    """What `domain` has its limits with, of `groups_by_domain`: the group that names it, or itself alone."""
    group = None if domain == OTHERS else named.get(domain)
    return domain if group is None or group.name == EACH_OTHER_DOMAIN else group.name


def flows_of(
    messages: Mapping[str, int], groups: Sequence[DomainSettings], *, most: int = DOMAINS
) -> tuple[dict[str, int], dict[str, Ceiling]]:
    """Messages by what limits them: a group, one of the `most` largest domains, or nothing; and those limits.

    What comes as OTHERS meets no limit of a domain.
    """
    largest = {domain for domain, _ in Counter(messages).most_common(most)}
    flows: Counter[str] = Counter()
    domains: dict[str, Ceiling] = {}
    named = groups_by_domain(groups)
    each_other = named.get(EACH_OTHER_DOMAIN)
    for domain, count in messages.items():
        group = None if domain == OTHERS else named.get(domain, each_other)
        name = flow_name(domain, named)
        if name == domain and domain not in largest:
            name = OTHERS
        elif group is not None and name not in domains:
            domains[name] = ceiling_of(f"domain {name}", group.limits)
        flows[name] += count
    return dict(flows.most_common()), domains
