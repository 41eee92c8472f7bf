"""A scenario's mailcasters, hosts, relays and domains as ceilings that its messages flow through."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby

from mail_orchestration.dispatch.flow import Ceiling, Flow, Team, shared_out
from mail_orchestration.dispatch.mailcaster_types import mailcaster_type
from mail_orchestration.dispatch.sizing import mean_child_size
from mail_orchestration.egress.parking import MOST_PARKED
from mail_orchestration.simulation import backing_off
from mail_orchestration.simulation.scenario import (
    MOST_DOMAINS,
    Failures,
    Scenario,
    SimulatedMailcaster,
    SimulatedRelay,
)
from mail_orchestration.throttling.ceilings import ceiling_of, flows_of, ramp_from

NOBODY = "no mailcaster takes mail jobs of this size"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Crew:
    """Mailcasters that are alike, as many as have something to do."""

    parameters: SimulatedMailcaster
    count: int
    child: float
    """Messages of a child."""
    per_second: float
    """Of one that waits for no limit."""
    connections: Mapping[str, float]
    """Of all of them, by relay."""


def flow_of(
    scenario: Scenario, messages: Mapping[str, int], failures: Mapping[str, Failures], begins_at: datetime
) -> tuple[Flow, dict[str, int]]:
    """How `messages`, by recipient domain, flow from `begins_at` on, and how many of them have which limits.

    `failures` are those of all that have the same limits.
    """
    total = sum(messages.values())
    crews = _crews(scenario, total)
    common = _machines(scenario)
    fleet = min([sum(crew.count * crew.per_second for crew in crews), *(each.per_second for each in common)])
    idle = _all_between_children(scenario, crews)
    relays = [_relay(scenario, relay, crews, fleet, idle, begins_at) for relay in scenario.relays]
    flows, domains = flows_of(messages, scenario.domains, most=MOST_DOMAINS)
    domains = {name: _slowed(ceiling, idle) for name, ceiling in domains.items()}
    for name, count in flows.items():
        limit = domains.get(name, Ceiling(name=""))
        offered = min(fleet * count / total, limit.per_second)
        round_s = scenario.dispatcher.back_off_round_seconds
        rate = backing_off.of_a_domain(offered, failures[name].deferred, round_s)
        if rate < offered:
            domains[name] = replace(limit, name=f"domain {name}, which defers too much", per_second=rate)
    flow = Flow(
        flows,
        teams=_teams(crews),
        relays=relays,
        domains=domains,
        common=common,
        in_hand=sum(crew.count * crew.child for crew in crews) or math.inf,
        aside=MOST_PARKED * sum(crew.count for crew in crews) or math.inf,
    )
    return flow, flows


def _crews(scenario: Scenario, total: int) -> list[_Crew]:
    """Those who take mail jobs of this size; not more mailcasters than there are children."""
    is_small = total < scenario.dispatcher.small_audience_threshold
    free = {relay.name: float(relay.connections) for relay in scenario.relays}
    reply_s = {relay.name: scenario.reply_s(relay) for relay in scenario.relays}
    crews: list[_Crew] = []
    children = math.inf
    for each in scenario.mailcasters:
        kind = mailcaster_type(each)
        if not (kind.takes_small if is_small else kind.takes_parents):
            continue
        child = float(total) if is_small else mean_child_size(total, each)
        children = math.ceil(total / child - 1e-9) if math.isinf(children) else children
        if (count := int(min(each.count, children - sum(crew.count for crew in crews)))) < 1:
            continue
        weights = {
            relay.name: float(relay.weight)
            for relay in scenario.relays
            if not each.relays or relay.name in each.relays
        }
        held = shared_out(weights, free, float(count * each.connections))
        free = {name: room - held.get(name, 0.0) for name, room in free.items()}
        rate = sum(share / reply_s[name] for name, share in held.items()) / count
        rate = min(rate, 1e6 / scenario.rates.mailcaster_microseconds)
        rate = child / (child / rate + scenario.rates.child_seconds) if rate else 0.0
        crews.append(_Crew(parameters=each, count=count, child=child, per_second=rate, connections=held))
    return crews


def _teams(crews: list[_Crew]) -> list[Team]:
    if not crews:
        return [Team(ceiling=Ceiling(name=NOBODY, per_second=0.0))]
    by_relays = sorted(crews, key=lambda crew: sorted(crew.parameters.relays))
    return [
        Team(
            ceiling=Ceiling(
                name="the mailcasters", per_second=sum(crew.count * crew.per_second for crew in those)
            ),
            relays=frozenset(relays) or None,
        )
        for relays, those in (
            (key, list(group))
            for key, group in groupby(by_relays, lambda crew: sorted(crew.parameters.relays))
        )
    ]


def _machines(scenario: Scenario) -> list[Ceiling]:
    rates, hosts = scenario.rates, scenario.hosts
    ours, database = rates.mailcaster_cpu_microseconds / 1e6, rates.database_cpu_microseconds / 1e6
    cores = hosts.count * hosts.cores
    if hosts.database_cores is None:
        return [Ceiling(name="the hosts' processors", per_second=cores / (ours + database))]
    return [
        Ceiling(name="the hosts' processors", per_second=cores / ours),
        Ceiling(name="the database's processors", per_second=hosts.database_cores / max(database, 1e-9)),
    ]


def _relay(
    scenario: Scenario,
    relay: SimulatedRelay,
    crews: list[_Crew],
    fleet: float,
    idle: Callable[[float], float],
    begins_at: datetime,
) -> Ceiling:
    ramp = ramp_from(relay.ramp, scenario.zone, begins_at)
    limited = _slowed(ceiling_of(f"relay {relay.name}", relay.limits, ramp=ramp), idle)
    connections = sum(crew.connections.get(relay.name, 0.0) for crew in crews)
    by_connections = connections / scenario.reply_s(relay)
    if by_connections < min(limited.per_second, fleet):
        limited = replace(limited, name=f"connections to relay {relay.name}")
    offered = min(limited.per_second, by_connections, fleet)
    round_s = scenario.dispatcher.back_off_round_seconds
    rate = backing_off.of_a_relay(offered, relay.tolerates_per_second, round_s)
    if rate < offered:
        return replace(limited, name=f"relay {relay.name}, which asks for less", per_second=rate)
    return replace(limited, per_second=min(limited.per_second, by_connections))


def _all_between_children(scenario: Scenario, crews: list[_Crew]) -> Callable[[float], float]:
    """Of a limit's rate the share of time in which all mailcasters are between two children, and its slots pass by."""

    def idle(rate: float) -> float:
        gap, count = scenario.rates.child_seconds, sum(crew.count for crew in crews)
        shares = [
            gap / (gap + crew.child * count / rate) for crew in crews for _ in range(min(crew.count, 20))
        ]
        return math.prod(shares) if shares else 0.0

    return idle


def _slowed(ceiling: Ceiling, idle: Callable[[float], float]) -> Ceiling:
    if not 0 < ceiling.per_second < math.inf:
        return ceiling
    return replace(ceiling, per_second=ceiling.per_second * (1 - idle(ceiling.per_second)))
