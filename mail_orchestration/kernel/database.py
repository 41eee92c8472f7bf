"""The way to PostgreSQL: one `Database` for each process, its pool and its transactions.

Statements are SQLAlchemy Core over psycopg 3. Every connection has the search path `mail_orchestration`, the
time zone UTC and an application name, and gives up on a dead network within a minute.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import sql
from sqlalchemy import Connection, Engine, create_engine, event, exc, text
from sqlalchemy.pool import NullPool

from mail_orchestration.kernel.bulk import driver_of
from mail_orchestration.kernel.database_address import DatabaseAddress
from mail_orchestration.kernel.embedded_postgres import EmbeddedServer
from mail_orchestration.kernel.errors import BadSettings, DatabaseUnavailable

SCHEMA = "mail_orchestration"
"""The schema of the library's tables."""
DAGSTER_SCHEMA = "dagster"
"""The schema of Dagster's own tables, in the same database."""
OLDEST_SERVER_VERSION = 150000

_log = logging.getLogger(__name__)

_UNAVAILABLE_SQLSTATES = ("08", "25006", "53", "57P", "58")
"""Connection, a standby that is not promoted yet, resources (full disk, no more connections), shutdown, and the
server's own input and output."""


class Database:
    """One process's database, under DATABASE_URL or embedded.

    Not to be carried over a fork: a child process opens its own.
    """

    def __init__(
        self,
        address: DatabaseAddress,
        server: EmbeddedServer | None,
        *,
        pool_size: int,
        application_name: str,
    ) -> None:
        """Use `open`."""
        self._address = address
        self._server = server
        self._application_name = application_name
        options: dict[str, Any] = {
            # Values of parameters are addresses of people: no error shows them.
            "hide_parameters": True,
            "use_native_hstore": False,
        }
        self._pooled = create_engine(
            "postgresql+psycopg://",
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_pre_ping=True,
            **options,
        )
        self._unpooled = create_engine("postgresql+psycopg://", poolclass=NullPool, **options)
        self._reserve = create_engine(
            "postgresql+psycopg://",
            pool_size=2,
            max_overflow=-1,
            pool_pre_ping=True,
            isolation_level="AUTOCOMMIT",
            **options,
        )
        for engine in (self._pooled, self._unpooled, self._reserve):
            event.listen(engine, "do_connect", self._connect)

    @classmethod
    def open(cls, url: str | None, data_dir: Path, *, pool_size: int = 5, application_name: str) -> Self:
        """Connect to `url` (any `postgresql://…`), or with None hold the embedded server under `data_dir`.

        The pool keeps `pool_size` connections and lends twice as many at once. Raises DatabaseUnavailable
        within seconds, with host, port, database and the server's reason; BadSettings when `url` is no
        address of PostgreSQL, or when the server is older than PostgreSQL 15.
        """
        server = None if url else EmbeddedServer.hold(data_dir)
        try:
            address = DatabaseAddress.parse(url or (server.url if server else ""))
            database = cls(address, server, pool_size=pool_size, application_name=application_name)
            try:
                database._check_server_version()
            except BaseException:
                database._dispose()
                raise
        except BaseException:
            if server is not None:
                server.close()
            raise
        return database

    @property
    def url(self) -> str:
        """The address in libpq's form, for child processes and Dagster. It may hold the password."""
        return self._address.url

    @property
    def is_embedded(self) -> bool:
        """True when no DATABASE_URL was given and this process holds the embedded server."""
        return self._server is not None

    @contextlib.contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction on a pooled connection: committed after the block, rolled back on an exception."""
        with self.translate_errors(), self._pooled.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def connect_autocommit(self) -> Iterator[Connection]:
        """A pooled connection on which every statement is its own transaction."""
        with self.translate_errors(), self._pooled.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    @contextlib.contextmanager
    def dedicated(self, *, autocommit: bool = True) -> Iterator[Connection]:
        """A connection of its own, closed at the end of the block: for session advisory locks and long COPY.

        With `autocommit` (the default) a session lock keeps no transaction open; without it the caller begins
        and commits.
        """
        with self.translate_errors(), self._unpooled.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT") if autocommit else connection

    @contextlib.contextmanager
    def reserved(self) -> Iterator[Connection]:
        """As `dedicated` with `autocommit`, for one block after another: up to two connections are kept for the next.

        At the end of the block its session locks are let go. After an exception, or when the block invalidated
        it, the connection is closed.
        """
        with self._unlocked_afterwards(self._reserve) as connection:
            yield connection

    @contextlib.contextmanager
    def session(self) -> Iterator[Connection]:
        """A pooled connection for several transactions, which the caller begins and commits, and for its session locks.

        As `dedicated` without `autocommit`, on a server process that knows the tables already: the first statement
        of a new one takes some milliseconds more. At its end it is as after `reserved`.
        """
        with self._unlocked_afterwards(self._pooled) as connection:
            yield connection

    @contextlib.contextmanager
    def _unlocked_afterwards(self, engine: Engine) -> Iterator[Connection]:
        with self.translate_errors(), engine.connect() as connection:
            try:
                yield connection
            except BaseException:
                connection.invalidate()
                raise
            if not connection.invalidated:
                try:
                    connection.execute(text("SELECT pg_advisory_unlock_all()"))
                except exc.DBAPIError:
                    # A session that the server lost, or that is lost to us, has no locks.
                    connection.invalidate()
                except BaseException:
                    connection.invalidate()
                    raise

    def ensure_schemas(self) -> None:
        """Create the schemas `mail_orchestration` and `dagster` when missing; many may do so at once."""
        with self.begin() as connection:
            create_missing_schemas(connection)

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Raise DatabaseUnavailable where connection, server or disk space is gone; leave all else alone.

        All that lend a connection do this already.
        """
        try:
            yield
        except (exc.DBAPIError, exc.TimeoutError, psycopg.Error) as error:
            reason = _why_unavailable(error)
            if reason is None:
                raise
            where = f"{self._server.folder} ({self._address})" if self._server else str(self._address)
            raise DatabaseUnavailable(f"the database {where} cannot be used: {reason}") from error

    def close(self) -> None:
        """Close all connections and let go of the embedded server, which stops if nobody else holds it."""
        self._dispose()
        if self._server is not None:
            self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Database({self._address})"

    def _dispose(self) -> None:
        for engine in (self._pooled, self._unpooled, self._reserve):
            engine.dispose()

    def _check_server_version(self) -> None:
        with self.connect_autocommit() as connection:
            version = driver_of(connection).info.server_version
        if version < OLDEST_SERVER_VERSION:
            raise BadSettings(
                f"DATABASE_URL: {self._address} is PostgreSQL {version // 10000}, "
                f"and {OLDEST_SERVER_VERSION // 10000} or newer is needed"
            )

    def _connect(
        self, dialect: object, record: object, arguments: object, parameters: Mapping[str, Any]
    ) -> psycopg.Connection[Any]:
        """SQLAlchemy's `do_connect`. An embedded server that died under us is started again."""
        try:
            return self._connect_once(parameters)
        except psycopg.OperationalError:
            if self._server is None:
                raise
            _log.warning("the embedded database does not answer: starting it again")
            self._address = DatabaseAddress.parse(self._server.ensure_running())
            return self._connect_once(parameters)

    def _connect_once(self, parameters: Mapping[str, Any]) -> psycopg.Connection[Any]:
        try:
            return self._address.connect(
                application_name=self._application_name, schema=SCHEMA, context=parameters.get("context")
            )
        except OSError as error:
            # Of this process and not of the server's, such as too many open files; the driver lets it through.
            raise psycopg.OperationalError(f"no connection can be opened: {error.strerror}") from None


