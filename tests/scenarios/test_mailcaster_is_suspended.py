"""A mailcaster is suspended past its lease and another recovers its work: the one that wakes sends nothing more."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from mail_orchestration.dispatch.mail_jobs import children, mail_job
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.mailcaster import run_shift
from tests.scenarios.installations import (
    addresses,
    durable_results,
    released,
    site_whose_relay_falls_silent,
    start_mailcaster,
    tally,
)
from tests.scenarios.relays.beside import wait_until_unanswered

CONTACTS = 1000
ANSWERED = 100
CONNECTIONS = 25
HANG_AFTER_S = 4


@pytest.mark.rule("5.1")
@pytest.mark.rule("5.3")
@pytest.mark.rule("5.5")
def test_what_wakes_after_its_lease_sends_and_writes_nothing_more(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailcasters = [
        {"name": name, "min_job_size": CONTACTS - 1, "max_job_size": CONTACTS, "connections": CONNECTIONS}
        for name in ("sleeper", "other")
    ]
    with site_whose_relay_falls_silent(
        tmp_path,
        database_url,
        monkeypatch,
        after=ANSWERED,
        contacts=CONTACTS,
        mailcasters=mailcasters,
        dispatcher={"heartbeat_seconds": 0.3, "hang_after_seconds": HANG_AFTER_S},
    ) as (inst, relay):
        release_id = released(inst)
        sleeper = start_mailcaster(inst, "sleeper")
        wait_until_unanswered(relay, CONNECTIONS)
        os.kill(sleeper.pid, signal.SIGSTOP)
        relay.script.falls_silent_after = None
        try:
            assert run_shift(inst, "other", stop=threading.Event()).mail_jobs == 0, "it has its lease yet"
            time.sleep(HANG_AFTER_S + 0.5)
            other = run_shift(inst, "other", stop=threading.Event())
            written, sent = durable_results(inst), relay.accepted.total()
        finally:
            os.kill(sleeper.pid, signal.SIGCONT)
        assert sleeper.wait(timeout=60) == 0, "it says that it lost its claim, and looks for other work"

        with inst.database.begin() as connection:
            old, new = children(connection, release_id)
            parent = mail_job(connection, release_id)
        assert (old.state, new.state) == (MailJobState.RECOVERED, MailJobState.FINISHED)
        assert parent.state is MailJobState.P_FINISHED
        assert tally(inst, release_id).accepted == CONTACTS
        assert durable_results(inst) == written == CONTACTS, "no result is written under the old fence"
    got = relay.accepted
    assert other.messages == CONTACTS - ANSWERED
    assert set(got) == addresses(CONTACTS)
    assert got.total() == sent == CONTACTS + CONNECTIONS, (
        "what was in flight is repeated, and no other body follows"
    )
    assert max(got.values()) == 2
