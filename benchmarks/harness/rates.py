"""This machine's rates for `mail-orchestration simulate`, from short runs of the real thing.

What costs something for each message and something for each step is run in two sizes, or in two ways: the difference
tells them apart.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml
from sqlalchemy import text

from benchmarks.harness.processes import parent_of
from benchmarks.harness.shift import shifts
from benchmarks.harness.site import addresses, release, write_site
from mail_orchestration.installation import Installation, open_installation

FEW, MANY = 1_000, 20_000
LARGE_CHILD, SMALL_CHILD = 5_000, 500


@dataclass(slots=True)
class Whole:
    """A release from its list to the last message's end."""

    seconds: dict[str, float]
    """Of import, dedup, assembly, start and delivery."""
    cpu_s: float = 0.0
    """Of the mailcaster's process."""
    database_cpu_s: float = 0.0
    octets: dict[str, float] = field(default_factory=dict)
    """By which the database grew: with the release, and with delivery."""


def measured_rates(folder: Path, port: int) -> dict[str, float]:
    """All rates, as the keys of a rates file."""
    few = whole(site(folder / "few", port, FEW, connections=1))
    many = whole(site(folder / "many", port, MANY, child=LARGE_CHILD))
    other = whole(site(folder / "other", port, MANY, child=SMALL_CHILD, dispatcher={"assembly_processes": 1}))

    def each_us(step: str) -> float:
        return max(0.0, 1e6 * (many.seconds[step] - few.seconds[step]) / (MANY - FEW))

    def fixed_s(step: str) -> float:
        return max(0.0, few.seconds[step] - FEW * each_us(step) / 1e6)

    by_one_us = 1e6 * (other.seconds["assembly"] - fixed_s("assembly")) / MANY
    composing_us = min(by_one_us, max(0.0, 2 * (by_one_us - each_us("assembly"))))
    children = MANY / SMALL_CHILD - MANY / LARGE_CHILD
    child_s = max(0.0, (other.seconds["delivery"] - many.seconds["delivery"]) / children)
    rates = {
        "import_seconds": fixed_s("import"),
        "import_microseconds": each_us("import"),
        "dedup_seconds": fixed_s("dedup"),
        "dedup_microseconds": each_us("dedup"),
        "assembly_seconds": fixed_s("assembly"),
        "assembly_serial_microseconds": by_one_us - composing_us,
        "assembly_microseconds": composing_us,
        "start_seconds": many.seconds["start"],
        "child_seconds": child_s,
        "mailcaster_microseconds": 1e6 * (many.seconds["delivery"] / MANY - child_s / LARGE_CHILD),
        "mailcaster_cpu_microseconds": max(1.0, 1e6 * (many.cpu_s - few.cpu_s) / (MANY - FEW)),
        # Autovacuum may have worked for the few only.
        "database_cpu_microseconds": max(
            1.0, 1e6 * (many.database_cpu_s - few.database_cpu_s) / (MANY - FEW)
        ),
        "reply_milliseconds": 1000 * (few.seconds["delivery"] - child_s) / FEW,
        **{f"{what}_octets": count / MANY for what, count in many.octets.items()},
    }
    return {key: float(f"{value:.3g}") for key, value in rates.items()}


def site(
    folder: Path,
    port: int,
    contacts: int | list[str],
    *,
    connections: int = 50,
    child: int = 0,
    limits: dict[str, int] | None = None,
    **sections: Any,
) -> Path:
    """An installation of its own, with these sections in its settings."""
    folder.mkdir()
    folder.chmod(0o711)
    those = addresses(contacts) if isinstance(contacts, int) else contacts
    settings = write_site(folder, port, those, connections=connections, limits=limits)
    document = yaml.safe_load(settings.read_text(encoding="utf-8"))
    if child:
        document["mailcasters"][0] |= {"min_job_size": child - 1, "max_job_size": child}
    settings.write_text(yaml.safe_dump(document | sections), encoding="utf-8")
    return settings


def whole(settings: Path) -> Whole:
    """A release and its delivery, timed; the mailcaster's shifts are processes of their own."""
    with open_installation(settings, application_name="benchmark") as inst:
        empty = octets_of(inst)
        made = release(inst)
        queued = octets_of(inst)
        with inst.database.begin() as connection:
            server = parent_of(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
        before, began = cpu_of(server), time.perf_counter()
        found = Whole(seconds={**made.seconds, "delivery": 0.0})
        messages = 0
        while True:
            (shift,) = shifts(settings)
            found.seconds["delivery"] += shift.seconds
            found.cpu_s += shift.cpu_seconds
            messages += shift.messages
            if not _retries_are_due(inst):
                break
        found.seconds["start"] = time.perf_counter() - began - found.seconds["delivery"]
        if messages != made.messages:
            raise SystemExit(f"{messages} of {made.messages} messages have a result")
        found.database_cpu_s = cpu_of(server) - before
        found.octets = {what: queued[what] - empty[what] for what in queued}
        found.octets["result"] = sum(octets_of(inst).values()) - sum(queued.values())
    return found


def _retries_are_due(inst: Installation) -> bool:
    """Wait until a deferred message is due again; False when none is left."""
    question = text("SELECT min(due_at) <= now() FROM loose_mail WHERE state = 'SCHEDULED'")
    while True:
        with inst.database.begin() as connection:
            is_due = connection.execute(question).scalar_one()
        if is_due is not False:
            return bool(is_due)
        time.sleep(0.1)


def octets_of(inst: Installation) -> dict[str, float]:
    """What the tables of contacts, recipients and messages take, with their indexes, and all others."""
    question = text(
        "SELECT c.relname AS name, pg_total_relation_size(c.oid) AS octets FROM pg_class AS c "
        "INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace "
        "WHERE c.relkind = 'r' AND n.nspname = 'mail_orchestration'"
    )
    found = dict.fromkeys(("contact", "recipient", "message", "result"), 0.0)
    tables = {"contact": ("contact", "audience"), "recipient": ("recipient", "bypass", "queue_history")}
    tables["message"] = ("assembled_message", "message_block")
    with inst.database.begin() as connection:
        for row in connection.execute(question):
            of = (what for what, names in tables.items() if row.name.startswith(names))
            found[next(of, "result")] += row.octets
    return found


def cpu_of(server: int) -> float:
    """Seconds that all processes of PostgreSQL have used, those included that have ended."""
    postmaster = psutil.Process(server)
    times = postmaster.cpu_times()
    used = times.user + times.system + times.children_user + times.children_system
    for process in postmaster.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            of_it = process.cpu_times()
            used += of_it.user + of_it.system
    return float(used)
