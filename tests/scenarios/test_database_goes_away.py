"""The database server dies while a mailcaster delivers: nothing is lost or repeated, the next shift goes on."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text

from mail_orchestration.dispatch.mail_jobs import children, mail_job
from mail_orchestration.dispatch.shifts import shifts
from mail_orchestration.feedback.books import books
from mail_orchestration.kernel.embedded_postgres import EmbeddedServer
from mail_orchestration.kernel.embedded_postgres.cluster import find_postmaster
from mail_orchestration.kernel.embedded_postgres.home import open_home
from mail_orchestration.kernel.errors import DatabaseUnavailable
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.mailcaster import run_shift
from tests.scenarios.installations import (
    addresses,
    released,
    site_whose_relay_falls_silent,
)
from tests.scenarios.relays.beside import wait_until_unanswered
from tests.scenarios.relays.postfix_sink import A_SECOND_EACH
from tests.scenarios.shift_under_way import shift_under_way

CONTACTS = 1000
ANSWERED = 100
CONNECTIONS = 20


@pytest.mark.rule("5.1")
@pytest.mark.rule("5.3")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "restarted in order"])
def test_a_server_that_is_restarted_in_mid_run_costs_no_mail(
    how: signal.Signals, tmp_path: Path, short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = short_folder / f"restarted{how}"
    folder.mkdir()
    mailcaster = {"name": "m1", "min_job_size": 999, "max_job_size": 1000, "connections": CONNECTIONS}
    # The hang time stays at its two hours: the mail job is not waited for, but handed back.
    with (
        EmbeddedServer.hold(folder) as server,
        site_whose_relay_falls_silent(
            tmp_path,
            server.url,
            monkeypatch,
            after=ANSWERED,
            contacts=CONTACTS,
            mailcasters=[mailcaster],
        ) as (inst, relay),
        ThreadPoolExecutor(1) as executor,
    ):
        release_id = released(inst)
        shift = executor.submit(run_shift, inst, "m1", stop=threading.Event())
        wait_until_unanswered(relay, CONNECTIONS)
        postmaster = find_postmaster(open_home(folder))
        assert postmaster is not None
        os.kill(postmaster.pid, how)
        time.sleep(1)
        relay.script.falls_silent_after = None
        server.ensure_running()
        with pytest.raises(DatabaseUnavailable, match=r"the database .* cannot be used"):
            shift.result(timeout=60)

        with inst.database.begin() as connection:
            (handed_back,) = children(connection, release_id)
            assert handed_back.state is MailJobState.RUNNING
            assert books(connection, release_id).balances
            # What the relay took while the database was away is there too.
            results = connection.execute(
                text("SELECT outcome::text, count(*) FROM result GROUP BY outcome")
            ).all()
            assert [tuple(row) for row in results] == [("accepted", ANSWERED + CONNECTIONS)]
            assert [each.ended_at is None for each in shifts(connection, inst.installation_id)] == [False]

        assert run_shift(inst, "m1", stop=threading.Event()).mail_jobs == 1

        with inst.database.begin() as connection:
            assert mail_job(connection, release_id).state is MailJobState.P_FINISHED
            assert mail_job(connection, release_id).accepted == CONTACTS
            tally = books(connection, release_id)
        assert (tally.balances, tally.accepted) == (True, CONTACTS)
    assert relay.accepted == dict.fromkeys(addresses(CONTACTS), 1), "nothing is repeated, nothing left out"


@pytest.mark.rule("5.2")
def test_a_heartbeat_that_loses_its_connection_takes_another(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shift_under_way(
        tmp_path,
        database_url,
        monkeypatch,
        sink_options=A_SECOND_EACH,
        contacts=80,
        connections=20,
        dispatcher={"heartbeat_seconds": 0.3},
    ) as at_work:
        inst = at_work.inst
        with inst.database.begin() as connection:
            # The holder of the mail job's lock is the heartbeat's session.
            ended = connection.execute(
                text(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_locks"
                    " WHERE locktype = 'advisory' AND database ="
                    " (SELECT oid FROM pg_database WHERE datname = current_database())"
                )
            ).scalar_one()
        assert ended == 1
        assert at_work.shift.result(timeout=60).messages == 80
        with inst.database.begin() as connection:
            assert mail_job(connection, at_work.release_id).state is MailJobState.FINISHED
        assert at_work.sink.tally() == dict.fromkeys(addresses(80), 1)
