"""A mailcaster is killed with -9 in mid-run; a new shift loses nothing and repeats one message a connection at most."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from mail_orchestration.dispatch.mail_jobs import children, mail_job
from mail_orchestration.feedback.books import books
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.mailcaster import run_shift
from tests.scenarios.installations import (
    addresses,
    durable_results,
    released,
    site_with_sink,
    start_mailcaster,
    wait_for_results,
)

CONTACTS = 3000
CONNECTIONS = 25


@pytest.mark.rule("5.1")
@pytest.mark.rule("5.3")
@pytest.mark.rule("5.5")
def test_nothing_is_lost_and_at_most_one_message_per_connection_is_repeated(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailcaster = {"name": "m1", "min_job_size": 2999, "max_job_size": 3000, "connections": CONNECTIONS}
    with site_with_sink(
        tmp_path,
        database_url,
        monkeypatch,
        contacts=CONTACTS,
        mailcasters=[mailcaster],
        dispatcher={"heartbeat_seconds": 0.5, "hang_after_seconds": 4},
    ) as (inst, sink):
        release_id = released(inst)
        process = start_mailcaster(inst)
        while durable_results(inst) < CONTACTS // 10:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.002)
        process.kill()
        process.wait()
        before = durable_results(inst)
        assert before < CONTACTS, "it was killed too late to show anything"
        with inst.database.begin() as connection:
            (orphan,) = children(connection, release_id)
            assert orphan.state is MailJobState.RUNNING
            assert books(connection, release_id).balances

        assert run_shift(inst, "m1", stop=threading.Event()).mail_jobs == 0, "it does not hang yet"
        time.sleep(4.5)
        summary = run_shift(inst, "m1", stop=threading.Event())

        with inst.database.begin() as connection:
            old, new = children(connection, release_id)
            assert (old.state, new.state) == (MailJobState.RECOVERED, MailJobState.FINISHED)
            assert new.recovers_id == old.mail_job_id
            assert mail_job(connection, release_id).state is MailJobState.P_FINISHED
            tally = books(connection, release_id)
        assert tally.balances
        assert tally.accepted == CONTACTS
        assert summary.messages == CONTACTS - before, "only what has no result is sent again"
        got = sink.tally()
        assert set(got) == addresses(CONTACTS)
        assert sum(got.values()) - CONTACTS <= CONNECTIONS
        assert max(got.values()) <= 2


@pytest.mark.rule("4.6")
@pytest.mark.rule("5.1")
@pytest.mark.rule("5.3")
def test_three_that_share_one_parent_are_killed_at_once(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("m1", "m2", "m3")
    mailcasters = [
        {"name": name, "min_job_size": 200, "max_job_size": 800, "percentage_job_size": 20, "connections": 10}
        for name in names
    ]
    with site_with_sink(
        tmp_path,
        database_url,
        monkeypatch,
        contacts=CONTACTS,
        mailcasters=mailcasters,
        dispatcher={"heartbeat_seconds": 0.5, "hang_after_seconds": 4},
    ) as (inst, sink):
        release_id = released(inst)
        processes = [start_mailcaster(inst, name) for name in names]
        wait_for_results(inst, CONTACTS // 5)
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
        before = durable_results(inst)
        assert before < CONTACTS, "they were killed too late to show anything"

        time.sleep(4.5)
        summary = run_shift(inst, "m2", stop=threading.Event())

        with inst.database.begin() as connection:
            parent, tally = mail_job(connection, release_id), books(connection, release_id)
            kept = [
                each for each in children(connection, release_id) if each.state is not MailJobState.RECOVERED
            ]
        assert (parent.state, parent.accepted) == (MailJobState.P_FINISHED, CONTACTS)
        assert {each.state for each in kept} == {MailJobState.FINISHED}
        ranges = sorted((each.first_message or 0, each.last_message or 0) for each in kept)
        assert [n for first, last in ranges for n in range(first, last + 1)] == list(range(1, CONTACTS + 1))
        assert (tally.balances, tally.accepted) == (True, CONTACTS)
        assert summary.messages == CONTACTS - before
        got = sink.tally()
    assert set(got) == addresses(CONTACTS)
    assert sum(got.values()) - CONTACTS <= 10 * len(names)
    assert max(got.values()) <= 2
