"""The installation that the fleet works on: an embedded database with durability on, a relay, audiences, campaigns."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.chaos import relay

SETTINGS, JOURNAL = "mail_orchestration.yaml", "journal"
WORKERS_LOG, RELAY_ERRORS = "workers.log", "relay.err"
HEARTBEAT_S = 0.5
RETRY_AFTER_S, RESERVATION_S = 2.0, 15.0
"""What is deferred is tried again within the run; what a dead worker had reserved is taken up within it, too."""
BACK_OFF_ROUND_S = 0.1
"""The relay says 421 every few seconds: with rounds as long as usual nearly nothing would be sent after a minute."""
RELAY_UP_WITHIN_S = 20.0
RELAY_NAME = "chaos"
TEXT = "Dear {{ name }},\nthis is number {{ number }}.\n\nNo more: {{ unsubscribe_url }}\n"


@dataclass(frozen=True, kw_only=True)
class Mailcaster:
    """A place in the fleet, and its parameters in the settings file."""

    name: str
    parameters: Mapping[str, Any]
    netns: str = ""
    """The network namespace that it lives in, if not in ours."""
    settings: str = ""
    """Its settings file, if it is not the site's."""
    database_url: str = ""
    """Where it sees the database, if not in the site's folder."""

    @property
    def connections(self) -> int:
        """The most that it opens."""
        return int(self.parameters["connections"])


FLEET = (
    Mailcaster(name="small-only", parameters={"small_job_only": True, "min_job_size": 1, "max_job_size": 90}),
    Mailcaster(name="small-first", parameters={"min_job_size": 20, "max_job_size": 100}),
    Mailcaster(name="large-1", parameters={"min_job_size": 100, "max_job_size": 500}),
    Mailcaster(name="large-2", parameters={"min_job_size": 200, "max_job_size": 900}),
    Mailcaster(name="large-3", parameters={"min_job_size": 200, "max_job_size": 900}),
    Mailcaster(
        name="large-only", parameters={"min_job_size": 150, "max_job_size": 700, "large_job_only": True}
    ),
)
"""One of each type, and more of the one that does most of the work."""


def fleet(connections: int) -> list[Mailcaster]:
    """The mailcasters with so many connections each."""
    common = {"connections": connections, "percentage_job_size": 10.0}
    return [Mailcaster(name=each.name, parameters={**each.parameters, **common}) for each in FLEET]


@dataclass(frozen=True, kw_only=True)
class Audience:
    """Contacts r1 … r<size>: of two audiences the larger holds the smaller, so that dedup has work."""

    name: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Site:
    """The folder and what is in it."""

    folder: Path
    hang_after_s: float
    audiences: Sequence[Audience]
    relay_port: int

    @property
    def settings(self) -> Path:
        return self.folder / SETTINGS

    @property
    def journal(self) -> Path:
        return self.folder / JOURNAL

    @property
    def relay_log(self) -> Path:
        return self.folder / relay.LOG

    def campaign(self, name: str) -> Path:
        return self.folder / "campaigns" / name

    def write_settings(
        self,
        path: Path,
        mailcasters: Sequence[Mailcaster],
        *,
        relay_host: str = "127.0.0.1",
        introduced_by_name: bool = False,
    ) -> None:
        """A settings file for these mailcasters, on this site's relay and audiences.

        `introduced_by_name` has the relay hear their names, where nobody sets what it hears when they start.
        """
        relay = {"host": relay_host, "port": self.relay_port, "tls": "none", "connections": 100}
        relays: list[dict[str, Any]] = [{"name": RELAY_NAME, **relay}]
        described = [{"name": each.name, **each.parameters} for each in mailcasters]
        if introduced_by_name:
            relays = [{"name": each.name, "helo_name": each.name, **relay} for each in mailcasters]
            described = [{**each, "relays": [each["name"]]} for each in described]
        settings = {
            "installation": "main",
            "dispatcher": {
                "hang_after_seconds": self.hang_after_s,
                "heartbeat_seconds": HEARTBEAT_S,
                "assembly_processes": 2,
                "retry_after_minutes": RETRY_AFTER_S / 60,
                "reservation_minutes": RESERVATION_S / 60,
                "back_off_round_seconds": BACK_OFF_ROUND_S,
            },
            "relays": relays,
            "mailcasters": described,
            "audiences": [{"name": each.name, "csv": f"{each.name}.csv"} for each in self.audiences],
        }
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")


def make_folder() -> Path:
    """A short path that the database's account may enter."""
    folder = Path(tempfile.mkdtemp(prefix="mo-chaos-", dir="/tmp"))
    folder.chmod(0o711)
    return folder


def remove_folder(folder: Path) -> None:
    """With the database in it, wherever its files lie."""
    place = folder / ".mail_orchestration" / "postgres"
    if place.is_symlink():
        shutil.rmtree(place.resolve(), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def write_site(
    folder: Path,
    *,
    relay_port: int,
    hang_after_s: float,
    audiences: Sequence[Audience],
    campaigns: Mapping[str, Sequence[str]],
    mailcasters: Sequence[Mailcaster],
) -> Site:
    """Settings, an audience file for each audience, a campaign for each of `campaigns` (name: its audiences)."""
    site = Site(folder=folder, hang_after_s=hang_after_s, audiences=audiences, relay_port=relay_port)
    for audience in audiences:
        with (folder / f"{audience.name}.csv").open("w", encoding="utf-8") as csv:
            csv.write("email,name,number\n")
            csv.writelines(f"r{n}@example.net,Reader {n},{n}\n" for n in range(1, audience.size + 1))
    for name, named in campaigns.items():
        site.campaign(name).mkdir(parents=True)
        definition = {
            "name": name,
            "from": "Post Office <post@example.org>",
            "subject": "To {{ name }}",
            "audiences": list(named),
            "sample_contact": {"name": "Zoe", "number": 1},
        }
        (site.campaign(name) / "campaign.yaml").write_text(yaml.safe_dump(definition), encoding="utf-8")
        (site.campaign(name) / "message.txt.j2").write_text(TEXT, encoding="utf-8")
    site.write_settings(site.settings, mailcasters)
    return site


class RelayProcess:
    """The relay, in a process of its own, and its control."""

    def __init__(self, folder: Path, seed: int) -> None:
        guard = [sys.executable, "-m", "mail_orchestration.cli.child", str(os.getpid())]
        with (folder / RELAY_ERRORS).open("wb") as errors:
            self._process = subprocess.Popen(
                [*guard, sys.executable, "-m", "tests.chaos.relay", str(folder), str(seed)],
                stdin=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        deadline = time.monotonic() + RELAY_UP_WITHIN_S
        while not (folder / relay.PORT).exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                raise RuntimeError("the relay does not come up")
            time.sleep(0.02)
        self.port = int((folder / relay.PORT).read_text(encoding="ascii"))
        self._control = socket.socket(socket.AF_UNIX)
        self._control.connect(os.fspath(folder / relay.CONTROL))
        self._answers = self._control.makefile("rb")

    def order(self, **order: float) -> dict[str, Any]:
        """Tell it something; see `relay.Relay.obey`."""
        self._control.sendall(json.dumps(order).encode() + b"\n")
        answer: dict[str, Any] = json.loads(self._answers.readline())
        return answer

    def stop(self) -> None:
        """In the very end."""
        self._answers.close()
        self._control.close()
        self._process.terminate()
        self._process.wait()