def create_missing_schemas(connection: Connection) -> None:
    """Create both schemas inside the caller's transaction where they are missing."""
    found = connection.execute(
        text("SELECT nspname FROM pg_namespace WHERE nspname = ANY(CAST(:names AS name[]))"),
        {"names": [SCHEMA, DAGSTER_SCHEMA]},
    )
    missing = {SCHEMA, DAGSTER_SCHEMA}.difference(found.scalars())
    if not missing:
        return
    # IF NOT EXISTS alone lets two sessions collide in the catalog.
    connection.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended('mail_orchestration.schemas', 0))")
    )
    for name in sorted(missing):
        driver_of(connection).execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(name)))


def _why_unavailable(error: exc.DBAPIError | exc.TimeoutError | psycopg.Error) -> str | None:
    """The server's reason in one line when `error` means that the database is out of reach, else None."""
    if isinstance(error, exc.TimeoutError):
        return "all connections are in use that this process may have at once, and none came free"
    original = error.orig if isinstance(error, exc.DBAPIError) else error
    if isinstance(original, psycopg.Error) and original.sqlstate is not None:
        is_gone = original.sqlstate.startswith(_UNAVAILABLE_SQLSTATES)
    else:
        # Exactly DatabaseError, without a code: libpq's own word on an answer that a dying server cut off.
        is_gone = isinstance(original, psycopg.OperationalError) or type(original) is psycopg.DatabaseError
    is_gone = is_gone or (isinstance(error, exc.DBAPIError) and error.connection_invalidated)
    return str(original).strip().partition("\n")[0] if is_gone else None
