"""Another mailcaster recovers a mail job whose holder still lives: the holder stops before its next message."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text

from mail_orchestration.dispatch.mail_jobs import children, mail_job
from mail_orchestration.feedback.books import books
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.mailcaster import run_shift
from tests.scenarios.installations import (
    addresses,
    released,
    site_whose_relay_falls_silent,
)
from tests.scenarios.relays.beside import wait_until_unanswered

CONTACTS = 1000
ANSWERED = 100
CONNECTIONS = 15


@pytest.mark.rule("5.1")
@pytest.mark.rule("5.3")
@pytest.mark.rule("5.5")
def test_the_old_holder_stops_and_the_new_one_finishes(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "mail_orchestration")
    mailcasters = [
        {"name": name, "min_job_size": CONTACTS - 1, "max_job_size": CONTACTS, "connections": CONNECTIONS}
        for name in ("old", "new")
    ]
    with (
        site_whose_relay_falls_silent(
            tmp_path,
            database_url,
            monkeypatch,
            after=ANSWERED,
            contacts=CONTACTS,
            mailcasters=mailcasters,
            dispatcher={"heartbeat_seconds": 60},
        ) as (inst, relay),
        ThreadPoolExecutor(2) as executor,
    ):
        release_id = released(inst)
        old = executor.submit(run_shift, inst, "old", stop=threading.Event())
        wait_until_unanswered(relay, CONNECTIONS)
        with inst.database.begin() as connection:
            # As if it had been suspended for hours: the next mailcaster that looks takes it away.
            connection.execute(
                text("UPDATE mail_job SET heartbeat_at = to_timestamp(0) WHERE kind = 'child'")
            )
        recovering = executor.submit(run_shift, inst, "new", stop=threading.Event())
        wait_until_unanswered(relay, 2 * CONNECTIONS)
        relay.script.falls_silent_after = None
        lost, new = old.result(timeout=60), recovering.result(timeout=60)

        with inst.database.begin() as connection:
            replaced, finished = children(connection, release_id)
            parent, tally = mail_job(connection, release_id), books(connection, release_id)
            results = dict(
                connection.execute(text("SELECT mail_job_id, count(*) FROM result GROUP BY 1")).tuples().all()
            )
        assert (replaced.state, replaced.mailcaster) == (MailJobState.RECOVERED, "old")
        assert (finished.state, finished.mailcaster) == (MailJobState.FINISHED, "new")
        assert parent.state is MailJobState.P_FINISHED
        assert parent.accepted == CONTACTS, "the figures of what was replaced are brought up to date"
        assert (tally.balances, tally.accepted) == (True, CONTACTS)
        assert (lost.mail_jobs, new.mail_jobs, lost.ended_because) == (0, 1, "no work")
        assert results[finished.mail_job_id] == new.messages
        assert sum(results.values()) == CONTACTS, "no result was written under the old fence"
        assert f"mail job {replaced.mail_job_id}" in caplog.text
        assert "no longer held" in caplog.text
        assert "@example.net" not in caplog.text
    got = relay.accepted
    assert set(got) == addresses(CONTACTS)
    assert got.total() - CONTACTS == CONNECTIONS, "what was in flight is repeated, and nothing else"
    assert max(got.values()) == 2
