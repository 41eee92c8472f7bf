"""One mailcaster delivers the mail jobs of two installations by its own relay; what dies is recovered across them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mail_orchestration import holding
from mail_orchestration.dispatch.mail_jobs import children
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.mailcaster import MailJobDone, has_work, run_shift
from tests.scenarios.installations import (
    address_of,
    addresses,
    durable_results,
    hours_pass,
    opened,
    released,
    start_mailcaster,
    state,
    tally,
    wait_for_results,
    write_site,
)
from tests.scenarios.relays.beside import relay_beside
from tests.scenarios.relays.postfix_sink import A_SECOND_EACH, Sink, storing_sink
from tests.scenarios.retry_site import send_mail_jobs

SHARED = {"name": "shared", "min_job_size": 20, "max_job_size": 200, "installations": "all"}
OWN = {"name": "own", "min_job_size": 120, "max_job_size": 200, "connections": 10}


@contextlib.contextmanager
def installation(
    folder: Path, name: str, database_url: str, monkeypatch: pytest.MonkeyPatch, **site: object
) -> Iterator[Installation]:
    """An installation in a folder of its own, on the one database."""
    settings = write_site(folder / name, installation=name, **site)  # type: ignore[arg-type]
    with opened(settings, database_url, monkeypatch) as inst:
        yield inst


@contextlib.contextmanager
def hub_with_sink(
    folder: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Installation, Sink]]:
    """The installation whose mailcaster works for all, and the sink that is its relay."""
    with (
        storing_sink() as ours,
        installation(
            folder, "hub", database_url, monkeypatch, relay_port=ours.port, contacts=1, mailcasters=[SHARED]
        ) as hub,
    ):
        yield hub, ours


@pytest.mark.rule("6.2")
def test_all_are_served_by_the_mailcasters_relay_and_a_hold_is_of_one(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        hub_with_sink(tmp_path, database_url, monkeypatch) as (hub, ours),
        storing_sink() as theirs,
        installation(
            tmp_path, "alpha", database_url, monkeypatch, relay_port=theirs.port, contacts=120
        ) as alpha,
        installation(
            tmp_path, "beta", database_url, monkeypatch, relay_port=theirs.port, contacts=40
        ) as beta,
    ):
        first, second = released(alpha), released(beta)
        holding.hold(beta, "beta's list is looked through")
        taken: list[MailJobDone] = []

        summary = run_shift(hub, "shared", stop=threading.Event(), on_mail_job_done=taken.append)

        assert summary.ended_because == "no work", "others are not held"
        assert {done.release_id for done in taken} == {first}
        assert state(beta, second)[0] is MailJobState.QUEUED
        holding.resume(beta)
        run_shift(hub, "shared", stop=threading.Event(), on_mail_job_done=taken.append)

        assert taken[-1].release_id == second
        assert tally(alpha, first).accepted == 120
        assert tally(beta, second).accepted == 40
        assert ours.tally() == dict.fromkeys(addresses(120), 1) | dict.fromkeys(addresses(40), 2)
        assert not theirs.tally(), "relays are the mailcaster's own"


@pytest.mark.rule("5.3")
@pytest.mark.rule("6.2")
def test_what_another_installations_mailcaster_left_hanging_is_recovered(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    contacts = 120
    with (
        storing_sink(*A_SECOND_EACH) as slow,
        hub_with_sink(tmp_path, database_url, monkeypatch) as (hub, ours),
        installation(
            tmp_path,
            "alpha",
            database_url,
            monkeypatch,
            relay_port=slow.port,
            contacts=contacts,
            mailcasters=[OWN],
            dispatcher={"hang_after_seconds": 1800},
        ) as alpha,
    ):
        release_id = released(alpha)
        process = start_mailcaster(alpha, "own")
        wait_for_results(alpha, 10)
        process.kill()
        process.wait()
        before = durable_results(alpha)
        assert before < contacts, "it was killed too late to show anything"
        assert run_shift(hub, "shared", stop=threading.Event()).mail_jobs == 0, "it does not hang yet"
        hours_pass(alpha, 1)  # hub's own hang time is two

        summary = run_shift(hub, "shared", stop=threading.Event())

        with alpha.database.begin() as connection:
            old, new = children(connection, release_id)
        assert (old.state, new.state, new.mailcaster) == (
            MailJobState.RECOVERED,
            MailJobState.FINISHED,
            "shared",
        )
        assert state(alpha, release_id)[0] is MailJobState.P_FINISHED
        assert tally(alpha, release_id).accepted == contacts
        assert summary.messages == contacts - before == ours.tally().total()
        got = slow.tally() + ours.tally()
        assert set(got) == addresses(contacts)
        assert got.total() - contacts <= 10, "at most one for each connection is repeated"


@pytest.mark.rule("6.2")
@pytest.mark.rule("6.3")
def test_retries_of_another_installation_are_sent_in_its_turn(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deferred = [f"451-at-rcpt-4-7-1-r{n}" for n in range(5)]
    with (
        relay_beside() as busy,
        hub_with_sink(tmp_path, database_url, monkeypatch) as (hub, ours),
        installation(
            tmp_path,
            "alpha",
            database_url,
            monkeypatch,
            relay_port=busy.port,
            contacts=[*(f"r{n}" for n in range(20)), *deferred],
            mailcasters=[OWN],
            dispatcher={"retry_after_minutes": 0.0001, "max_attempts": 2},
        ) as alpha,
    ):
        release_id = released(alpha)
        send_mail_jobs(alpha, monkeypatch, "own")
        assert tally(alpha, release_id).deferred == 5

        assert has_work(hub, "shared")
        summary = run_shift(hub, "shared", stop=threading.Event())

        assert (summary.mail_jobs, summary.loose_mails) == (0, 5)
        assert tally(alpha, release_id).accepted == 25
        assert ours.tally() == dict.fromkeys(map(address_of, deferred), 1)
