"""Bringing a database to this version's schema. Forward only; the SQL is `sql/migrations/NNNN_name.sql`."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

import psycopg
from sqlalchemy import Connection, exc, text

from mail_orchestration.kernel.database import SCHEMA, Database, create_missing_schemas
from mail_orchestration.kernel.errors import BadSettings

_SCRIPTS = resources.files("mail_orchestration") / "sql" / "migrations"
_SQL_FILE = re.compile(r"(\d{4})_\w+\.sql")
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('mail_orchestration.migrate', 0))")
_VERSION = text(f"SELECT version_num FROM {SCHEMA}.alembic_version")  # noqa: S608 - a constant of ours


def known_versions() -> list[str]:
    """The migrations that this version of the software has, in order: `["0001", …]`."""
    return sorted(match.group(1) for file in _SCRIPTS.iterdir() if (match := _SQL_FILE.fullmatch(file.name)))


def database_version(connection: Connection) -> str | None:
    """The last migration that the database has seen; None before the first. Leaves a transaction usable."""
    if connection.scalar(text("SELECT to_regclass(:table)"), {"table": f"{SCHEMA}.alembic_version"}) is None:
        return None
    version: str | None = connection.scalar(_VERSION)
    return version


def migrate(database: Database) -> str:
    """Create the schemas and run the migrations that the database has not seen, all in one transaction.

    Returns the version the database is at now. Many processes may call it at once: one works, the others
    wait. When nothing is to do this is one query. Raises BadSettings for a database of newer software.
    """
    newest = known_versions()[-1]
    if _is_at(database, newest):
        return newest
    with database.begin() as connection:
        connection.execute(_LOCK)
        create_missing_schemas(connection)
        version = database_version(connection)
        if version is not None and version not in known_versions():
            raise BadSettings(
                f"DATABASE_URL: {database!r} is at version {version} of the schema, and this version of "
                f"mail_orchestration knows it up to {newest}: install the newer one"
            )
        if version != newest:
            _run_alembic(connection)
    return newest


def run_sql_file(connection: Connection, name: str) -> None:
    """Run a file of `sql/migrations`, any number of statements, in the connection's transaction."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    # Without parameters psycopg uses the simple protocol, which takes many statements at once.
    driver.execute((_SCRIPTS / name).read_bytes())


def _is_at(database: Database, newest: str) -> bool:
    try:
        with database.connect_autocommit() as connection:
            return bool(connection.scalar(_VERSION) == newest)
    except exc.ProgrammingError as error:
        if isinstance(error.orig, psycopg.errors.UndefinedTable | psycopg.errors.InvalidSchemaName):
            return False
        raise


def _run_alembic(connection: Connection) -> None:
    # Alembic takes a tenth of a second to import, and most processes have nothing to migrate.
    from alembic import command

    command.upgrade(alembic_configuration(connection), "head")


def alembic_configuration(connection: Connection | None = None) -> Any:
    """Alembic's `Config` for our migrations, on a connection inside a transaction."""
    from alembic.config import Config

    configuration = Config()
    configuration.set_main_option("script_location", "mail_orchestration:sql/migrations")
    configuration.set_main_option("path_separator", "os")
    configuration.attributes["connection"] = connection
    return configuration
