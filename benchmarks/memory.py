"""The largest process of every step from a list to the relay, with a million recipients (Linux).

    python -m benchmarks.memory --contacts 1000000

Import, dedup, assembly and delivery run one after the other, each in a process of its own, as they do under Dagster,
against an embedded PostgreSQL and Postfix's `smtp-sink`. Told is, for each step, the peak of the resident memory of
the largest process of ours, and of the largest of PostgreSQL's without the shared buffers, which every one of its
processes maps and which are there once. The reference is the limit of 300 MB; above it the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.delivery import site
from benchmarks.egress_only import start_sink

LIMIT_MB = 300
STEPS = ("import", "dedup", "assemble", "deliver")
LOOK_EVERY_S = 0.1


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--contacts", type=int, default=1_000_000)
    options.add_argument("--connections", type=int, default=50)
    options.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options.add_argument("--settings", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.step:
        take_step(chosen.step, chosen.settings)
        return 0
    return measure(chosen)


def measure(chosen: Namespace) -> int:
    """All steps, each watched."""
    from mail_orchestration.installation import open_installation

    os.environ.pop("DATABASE_URL", None)
    sink, port = start_sink()
    told: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="mo-bench-", dir="/tmp") as name:
        Path(name).chmod(0o711)
        settings = site(Path(name), port, chosen)
        try:
            # Held here so that the server stays up between the steps; this process does nothing else.
            with open_installation(settings, application_name="benchmark") as inst:
                for step in STEPS:
                    told[step] = watched(step, settings, server_of(inst))
                    print(json.dumps({step: told[step]}), flush=True)
        finally:
            sink.terminate()
            sink.wait()
    largest = max(max(each["ours_mb"], each["postgres_mb"]) for each in told.values())
    print(f"largest process / limit of {LIMIT_MB} MB = {largest / LIMIT_MB:.2f}, {chosen.contacts} contacts")
    return int(largest > LIMIT_MB)


def server_of(inst) -> int:  # type: ignore[no-untyped-def]
    """The process id of the postmaster: the parent of every backend."""
    from sqlalchemy import text

    with inst.database.begin() as connection:
        backend = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    return int(fields_of(Path(f"/proc/{backend}/status"))["PPid"])


def watched(step: str, settings: Path, postmaster: int) -> dict[str, float]:
    """Run one step in a process of its own and look at all processes meanwhile."""
    command = [sys.executable, "-m", "benchmarks.memory", "--step", step, "--settings", str(settings)]
    process = subprocess.Popen(command)
    peaks = {"ours": 0, "postgres": 0}
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(LOOK_EVERY_S):
            tree = parents()
            peak(peaks, "ours", family(process.pid, tree), lambda fields: number(fields, "VmHWM"))
            peak(
                peaks,
                "postgres",
                family(postmaster, tree),
                lambda fields: number(fields, "RssAnon") + number(fields, "RssFile"),
            )

    looker = threading.Thread(target=look)
    begun = time.perf_counter()
    looker.start()
    code = process.wait()
    is_over.set()
    looker.join()
    if code:
        raise SystemExit(f"{step} failed with {code}")
    return {
        "seconds": round(time.perf_counter() - begun, 1),
        "ours_mb": peaks["ours"] // 1024,
        "postgres_mb": peaks["postgres"] // 1024,
    }


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
    sys.exit(main())
