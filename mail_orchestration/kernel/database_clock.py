"""The database's clock: leases and what is compared with them are told by one clock, not by one for each host.

A host whose clock is an hour off would else take work from mailcasters that live, or lose its own to them.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection

from mail_orchestration.kernel.clock import steady_seconds
from mail_orchestration.kernel.statements import STATEMENTS


def database_now(connection: Connection) -> datetime:
    """The present moment as the database sees it, aware, in UTC."""
    now: datetime = connection.execute(STATEMENTS["read_clock"]).scalar_one()
    return now


class DatabaseClock:
    """The database's clock without asking it each time: carried on by this host's steady one."""

    def __init__(self, connection: Connection) -> None:
        """Set by the database. In this transaction and any later one the same moment is told as it passes."""
        self.set_by(connection)

    def set_by(self, connection: Connection) -> None:
        """Ask the database again: a host that slept, or whose clock runs slow, is right from here on."""
        self._told = database_now(connection)
        self._told_at = steady_seconds()

    def now(self) -> datetime:
        """The present moment, never ahead of the database's by more than the two clocks drift apart."""
        return self._told + timedelta(seconds=steady_seconds() - self._told_at)
