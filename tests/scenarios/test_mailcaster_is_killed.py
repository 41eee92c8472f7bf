"""A mailcaster is killed with -9 in mid-run; a new shift loses nothing and repeats one message a connection at most."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from mail_orchestration.dispatch.mail_jobs import children, mail_job
from mail_orchestration.feedback.books import books
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.mailcaster import run_shift
from tests.scenarios.installations import (
    addresses,
    durable_results,
    hours_pass,
    released,
    site_whose_relay_falls_silent,
    start_mailcaster,
)
from tests.scenarios.relays.beside import wait_until_unanswered

CONTACTS = 1000
ANSWERED = 100
CONNECTIONS = 25


@pytest.mark.rule("5.1")
@pytest.mark.rule("5.3")
@pytest.mark.rule("5.5")
def test_nothing_is_lost_and_at_most_one_message_per_connection_is_repeated(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailcaster = {"name": "m1", "min_job_size": 999, "max_job_size": 1000, "connections": CONNECTIONS}
    with site_whose_relay_falls_silent(
        tmp_path,
        database_url,
        monkeypatch,
        after=ANSWERED,
        contacts=CONTACTS,
        mailcasters=[mailcaster],
    ) as (inst, relay):
        release_id = released(inst)
        process = start_mailcaster(inst)
        wait_until_unanswered(relay, CONNECTIONS)
        process.kill()
        process.wait()
        relay.script.falls_silent_after = None
        assert durable_results(inst) == ANSWERED
        with inst.database.begin() as connection:
            (orphan,) = children(connection, release_id)
            assert orphan.state is MailJobState.RUNNING
            assert books(connection, release_id).balances

        assert run_shift(inst, "m1", stop=threading.Event()).mail_jobs == 0, "it does not hang yet"
        hours_pass(inst, 3)
        summary = run_shift(inst, "m1", stop=threading.Event())

        with inst.database.begin() as connection:
            old, new = children(connection, release_id)
            assert (old.state, new.state) == (MailJobState.RECOVERED, MailJobState.FINISHED)
            assert new.recovers_id == old.mail_job_id
            assert mail_job(connection, release_id).state is MailJobState.P_FINISHED
            tally = books(connection, release_id)
        assert tally.balances
        assert tally.accepted == CONTACTS
        assert summary.messages == CONTACTS - ANSWERED, "only what has no result is sent again"
    got = relay.accepted
    assert set(got) == addresses(CONTACTS)
    assert got.total() - CONTACTS == CONNECTIONS, "what was in flight is repeated, and nothing else"
    assert max(got.values()) == 2


@pytest.mark.rule("4.6")
@pytest.mark.rule("5.1")
@pytest.mark.rule("5.3")
def test_three_that_share_one_parent_are_killed_at_once(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("m1", "m2", "m3")
    mailcasters = [
        {"name": name, "min_job_size": 100, "max_job_size": 300, "percentage_job_size": 20, "connections": 10}
        for name in names
    ]
    with site_whose_relay_falls_silent(
        tmp_path,
        database_url,
        monkeypatch,
        after=ANSWERED,
        contacts=CONTACTS,
        mailcasters=mailcasters,
    ) as (inst, relay):
        release_id = released(inst)
        processes = [start_mailcaster(inst, name) for name in names]
        wait_until_unanswered(relay, 10 * len(names))
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
        relay.script.falls_silent_after = None
        assert durable_results(inst) == ANSWERED

        hours_pass(inst, 3)
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
        assert summary.messages == CONTACTS - ANSWERED
    got = relay.accepted
    assert set(got) == addresses(CONTACTS)
    assert got.total() - CONTACTS == 10 * len(names)
    assert max(got.values()) == 2
