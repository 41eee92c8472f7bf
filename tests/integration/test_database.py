"""The database's connections, COPY, streams, and what happens when the server is gone."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path
from typing import cast

import psycopg
import pytest
from psycopg.errors import error_from_result
from sqlalchemy import Connection, TextClause, event, exc, text

from mail_orchestration.kernel.bulk import copy_rows
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.database_address import DatabaseAddress
from mail_orchestration.kernel.errors import BadSettings, DatabaseUnavailable

_COUNT = text("SELECT count(*) FROM installation")
_NAMES = text("SELECT name FROM installation ORDER BY name")
_BACKEND = text("SELECT pg_backend_pid()")
_INSERT = text("INSERT INTO installation (name) VALUES (:name)")


def test_connections_have_search_path_time_zone_and_name(database: Database) -> None:
    settings = text(
        "SELECT current_setting('search_path'), current_setting('timezone'),"
        " current_setting('application_name')"
    )
    expected = ("mail_orchestration", "UTC", "tests")
    with database.begin() as connection:
        assert connection.execute(settings).one() == expected
    with database.connect_autocommit() as connection:
        assert connection.execute(settings).one() == expected
    with database.dedicated() as connection:
        assert connection.execute(settings).one() == expected


def test_options_of_the_url_are_kept(database_url: str, tmp_path: Path) -> None:
    url = f"{database_url}{'&' if '?' in database_url else '?'}options=-cstatement_timeout%3D4321"
    with (
        Database.open(url, tmp_path, application_name="tests") as database,
        database.begin() as connection,
    ):
        assert connection.scalar(text("SELECT current_setting('statement_timeout')")) == "4321ms"
        assert connection.scalar(text("SELECT current_schema()")) == "mail_orchestration"


def test_a_transaction_is_whole_or_nothing(database: Database) -> None:
    def insert_and_fail() -> None:
        with database.begin() as connection:
            connection.execute(_INSERT, {"name": "a"})
            raise KeyError

    with pytest.raises(KeyError):
        insert_and_fail()
    with database.begin() as connection:
        assert connection.scalar(_COUNT) == 0


@pytest.mark.parametrize("form", ["text", "binary"])
def test_copy_writes_inside_the_transaction(database: Database, form: str) -> None:
    command = f"COPY installation (name) FROM STDIN WITH (FORMAT {form})"
    rows = [("plain",), ("tab\tand\nline: :bind %s",), ("größer",)]

    def copy_and_fail() -> None:
        with database.begin() as connection:
            copy_rows(connection, command, rows, types=["text"])
            raise KeyError

    with pytest.raises(KeyError):
        copy_and_fail()
    with database.begin() as connection:
        assert connection.scalar(_COUNT) == 0
        assert copy_rows(connection, text(command), iter(rows), types=["text"]) == 3
    with database.begin() as connection:
        assert set(connection.scalars(_NAMES)) == {name for (name,) in rows}


def test_copy_refuses_to_work_without_a_transaction(database: Database) -> None:
    with (
        database.dedicated(autocommit=False) as connection,
        pytest.raises(ValueError, match="transaction"),
    ):
        copy_rows(connection, "COPY installation (name) FROM STDIN", [("lost",)])


def test_dedicated_keeps_a_session_lock_and_no_transaction(database: Database) -> None:
    with database.dedicated() as holder:
        holder.execute(text("SELECT pg_advisory_lock(7)"))
        with database.begin() as other:
            assert other.scalar(text("SELECT pg_try_advisory_lock(7)")) is False
            state = text("SELECT state FROM pg_stat_activity WHERE pid = :pid")
            assert other.scalar(state, {"pid": holder.scalar(_BACKEND)}) == "idle"
    with database.begin() as other:
        assert other.scalar(text("SELECT pg_try_advisory_xact_lock(7)")) is True


def test_a_session_keeps_its_lock_from_one_transaction_to_the_next_and_frees_it_at_its_end(
    database: Database,
) -> None:
    with database.session() as holder:
        with holder.begin():
            holder.execute(text("SELECT pg_advisory_lock(7)"))
            pid = holder.scalar(_BACKEND)
        with database.begin() as other:
            assert other.scalar(text("SELECT pg_try_advisory_lock(7)")) is False
        with holder.begin():
            assert holder.scalar(_BACKEND) == pid
    with database.begin() as same, database.begin() as other:
        pids = {same.scalar(_BACKEND), other.scalar(_BACKEND)}
        assert pid in pids, "it went back to the pool"
        assert same.scalar(text("SELECT pg_try_advisory_xact_lock(7)")) is True


def test_a_session_that_fails_frees_its_lock_and_is_not_lent_again(database: Database) -> None:
    def fail() -> None:
        with database.session() as holder:
            with holder.begin():
                holder.execute(text("SELECT pg_advisory_lock(7)"))
            holder.execute(text("SELECT 1 / 0"))

    with pytest.raises(exc.DataError, match="division by zero"):
        fail()
    with database.begin() as other:
        # The server frees it when it has read that the connection is closed.
        other.execute(text("SET LOCAL lock_timeout = '20s'"))
        other.execute(text("SELECT pg_advisory_xact_lock(7)"))


def test_a_session_that_is_interrupted_while_it_frees_its_lock_is_not_lent_again(database: Database) -> None:
    def interrupt(connection: Connection, cursor: object, statement: str, *more: object) -> None:
        if "unlock_all" in statement:
            raise KeyboardInterrupt

    def work() -> None:
        with database.session() as holder:
            with holder.begin():
                holder.execute(text("SELECT pg_advisory_lock(7)"))
            event.listen(holder, "before_cursor_execute", interrupt)

    with pytest.raises(KeyboardInterrupt):
        work()
    with database.dedicated() as other:
        # Not a pooled one: a session that has the lock gets it once more.
        other.execute(text("SET lock_timeout = '20s'"))
        other.execute(text("SELECT pg_advisory_lock(7)"))


@pytest.mark.parametrize("raw", [False, True], ids=["sqlalchemy", "psycopg"])
def test_a_lost_connection_is_database_unavailable_and_the_next_one_works(
    database: Database, raw: bool
) -> None:
    def lose_the_connection() -> None:
        with database.connect_autocommit() as killer, database.begin() as connection:
            pid = connection.scalar(_BACKEND)
            killer.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
            if raw:
                copy_rows(connection, "COPY installation (name) FROM STDIN", [("a",)])
            else:
                connection.execute(_COUNT)

    with pytest.raises(DatabaseUnavailable, match="cannot be used"):
        lose_the_connection()
    with database.begin() as connection:
        assert connection.scalar(_COUNT) == 0


def test_other_errors_stay_what_they_are_and_show_no_parameters(database: Database) -> None:
    with pytest.raises(exc.IntegrityError) as caught:
        _execute(database, *[text("INSERT INTO installation (name) VALUES (:name)")] * 2)
    assert "parameters hidden" in str(caught.value)
    with pytest.raises(exc.OperationalError):
        _execute(database, text("SET LOCAL statement_timeout = 1"), text("SELECT pg_sleep(5)"))


def test_an_answer_that_is_cut_off_is_unavailability_though_it_has_no_code(database: Database) -> None:
    def be_cut_off() -> None:
        with database.dedicated() as connection, database.translate_errors():
            driver = cast("psycopg.Connection[tuple[object]]", connection.connection.driver_connection)
            with socket.socket(fileno=os.dup(driver.pgconn.socket)) as wire:
                wire.shutdown(socket.SHUT_RDWR)
            raise error_from_result(driver.pgconn.prepare(b"", b"SELECT 1"))

    with pytest.raises(DatabaseUnavailable, match="closed the connection"):
        be_cut_off()


def _execute(database: Database, *statements: TextClause) -> None:
    with database.begin() as connection:
        for statement in statements:
            connection.execute(statement, {"name": "somebody"} if statement.compile().params else {})


def test_an_unreachable_database_is_named_without_its_password(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        url = f"postgresql://someone:s3cret@127.0.0.1:{port}/mail"
        with pytest.raises(DatabaseUnavailable) as caught:
            Database.open(url, tmp_path, application_name="tests")
    message = str(caught.value)
    assert f"mail at 127.0.0.1:{port}" in message
    assert "refused" in message
    assert "s3cret" not in message + repr(caught.value.__cause__)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_database_is_named(server_url: str, tmp_path: Path) -> None:
    url = re.sub(r"/\w+(?=\?|$)", "/no_such_database", server_url, count=1)
    with pytest.raises(DatabaseUnavailable, match="no_such_database"):
        Database.open(url, tmp_path, application_name="tests")


def test_too_old_a_server_is_refused(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mail_orchestration.kernel.database.OLDEST_SERVER_VERSION", 990000)
    with pytest.raises(BadSettings, match=r"is PostgreSQL \d+, and 99 or newer is needed"):
        Database.open(database_url, tmp_path, application_name="tests")


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:s3cret@h/d",
        "u:s3cret@h/d",
        "postgresql://u:s3cret%zz@h/d",
        "postgresql://u:s3cret@h/d?foo=1",
    ],
)
def test_what_is_no_address_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(BadSettings) as caught:
        DatabaseAddress.parse(url)
    assert "DATABASE_URL" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2"])
def test_any_postgresql_scheme_is_taken(scheme: str) -> None:
    address = DatabaseAddress.parse(f"{scheme}://u:s3cret@db.example.com:6432/mail?sslmode=require")
    assert address.url == "postgresql://u:s3cret@db.example.com:6432/mail?sslmode=require"
    assert str(address) == "mail at db.example.com:6432"
    assert "s3cret" not in repr(address)


def test_an_embedded_server_that_is_killed_is_started_again(short_folder: Path) -> None:
    with Database.open(None, short_folder / "killed", application_name="tests") as database:
        with database.begin() as connection:
            connection.execute(text("CREATE TABLE public.kept AS SELECT 1 AS n"))
            url = database.url
        with pytest.raises(DatabaseUnavailable):
            _kill_the_server(database)
        with database.begin() as connection:
            assert connection.scalar(text("SELECT n FROM public.kept")) == 1
        assert database.url == url
        assert database.is_embedded


def test_the_schemas_are_made_once(create_database: object, server_url: str, tmp_path: Path) -> None:
    assert callable(create_database)
    with Database.open(create_database(), tmp_path, application_name="tests") as database:
        for _ in range(2):
            database.ensure_schemas()
        with database.begin() as connection:
            names = text(
                "SELECT nspname FROM pg_namespace WHERE nspname IN ('dagster', 'mail_orchestration')"
            )
            assert set(connection.scalars(names)) == {"dagster", "mail_orchestration"}


def _kill_the_server(database: Database) -> None:
    with database.begin() as connection:
        os.kill(_postmaster(database), signal.SIGKILL)
        while True:
            connection.execute(_BACKEND)


def _postmaster(database: Database) -> int:
    folder = psycopg.conninfo.conninfo_to_dict(database.url)["host"]
    return int((Path(str(folder)).parent / "data" / "postmaster.pid").read_text().split()[0])
