"""A whole installation in a folder: settings, a campaign, an audience, and the shifts of its mailcasters."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import text

from mail_orchestration.broadcast import (
    assemble_release,
    fill_audience,
    queue_release,
    release_campaign,
    resolve_release,
)
from mail_orchestration.dispatch.claim import Claim
from mail_orchestration.dispatch.claims import claim_next
from mail_orchestration.dispatch.mail_jobs import mail_job
from mail_orchestration.feedback.books import Books, books
from mail_orchestration.installation import Installation, open_installation
from mail_orchestration.kernel.limit_settings import LimitSettings
from mail_orchestration.kernel.states import MailJobState
from tests.scenarios.relays.beside import relay_beside
from tests.scenarios.relays.postfix_sink import Sink, storing_sink
from tests.scenarios.relays.scripted import Script, ScriptedRelay

SETTINGS = "mail_orchestration.yaml"
CAMPAIGN = {
    "name": "letter",
    "from": "Post Office <post@example.org>",
    "subject": "A letter to {{ name }}",
    "audiences": ["everybody"],
    "sample_contact": {"name": "Zoë"},
}
HTML = """<html><body><p>Dear {{ name }},</p><p>this is number {{ number }}.</p>
<p><a href="{{ unsubscribe_url }}">no more of these</a></p></body></html>
"""


def now() -> datetime:
    return datetime.now(UTC)


def address_of(local: str) -> str:
    """Of the contact with this local part."""
    return f"{local}@example.net"


def addresses(contacts: int) -> set[str]:
    """Those of the audience `everybody` of so many contacts."""
    return {address_of(f"r{n}") for n in range(1, contacts + 1)}


def write_site(
    folder: Path,
    *,
    relay_port: int,
    contacts: int | Sequence[str] = 0,
    campaign: Mapping[str, object] | None = None,
    mailcasters: Sequence[Mapping[str, object]] = ({"name": "m1"},),
    dispatcher: Mapping[str, object] | None = None,
    relay: Mapping[str, object] | None = None,
    html: str = HTML,
    installation: str = "main",
    frequency: Mapping[str, object] | None = None,
) -> Path:
    """Write the settings, the campaign `letter` and the audience `everybody`; return the settings' path.

    Contacts are so many, `r1` and so on, or have these local parts.
    """
    (folder / "campaigns" / "letter").mkdir(parents=True, exist_ok=True)
    definition = {**CAMPAIGN, **(campaign or {})}
    (folder / "campaigns" / "letter" / "campaign.yaml").write_text(
        yaml.safe_dump(definition), encoding="utf-8"
    )
    (folder / "campaigns" / "letter" / "message.html.j2").write_text(html, encoding="utf-8")
    with (folder / "everybody.csv").open("w", encoding="utf-8") as csv:
        csv.write("email,name,number\n")
        locals_ = (f"r{n}" for n in range(1, contacts + 1)) if isinstance(contacts, int) else contacts
        csv.writelines(f"{address_of(local)},Reader {n},{n}\n" for n, local in enumerate(locals_, start=1))
    settings = {
        "installation": installation,
        "relays": [
            {"name": "sink", "host": "127.0.0.1", "port": relay_port, "tls": "none", "connections": 100}
            | dict(relay or {})
        ],
        "mailcasters": [dict(each) for each in mailcasters],
        "dispatcher": dict(dispatcher or {}),
        "audiences": [{"name": "everybody", "csv": "everybody.csv"}],
        "frequency": dict(frequency or {}),
    }
    path = folder / SETTINGS
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def use_database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment that leads to the test's own database."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv(
        "MAIL_ORCHESTRATION_SIGNING_KEYS", "t1:" + "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
    )


@contextlib.contextmanager
def opened(settings: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    """The installation on the test's own database."""
    use_database(database_url, monkeypatch)
    with open_installation(settings, application_name="tests") as inst:
        yield inst


@contextlib.contextmanager
def site_with_sink(
    folder: Path,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    sink_options: Sequence[str] = (),
    **site: Any,
) -> Iterator[tuple[Installation, Sink]]:
    """An installation, as `write_site` makes it, whose relay is a sink with these options."""
    with storing_sink(*sink_options) as sink:
        settings = write_site(folder, relay_port=sink.port, **site)
        with opened(settings, database_url, monkeypatch) as inst:
            yield inst, sink


@contextlib.contextmanager
def site_whose_relay_falls_silent(
    folder: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, *, after: int, **site: Any
) -> Iterator[tuple[Installation, ScriptedRelay]]:
    """An installation, as `write_site` makes it, whose relay takes every mail and answers only the first ones."""
    with relay_beside(Script(falls_silent_after=after)) as server:
        settings = write_site(folder, relay_port=server.port, **site)
        with opened(settings, database_url, monkeypatch) as inst:
            yield inst, server


