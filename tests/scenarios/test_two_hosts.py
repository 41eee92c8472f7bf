"""Two hosts on one PostgreSQL over TCP work on one parent; one is cut off, and the other recovers its child."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from mail_orchestration.cli.services import free_port
from mail_orchestration.dispatch.mail_jobs import children, mail_job
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.embedded_postgres import EmbeddedServer
from mail_orchestration.kernel.embedded_postgres.home import open_home
from mail_orchestration.kernel.states import MailJobState
from tests.scenarios.hosts import hosts
from tests.scenarios.installations import addresses, opened, released, tally, wait_for_results, write_site
from tests.scenarios.relays.postfix_sink import A_SECOND_EACH, storing_sink

CONTACTS = 260
CONNECTIONS = 20
HANG_AFTER_S = 3


@contextmanager
def server_on_tcp(folder: Path, address: str) -> Iterator[str]:
    """The embedded server, which for once listens to the network; its URL there."""
    port = free_port()
    with EmbeddedServer.hold(folder) as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET listen_addresses = '{address}'")
            connection.execute(f"ALTER SYSTEM SET port = {port}")
        home = open_home(folder)
        with (home.data / "pg_hba.conf").open("a", encoding="utf-8") as rules:
            rules.write("host all all 10.213.87.0/24 trust\nhost all all 127.0.0.1/32 trust\n")
    with EmbeddedServer.hold(folder):
        yield f"postgresql://postgres@{address}:{port}/mail_orchestration"


def _recorded_of_child_in_hand(inst: Installation, mailcaster: str) -> int:
    """How many results the child has that it works on: how far it is in the child's three seconds."""
    with inst.database.begin() as connection:
        found = connection.execute(
            text(
                "SELECT count(*) FROM mail_job JOIN result USING (mail_job_id)"
                " WHERE mail_job.mailcaster = :name AND mail_job.state = 'RUNNING'"
            ),
            {"name": mailcaster},
        )
        return int(found.scalar_one())


@pytest.mark.rule("4.6")
@pytest.mark.rule("5.1")
@pytest.mark.rule("5.3")
@pytest.mark.rule("5.5")
def test_what_a_host_that_is_cut_off_had_in_hand_is_recovered_by_the_other(
    tmp_path: Path, short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = short_folder / "shared"
    folder.mkdir()
    mailcasters = [
        {"name": name, "min_job_size": 60, "max_job_size": 120, "connections": CONNECTIONS}
        for name in ("near", "far")
    ]
    with (
        hosts(["near", "far"]) as two,
        server_on_tcp(folder, two.address) as url,
        storing_sink(*A_SECOND_EACH, host=two.address) as sink,
    ):
        settings = write_site(
            tmp_path,
            relay_port=sink.port,
            contacts=CONTACTS,
            mailcasters=mailcasters,
            dispatcher={"heartbeat_seconds": 0.5, "hang_after_seconds": HANG_AFTER_S},
            relay={"host": two.address},
        )
        with opened(settings, url, monkeypatch) as inst:
            release_id = released(inst)
            near, far = two.each
            far_process = far.start(inst, "far")
            near_process = near.start(inst, "near")
            wait_for_results(inst, 4 * CONNECTIONS)
            while not 0 < _recorded_of_child_in_hand(inst, "far") <= CONNECTIONS:
                assert far_process.poll() is None
                time.sleep(0.01)
            with inst.database.begin() as connection:
                at_work = {child.mailcaster for child in children(connection, release_id)}
            far.cut_off()
            assert near_process.wait(timeout=120) == 0
            time.sleep(HANG_AFTER_S)
            # Who found no more work is woken by its sensor when there is some again.
            assert near.start(inst, "near").wait(timeout=120) == 0
            with inst.database.begin() as connection:
                parts = children(connection, release_id)
                parent = mail_job(connection, release_id)
            assert tally(inst, release_id).accepted == CONTACTS
            far.reconnect()
            assert far_process.wait(timeout=120) in (0, 3), "it lost its claim, or the database before that"
            assert tally(inst, release_id).accepted == CONTACTS, "what came back wrote nothing"
        got = sink.tally()
    assert at_work == {"near", "far"}
    assert parent.state is MailJobState.P_FINISHED
    recovered = [part for part in parts if part.state is MailJobState.RECOVERED]
    assert [part.mailcaster for part in recovered] == ["far"]
    assert {part.mailcaster for part in parts if part.recovers_id} == {"near"}
    assert set(got) == addresses(CONTACTS)
    assert sum(got.values()) - CONTACTS <= CONNECTIONS
