"""Partitions of days, and how one is dropped while everybody works (spec 6.5).

`ensure_day_partitions` in the schema makes them. A partition is taken out of its table by DETACH … CONCURRENTLY, which
waits for the transactions that use the table and keeps nobody else waiting, and is dropped when nobody can see it any
more. A crash between the two, or a wait that is given up, leaves it pending or detached: the next look at the list
shows that, and dropping it goes on from there.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import date

import psycopg
from sqlalchemy import Connection, exc

from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.statements import STATEMENTS

PATIENCE_S = 5
"""How long one step waits for others. Longer than PostgreSQL's deadlock_timeout, after which autovacuum gives way."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DayPartition:
    """What one table holds of one day."""

    parent: str
    name: str
    day: date
    is_attached: bool
    """False for one that was taken out of its table and not dropped."""
    is_pending: bool
    """Taking it out of its table has begun and not ended."""
    octets: int


def ensure_day(connection: Connection, day: date) -> None:
    """Make the partitions of a day where they are missing, in the caller's transaction."""
    connection.execute(STATEMENTS["ensure_day"], {"day": day})


def partition_of(table: str, day: date) -> str:
    """The name of a day's partition, as `ensure_day_partitions` in the schema gives it."""
    return f"{table}_{day:%Y%m%d}"


def day_partitions(connection: Connection) -> list[DayPartition]:
    """All partitions of days, the oldest first; of a table the one that is pending before the others."""
    rows = connection.execute(STATEMENTS["list_day_partitions"])
    return [DayPartition(**row._mapping) for row in rows]


def drop_partition(connection: Connection, partition: DayPartition) -> bool:
    """Drop a partition with all that it holds. False when somebody uses its table for longer than PATIENCE_S.

    `connection` commits each statement by itself, and is the only one that drops partitions. No inserts may come for
    that day any more.
    """
    # Both names are of the catalogue, and of a form that needs no quotes.
    try:
        connection.exec_driver_sql(f"SET lock_timeout = '{PATIENCE_S}s'")
        if partition.is_attached:
            how = "FINALIZE" if partition.is_pending else "CONCURRENTLY"
            connection.exec_driver_sql(
                f"ALTER TABLE {partition.parent} DETACH PARTITION {partition.name} {how}"
            )
            crash_point("partition_detached")
        connection.exec_driver_sql(f"DROP TABLE {partition.name}")
        crash_point("partition_dropped")
    except exc.OperationalError as error:
        if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise
        _log.info("%s is in use: it is dropped by a later clean-up", partition.name)
        return False
    return True
