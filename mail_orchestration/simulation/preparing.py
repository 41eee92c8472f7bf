"""Import, dedup and assembly: all of a release before any of it is queued (spec 2.7)."""

from __future__ import annotations

from dataclasses import dataclass

from mail_orchestration.simulation.scenario import Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One part of a release's way."""

    name: str
    begins_s: float
    """From the beginning."""
    seconds: float
    limited_by: str
    """What holds it back most."""


def prepare(scenario: Scenario, recipients: int) -> list[Phase]:
    """What comes before the queue, one after the other."""
    rates, processes = scenario.rates, min(scenario.dispatcher.assembly_processes, scenario.hosts.cores)
    rows = recipients / (1 - scenario.audience.duplicates)
    composing = rates.assembly_microseconds / processes
    parts: list[tuple[str, float, str]] = []
    if scenario.audience.imported:
        seconds = rates.import_seconds + rows * rates.import_microseconds / 1e6
        parts.append(("import", seconds, "one process that reads and writes rows"))
    parts.append(("dedup", rates.dedup_seconds + rows * rates.dedup_microseconds / 1e6, "the database"))
    parts.append(
        (
            "assembly",
            rates.assembly_seconds + recipients * (rates.assembly_serial_microseconds + composing) / 1e6,
            f"{processes} assembly processes"
            if composing > rates.assembly_serial_microseconds
            else "the process that writes messages",
        )
    )
    phases: list[Phase] = []
    for name, seconds, limited_by in parts:
        begins_s = sum(phase.seconds for phase in phases)
        phases.append(Phase(name=name, begins_s=begins_s, seconds=seconds, limited_by=limited_by))
    return phases
