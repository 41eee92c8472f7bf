"""A worker that sends loose mails is killed with -9: nothing is lost, and one message a connection repeated at most."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from mail_orchestration.dispatch.loose_mail_lists import count_loose_mails
from mail_orchestration.installation import Installation
from mail_orchestration.mailcaster import run_shift
from mail_orchestration.single_mailer import run_loose_shift
from tests.scenarios.installations import (
    addresses,
    durable_results,
    hours_pass,
    opened,
    released,
    start_mailcaster,
    tally,
    wait_for_results,
    write_site,
)
from tests.scenarios.relays.beside import relay_beside
from tests.scenarios.relays.scripted import Script

CONTACTS, CONNECTIONS = 200, 10


@pytest.mark.rule("5.1", "6.3")
def test_nothing_is_lost_and_at_most_one_message_per_connection_is_repeated(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with relay_beside(Script(defers_first=CONTACTS)) as server:
        settings = write_site(
            tmp_path,
            relay_port=server.port,
            contacts=CONTACTS,
            mailcasters=[
                {"name": "m1", "min_job_size": 300, "max_job_size": 400, "connections": CONNECTIONS}
            ],
            dispatcher={"reservation_minutes": 0.05},
        )
        with opened(settings, database_url, monkeypatch) as inst:
            release_id = released(inst)
            run_shift(inst, "m1", stop=threading.Event())
            assert tally(inst, release_id).deferred == CONTACTS
            hours_pass(inst, 1)
            server.script.reply_delay_s = 0.005
            process = start_mailcaster(inst)
            wait_for_results(inst, CONTACTS + CONTACTS // 5)
            process.kill()
            process.wait()
            assert durable_results(inst) < 2 * CONTACTS, "it was killed too late to show anything"
            assert len(server.accepted) < CONTACTS

            server.script.reply_delay_s = 0.0
            until = time.monotonic() + 60
            while are_left(inst) and time.monotonic() < until:
                run_loose_shift(inst, "another", stop=threading.Event(), linger_s=1)

            found = tally(inst, release_id)
            assert (found.accepted, found.deferred) == (CONTACTS, 0)
        assert set(server.accepted) == addresses(CONTACTS)
        assert server.accepted.total() - CONTACTS <= CONNECTIONS
        assert max(server.accepted.values()) <= 2
        assert all(len(set(copies)) == 1 for copies in server.received.values())


def are_left(inst: Installation) -> bool:
    with inst.database.begin() as connection:
        return bool(count_loose_mails(connection, inst.installation_id))
