"""What every benchmark returns: figures, each beside a reference that was measured in the same run.

A figure and its reference have one value for each run; what is told of them is the median, and the ratio is of the
medians. Its spread is that of the runs' own ratios.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a ratio, or a value, is meant to be."""

    at_least: float | None = None
    at_most: float | None = None
    of: Literal["ratio", "value"] = "ratio"

    def is_reached_by(self, figure: float) -> bool:
        """Whether `figure` lies within."""
        return (self.at_least is None or figure >= self.at_least) and (
            self.at_most is None or figure <= self.at_most
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One figure."""

    name: str
    unit: str
    runs: tuple[float, ...]
    """The value of each run."""
    reference: str
    """What stands beside it: as a rule the least that the work could take."""
    reference_runs: tuple[float, ...]
    """The reference of each run, in the same unit; or one for all, when it is a limit and not measured."""
    target: Target | None = None
    goal: int | None = None
    """The number of the goal in docs/explanation/performance.md that the target is from."""

    @property
    def value(self) -> float:
        """The median of the runs."""
        return statistics.median(self.runs)

    @property
    def reference_value(self) -> float:
        """The median of the reference's runs."""
        return statistics.median(self.reference_runs)

    @property
    def ratio(self) -> float:
        """Of the medians."""
        return self.value / self.reference_value

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest and the largest ratio of one run."""
        beside = self.reference_runs
        if len(beside) != len(self.runs):
            beside = (self.reference_value,) * len(self.runs)
        ratios = [value / other for value, other in zip(self.runs, beside, strict=True)]
        return min(ratios), max(ratios)

    @property
    def is_reached(self) -> bool | None:
        """Whether the target is, or None where there is none."""
        if self.target is None:
            return None
        return self.target.is_reached_by(self.ratio if self.target.of == "ratio" else self.value)


def as_document(measurement: Measurement) -> dict[str, Any]:
    """For JSON: what was measured and what follows from it."""
    return asdict(measurement) | {
        "value": measurement.value,
        "reference_value": measurement.reference_value,
        "ratio": measurement.ratio,
        "spread": list(measurement.spread),
        "is_reached": measurement.is_reached,
    }


def from_document(document: Mapping[str, Any]) -> Measurement:
    """The measurement that `as_document` wrote."""
    target = document["target"]
    return Measurement(
        name=document["name"],
        unit=document["unit"],
        runs=tuple(document["runs"]),
        reference=document["reference"],
        reference_runs=tuple(document["reference_runs"]),
        target=Target(**target) if target is not None else None,
        goal=document["goal"],
    )


def table(measurements: Sequence[Measurement]) -> str:
    """The measurements as a table in markdown."""
    head = "| goal | what | median | reference | its median | ratio | of single runs | target | reached |"
    return "\n".join([head, "|---:|---|---:|---|---:|---:|---:|---:|---|", *map(_line, measurements)]) + "\n"


def _line(each: Measurement) -> str:
    low, high = each.spread
    reached = {None: "", True: "yes", False: "**NO**"}[each.is_reached]
    cells = (
        str(each.goal or ""),
        each.name,
        f"{_figure(each.value)} {each.unit}",
        each.reference,
        f"{_figure(each.reference_value)} {each.unit}",
        f"{each.ratio:.2f}",
        f"{low:.2f} to {high:.2f}",
        _target(each),
        reached,
    )
    return f"| {' | '.join(cells)} |"


def _target(measurement: Measurement) -> str:
    target = measurement.target
    if target is None:
        return ""
    unit = f" {measurement.unit}" if target.of == "value" else " ×"
    bounds = ((" ≥ ", target.at_least), (" ≤ ", target.at_most))
    return ",".join(f"{sign}{limit:,g}{unit}" for sign, limit in bounds if limit is not None).strip()


def _figure(value: float) -> str:
    """Three digits or more of it."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"
