"""Connections to the database and open files run out, at the start of a shift or within it: said, and nothing lost."""

from __future__ import annotations

import threading
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from mail_orchestration.dispatch.mail_jobs import children, mail_job
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.errors import DatabaseUnavailable
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.mailcaster import run_shift
from tests.scenarios.installations import (
    addresses,
    released,
    site_with_sink,
    start_mailcaster,
    state,
    tally,
)

CONTACTS = 240
CONNECTIONS = 20
MAILCASTER = {
    "name": "m1",
    "small_audience_threshold": 50,
    "min_job_size": 60,
    "max_job_size": 80,
    "connections": CONNECTIONS,
}


def _finish(inst: Installation, release_id: int) -> None:
    """The next shift, without any want, delivers what is left at once: nothing hangs."""
    run_shift(inst, "m1", stop=threading.Event())
    with inst.database.begin() as connection:
        assert mail_job(connection, release_id).state is MailJobState.P_FINISHED
    assert tally(inst, release_id).accepted == CONTACTS


@pytest.mark.rule("5.1")
def test_the_server_gives_fewer_connections_than_a_shift_wants(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = urlsplit(database_url).path.strip("/") + "_few"
    role = sql.Identifier(name)
    with (
        site_with_sink(tmp_path, database_url, monkeypatch, contacts=CONTACTS, mailcasters=[MAILCASTER]) as (
            inst,
            sink,
        ),
        psycopg.connect(database_url, autocommit=True) as admin,
    ):
        release_id = released(inst)
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
        admin.execute(sql.SQL("GRANT pg_read_all_data, pg_write_all_data TO {}").format(role))
        parts = urlsplit(database_url)
        few = urlunsplit(parts._replace(netloc=f"{name}@{parts.netloc.rpartition('@')[2]}"))
        said = []
        for limit in (1, 2, 3):
            admin.execute(sql.SQL("ALTER ROLE {} CONNECTION LIMIT {}").format(role, sql.Literal(limit)))
            with Database.open(few, tmp_path, application_name="few") as database:
                wanting = Installation(
                    settings=inst.settings,
                    database=database,
                    installation_id=inst.installation_id,
                    keys=inst.keys,
                )
                try:
                    run_shift(wanting, "m1", stop=threading.Event())
                except DatabaseUnavailable as error:
                    said.append((limit, str(error)))
        assert [limit for limit, _ in said][:2] == [1, 2]
        assert all("too many connections" in error for _, error in said)
        _finish(inst, release_id)
        admin.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))
        got = sink.tally()
    assert got == dict.fromkeys(addresses(CONTACTS), 1)


def test_a_pool_that_is_used_up_is_database_unavailable(database_url: str, tmp_path: Path) -> None:
    with Database.open(database_url, tmp_path, pool_size=1, application_name="tests") as database:
        database._pooled.pool._timeout = 0.05  # type: ignore[attr-defined]
        with (
            database.begin(),
            database.begin(),
            pytest.raises(DatabaseUnavailable, match="connections are in use"),
            database.begin(),
        ):
            pass


@pytest.mark.rule("3.7")
@pytest.mark.rule("5.1")
def test_a_process_may_not_open_enough_files(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site_with_sink(
        tmp_path,
        database_url,
        monkeypatch,
        contacts=CONTACTS,
        mailcasters=[MAILCASTER],
        dispatcher={"relay_unreachable_after_seconds": 2},
    ) as (inst, sink):
        # Room for some of its twenty connections: it sends over those.
        release_id = released(inst)
        few = start_mailcaster(inst, files=26)
        _, said = few.communicate(timeout=90)
        assert few.returncode == 0, said.decode()
        assert "Too many open files" in said.decode()
        assert state(inst, release_id)[0] is MailJobState.P_FINISHED
        assert tally(inst, release_id).accepted == CONTACTS
        # Room for no event loop: it takes nothing, and says why.
        release_id = released(inst, again=True)
        for files in (10, 11):
            unable = start_mailcaster(inst, files=files)
            _, said = unable.communicate(timeout=90)
            assert (unable.returncode, b"Too many open files" in said) == (3, True), said.decode()
            assert b"Traceback" not in said
        assert tally(inst, release_id).waiting == CONTACTS
        # Room for none of them: its mail jobs fail with the reason, and keep what is unsent.
        none = start_mailcaster(inst, files=17)
        _, said = none.communicate(timeout=90)
        with inst.database.begin() as connection:
            reasons = {part.reason for part in children(connection, release_id)}
        assert state(inst, release_id)[0] is MailJobState.P_FAILED, said.decode()
        assert all("cannot connect: Too many open files" in reason for reason in reasons)
        assert tally(inst, release_id).waiting == CONTACTS
        got = sink.tally()
    assert got == dict.fromkeys(addresses(CONTACTS), 1)
