"""The limits of the settings as ceilings of a flow of messages on paper (pure)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from mail_orchestration.dispatch.flow import Ceiling
from mail_orchestration.egress.pace import SECOND, fastest
from mail_orchestration.kernel.limit_settings import EACH_OTHER_DOMAIN, DomainSettings, LimitSettings
from mail_orchestration.kernel.relay_settings import RelaySettings
from mail_orchestration.kernel.settings import Settings
from mail_orchestration.throttling.known_limits import KnownLimits, limits_of, relay_scope

DOMAINS = 20
"""So many of the largest recipient domains flow by themselves."""
OTHERS = "other domains"


def ceiling_of(
    name: str, settings: LimitSettings, *, ramp: Callable[[float], float] | None = None
) -> Ceiling:
    """What the limits of a relay or a group of domains let through in the long run."""
    limits = limits_of(settings)
    return Ceiling(
        name=name,
        per_second=fastest(limits) or math.inf,
        quotas=[(most, window / SECOND) for window, most in limits.quotas.items()],
        ramp=ramp,
    )


def ramp_of(relay: RelaySettings, settings: Settings, *, now: datetime) -> Callable[[float], float] | None:
    """How the day limit of a new relay grows with the seconds from `now`; None where it has no ramp.

    A relay whose settings do not say since when it is used is taken to be used from now on.
    """
    known = KnownLimits(settings).relays[relay_scope(relay.host, relay.port)]
    if (ramp := known.ramp) is None:
        return None
    microseconds = int(now.timestamp() * SECOND)
    used_for = 0 if known.since is None else microseconds - known.since

    def most_in_a_day(seconds: float) -> float:
        return ramp.per_day(used_for + int(seconds * SECOND)) or math.inf

    return most_in_a_day


def flows_of(
    messages: Mapping[str, int], groups: Sequence[DomainSettings]
) -> tuple[dict[str, int], dict[str, Ceiling]]:
    """Messages by what limits them: a group of domains, a domain by itself, or nothing; and those limits."""
    named = {group.name: group for group in groups}
    group_of = {domain: group.name for group in groups for domain in group.members}
    each_other = named.get(EACH_OTHER_DOMAIN)
    largest = {domain for domain, _ in Counter(messages).most_common(DOMAINS)}
    flows: Counter[str] = Counter()
    domains: dict[str, Ceiling] = {}
    for domain, count in messages.items():
        group = named.get(group_of.get(domain, ""), each_other)
        name = group.name if group is not None and group is not each_other else domain
        if name == domain and domain not in largest:
            name = OTHERS
        elif group is not None and name not in domains:
            domains[name] = ceiling_of(f"domain {name}", group.limits)
        flows[name] += count
    return dict(flows.most_common()), domains
