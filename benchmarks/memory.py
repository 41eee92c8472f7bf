"""The largest process of every step from a list to the relay, with a million recipients (Linux).

    python -m benchmarks.memory --contacts 1000000

Import, dedup, assembly and delivery run one after the other, each in a process of its own, as they do under Dagster,
against an embedded PostgreSQL and Postfix's `smtp-sink`. Told is, for each step, the peak of the resident memory of
the largest process of ours, and of the largest of PostgreSQL's without the shared buffers, which every one of its
processes maps and which are there once. The reference is the limit of 300 MB.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.harness import command_line
from benchmarks.harness.databases import own_folder
from benchmarks.harness.measurements import Measurement, Target
from benchmarks.harness.postfix import sink
from benchmarks.harness.site import addresses, write_site

LIMIT_MB = 300
STEPS = ("import", "dedup", "assemble", "deliver")
LOOK_EVERY_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    contacts: int = 1_000_000
    connections: int = 50
    rounds: int = 1


def measure(sizes: Sizes) -> list[Measurement]:
    """All steps, each watched."""
    from mail_orchestration.installation import open_installation

    peaks: dict[tuple[str, str], list[float]] = {}
    for _ in range(sizes.rounds):
        with own_folder() as folder, sink() as port:
            settings = write_site(folder, port, addresses(sizes.contacts), connections=sizes.connections)
            # Held here so that the server stays up between the steps; this process does nothing else.
            with open_installation(settings, application_name="benchmark") as inst:
                for step in STEPS:
                    for whose, megabytes in watched(step, settings, server_of(inst)).items():
                        peaks.setdefault((step, whose), []).append(megabytes)
    return [
        Measurement(
            name=f"{step}: the largest process of {whose}, {sizes.contacts:,} contacts",
            unit="MB",
            runs=tuple(runs),
            reference="the limit",
            reference_runs=(LIMIT_MB,),
            target=Target(at_most=1.0),
            goal=4,
        )
        for (step, whose), runs in peaks.items()
    ]


def server_of(inst) -> int:  # type: ignore[no-untyped-def]
    """The process id of the postmaster: the parent of every backend."""
    from sqlalchemy import text

    with inst.database.begin() as connection:
        backend = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    return int(fields_of(Path(f"/proc/{backend}/status"))["PPid"])


def watched(step: str, settings: Path, postmaster: int) -> dict[str, float]:
    """Run one step in a process of its own and look at all processes meanwhile."""
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.memory", "step", step, str(settings)])
    peaks = {"ours": 0, "PostgreSQL's": 0}
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(LOOK_EVERY_S):
            tree = parents()
            peak(peaks, "ours", family(process.pid, tree), lambda fields: number(fields, "VmHWM"))
            peak(
                peaks,
                "PostgreSQL's",
                family(postmaster, tree),
                lambda fields: number(fields, "RssAnon") + number(fields, "RssFile"),
            )

    looker = threading.Thread(target=look)
    looker.start()
    code = process.wait()
    is_over.set()
    looker.join()
    if code:
        raise SystemExit(f"{step} failed with {code}")
    return {whose: kilobytes / 1024 for whose, kilobytes in peaks.items()}


def peak(
    peaks: dict[str, int], whose: str, processes: set[int], measured: Callable[[dict[str, str]], int]
) -> None:
    """Note the largest of these processes."""
    for process in processes:
        with suppress(OSError, KeyError):  # it has ended
            peaks[whose] = max(peaks[whose], measured(fields_of(Path(f"/proc/{process}/status"))))


def parents() -> dict[int, int]:
    """Every process and its parent."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, KeyError):
            found[int(entry.name)] = int(fields_of(entry / "status")["PPid"])
    return found


def family(first: int, tree: dict[int, int]) -> set[int]:
    """A process and all below it."""
    members = {first}
    while more := {process for process, parent in tree.items() if parent in members} - members:
        members |= more
    return members


def fields_of(status: Path) -> dict[str, str]:
    """The lines of a process' status, by name."""
    return dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)


def number(fields: dict[str, str], name: str) -> int:
    """Kilobytes."""
    return int(fields[name].split()[0])


def take_step(step: str, settings: Path) -> None:
    """One step, in this process."""
    from mail_orchestration import broadcast
    from mail_orchestration.dispatch.releases import releases_to_assemble
    from mail_orchestration.installation import open_installation
    from mail_orchestration.mailcaster import run_shift

    now = datetime.now(UTC)
    with open_installation(settings, application_name=f"benchmark {step}") as inst:
        if step == "import":
            broadcast.fill_audience(inst, "everybody", now=now)
            broadcast.release_campaign(inst, inst.settings.folder / "campaigns" / "letter", now=now)
            return
        if step == "deliver":
            run_shift(inst, "m1", stop=threading.Event())
            return
        with inst.database.begin() as connection:
            (release_id,) = releases_to_assemble(connection, inst.installation_id)
        if step == "dedup":
            broadcast.resolve_release(inst, release_id, now=now)
        else:
            broadcast.assemble_release(inst, release_id, now=now)
            broadcast.queue_release(inst, release_id, now=now)


if __name__ == "__main__":
    if sys.argv[1:2] == ["step"]:
        take_step(sys.argv[2], Path(sys.argv[3]))
    else:
        command_line.run(__doc__, measure, full=Sizes(), quick=Sizes(contacts=3_000))
