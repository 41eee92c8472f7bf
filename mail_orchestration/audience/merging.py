"""A source's rows on their way into the database, chunk by chunk: what imports and lists of suppressions share."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

import psycopg
from sqlalchemy import Connection, TextClause

from mail_orchestration.audience.checking_ahead import checked_ahead
from mail_orchestration.audience.chunks import Chunk
from mail_orchestration.audience.contacts import lock_contacts
from mail_orchestration.audience.rows import Source
from mail_orchestration.kernel.statements import STATEMENTS


def staged_chunks(
    connection: Connection, installation_id: int, source: Source, *, address_only: bool = False
) -> Generator[Chunk, None, None]:
    """Read the source; each chunk lies in the table audience_staging while it is the present one.

    In the caller's transaction, to whose end no other import of the installation begins. Close it when it is left
    before its end. Raises BadAudience when the source cannot be read to its end.
    """
    begin_merging(connection, installation_id)
    with closing(checked_ahead(source, address_only=address_only)) as chunks:
        for chunk in chunks:
            if chunk.rows:
                fill_staging(connection, chunk)
            yield chunk


def begin_merging(connection: Connection, installation_id: int) -> None:
    """Wait for other imports of the installation to end, and make room for chunks, until this transaction ends."""
    lock_contacts(connection, installation_id)
    connection.execute(STATEMENTS["make_audience_staging"])


def fill_staging(connection: Connection, chunk: Chunk) -> None:
    """Put the chunk into audience_staging, in place of the last one."""
    connection.execute(STATEMENTS["empty_staging"])
    copy_lines(connection, STATEMENTS["copy_staging"], chunk.staging_lines())


def copy_lines(connection: Connection, statement: TextClause, lines: bytes) -> None:
    """COPY lines that are written already, in the connection's transaction."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    with driver.cursor() as cursor, cursor.copy(statement.text.encode()) as copy:
        copy.write(lines)
