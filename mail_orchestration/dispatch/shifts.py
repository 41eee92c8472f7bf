"""Who is at work: the last shift of each mailcaster, for displays. Nothing is decided by it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection

from mail_orchestration.kernel.statements import STATEMENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """One mailcaster at work, or its last time at work."""

    mailcaster: str
    host: str
    process_id: int
    started_at: datetime
    heartbeat_at: datetime
    ended_at: datetime | None = None
    mail_job_id: int | None = None
    """What it works on."""
    mail_jobs_done: int = 0
    messages_done: int = 0


def start_shift(
    connection: Connection,
    installation_id: int,
    mailcaster: str,
    *,
    host: str,
    process_id: int,
    now: datetime,
) -> Shift:
    """Note that a mailcaster came to work, in place of its last shift."""
    connection.execute(
        STATEMENTS["start_shift"],
        {
            "installation_id": installation_id,
            "mailcaster": mailcaster,
            "host": host,
            "process_id": process_id,
            "now": now,
        },
    )
    return Shift(mailcaster=mailcaster, host=host, process_id=process_id, started_at=now, heartbeat_at=now)


def note_shift(
    connection: Connection,
    installation_id: int,
    shift: Shift,
    *,
    mail_job_id: int | None,
    mail_jobs_done: int,
    messages_done: int,
    now: datetime,
    is_over: bool = False,
) -> Shift:
    """Note what a mailcaster is at and what it has done since the shift began; `is_over` ends the shift.

    Where another process works under the same name by now, its notes stay.
    """
    connection.execute(
        STATEMENTS["note_shift"],
        {
            "installation_id": installation_id,
            "mailcaster": shift.mailcaster,
            "host": shift.host,
            "process_id": shift.process_id,
            "started_at": shift.started_at,
            "mail_job_id": mail_job_id,
            "mail_jobs_done": mail_jobs_done,
            "messages_done": messages_done,
            "is_over": is_over,
            "now": now,
        },
    )
    return replace(
        shift,
        heartbeat_at=now,
        ended_at=now if is_over else None,
        mail_job_id=mail_job_id,
        mail_jobs_done=mail_jobs_done,
        messages_done=messages_done,
    )


def end_shift(
    connection: Connection,
    installation_id: int,
    shift: Shift,
    *,
    mail_jobs_done: int,
    messages_done: int,
    now: datetime,
) -> Shift:
    """Note that a mailcaster went, and what it had done."""
    return note_shift(
        connection,
        installation_id,
        shift,
        mail_job_id=None,
        mail_jobs_done=mail_jobs_done,
        messages_done=messages_done,
        now=now,
        is_over=True,
    )


def shifts(connection: Connection, installation_id: int) -> list[Shift]:
    """The last shift of each mailcaster, by name."""
    rows = connection.execute(STATEMENTS["list_shifts"], {"installation_id": installation_id})
    return [Shift(**row._mapping) for row in rows]