def released(inst: Installation, *, again: bool = False) -> int:
    """The campaign `letter`, released to `everybody` and queued; its mail job. `again`: to those who got it, too."""
    fill_audience(inst, "everybody", now=now())
    folder = inst.settings.folder / "campaigns" / "letter"
    release_id = release_campaign(inst, folder, now=now(), again=again).release_id
    resolve_release(inst, release_id, now=now())
    assemble_release(inst, release_id, now=now())
    queue_release(inst, release_id, now=now())
    return release_id


def at_full_speed(inst: Installation) -> Installation:
    """The same for shifts in this process, without the pace of its relay: the rest of a test need not take long."""
    relays = [relay.model_copy(update={"limits": LimitSettings()}) for relay in inst.settings.relays]
    return replace(inst, settings=inst.settings.model_copy(update={"relays": relays}))


def durable_results(inst: Installation) -> int:
    """How many results were written, whatever they are."""
    with inst.database.begin() as connection:
        return int(connection.execute(text("SELECT count(*) FROM result")).scalar_one())


def wait_for_results(inst: Installation, count: int) -> None:
    """Until so many results are durable: some mailcaster is in the midst of its work."""
    for _ in range(20_000):
        if durable_results(inst) >= count:
            return
        time.sleep(0.002)
    raise TimeoutError(f"there are not {count} results")


def hours_pass(inst: Installation, hours: int) -> None:
    """Nobody waits for the hang time or the next attempt: what the dead wrote is older instead."""
    with inst.database.begin() as connection:
        connection.execute(
            text(
                "UPDATE mail_job SET heartbeat_at = heartbeat_at - make_interval(hours => :hours), "
                "queued_at = queued_at - make_interval(hours => :hours) WHERE state IN ('RUNNING', 'STOPPING')"
            ),
            {"hours": hours},
        )
        connection.execute(
            text(
                "UPDATE loose_mail SET due_at = due_at - make_interval(hours => :hours), "
                "reserved_until = reserved_until - make_interval(hours => :hours)"
            ),
            {"hours": hours},
        )


def start_mailcaster(
    inst: Installation,
    name: str = "m1",
    *,
    clock_is_off_by_s: float = 0.0,
    waits_for: Path | None = None,
    files: int | None = None,
    launcher: Sequence[str] = (),
) -> subprocess.Popen[bytes]:
    """One shift of a mailcaster in a process of its own, which leads a process group.

    Its wall clock may be off, it may begin only when a file is there, and be allowed so many open files. It ends with
    3, and the error on its standard error, when the shift raises one of ours.
    """
    code = _CLOCK.format(off_by=clock_is_off_by_s) if clock_is_off_by_s else ""
    code += _SHIFT.format(waits_for=str(waits_for) if waits_for else None, files=files)
    return subprocess.Popen(
        [*launcher, sys.executable, "-c", code, str(inst.settings.folder / SETTINGS), name],
        stderr=subprocess.PIPE if files is not None else None,
        start_new_session=True,
    )


_CLOCK = """
import datetime, time
true_time, true_datetime = time.time, datetime.datetime
class Shifted(true_datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(true_time() + {off_by}, tz)
time.time = lambda: true_time() + {off_by}
datetime.datetime = Shifted
"""

_SHIFT = """
import resource, sys, threading, time
from pathlib import Path
from mail_orchestration.installation import open_installation
from mail_orchestration.kernel.errors import MailOrchestrationError
from mail_orchestration.mailcaster import run_shift
waits_for, files = {waits_for!r}, {files!r}
try:
    with open_installation(Path(sys.argv[1]), application_name=sys.argv[2]) as inst:
        while waits_for and not Path(waits_for).exists():
            time.sleep(0.01)
        if files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
        run_shift(inst, sys.argv[2], stop=threading.Event())
except MailOrchestrationError as error:
    print(type(error).__name__, error, file=sys.stderr)
    sys.exit(3)
"""


def execute(inst: Installation, statement: str, **binds: object) -> None:
    """Do something to the rows by hand."""
    with inst.database.begin() as connection:
        connection.execute(text(statement), binds)


def claim(inst: Installation) -> Claim | None:
    """What `m1` is given when it comes for work."""
    return claim_next(
        inst.database, inst.installation_id, inst.settings.mailcaster("m1"), now=now(), hang_after_s=7200
    )


def tally(inst: Installation, release_id: int) -> Books:
    """The release's books, which balance."""
    with inst.database.begin() as connection:
        found = books(connection, release_id)
    assert found.balances, found.explanation
    return found


def state(inst: Installation, release_id: int) -> tuple[MailJobState, str]:
    """Where the mail job stands, and why."""
    with inst.database.begin() as connection:
        found = mail_job(connection, release_id)
    return found.state, found.reason
