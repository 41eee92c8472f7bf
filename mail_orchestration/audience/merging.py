"""A source's rows on their way into the database, chunk by chunk: what imports and lists of suppressions share."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import psycopg
from sqlalchemy import Connection, TextClause

from mail_orchestration.audience.rows import Source
from mail_orchestration.audience.staging import StagedBatch, stage
from mail_orchestration.kernel.statements import STATEMENTS


def staged_chunks(
    connection: Connection, installation_id: int, source: Source, *, address_only: bool = False
) -> Iterator[StagedBatch]:
    """Read the source; each chunk lies in the table audience_staging while it is the present one.

    In the caller's transaction, to whose end no other import of the installation begins. Raises BadAudience when the
    source cannot be read to its end.
    """
    begin_merging(connection, installation_id)
    for chunk in checked_ahead(source, address_only=address_only):
        if chunk.rows:
            fill_staging(connection, chunk)
        yield chunk


def begin_merging(connection: Connection, installation_id: int) -> None:
    """Wait for other imports of the installation to end, and make room for chunks, until this transaction ends."""
    connection.execute(STATEMENTS["lock_imports"], {"installation_id": installation_id})
    connection.execute(STATEMENTS["make_audience_staging"])


def fill_staging(connection: Connection, chunk: StagedBatch) -> None:
    """Put the chunk into audience_staging, in place of the last one."""
    connection.execute(STATEMENTS["empty_staging"])
    copy_lines(connection, STATEMENTS["copy_staging"], chunk.staging_lines())


def copy_lines(connection: Connection, statement: TextClause, lines: bytes) -> None:
    """COPY lines that are written already, in the connection's transaction."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    with driver.cursor() as cursor, cursor.copy(statement.text.encode()) as copy:
        copy.write(lines)


def checked_ahead(source: Source, *, address_only: bool = False) -> Iterator[StagedBatch]:
    """The source's rows, checked, one batch ahead in a thread of their own while the database merges the last one."""
    batches = source.batches()

    def following() -> StagedBatch | None:
        batch = next(batches, None)
        return None if batch is None else stage(batch, address_only=address_only)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="audience-source") as thread:
        ahead: Future[StagedBatch | None] = thread.submit(following)
        try:
            while (staged := ahead.result()) is not None:
                ahead = thread.submit(following)
                yield staged
                # Else two batches lie in memory here while the third is read.
                del staged
        finally:
            # In the thread that reads: some drivers' connections know only the thread that made them.
            thread.submit(getattr(batches, "close", lambda: None)).result()
