"""What is known of how often contacts were written to: how much there is, and that it is dropped (spec 8.4)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Connection

from mail_orchestration.kernel.statements import STATEMENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """How much the daily log of an installation tells."""

    days: int
    """Closed days on which mails were accepted."""
    first_day: date | None
    mails: int


def history(connection: Connection, installation_id: int) -> History:
    """How much there is."""
    found = connection.execute(STATEMENTS["read_history"], {"installation_id": installation_id}).one()
    return History(**found._mapping)


def drop_history(connection: Connection, installation_id: int, now: datetime) -> None:
    """Forget the policy that holds, its counters and places, and the daily log of all that was sent before `now`.

    Days stay closed, with nothing in them. The caller holds the lock of `kernel.frequency_lock`.
    """
    what = {"installation_id": installation_id, "now": now}
    connection.execute(STATEMENTS["drop_daily_log"], what)
    connection.execute(STATEMENTS["empty_closed_days"], what)
    connection.execute(STATEMENTS["drop_counters"], what)
    connection.execute(STATEMENTS["forget_places"], what)
    connection.execute(STATEMENTS["begin_daily_log_anew"], what)
    connection.execute(STATEMENTS["drop_frequency_policy"], what)
