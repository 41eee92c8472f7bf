"""A session is lost in which results wait of what a relay took: they are written late, and nothing goes twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from mail_orchestration.installation import Installation
from mail_orchestration.kernel.errors import DatabaseUnavailable
from mail_orchestration.kernel.partitions import ensure_day, partition_of
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.mailcaster import MailJobDone, run_shift
from mail_orchestration.single_mailer import run_loose_shift, submit
from tests.scenarios.installations import address_of, addresses, now, released, tally
from tests.scenarios.relays.beside import relay_beside, server
from tests.scenarios.relays.scripted import Script, ScriptedRelay
from tests.scenarios.single_mail_site import logged, mail, site, states

__all__ = ["server"]

CONTACTS, CONNECTIONS = 60, 10
MAILCASTER = {"name": "m1", "min_job_size": 999, "max_job_size": 1000, "connections": CONNECTIONS}

END_WHO_WAITS = (
    "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


@contextmanager
def results_locked_out(inst: Installation) -> Iterator[Callable[[], None]]:
    """No result can be written; what is given ends the session that waits to write one, and lets its successor."""
    today = now().date()
    with inst.database.begin() as connection:
        ensure_day(connection, today)
        ensure_day(connection, today + timedelta(days=1))
    with inst.database.dedicated(autocommit=False) as connection:
        for table in ("result", "delivery_log"):
            connection.execute(text(f"LOCK TABLE {partition_of(table, today)} IN SHARE MODE"))

        def end_the_session_that_waits() -> None:
            until = time.monotonic() + 60
            ended = 0
            while not ended and time.monotonic() < until:
                with inst.database.begin() as other:
                    ended = other.execute(text(END_WHO_WAITS)).scalar_one()
            assert ended == 1
            connection.rollback()

        yield end_the_session_that_waits


@pytest.mark.rule("5.1", "5.3")
def test_what_a_mailcaster_sent_is_not_sent_again(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, server: ScriptedRelay
) -> None:
    with (
        site(
            tmp_path, server, database_url, monkeypatch, contacts=CONTACTS, mailcasters=[MAILCASTER]
        ) as inst,
        ThreadPoolExecutor(1) as executor,
    ):
        release_id = released(inst)
        with results_locked_out(inst) as end_the_session_that_waits:
            shift = executor.submit(run_shift, inst, "m1", stop=threading.Event())
            end_the_session_that_waits()
        with pytest.raises(DatabaseUnavailable):
            shift.result(timeout=60)
        taken = server.accepted.total()
        assert 0 < taken <= CONNECTIONS
        assert tally(inst, release_id).accepted == taken

        run_shift(inst, "m1", stop=threading.Event())
        assert tally(inst, release_id).accepted == CONTACTS
    assert server.accepted == dict.fromkeys(addresses(CONTACTS), 1)


@pytest.mark.rule("5.1", "5.3")
def test_a_mail_job_that_fails_while_the_database_goes_away_keeps_what_was_sent(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One trouble must not hide the other: it is handed back with its result, and fails when it is taken again."""
    # Without PIPELINING the envelope is made behind the reply before it, whose result is being written then.
    script = Script(extensions=["8BITMIME", "ENHANCEDSTATUSCODES"])
    with (
        relay_beside(script) as server,
        site(
            tmp_path,
            server,
            database_url,
            monkeypatch,
            contacts=CONTACTS,
            mailcasters=[{**MAILCASTER, "connections": 1}],
        ) as inst,
        ThreadPoolExecutor(1) as executor,
    ):
        release_id = released(inst)
        with inst.database.begin() as connection:
            connection.exec_driver_sql("UPDATE assembled_message SET place_in_block = 0 WHERE message_no = 2")
            connection.exec_driver_sql(
                "INSERT INTO message_block (released_on, release_id, first_message, block)"
                " SELECT released_on, release_id, 2, 'no block' FROM message_block WHERE first_message = 1"
            )
        with results_locked_out(inst) as end_the_session_that_waits:
            shift = executor.submit(run_shift, inst, "m1", stop=threading.Event())
            end_the_session_that_waits()
        with pytest.raises(DatabaseUnavailable):
            shift.result(timeout=60)
        assert tally(inst, release_id).accepted == server.accepted.total() == 1

        done: list[MailJobDone] = []
        run_shift(inst, "m1", stop=threading.Event(), on_mail_job_done=done.append)
        assert [(each.state, each.reason) for each in done] == [
            (MailJobState.FAILED, "message 2 cannot be read as it is stored")
        ]
        assert tally(inst, release_id).accepted == 1
    assert server.accepted.total() == 1, "not once more"


@pytest.mark.rule("5.1", "6.3")
def test_a_single_mail_that_was_sent_is_not_sent_again(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, server: ScriptedRelay
) -> None:
    with (
        site(tmp_path, server, database_url, monkeypatch) as inst,
        ThreadPoolExecutor(1) as executor,
    ):
        submit(inst, [mail("ann"), mail("ben")])
        with results_locked_out(inst) as end_the_session_that_waits:
            shift = executor.submit(run_loose_shift, inst, "s1", stop=threading.Event())
            end_the_session_that_waits()
        with pytest.raises(DatabaseUnavailable):
            shift.result(timeout=60)
        assert server.accepted.total() == len(logged(inst)) > 0, "what left is known to have left"
        run_loose_shift(inst, "another", stop=threading.Event())
        assert not states(inst)
    assert server.accepted == {address_of("ann"): 1, address_of("ben"): 1}
