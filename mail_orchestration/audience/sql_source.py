"""Audiences from a SQL query on any database that SQLAlchemy reaches (spec 1.2).

The query runs as it was given, by whoever may configure audiences: one statement, read-only where the dialect can, with
a time limit, and through a server-side cursor where there is one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from sqlalchemy import Connection, create_engine, exc
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import NullPool

from mail_orchestration.audience.rows import ROWS_PER_BATCH, Batch, Layout
from mail_orchestration.kernel.errors import BadAudience

_ASIDE = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*` | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ | --[^\n]* | /\*.*?\*/""",
    re.VERBOSE | re.DOTALL,
)
_READS = ("select", "with", "values", "table", "(")


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlSource:
    """What one query returns, on the database of `url` (a SQLAlchemy URL, which may hold a password)."""

    url: str = field(repr=False)
    query: str
    address_column: str = "email"
    timeout_seconds: float = 600

    @property
    def name(self) -> str:
        return f"SQL on {_shown(self._url())}"

    def batches(self) -> Iterator[Batch]:
        """Raises BadAudience with the database's reason, without the URL's password."""
        query = _one_reading_statement(self.query, self.name)
        try:
            engine = create_engine(self._url(), poolclass=NullPool, hide_parameters=True)
        except (exc.ArgumentError, exc.NoSuchModuleError, ModuleNotFoundError) as error:
            raise BadAudience(f"{self.name}: no driver for this database: {error}") from None
        try:
            with engine.connect() as connection:
                _bind_down(connection, self.timeout_seconds)
                options = {"no_parameters": True, "stream_results": True, "max_row_buffer": ROWS_PER_BATCH}
                with connection.exec_driver_sql(query, execution_options=options) as result:
                    if not result.returns_rows:
                        raise BadAudience(f"{self.name}: the query returns no rows")
                    layout = Layout.of(list(result.keys()), self.address_column, self.name)
                    first = 1
                    for rows in result.partitions(ROWS_PER_BATCH):
                        lines = range(first, first + len(rows))
                        yield Batch(layout=layout, lines=lines, rows=[tuple(row) for row in rows])
                        first += len(rows)
        except exc.SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0][:300]
            raise BadAudience(f"{self.name}: the query failed: {reason}") from None
        finally:
            engine.dispose()

    def _url(self) -> URL:
        try:
            url = make_url(self.url)
        except exc.ArgumentError:
            # SQLAlchemy's message quotes the URL, and with it the password.
            raise BadAudience("the URL of a SQL audience is no SQLAlchemy URL") from None
        if url.drivername in ("postgresql", "postgres"):
            return url.set(drivername="postgresql+psycopg")
        return url


def _shown(url: URL) -> str:
    where = url.host or url.query.get("host") or ""
    return f"{url.get_backend_name()} {where}/{url.database or ''}"


def _one_reading_statement(query: str, name: str) -> str:
    bare = _ASIDE.sub(" ", query).strip()
    if ";" in bare.rstrip("; \t\r\n"):
        raise BadAudience(f"{name}: an audience is one statement, and this is more")
    if not bare.lower().startswith(_READS):
        raise BadAudience(f"{name}: an audience is a query that reads (SELECT …, WITH …)")
    return query.strip().rstrip("; \t\r\n") if query.strip().endswith(";") else query


def _bind_down(connection: Connection, timeout_seconds: float) -> None:
    """Make the connection read-only and its statements end in time, as far as the dialect lets us."""
    milliseconds = max(int(timeout_seconds * 1000), 1)
    match connection.dialect.name:
        case "postgresql":
            connection.exec_driver_sql("SET TRANSACTION READ ONLY")
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {milliseconds}")
        case "mysql" | "mariadb":
            connection.exec_driver_sql("SET TRANSACTION READ ONLY")
            if not getattr(connection.dialect, "is_mariadb", False):
                connection.exec_driver_sql(f"SET SESSION max_execution_time = {milliseconds}")
            else:
                connection.exec_driver_sql(f"SET SESSION max_statement_time = {timeout_seconds}")
        case "sqlite":
            connection.exec_driver_sql("PRAGMA query_only = ON")
            deadline = time.monotonic() + timeout_seconds
            driver = connection.connection.driver_connection
            assert driver is not None
            driver.set_progress_handler(lambda: time.monotonic() > deadline, 100_000)
        case _:
            # Oracle, SQL Server and others: the account's own rights must keep the query from writing.
            pass
