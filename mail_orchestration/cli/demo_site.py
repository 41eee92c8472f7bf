"""The demo's installation on one machine: its folder, relay, settings and database.

Everything lies in one folder, which is made anew: nothing outside it is touched. DATABASE_URL is not looked at unless
asked for, so that a demo never meets real mail.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mail_orchestration.cli.dagster_home import checkout
from mail_orchestration.cli.demo_data import CUSTOMERS, FRIENDS, GUESTS, DemoFiles, write_demo_files
from mail_orchestration.cli.demo_relay import PORT_FILE
from mail_orchestration.cli.services import Services, await_orphans
from mail_orchestration.installation import Installation, open_installation
from mail_orchestration.kernel.embedded_postgres import EmbeddedServer
from mail_orchestration.kernel.errors import StateConflict
from mail_orchestration.kernel.settings import SETTINGS_FILE

CAMPAIGN = "spring-newsletter"
REMINDER = "workshop-reminder"
RELAY_IS_UP_WITHIN_SECONDS = 30.0
PREFERRED_UI_PORT = 3000

SETTINGS = """\
# Written by `mail-orchestration {command}`, which makes this folder anew each time.
installation: demo
time_zone: Europe/Berlin
public_base_url: https://news.loewenzahn.example
data_dir: .
campaigns_dir: {campaigns}
dagster:
  url: http://127.0.0.1:{webserver_port}

relays:
  - name: local
    host: 127.0.0.1
    port: {relay_port}
    tls: none
    limits:
      per_second: {rate}   # of all together: so that each of the three finds work

# Three that differ, so that their children do. All are of the type large job priority.
mailcasters:
  - name: snail
    small_audience_threshold: 50
    min_job_size: {small}
    max_job_size: {medium}
    percentage_job_size: 2
    connections: 2
  - name: hare
    small_audience_threshold: 50
    min_job_size: {medium}
    max_job_size: {large}
    percentage_job_size: 10
    connections: 6
  - name: horse
    small_audience_threshold: 50
    min_job_size: {large}
    max_job_size: {huge}
    percentage_job_size: 20
    connections: 10

# Who got the newsletter today gets nothing else before tomorrow.
frequency:
  enabled: true
  window: calendar
  rules:
    - {{ max_mails: 1, days: 1 }}
    - {{ max_mails: 3, days: 7 }}

audiences:
  - {{ name: {customers}, csv: audiences/customers.csv }}
  - {{ name: {friends}, parquet: audiences/friends-of-the-garden.parquet }}
  - {{ name: {guests}, direct_mailer: audiences/workshop-guests.txt }}
"""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A demo installation that is up."""

    folder: Path
    settings_path: Path
    files: DemoFiles
    relay_folder: Path
    relay_port: int
    inst: Installation
    services: Services
    rate: int
    webserver_port: int
    """Where Dagster's webserver is to be."""

    @property
    def campaign_folder(self) -> Path:
        """The campaign that is released."""
        return self.inst.settings.campaigns_dir / CAMPAIGN

    @property
    def reminder_folder(self) -> Path:
        """The campaign that is released after it, to some of the same people."""
        return self.inst.settings.campaigns_dir / REMINDER


@contextlib.contextmanager
def open_site(
    folder: Path,
    *,
    command: str,
    contacts: int,
    webserver_port: int,
    on_database_url: bool = False,
) -> Iterator[Site]:
    """Make `folder` anew with contacts, settings, relay and database; at the end of the block all processes end.

    With `on_database_url` the database is that of DATABASE_URL. Raises StateConflict when another demo runs in the
    folder.
    """
    with _alone_in(folder), contextlib.ExitStack() as stack:
        stack.callback(await_orphans)
        _make_anew(folder)
        relay_folder, logs = folder / "relay", folder / "logs"
        relay_folder.mkdir()
        files = write_demo_files(folder / "audiences", contacts)
        rate = max(60, contacts * 3 // 25)
        with (
            _database_url(keep=on_database_url),
            Services(folder=folder, logs=logs, environment=dict(os.environ)) as services,
        ):
            relay = services.start(
                "relay", "mail_orchestration.cli.demo_relay", str(relay_folder), is_needed_by_workers=True
            )
            port = int(
                services.wait_for_file(relay, relay_folder / PORT_FILE, seconds=RELAY_IS_UP_WITHIN_SECONDS)
            )
            settings_path = folder / SETTINGS_FILE
            settings_path.write_text(
                _settings(command, contacts, port, rate, webserver_port), encoding="utf-8"
            )
            with open_installation(settings_path, application_name="demo") as inst:
                # Inside, so that workers end while the database is still held.
                try:
                    yield Site(
                        folder=folder,
                        settings_path=settings_path,
                        files=files,
                        relay_folder=relay_folder,
                        relay_port=port,
                        inst=inst,
                        services=services,
                        rate=rate,
                        webserver_port=webserver_port,
                    )
                finally:
                    services.stop()


def _settings(command: str, contacts: int, relay_port: int, rate: int, webserver_port: int) -> str:
    small = max(10, contacts // 50)
    return SETTINGS.format(
        command=command,
        # JSON's strings are YAML's: the path may hold spaces, colons and quotes.
        campaigns=json.dumps(str(checkout() / "examples" / "campaigns")),
        relay_port=relay_port,
        rate=rate,
        webserver_port=webserver_port,
        small=small,
        medium=max(60, 3 * small),
        large=max(90, 6 * small),
        huge=max(120, 12 * small),
        customers=CUSTOMERS,
        friends=FRIENDS,
        guests=GUESTS,
    )


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateConflict(f"another process runs a demo in {folder}; end it first") from None
        yield


def _make_anew(folder: Path) -> None:
    """Remove what an earlier demo left, its database's server included."""
    place = folder / "postgres"
    if (place / "data" / "postmaster.pid").exists():
        # Its holder was killed: the last one to let go stops the server.
        EmbeddedServer.hold(folder).close()
        if (place / "data" / "postmaster.pid").exists():
            raise StateConflict(f"a process still uses the database in {place}; end it first")
    if place.is_symlink():
        # As root the server's files may lie where its account can enter: see kernel.embedded_postgres.home.
        shutil.rmtree(place.resolve(), ignore_errors=True)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()


@contextlib.contextmanager
def _database_url(*, keep: bool) -> Iterator[None]:
    """Within the block DATABASE_URL is not there, for this process and its children, unless it is to be kept."""
    taken = None if keep else os.environ.pop("DATABASE_URL", None)
    try:
        yield
    finally:
        if taken is not None:
            os.environ["DATABASE_URL"] = taken
