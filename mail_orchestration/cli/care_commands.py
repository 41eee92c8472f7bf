"""What runs by the clock, by hand: `close-day`, `clean`."""

from __future__ import annotations

from mail_orchestration.cli.app import command
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face, table

PANEL = "Care"


@command("close-day", PANEL)
def close_day(face: Face) -> ExitCode | None:
    """Write the daily mail counts of every past day that is not closed yet. Repeated, it gives the same figures."""
    from mail_orchestration.kernel.clock import utc_now
    from mail_orchestration.maintenance import close_days

    with face.open() as inst:
        closed = close_days(inst, now=utc_now())
    rows = [(str(each.day), each.mails, each.contacts) for each in closed]
    face.answer(
        {"closed": closed},
        lambda console: console.print(
            table("day", "mails", "contacts", rows=rows) if rows else "Every past day is closed already."
        ),
    )
    return None


@command("clean", PANEL)
def clean(face: Face) -> ExitCode | None:
    """Clean the delivery queue: mark mail jobs whose dedup was cut off INTERRUPTED, and what else time brings."""
    import dataclasses

    from mail_orchestration.kernel.clock import utc_now
    from mail_orchestration.maintenance import clean_delivery_queue

    with face.open() as inst:
        summary = clean_delivery_queue(inst, now=utc_now())
    rows = [
        (name.replace("_", " "), ", ".join(map(str, value)) or "none" if isinstance(value, list) else value)
        for name, value in dataclasses.asdict(summary).items()
    ]
    face.answer(summary, lambda console: console.print(table("", "", rows=rows)))
    return None
