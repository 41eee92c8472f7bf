"""The judgement as Markdown and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict

from tests.chaos.evidence import Evidence
from tests.chaos.judgement import Judgement, Line

_HEAD = (
    "| fault | times | messages in hand | lost | repeated | bound | uncertain | longest recovery |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|\n"
)


def markdown(found: Judgement, evidence: Evidence) -> str:
    """The table by kind of fault, with the sums beneath."""
    lines = sorted(found.lines, key=lambda line: (-line.times, line.kind))
    total = Line("all")
    for line in lines:
        total.times += line.times
        total.in_hand += line.in_hand
        total.lost += line.lost
        total.repeated += line.repeated
        total.bound += line.bound
        total.uncertain += line.uncertain
        if line.longest_recovery_s is not None:
            total.longest_recovery_s = max(total.longest_recovery_s or 0.0, line.longest_recovery_s)
    rows = "".join(_row(line, evidence.hang_after_s) for line in [*lines, total])
    return _HEAD + rows


def _row(line: Line, hang_after_s: float) -> str:
    took = line.longest_recovery_s
    recovery = "" if took is None else f"{took:.1f} s ({took / hang_after_s:.1f} hang times)"
    cells = (
        line.kind,
        f"{line.times:,}",
        f"{line.in_hand:,}",
        f"{line.lost:,}",
        f"{line.repeated:,}",
        f"{line.bound:,}",
        f"{line.uncertain:,}",
        recovery,
    )
    return "| " + " | ".join(cells) + " |\n"


def summary(found: Judgement, evidence: Evidence, kills: int) -> str:
    """The run in two sentences."""
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in found.outcomes.items())
    return (
        f"{found.messages:,} messages ({outcomes}), taken {found.taken:,} times by the relay; {kills:,} kills and "
        f"{len(evidence.incidents) - kills:,} other faults in {evidence.seconds:.0f} s; hang time "
        f"{evidence.hang_after_s:g} s, {found.recovered:,} mail jobs recovered, {found.retried:,} messages "
        "accepted that were deferred first."
    )


def document(found: Judgement, evidence: Evidence, *, seed: int, kills: int) -> str:
    """The same as JSON."""
    return json.dumps(
        {
            "seed": seed,
            "kills": kills,
            "seconds": round(evidence.seconds, 1),
            "hang_after_s": evidence.hang_after_s,
            "messages": found.messages,
            "taken": found.taken,
            "outcomes": found.outcomes,
            "recovered": found.recovered,
            "retried": found.retried,
            "holds": found.holds,
            "faults": found.faults,
            "notes": found.notes,
            "mischiefs": evidence.mischiefs,
            "lines": [asdict(line) for line in found.lines],
        },
        indent=2,
    )
