"""What runs by the clock, by hand: `close-day`, `clean`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mail_orchestration.cli.app import command
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

PANEL = "Care"


@command("close-day", PANEL)
def close_day(face: Face) -> ExitCode | None:
    """Write the daily mail counts of every past day that is not closed yet. Repeated, it gives the same figures."""
    from mail_orchestration.maintenance import close_days

    with face.open() as inst:
        closed = close_days(inst, now=inst.now())
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
    """Clean the delivery queue: mark what was cut off, take back what the dead had in hand, drop what is old."""
    from mail_orchestration.maintenance import clean_delivery_queue

    with face.open() as inst:
        summary = clean_delivery_queue(inst, now=inst.now())
    retained = summary.retained
    rows: list[tuple[str, object]] = [
        ("mail jobs INTERRUPTED", _numbers(summary.interrupted)),
        ("mail jobs STOPPED", _numbers(summary.stopped)),
        ("mail jobs let go of", _numbers(summary.let_go)),
        ("reservations taken back", summary.run_out),
        ("unused domains' limits forgotten", summary.domains),
        ("partitions dropped", len(retained.dropped)),
        ("octets in them", sum(each.octets for each in retained.dropped)),
        ("records deleted", retained.records),
    ]
    kept = [(str(each.day), each.number, each.reason) for each in retained.kept]

    def show(console: Console) -> None:
        console.print(table("", "", rows=rows))
        if kept:
            console.print("Past their retention, and needed still:")
            console.print(table("day", "number", "why", rows=kept))
        for name in retained.in_use:
            console.print(f"{name} is in use: the next clean-up drops it")

    face.answer(summary, show)
    return None


def _numbers(mail_jobs: Sequence[int]) -> str:
    return ", ".join(map(str, mail_jobs)) or "none"
