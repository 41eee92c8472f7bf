"""What PostgreSQL's planner knows of rows that were just written."""

from __future__ import annotations

from sqlalchemy import Connection

from mail_orchestration.kernel.statements import STATEMENTS


def analyze(connection: Connection, *tables: str) -> None:
    """Let the planner know at once what the caller's transaction, or one before it, has written to these tables.

    Names are the program's own. Autovacuum comes by later, and looks closer.
    """
    connection.execute(STATEMENTS["look_briefly"])
    connection.exec_driver_sql(f"ANALYZE {', '.join(tables)}")
