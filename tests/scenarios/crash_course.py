"""The whole course of two releases, step by step as Dagster's sensors take it, for processes that die in its midst.

Each step can be taken again: whoever comes after a crash simply begins the course anew where it began before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import text

from mail_orchestration import broadcast
from mail_orchestration.audience.suppressing import suppress_address
from mail_orchestration.broadcast import assembling
from mail_orchestration.control import Scope, restart
from mail_orchestration.control import stop as stop_mail_jobs
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.partitions import day_partitions
from mail_orchestration.mailcaster import run_shift
from mail_orchestration.maintenance import clean_delivery_queue, close_days

MANY, FEW = 150, 9
"""Recipients of the two campaigns: one becomes a parent of four children, one is small."""
LEFT = 20
"""Members of the older list whom the newer one does not name."""
SUPPRESSED = ("many3@example.net", "many77@example.net", "few2@example.net")
"""They opt out between assembly and sending: their messages are `stopped`."""
CONNECTIONS = 5
MAILCASTER = {
    "name": "m1",
    "small_audience_threshold": 20,
    "min_job_size": 40,
    "max_job_size": 60,
    "connections": CONNECTIONS,
    "recovery_string_update_frequency": 10,
}
MAILCASTER_FOR_FEW = {
    "name": "m1",
    "small_audience_threshold": 20,
    "small_job_only": True,
    "min_job_size": 1,
    "max_job_size": 10,
    "connections": FEW,
}
SLOW_PER_SECOND = 20
"""Of the relay in the slow settings: a child takes two seconds, in which there is time for a heartbeat and a stop."""


def write_course(folder: Path, relay_port: int, dropping_port: int, deferring_port: int) -> None:
    """Settings, the campaigns and the lists, in `folder`.

    The relay of the settings is quick, slow, one that defers every message or drops each connection after the final
    dot, or not there.
    """
    for name in ("many", "few"):
        campaign = folder / "campaigns" / name
        campaign.mkdir(parents=True)
        definition = {
            "name": name,
            "from": "Post Office <post@example.org>",
            "subject": "A letter to {{ name }}",
            "audiences": [name],
            "sample_contact": {"name": "Zoë"},
        }
        (campaign / "campaign.yaml").write_text(yaml.safe_dump(definition), encoding="utf-8")
        (campaign / "message.html.j2").write_text(
            "<p>Dear {{ name }}, <a href='{{ unsubscribe_url }}'>no more</a></p>", encoding="utf-8"
        )
    _write_list(folder / "many.csv", [f"many{n}" for n in range(1, MANY + 1)])
    _write_list(folder / "few.csv", [f"few{n}" for n in range(1, FEW + 1)])
    _write_list(folder / "older.csv", [f"many{n}" for n in range(MANY - LEFT, MANY + LEFT + 1)])
    relay: dict[str, Any] = {
        "name": "sink",
        "host": "127.0.0.1",
        "port": relay_port,
        "tls": "none",
        "connections": 100,
    }
    settings: dict[str, Any] = {
        "relays": [relay],
        "mailcasters": [MAILCASTER],
        "dispatcher": {
            "small_audience_threshold": 20,
            "heartbeat_seconds": 0.05,
            "assembly_processes": 1,
        },
        "audiences": [{"name": name, "csv": f"{name}.csv", "mode": "replace"} for name in ("many", "few")],
        "frequency": {"enabled": True, "rules": [{"max_mails": 1, "days": 7}]},
    }
    _write_settings(folder / "quick.yaml", settings)
    relay["limits"] = {"per_second": SLOW_PER_SECOND}
    _write_settings(folder / "slow.yaml", settings)
    del relay["limits"]
    relay["port"] = deferring_port
    _write_settings(folder / "deferring.yaml", settings)
    relay["port"] = dropping_port
    settings["mailcasters"] = [MAILCASTER_FOR_FEW]
    _write_settings(folder / "dropping.yaml", settings)
    settings["mailcasters"] = [MAILCASTER]
    relay["port"] = 9  # nobody listens there
    settings["dispatcher"]["relay_unreachable_after_seconds"] = 0.2
    _write_settings(folder / "unreachable.yaml", settings)


def _write_settings(file: Path, settings: dict[str, Any]) -> None:
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")


def _write_list(file: Path, local_parts: list[str]) -> None:
    rows = [f"{local_part}@example.net,{local_part.capitalize()}\n" for local_part in local_parts]
    file.write_text("email,name\n" + "".join(rows), encoding="utf-8")


def expected_at_the_relay() -> set[str]:
    """Who is to get a mail."""
    everybody = {f"many{n}@example.net" for n in range(1, MANY + 1)}
    everybody |= {f"few{n}@example.net" for n in range(1, FEW + 1)}
    return everybody.difference(SUPPRESSED)


@dataclass(frozen=True, kw_only=True)
class Interference:
    """What others do while a mailcaster is at work: from its first result on."""

    end_shift: bool = False
    stop_everything: bool = False
    restart_everything: bool = False
    """Before the shift."""

    @contextmanager
    def beside(self, inst: Installation, stop: threading.Event) -> Iterator[None]:
        """For the length of the block."""
        if self.restart_everything:
            restart(inst, Scope(everything=True))
        if not (self.end_shift or self.stop_everything):
            yield
            return
        thread = threading.Thread(target=self._interfere, args=(inst, stop), daemon=True)
        thread.start()
        yield
        thread.join()

    def _interfere(self, inst: Installation, stop: threading.Event) -> None:
        before = _results(inst)
        while _results(inst) == before:
            pass
        if self.end_shift:
            stop.set()
        if self.stop_everything:
            stop_mail_jobs(inst, Scope(everything=True))


def _results(inst: Installation) -> int:
    with inst.database.begin() as connection:
        return int(connection.scalar(text("SELECT count(*) FROM result")) or 0)


NO_INTERFERENCE = Interference()


def now() -> datetime:
    return datetime.now(UTC)


def fill(inst: Installation, interference: Interference) -> None:
    for name in ("many", "few"):
        broadcast.fill_audience(inst, name, now=now())


def release(inst: Installation, interference: Interference) -> None:
    for name in ("many", "few"):
        # Dagster asks under the number of its run, and a retry under the same one.
        folder = inst.settings.folder / "campaigns" / name
        broadcast.release_campaign(inst, folder, now=now(), request_key=name)


def resolve(inst: Installation, interference: Interference) -> None:
    for release_id in clean_delivery_queue(inst, now=now()).interrupted:
        broadcast.release_again(inst, release_id, now=now())
    for release_id in broadcast.releases_to_assemble(inst):
        broadcast.resolve_release(inst, release_id, now=now())


def assemble(inst: Installation, interference: Interference) -> None:
    assembling.ASSEMBLY_BATCH, assembling.COMMIT_RECIPIENTS = 20, 40
    for release_id in broadcast.releases_to_assemble(inst):
        broadcast.assemble_release(inst, release_id, now=now())
    with inst.database.begin() as connection:
        for address in SUPPRESSED:
            suppress_address(connection, inst.installation_id, address, reason="manual", now=now())


def queue(inst: Installation, interference: Interference) -> None:
    for release_id in broadcast.releases_to_queue(inst, now=now()):
        broadcast.queue_release(inst, release_id, now=now())


def deliver(inst: Installation, interference: Interference) -> None:
    stop = threading.Event()
    with interference.beside(inst, stop):
        run_shift(inst, "m1", stop=stop)


def report(inst: Installation, interference: Interference) -> None:
    for release_id in broadcast.releases_to_report(inst):
        broadcast.report_release(inst, release_id, now=now())


def close(inst: Installation, interference: Interference) -> None:
    close_days(inst, now=now() + timedelta(days=2))


def clean(inst: Installation, interference: Interference) -> None:
    with inst.database.begin() as connection:
        connection.execute(text("SELECT ensure_day_partitions('2020-01-01')"))
    clean_delivery_queue(inst, now=now())
    with inst.database.begin() as connection:
        assert all(each.day.year > 2020 for each in day_partitions(connection))


STEPS: tuple[Callable[[Installation, Interference], None], ...] = (
    fill,
    release,
    resolve,
    assemble,
    queue,
    deliver,
    report,
    close,
    clean,
)


def run_course(inst: Installation, first: str, interference: Interference = NO_INTERFERENCE) -> None:
    """All steps from the one of that name on."""
    names = [step.__name__ for step in STEPS]
    for step in STEPS[names.index(first) :]:
        step(inst, interference)
