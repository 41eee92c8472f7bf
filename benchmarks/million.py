"""A million recipients from a list to the relay: as fast for each as a hundred thousand, in little memory (Linux).

    python -m benchmarks.million --contacts 1000000 --fewer 100000

Import, dedup, assembly and delivery of a newsletter run one after the other, each in a process of its own as under
Dagster, against an embedded PostgreSQL and Postfix's `smtp-sink`: first for the fewer recipients, then for the many.
Told are for each step the time and the CPU of a message (the fewer recipients' are the reference), the largest process
of ours and of PostgreSQL's (the reference is the limit), its peak in the last third of the step beside that in the
middle third; and by what the database grew for each message that was assembled.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

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
LIMIT_OCTETS = 300
STEPS = ("import", "dedup", "assemble", "deliver")
CAMPAIGN = "newsletter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    contacts: int = 1_000_000
    fewer: int = 100_000
    connections: int = 50


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
    """The way of the fewer, and that of the many."""
    fewer, many = (way(contacts, sizes) for contacts in (sizes.fewer, sizes.contacts))
    figures = []
    for name, step in many.items():
        beside = fewer[name]
        figures += [
            beside_fewer(f"{name}: time of each", "µs", 1e6 * step.seconds, 1e6 * beside.seconds, sizes),
            beside_fewer(
                f"{name}: CPU of each", "µs", 1e6 * step.cpu_seconds, 1e6 * beside.cpu_seconds, sizes
            ),
        ]
        for whose, seen in (("ours", step.ours), ("PostgreSQL's", step.postgres)):
            _, middle, last = seen.thirds_mb
            largest = f"{name}: the largest process of {whose}"
            figures += [
                figure(largest, "MB", seen.peak_mb, "the limit", LIMIT_MB, 1.0),
                figure(f"{largest}, last third", "MB", last, "middle third", middle, 1.1),
            ]
    grown = many["assemble"].grown_octets
    figures.append(
        figure("assemble: stored for each message", "octets", grown, "the limit", LIMIT_OCTETS, 1.0)
    )
    return figures


def beside_fewer(name: str, unit: str, value: float, reference: float, sizes: Sizes) -> Measurement:
    return figure(f"{name} of {sizes.contacts:,}", unit, value, f"of {sizes.fewer:,}", reference, 1.1)


def figure(
    name: str, unit: str, value: float, reference: str, reference_value: float, at_most: float
) -> Measurement:
    return Measurement(
        name=name,
        unit=unit,
        runs=(value,),
        reference=reference,
        reference_runs=(reference_value,),
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
        command_line.run(__doc__, measure, full=Sizes(), quick=Sizes(contacts=4_000, fewer=1_000))
