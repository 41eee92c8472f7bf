"""The figures of all benchmarks, as markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.measurements import Measurement, as_document, table


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """What one benchmark came to."""

    name: str
    command: str
    seconds: float
    exit_code: int
    """Of the benchmark; other than 0 it broke, and there are no figures."""
    measurements: tuple[Measurement, ...]


def write_figures(
    folder: Path, gathered: Sequence[Gathered], machine: Mapping[str, str], *, is_quick: bool
) -> str:
    """Write figures.md and figures.json into `folder`, and return the former."""
    text = as_markdown(gathered, machine, is_quick=is_quick)
    (folder / "figures.md").write_text(text, encoding="utf-8")
    document = {
        "machine": dict(machine),
        "quick": is_quick,
        "benchmarks": [
            {
                "name": each.name,
                "command": each.command,
                "seconds": round(each.seconds, 1),
                "exit_code": each.exit_code,
                "measurements": [as_document(measurement) for measurement in each.measurements],
            }
            for each in gathered
        ],
    }
    (folder / "figures.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return text


def as_markdown(gathered: Sequence[Gathered], machine: Mapping[str, str], *, is_quick: bool) -> str:
    """One table of all figures, by goal, and one of the commands."""
    measurements = [measurement for each in gathered for measurement in each.measurements]
    measurements.sort(key=lambda each: each.goal or 100)
    reached = [each.is_reached for each in measurements if each.is_reached is not None]
    parts = [
        "# Benchmarks\n",
        f"{', '.join(f'{name}: {value}' for name, value in machine.items())}.",
    ]
    if is_quick:
        parts.append("**Small sizes and few runs: these figures say that the benchmarks work, and no more.**")
    parts += [
        f"Medians; {sum(reached)} of {len(reached)} targets are reached.\n",
        table(measurements),
        "| benchmark | command | seconds |\n|---|---|---:|",
        *(
            f"| {each.name} | `{each.command}` | {each.seconds:.0f}{', **it broke**' if each.exit_code else ''} |"
            for each in gathered
        ),
    ]
    return "\n".join(parts) + "\n"
