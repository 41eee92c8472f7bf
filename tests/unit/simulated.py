"""Scenarios for tests of the simulation: one fast relay, one mailcaster, and rates that are easy to reckon with."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from mail_orchestration.simulation import Scenario, Simulation, read_scenario, simulate

NOW = datetime(2026, 5, 20, 12, 0, tzinfo=UTC)
"""A Wednesday."""
INSTANT = {
    "import_seconds": 0.0,
    "import_microseconds": 0.0,
    "dedup_seconds": 0.0,
    "dedup_microseconds": 0.0,
    "assembly_seconds": 0.0,
    "assembly_serial_microseconds": 0.0,
    "assembly_microseconds": 0.0,
    "start_seconds": 0.0,
    "child_seconds": 0.0,
    "mailcaster_microseconds": 1000.0,
    "mailcaster_cpu_microseconds": 10.0,
    "database_cpu_microseconds": 10.0,
    "reply_milliseconds": 10.0,
}
"""A mailcaster sends 1,000 a second; before it nothing takes any time."""


def scenario(**sections: Any) -> Scenario:
    """With these sections in the place of the usual ones."""
    base = {
        "mailcasters": [{"name": "m1", "connections": 20}],
        "relays": [{"name": "one", "connections": 1000}],
        "rates": INSTANT,
    }
    return read_scenario(None, base=base, given=sections)


def simulated(recipients: int, **sections: Any) -> Simulation:
    """A release to so many, begun at NOW."""
    return simulate(scenario(**sections), recipients, now=NOW)


def finish_of(found: Simulation) -> float:
    """Seconds until all have their end."""
    assert found.finish_s is not None
    return found.finish_s
