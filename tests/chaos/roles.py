"""What the workers do that are forked: the same library calls as the CLI and Dagster's ops make.

Each writes to the journal what nobody else can know once it is killed: which process took which mail job, and when. A
line is one JSON object, written at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

from mail_orchestration import control
from mail_orchestration.broadcast import (
    assemble_release,
    fill_audience,
    queue_release,
    release_again,
    release_campaign,
    releases_to_assemble,
    releases_to_queue,
    releases_to_report,
    report_release,
    resolve_release,
)
from mail_orchestration.installation import Installation, open_installation
from mail_orchestration.kernel import clock
from mail_orchestration.kernel.clock import utc_now
from mail_orchestration.kernel.errors import StateConflict, Unavailable
from mail_orchestration.mailcaster import claiming, run_shift
from mail_orchestration.maintenance import clean_delivery_queue
from mail_orchestration.sending.reservations import Reservations
from tests.chaos.site import JOURNAL, SETTINGS, WORKERS_LOG

LOOK_EVERY_S = 0.2
CLEAN_EVERY_S = 2.0
CRASHED = 70
"""The exit status of a worker that ended with an error nobody foresaw."""

_real_time = time.time


class Journal:
    """Where the workers say what they do."""

    def __init__(self, folder: Path, role: str, name: str) -> None:
        self._fd = os.open(folder / JOURNAL, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._about = {"pid": os.getpid(), "role": role, "name": name}

    def write(self, event: str, **more: Any) -> None:
        """One line, by the true clock."""
        line = {"at": round(_real_time(), 6), **self._about, "event": event, **more}
        os.write(self._fd, json.dumps(line).encode() + b"\n")


def work(folder: Path, role: str, name: str, more: dict[str, Any]) -> int:
    """Be a worker of this role to its end; the exit status."""
    log = os.open(folder / WORKERS_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format=f"%(asctime)s {name}:{os.getpid()} %(message)s"
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    journal = Journal(folder, role, name)
    journal.write("began", **more)
    try:
        _ROLES[role](folder, name, journal, stop, **more)
    except Unavailable as error:
        journal.write("unavailable", error=str(error))
        return 1
    except Exception:
        journal.write("crashed", error=traceback.format_exc())
        return CRASHED
    journal.write("ended")
    return 0


def _mailcaster(
    folder: Path,
    name: str,
    journal: Journal,
    stop: threading.Event,
    skew_s: float,
    settings: str,
    database_url: str,
) -> None:
    """Shift after shift until it is told to stop; a database that goes away ends a shift, not the worker."""
    if database_url:
        os.environ["DATABASE_URL"] = database_url
    if skew_s:
        _shift_clock(skew_s)
    _tell_claims(journal)
    while not stop.is_set():
        try:
            with _opened(folder, name, settings) as inst:
                inst = _introduced_as(inst, f"{name}-{os.getpid()}")
                while not stop.is_set():
                    run_shift(inst, name, stop=stop)
                    stop.wait(LOOK_EVERY_S)
        except Unavailable as error:
            journal.write("unavailable", error=str(error))
            stop.wait(LOOK_EVERY_S)


def _assembler(folder: Path, name: str, journal: Journal, stop: threading.Event) -> None:
    """What Dagster's sensors for Assemble, Queue for delivery and the clean-up do, in one process."""
    with _opened(folder, name) as inst:
        clean_at = 0.0
        while not stop.is_set():
            if time.monotonic() > clean_at:
                for interrupted in clean_delivery_queue(inst, now=utc_now()).interrupted:
                    journal.write("released again", release=interrupted)
                    release_again(inst, interrupted, now=utc_now())
                clean_at = time.monotonic() + CLEAN_EVERY_S
            for release_id in releases_to_assemble(inst)[:1]:
                journal.write("assembling", release=release_id)
                # Another one, or what is left of one that was killed, may still be at it.
                with contextlib.suppress(StateConflict):
                    resolve_release(inst, release_id, now=utc_now())
                    assemble_release(inst, release_id, now=utc_now())
                    journal.write("assembled", release=release_id)
            for release_id in releases_to_queue(inst, now=utc_now()):
                with contextlib.suppress(StateConflict):
                    queue_release(inst, release_id, now=utc_now())
            for release_id in releases_to_report(inst)[:1]:
                report_release(inst, release_id, now=utc_now())
            stop.wait(LOOK_EVERY_S)


