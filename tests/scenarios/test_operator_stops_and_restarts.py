"""The operator stops everything in mid-run and restarts it: nothing is sent between, lost, or sent twice (spec 5.6)."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sqlalchemy import text

from mail_orchestration.control import Scope, restart, stop, wait_until_stopped
from mail_orchestration.dispatch.claims import HeldClaim, claim_next
from mail_orchestration.dispatch.mail_jobs import children, mail_job
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.database_clock import database_now
from mail_orchestration.kernel.errors import BadInput
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.mailcaster import run_shift, work_on
from tests.scenarios.installations import (
    addresses,
    at_full_speed,
    opened,
    released,
    site_whose_relay_falls_silent,
    site_with_sink,
    start_mailcaster,
    tally,
    wait_for_results,
    write_site,
)
from tests.scenarios.relays.beside import wait_until_unanswered

CONTACTS = 1200
PACE = 100
"""Messages per second of all: a stop comes in the midst of their children, however fast the machine."""
NAMES = ("m1", "m2")
MAILCASTERS = [
    {"name": name, "min_job_size": 300, "max_job_size": 500, "percentage_job_size": 10, "connections": 5}
    for name in NAMES
]
EVERYTHING = Scope(everything=True)


def drain(inst: Installation) -> int:
    """A shift of m1 without the relay's pace; how many messages got a result."""
    return run_shift(at_full_speed(inst), "m1", stop=threading.Event()).messages


@pytest.mark.rule("5.6")
@pytest.mark.rule("3.2")
def test_a_stop_takes_effect_within_two_seconds_and_a_restart_repeats_nothing(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site_with_sink(
        tmp_path,
        database_url,
        monkeypatch,
        contacts=CONTACTS,
        mailcasters=MAILCASTERS,
        relay={"limits": {"per_second": PACE}},
    ) as (inst, sink):
        parent = released(inst)
        processes = [start_mailcaster(inst, name) for name in NAMES]
        wait_for_results(inst, CONTACTS // 10)

        with inst.database.begin() as connection:
            asked_at = database_now(connection)
        done = wait_until_stopped(inst, stop(inst, EVERYTHING), timeout_s=60)
        assert {each.entered for each in done} <= {MailJobState.STOPPED_R, MailJobState.FINISHED}
        with inst.database.begin() as connection:
            last = connection.execute(text("SELECT max(occurred_at) FROM result")).scalar_one()
        assert (last - asked_at).total_seconds() < 2, "the promise of 5.6, by the database's clock"
        sent = tally(inst, parent).accepted
        assert sent < CONTACTS, "it was stopped too late to show anything"
        assert sum(sink.tally().values()) == sent, "all that is in flight at a stop is finished and recorded"

        assert [process.wait(60) for process in processes] == [0, 0], "with nothing to take their shifts end"
        assert drain(inst) == 0
        assert tally(inst, parent).accepted == sent

        restart(inst, EVERYTHING)
        assert drain(inst) == CONTACTS - sent
        assert tally(inst, parent).accepted == CONTACTS
        with inst.database.begin() as connection:
            assert mail_job(connection, parent).state is MailJobState.P_FINISHED
            chains = [each for each in children(connection, parent) if each.recovers_id is not None]
        assert chains, "what was cut off went on as new mail jobs"
        got = sink.tally()
    assert set(got) == addresses(CONTACTS)
    assert set(got.values()) == {1}


@pytest.mark.rule("5.6")
@pytest.mark.rule("5.5")
def test_a_mailcaster_that_is_killed_does_not_block_a_stop(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections = 5
    mailcaster = {
        "name": "m1",
        "min_job_size": CONTACTS - 1,
        "max_job_size": CONTACTS,
        "connections": connections,
    }
    with site_whose_relay_falls_silent(
        tmp_path,
        database_url,
        monkeypatch,
        after=100,
        contacts=CONTACTS,
        mailcasters=[mailcaster],
        dispatcher={"heartbeat_seconds": 0.5},
    ) as (inst, relay):
        parent = released(inst)
        process = start_mailcaster(inst)
        wait_until_unanswered(relay, connections)
        process.kill()
        process.wait()
        relay.script.falls_silent_after = None
        # After two heartbeats, and not after the hang time of two hours.
        done = wait_until_stopped(inst, stop(inst, Scope(campaign="letter")), timeout_s=60)
        assert {each.entered for each in done} == {MailJobState.STOPPED_R}

        restart(inst, Scope(mail_job=parent))
        drain(inst)
        assert tally(inst, parent).accepted == CONTACTS
    assert set(relay.accepted) == addresses(CONTACTS)
    assert relay.accepted.total() - CONTACTS == connections


@pytest.mark.rule("5.5")
def test_a_small_only_mailcaster_recovers_no_child_when_chosen_by_hand_either(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"name": "small", "small_job_only": True, "min_job_size": 1, "max_job_size": 50}
    settings = write_site(tmp_path, relay_port=9, contacts=150, mailcasters=[{"name": "m1"}, small])
    with opened(settings, database_url, monkeypatch) as inst:
        released(inst)
        with inst.database.begin() as connection:
            now = database_now(connection)
        large = inst.settings.mailcaster("m1")
        claim = claim_next(inst.database, inst.installation_id, large, now=now, hang_after_s=7200)
        assert claim is not None
        with HeldClaim(inst.database, claim) as held:
            stop(inst, EVERYTHING)
            held.let_go_stopped(now)
        restart(inst, EVERYTHING)
        with pytest.raises(BadInput, match="small mail jobs only"):
            work_on(inst, "small", claim.mail_job_id, threading.Event())
        with inst.database.begin() as connection:
            assert mail_job(connection, claim.mail_job_id).state is MailJobState.RECOVERING
