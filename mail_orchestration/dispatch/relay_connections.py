"""Who holds how many of a relay's connections: a lease, told by the database's clock. The arithmetic is egress'."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from mail_orchestration.kernel.statements import STATEMENTS

SILENT_FOR_S = 30.0
"""A process that was not heard of for so long has no connections any more: the kernel closes those of a dead one at
once, and one that lives tells every second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """One process, and its connections to one relay."""

    holder: str
    wanted: int
    held: int


def holders(connection: Connection, relay: str) -> list[Holder]:
    """Those who share a relay, without the silent. Under the lock of its row in `throttle`."""
    connection.execute(STATEMENTS["forget_silent_holders"], {"relay": relay, "silent_for_s": SILENT_FOR_S})
    rows = connection.execute(STATEMENTS["list_holders"], {"relay": relay})
    return [Holder(holder=row.holder, wanted=row.wanted, held=row.held) for row in rows]


def write_holder(connection: Connection, relay: str, holder: Holder) -> None:
    """Note under the same lock what it wants and may have open, and that it lives."""
    connection.execute(
        STATEMENTS["write_holder"],
        {"relay": relay, "holder": holder.holder, "wanted": holder.wanted, "held": holder.held},
    )


def forget_holder(connection: Connection, holder: str) -> None:
    """It has no connection open any more."""
    connection.execute(STATEMENTS["forget_holder"], {"holder": holder})
