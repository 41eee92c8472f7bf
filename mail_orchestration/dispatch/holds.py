"""Holding all sending, and lifting the hold. Claims ask for it in their own transaction, deliveries every second.

A hold spends no attempt and changes no mail job: what was in hand is handed back, and taken up when it is lifted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row

from mail_orchestration.kernel.statements import STATEMENTS


class HoldCause(StrEnum):
    """Why nothing is sent."""

    OPERATOR = "operator"
    """The operator said so, for one installation."""
    NOTIFICATIONS = "notifications"
    """The operator switched notifications off, for one installation (spec 6.7)."""
    RESTORED = "restored"
    """The database is not the one that was known: it was restored or copied (spec 5.8). Holds all installations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """One hold that is, or was, in force."""

    cause: HoldCause
    reason: str
    held_at: datetime
    held_by: str


def is_held(connection: Connection, installation_id: int) -> bool:
    """True when nothing may be sent for an installation.

    Also when the database was restored and nobody has noticed yet: a claim asks this in its own transaction.
    """
    held: bool = connection.execute(
        STATEMENTS["is_sending_held"], {"installation_id": installation_id}
    ).scalar_one()
    return held


def holds(connection: Connection, installation_id: int) -> list[Hold]:
    """The holds that are in force for an installation, the oldest first."""
    rows = connection.execute(STATEMENTS["open_holds"], {"installation_id": installation_id})
    return [_hold(row) for row in rows]


def place_hold(
    connection: Connection,
    installation_id: int | None,
    cause: HoldCause,
    reason: str,
    *,
    by: str,
    now: datetime,
) -> bool:
    """Hold sending for an installation, or for all. False when it was held for this cause already."""
    placed = connection.execute(
        STATEMENTS["place_hold"],
        {"installation_id": installation_id, "cause": cause.value, "reason": reason, "by": by, "now": now},
    )
    return placed.one_or_none() is not None


def lift_hold(
    connection: Connection, installation_id: int, cause: HoldCause, *, by: str, now: datetime
) -> list[Hold]:
    """Lift the hold of this cause, and return what was lifted: nothing when there was none."""
    rows = connection.execute(
        STATEMENTS["lift_hold"],
        {"installation_id": installation_id, "cause": cause.value, "by": by, "now": now},
    )
    return [_hold(row) for row in rows]


def _hold(row: Row[Any]) -> Hold:
    return Hold(cause=HoldCause(row.cause), reason=row.reason, held_at=row.held_at, held_by=row.held_by)


def in_hand(connection: Connection, installation_id: int, *, alive_since: datetime) -> int:
    """How many mail jobs are still in the hands of mailcasters that gave a sign of life since then."""
    return int(
        connection.execute(
            STATEMENTS["count_in_hand"], {"installation_id": installation_id, "alive_since": alive_since}
        ).scalar_one()
    )