def _releaser(
    folder: Path, name: str, journal: Journal, stop: threading.Event, campaign: str, key: str
) -> None:
    """Release a campaign and resolve its recipients; asked again under the same key, it is the same release."""
    with _opened(folder, name) as inst:
        made = release_campaign(
            inst, folder / "campaigns" / campaign, now=utc_now(), request_key=key, occurrence=key
        )
        journal.write("released", release=made.release_id, key=key)
        try:
            resolve_release(inst, made.release_id, now=utc_now())
        except StateConflict as error:
            journal.write("resolved by another", release=made.release_id, error=str(error))
        else:
            journal.write("resolved", release=made.release_id)


def _importer(folder: Path, name: str, journal: Journal, stop: threading.Event, audience: str) -> None:
    """Fill an audience from its file."""
    with _opened(folder, name) as inst:
        journal.write("importing", audience=audience)
        summary = fill_audience(inst, audience, now=utc_now())
        journal.write("imported", audience=audience, members=summary.members)


def _operator(
    folder: Path, name: str, journal: Journal, stop: threading.Event, scope: dict[str, Any], pause_s: float
) -> None:
    """Stop what is meant, and restart it after a while. All of it can be asked for again."""
    with _opened(folder, name) as inst:
        meant = control.Scope(**scope)
        stopped = [each for each in control.stop(inst, meant) if each.is_changed]
        journal.write("stopped", mail_jobs=len(stopped), **scope)
        stop.wait(pause_s)
        restarted = [each for each in control.restart(inst, meant) if each.is_changed]
        journal.write("restarted", mail_jobs=len(restarted), **scope)


_ROLES = {
    "operator": _operator,
    "mailcaster": _mailcaster,
    "assembler": _assembler,
    "releaser": _releaser,
    "importer": _importer,
}


@contextlib.contextmanager
def _opened(folder: Path, name: str, settings: str = "") -> Iterator[Installation]:
    path = Path(settings) if settings else folder / SETTINGS
    with open_installation(path, application_name=f"{name}-{os.getpid()}") as inst:
        yield inst


def _introduced_as(inst: Installation, helo_name: str) -> Installation:
    """The same installation, whose relays hear this name: so the relay's log tells processes apart."""
    relays = tuple(each.model_copy(update={"helo_name": helo_name}) for each in inst.settings.relays)
    return replace(inst, settings=inst.settings.model_copy(update={"relays": relays}))


def _tell_claims(journal: Journal) -> None:
    """Have every claim in the journal: a process that was killed cannot be asked what it held.

    And once for each turn of loose mails, which ends before the next claim, that some were reserved.
    """
    claim_next, reserve = claiming.claim_next, Reservations.reserve
    is_told = False

    async def reserved(self: Reservations) -> Any:
        nonlocal is_told
        mails = await reserve(self)
        if mails and not is_told:
            journal.write("reserved")
            is_told = True
        return mails

    def told(*args: Any, **named: Any) -> Any:
        nonlocal is_told
        is_told = False
        claim = claim_next(*args, **named)
        if claim is None:
            journal.write("idle")
        else:
            messages = claim.last_message - claim.first_message + 1
            journal.write("claimed", mail_job=claim.mail_job_id, release=claim.release_id, messages=messages)
        return claim

    claiming.claim_next = told  # type: ignore[assignment]
    Reservations.reserve = reserved  # type: ignore[method-assign]


def _shift_clock(skew_s: float) -> None:
    """This process's wall clock, as Python sees it, is off by so much."""
    skew = timedelta(seconds=skew_s)
    time.time = lambda: _real_time() + skew_s

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Shifted:
            found = datetime.now(UTC) + skew
            found = found.astimezone(tz) if tz is not None else found.astimezone().replace(tzinfo=None)
            return cls.combine(found.date(), found.timetz())

    # Whoever asks for the time of day asks there (kernel/clock.py); a shifted datetime is a datetime.
    clock.datetime = Shifted  # type: ignore[misc,attr-defined]
