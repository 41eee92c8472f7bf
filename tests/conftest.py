"""What every test needs: a PostgreSQL server for the session, and an empty, migrated database for a test.

The server is embedded in a folder of its own, or the one of TEST_DATABASE_URL, whose user must be allowed to
create databases.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql

from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.database_address import DatabaseAddress
from mail_orchestration.kernel.embedded_postgres import EmbeddedServer
from mail_orchestration.kernel.migrations import migrate

# What modules beside the tests assert is explained as what the tests themselves do.
pytest.register_assert_rewrite("tests")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # In the background of a script SIGINT is ignored. Dagster then makes SIGTERM ignored too, also for the servers that
    # tests start: none of them could be ended.
    signal.signal(signal.SIGINT, signal.default_int_handler)

_numbers = count(1)

# How long a busy machine takes says nothing about the code.
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """A folder with a short path that the server's account may enter; pytest's own is closed to it."""
    folder = Path(tempfile.mkdtemp(prefix="mo-", dir="/tmp"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def server_url(short_folder: Path) -> Iterator[str]:
    """The maintenance database of the session's server."""
    with ExitStack() as stack:
        url = os.environ.get("TEST_DATABASE_URL")
        if url:
            yield DatabaseAddress.parse(url).url
            return
        server = stack.enter_context(EmbeddedServer.hold(short_folder))
        with psycopg.connect(server.url, autocommit=True) as connection:
            # The tests kill the server, never the machine: what it wrote stays in the kernel.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("ALTER SYSTEM SET full_page_writes = off")
            connection.execute("SELECT pg_reload_conf()")
        yield server.url


@pytest.fixture(scope="session")
def create_database(server_url: str) -> Iterator[Callable[..., str]]:
    """A function that creates a database, from a template if one is given, and returns its URL."""
    created: list[str] = []

    def create(template: str = "template0") -> str:
        name = f"mo_test_{os.getpid()}_{next(_numbers)}"
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )
        created.append(name)
        return urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))

    yield create
    if "TEST_DATABASE_URL" not in os.environ:
        return  # they go with their server
    with psycopg.connect(server_url, autocommit=True) as connection:
        for name in created:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )


@pytest.fixture(scope="session")
def migrated_template(create_database: Callable[..., str], short_folder: Path) -> str:
    """The name of a migrated database without connections, of which the others are copies."""
    url = create_database()
    with Database.open(url, short_folder, application_name="tests") as database:
        migrate(database)
    return urlsplit(url).path.removeprefix("/")


@pytest.fixture
def database_url(
    create_database: Callable[..., str], migrated_template: str, server_url: str
) -> Iterator[str]:
    """The URL of an empty, migrated database, for child processes too; dropped after the test."""
    url = create_database(migrated_template)
    yield url
    name = urlsplit(url).path.removeprefix("/")
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def database(database_url: str, short_folder: Path) -> Iterator[Database]:
    """This process's `Database` on an empty, migrated database."""
    with Database.open(database_url, short_folder, application_name="tests") as opened:
        yield opened


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI nothing is skipped: what a test needs and does not find is a failure there."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report
