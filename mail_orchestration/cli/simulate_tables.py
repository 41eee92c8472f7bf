"""What `simulate` found, as tables, as a document and as a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mail_orchestration.cli.face import duration, shown, table

if TYPE_CHECKING:
    from rich.console import Console

    from mail_orchestration.simulation import Scenario, Simulation

ROWS_OF_A_CURVE = 16
NEVER = "not within a year"


def document_of(found: Simulation) -> dict[str, Any]:
    """All of it in JSON's terms."""
    return {**asdict(found), "finish_at": found.finish_at}


def write_curves(file: Path, simulations: Sequence[Simulation]) -> None:
    """A row for each point of each size's curve."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["recipients", "seconds", "unsent", "deferred", "accepted", "rejected", "dead"])
        for found in simulations:
            for point in found.curve:
                rows.writerow([found.recipients, round(point.seconds, 3), *list(asdict(point).values())[1:]])


def show_simulations(console: Console, scenario: Scenario, simulations: Sequence[Simulation]) -> None:
    """One size in full; several as a table of all, and each one's phases."""
    if len(simulations) > 1:
        _show_sizes(console, simulations)
    for found in simulations:
        console.print(
            f"[bold]{shown(found.recipients)} recipients[/], begun {found.begins_at:%Y-%m-%d %H:%M %Z}"
        )
        _show_phases(console, found)
    if len(simulations) == 1:
        _show_one(console, simulations[0])
    if not scenario.rates.model_fields_set:
        console.print(
            "[yellow]No rates of this installation's own machines[/]: those of another machine were taken."
        )


def _show_sizes(console: Console, simulations: Sequence[Simulation]) -> None:
    rows = [
        (
            found.recipients,
            _after(found.first_message_s),
            _after(found.half_s),
            _after(found.ninety_nine_percent_s),
            _after(found.finish_s),
            octets(found.stored_octets),
            f"{found.costs.total:,.2f}",
            f"{found.costs.per_thousand:,.4f}",
        )
        for found in simulations
    ]
    names = ("recipients", "first message", "50 %", "99 %", "100 %", "stored", "cost", "per 1,000")
    console.print(table(*names, rows=rows))


def _show_phases(console: Console, found: Simulation) -> None:
    rows = [
        (phase.name, _after(phase.begins_s), duration(phase.seconds), phase.limited_by)
        for phase in found.phases
    ]
    console.print(table("phase", "begins after", "takes", "limited by", rows=rows))


def _show_one(console: Console, found: Simulation) -> None:
    moments = (
        ("first message", found.first_message_s),
        ("50 %", found.half_s),
        ("90 %", found.ninety_percent_s),
        ("99 %", found.ninety_nine_percent_s),
        ("100 %", found.finish_s),
    )
    console.print(table("have their end", "after", rows=[(name, _after(at)) for name, at in moments]))
    ends = [
        ("accepted", found.accepted),
        ("rejected", found.rejected),
        ("dead letters", found.dead_letters),
    ]
    if found.unfinished:
        ends.append(("without an end after a year", found.unfinished))
    console.print(table("", "messages", rows=ends))
    every = -(-len(found.curve) // ROWS_OF_A_CURVE)
    points = [*found.curve[:-1:every], found.curve[-1]]
    console.print(
        table(
            "after",
            "unsent",
            "deferred",
            "accepted",
            rows=[(duration(each.seconds), each.unsent, each.deferred, each.accepted) for each in points],
        )
    )
    if found.finish_at is not None:
        console.print(f"through at [bold]{found.finish_at:%Y-%m-%d %H:%M:%S %Z}[/]")
    costs = found.costs
    console.print(
        f"{octets(found.stored_octets)} stored; cost {costs.total:,.2f}: hosts {costs.hosts:,.2f}, "
        f"relays {costs.relays:,.2f}, storage {costs.storage:,.2f}; {costs.per_thousand:,.4f} per 1,000"
    )


def _after(seconds: float | None) -> str:
    return NEVER if seconds is None else duration(seconds)


def octets(count: float) -> str:
    """A number of octets for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
