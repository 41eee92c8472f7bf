"""What a release costs, and how much the database grows by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mail_orchestration.simulation.scenario import Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """In the currency of the scenario's prices."""

    hosts: float
    relays: float
    storage: float
    total: float
    per_thousand: float
    """Of the total, for a thousand recipients."""


def stored_octets(scenario: Scenario, recipients: int) -> int:
    """What the database grows by."""
    rates = scenario.rates
    rows = recipients / (1 - scenario.audience.duplicates) if scenario.audience.imported else 0.0
    of_each = rates.recipient_octets + rates.message_octets + rates.result_octets
    return round(rows * rates.contact_octets + recipients * of_each)


def costs_of(
    scenario: Scenario, recipients: int, *, seconds: float, accepted: Mapping[str, float], stored: int
) -> Costs:
    """Hosts for so many seconds, messages that each relay `accepted`, octets `stored` for as long as they are kept."""
    prices, hosts = scenario.prices, scenario.hosts
    machines = hosts.count + (hosts.database_cores is not None)
    price_of = {
        relay.name: prices.per_thousand_messages
        if relay.price_per_thousand is None
        else relay.price_per_thousand
        for relay in scenario.relays
    }
    of_hosts = machines * seconds / 3600 * prices.host_hour
    of_relays = sum(count / 1000 * price_of[name] for name, count in accepted.items())
    of_storage = stored / 1e9 * prices.months_kept * prices.gigabyte_month
    total = of_hosts + of_relays + of_storage
    return Costs(
        hosts=of_hosts,
        relays=of_relays,
        storage=of_storage,
        total=total,
        per_thousand=1000 * total / recipients,
    )
