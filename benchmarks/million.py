"""A million recipients from a list to the relay: as fast for each as a hundred thousand, in little memory (Linux).

    python -m benchmarks.million --contacts 1000000 --fewer 100000 --rounds 3

Import, dedup, assembly and delivery of a newsletter run one after the other, each in a process of its own as under
Dagster, against an embedded PostgreSQL and Postfix's `smtp-sink`: in turns for the fewer recipients and for the many.
Told are for each step the time and the CPU of a message (the fewer recipients' are the reference), the largest process
of ours and of PostgreSQL's (the reference is the limit), its peak in the last third of the step beside that in the
middle third, which is flat within a tenth or 3 MB; and by what the database grew for each message that was assembled.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from sqlalchemy import text

from benchmarks.harness import command_line
from benchmarks.harness.databases import own_folder
from benchmarks.harness.measurements import Measurement, Target
from benchmarks.harness.postfix import sink
from benchmarks.harness.processes import Watched, parent_of, watching
from benchmarks.harness.site import addresses, write_site
from mail_orchestration import broadcast
from mail_orchestration.dispatch.releases import releases_to_assemble
from mail_orchestration.installation import Installation, open_installation
from mail_orchestration.mailcaster import run_shift

LIMIT_MB = 300
OF_NO_MATTER_MB = 3.0
"""A hundredth of the limit. ANALYZE at the end of an import takes 2, whatever the size."""
LIMIT_OCTETS = 300
OWNERS = {"ours": "ours", "postgres": "PostgreSQL's"}
STEPS = ("import", "dedup", "assemble", "deliver")
CAMPAIGN = "newsletter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    contacts: int = 1_000_000
    fewer: int = 100_000
    connections: int = 50
    rounds: int = 3


@dataclass(slots=True)
class Step:
    """What one step took for each recipient, and the processes that took it."""

    seconds: float
    grown_octets: float
    ours: Watched
    postgres: Watched
    recipients: int

    @property
    def cpu_seconds(self) -> float:
        return (self.ours.cpu_seconds + self.postgres.cpu_seconds) / self.recipients


def measure(sizes: Sizes) -> list[Measurement]:
    """The way of the fewer, and that of the many, in turns."""
    rounds = [(way(sizes.fewer, sizes), way(sizes.contacts, sizes)) for _ in range(sizes.rounds)]
    figures = []
    for name in STEPS:
        fewer, many = ([each[which][name] for each in rounds] for which in (0, 1))
        for what, figure_of in (("time", time_of), ("CPU", cpu_of)):
            of_many = f"{name}: {what} of each of {sizes.contacts:,}"
            of_fewer = f"of {sizes.fewer:,}"
            figures.append(figure(of_many, "µs", map(figure_of, many), of_fewer, map(figure_of, fewer), 1.1))
        for whose in ("ours", "postgres"):
            watched: list[Watched] = [getattr(step, whose) for step in many]
            largest = f"{name}: the largest process of {OWNERS[whose]}"
            _, middle, last = zip(*(each.thirds_mb for each in watched), strict=True)
            peaks = [each.peak_mb for each in watched]
            figures += [
                figure(largest, "MB", peaks, "the limit", [LIMIT_MB], 1.0),
                figure(
                    f"{largest}, last third", "MB", last, "middle third", middle, flat_from(median(middle))
                ),
            ]
    grown = [many["assemble"].grown_octets for _, many in rounds]
    figures.append(
        figure("assemble: stored for each message", "octets", grown, "the limit", [LIMIT_OCTETS], 1.0)
    )
    return figures


def time_of(step: Step) -> float:
    """Of one message, in µs."""
    return 1e6 * step.seconds


def cpu_of(step: Step) -> float:
    """The same, of all processes."""
    return 1e6 * step.cpu_seconds


def flat_from(middle_mb: float) -> float:
    """How many times the middle third's peak the last one's may be: a tenth more, or what is no growth."""
    return max(1.1, 1 + OF_NO_MATTER_MB / middle_mb)


def figure(
    name: str, unit: str, runs: Iterable[float], reference: str, beside: Iterable[float], at_most: float
) -> Measurement:
    return Measurement(
        name=name,
        unit=unit,
        runs=tuple(runs),
        reference=reference,
        reference_runs=tuple(beside),
        target=Target(at_most=at_most),
        goal=4,
    )


def way(contacts: int, sizes: Sizes) -> dict[str, Step]:
    """All steps for so many recipients, each watched."""
    steps = {}
    with own_folder() as folder, sink() as port:
        settings = write_site(folder, port, addresses(contacts), connections=sizes.connections)
        # Held here so that the server stays up between the steps; this process does nothing else.
        with open_installation(settings, application_name="benchmark") as inst:
            for name in STEPS:
                stored, began = stored_octets(inst), time.perf_counter()
                process = subprocess.Popen(
                    [sys.executable, "-m", "benchmarks.million", "step", name, str(settings)]
                )
                with watching(ours=process.pid, postgres=postmaster_of(inst)) as seen:
                    code = process.wait()
                if code:
                    raise SystemExit(f"{name} failed with {code}")
                steps[name] = Step(
                    seconds=(time.perf_counter() - began) / contacts,
                    grown_octets=(stored_octets(inst) - stored) / contacts,
                    recipients=contacts,
                    **seen,
                )
                if name == "deliver":
                    require_all_accepted(inst, contacts)
    return steps


def stored_octets(inst: Installation) -> int:
    """Of all tables, with their indexes and what is stored beside them."""
    with inst.database.begin() as connection:
        return int(
            connection.scalar(
                text(
                    "SELECT sum(pg_total_relation_size(oid)) FROM pg_class "
                    "WHERE relnamespace = CAST(current_schema() AS regnamespace) AND relkind = 'r'"
                )
            )
            or 0
        )


def postmaster_of(inst: Installation) -> int:
    """The parent of every backend."""
    with inst.database.begin() as connection:
        return parent_of(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


def require_all_accepted(inst: Installation, messages: int) -> None:
    with inst.database.begin() as connection:
        accepted = connection.scalar(text("SELECT count(*) FROM result WHERE outcome = 'accepted'"))
    if accepted != messages:
        raise SystemExit(f"{accepted} of {messages} messages were accepted")


def take_step(name: str, settings: Path) -> None:
    """One step, in this process."""
    now = datetime.now(UTC)
    with open_installation(settings, application_name=f"benchmark {name}") as inst:
        if name == "import":
            broadcast.fill_audience(inst, "everybody", now=now)
            broadcast.release_campaign(inst, inst.settings.folder / "campaigns" / CAMPAIGN, now=now)
            return
        if name == "deliver":
            run_shift(inst, "m1", stop=threading.Event())
            return
        with inst.database.begin() as connection:
            (release_id,) = releases_to_assemble(connection, inst.installation_id)
        if name == "dedup":
            broadcast.resolve_release(inst, release_id, now=now)
        else:
            broadcast.assemble_release(inst, release_id, now=now)
            broadcast.queue_release(inst, release_id, now=now)


if __name__ == "__main__":
    if sys.argv[1:2] == ["step"]:
        take_step(sys.argv[2], Path(sys.argv[3]))
    else:
        command_line.run(__doc__, measure, full=Sizes(), quick=Sizes(contacts=4_000, fewer=1_000, rounds=1))
