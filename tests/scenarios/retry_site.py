"""An installation whose deferred messages come back at once, and what a test does with them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from mail_orchestration.dispatch.loose_mail_lists import count_loose_mails
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.loose_mail_states import LooseMailKind, LooseMailState
from mail_orchestration.mailcaster import run_shift, shift
from mail_orchestration.single_mailer import run_loose_shift
from tests.scenarios.relays.scripted import ScriptedRelay
from tests.scenarios.scripted_site import scripted_site


def site(
    folder: Path,
    server: ScriptedRelay,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    contacts: Sequence[str],
    *,
    campaign: Mapping[str, object] | None = None,
    connections: int = 10,
    **dispatcher: object,
) -> AbstractContextManager[Installation]:
    """An installation of these local parts."""
    return scripted_site(
        folder,
        server,
        database_url,
        monkeypatch,
        contacts=contacts,
        campaign=campaign,
        mailcasters=[{"name": "m1", "min_job_size": 400, "max_job_size": 1000, "connections": connections}],
        dispatcher={
            "heartbeat_seconds": 0.5,
            "retry_after_minutes": 0.0001,
            "back_off_round_seconds": 0.01,
            **dispatcher,
        },
    )


def send_mail_jobs(inst: Installation, monkeypatch: pytest.MonkeyPatch, mailcaster: str = "m1") -> None:
    """One shift that leaves loose mails alone."""
    with monkeypatch.context() as patch:
        patch.setattr(shift._Shift, "_send_loose_mails", lambda _: 0)
        run_shift(inst, mailcaster, stop=threading.Event())


def waiting(inst: Installation) -> dict[LooseMailState, int]:
    """How many retries there are in each state."""
    with inst.database.begin() as connection:
        found = count_loose_mails(connection, inst.installation_id)
    assert {each.kind for each in found} <= {LooseMailKind.RETRY}
    return {each.state: each.mails for each in found}


def retry(inst: Installation) -> None:
    """One shift of a single mailer."""
    run_loose_shift(inst, "loose", stop=threading.Event())


def retry_until_nothing_waits(inst: Installation) -> None:
    """As many as it takes."""
    while LooseMailState.SCHEDULED in waiting(inst):
        retry(inst)
