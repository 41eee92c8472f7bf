"""Many rows at once: what SQLAlchemy does row by row and the driver does faster, in the same transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import psycopg
from sqlalchemy import Connection, TextClause
from sqlalchemy.dialects import postgresql


def copy_rows(
    connection: Connection,
    statement: TextClause | str,
    rows: Iterable[Sequence[Any]],
    *,
    types: Sequence[str] | None = None,
) -> int:
    """Run `COPY … FROM STDIN` inside the connection's transaction and return the number of rows written.

    One of `rows` is held at a time. With `WITH (FORMAT binary)` in the statement `types` must name the
    columns' types, such as `("int8", "text")`, since binary COPY casts nothing.
    """
    if not connection.in_transaction():
        raise ValueError("this needs a transaction: use Database.begin()")
    command = statement if isinstance(statement, str) else statement.text
    with driver_of(connection).cursor() as cursor:
        with cursor.copy(command.encode()) as copy:
            if types is not None:
                copy.set_types(types)
            for row in rows:
                copy.write_row(row)
        return cursor.rowcount


def read_binary(
    connection: Connection, statement: TextClause, parameters: Mapping[str, Any]
) -> list[tuple[Any, ...]]:
    """All rows of a query, sent in binary form and as plain tuples: for many stored messages at once.

    Half the CPU time of SQLAlchemy's rows over hexadecimal text.
    """
    with driver_of(connection).cursor(binary=True) as cursor:
        return cursor.execute(_for_driver(statement), parameters).fetchall()


@lru_cache(maxsize=32)
def _for_driver(statement: TextClause) -> bytes:
    """A named statement in the driver's own style of binds."""
    return str(statement.compile(dialect=postgresql.psycopg.dialect())).encode()  # type: ignore[no-untyped-call]


def driver_of(connection: Connection) -> psycopg.Connection[Any]:
    """psycopg's own connection, in the same transaction."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver
