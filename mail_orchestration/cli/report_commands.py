"""What became of a mail job: `report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mail_orchestration.cli.app import command
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face, escaped, table
from mail_orchestration.cli.mail_job_commands import PANEL, MailJobArgument, read_tree, styled_state

if TYPE_CHECKING:
    from rich.console import Console

    from mail_orchestration.feedback.progress import Progress
    from mail_orchestration.feedback.reports import MailJobReport


@command("report", PANEL)
def report(
    face: Face,
    mail_job: MailJobArgument,
    csv: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the tables as CSV files there.")
    ] = None,
    parquet: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the tables as Parquet files there.")
    ] = None,
    recount: Annotated[
        bool, typer.Option("--recount", help="Count every row, whatever was counted before.")
    ] = False,
) -> ExitCode | None:
    """What became of a mail job: books, children, domains, replies, rates.

    That of a mail job at rest is counted once, and again when something has changed; of a large one under way you see
    how far it is, and the report that was counted last. Exit code 1 when the books do not balance.
    """
    from mail_orchestration.feedback.kept_reports import counted_report, current_report, report_at_once

    progress = None
    with face.open() as inst:
        found, _ = read_tree(inst, mail_job)
        with inst.database.begin() as connection:
            if recount:
                made: MailJobReport | None = counted_report(connection, found.release_id)
            elif csv or parquet:
                made = current_report(connection, found.release_id)
            else:
                at_once = report_at_once(connection, found.release_id)
                made, progress = at_once.report, at_once.progress
    written = [] if made is None else [*_write_csv(made, csv), *_write_parquet(made, parquet)]
    balances = None if made is None else made.books.balances
    document = {"report": made, "progress": progress, "balances": balances, "written": written}

    def show(console: Console) -> None:
        if progress is not None:
            show_progress(console, progress, has_report=made is not None)
        if made is not None:
            show_report(console, made)
        for file in written:
            console.print(f"[green]written[/] {escaped(file)}")

    face.answer(document, show)
    return ExitCode.NOT_WELL if balances is False else None


def show_progress(console: Console, progress: Progress, *, has_report: bool) -> None:
    """How far a mail job is, and what the report is of that follows, if one does."""
    from rich.text import Text

    console.print(
        f"[bold]{progress.campaign}[/], mail job {progress.release_id}: {styled_state(progress.state)}"
    )
    console.print(
        f"under way: as mailcasters have noted up to {progress.read_at:%Y-%m-%d %H:%M:%S}", highlight=False
    )
    if progress.reason:
        console.print(Text(progress.reason, style="yellow"))
    figures = ("accepted", "deferred", "rejected", "uncertain", "stopped")
    ends = " + ".join(f"{getattr(progress, name):,} {name}" for name in figures)
    console.print(
        Text(f"{progress.messages:,} messages = {ends} + {progress.left:,} waiting, being sent or expired")
    )
    heads = ("mail job", "state", "mailcaster", "first", "last", *figures)
    rows = [
        (
            str(line.mail_job_id),
            line.state.value,
            line.mailcaster or "",
            line.first_message,
            line.last_message,
            *(getattr(line, name) for name in figures),
        )
        for line in progress.mail_jobs
    ]
    if rows:
        console.print(table(*heads, rows=rows))
    count = f"`mail-orchestration report {progress.release_id} --recount` counts them now."
    console.print(
        Text(
            f"Below is the report as its rows were counted last. {count}"
            if has_report
            else f"Books, domains and replies are counted from its rows, which nobody has done yet. {count}",
            style="yellow",
        )
    )


def show_report(console: Console, made: MailJobReport) -> None:
    """Headline, books and every table that has rows; columns without any value are left out."""
    from dataclasses import fields

    from rich.text import Text

    rate = "" if made.messages_per_second is None else f", {made.messages_per_second:,.1f} results/s"
    console.print(f"[bold]{made.campaign}[/], mail job {made.release_id}: {styled_state(made.state)}{rate}")
    console.print(f"counted at {made.counted_at:%Y-%m-%d %H:%M:%S}", highlight=False)
    if made.held_from is not None:
        console.print(f"it sends what the frequency policy had held of mail job {made.held_from}")
    if made.reason:
        console.print(Text(made.reason, style="yellow"))
    console.print(Text(made.books.explanation))
    if made.hint:
        console.print(Text(made.hint, style="yellow"))
    for name, (kind, rows) in made.tables().items():
        if not rows or name == "timeline":
            continue
        columns = [
            each.name for each in fields(kind) if any(getattr(row, each.name) is not None for row in rows)
        ]
        heads = [column.replace("_", " ").replace(" per second", "/s") for column in columns]
        # Mail jobs are named by their number, which is no quantity.
        cells = [
            [
                str(getattr(row, column)) if column == "mail_job_id" else getattr(row, column)
                for column in columns
            ]
            for row in rows
        ]
        console.print(table(*heads, rows=cells, title=name.replace("_", " ").capitalize()))


def _write_csv(made: MailJobReport, folder: Path | None) -> list[Path]:
    from mail_orchestration.feedback.exports import to_csv

    written = []
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, frame in made.frames().items():
            written.append(folder / f"mail_job_{made.release_id}_{name}.csv")
            written[-1].write_text(to_csv(frame), encoding="utf-8", newline="")
    return written


def _write_parquet(made: MailJobReport, folder: Path | None) -> list[Path]:
    written = []
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, frame in made.frames().items():
            written.append(folder / f"mail_job_{made.release_id}_{name}.parquet")
            frame.to_parquet(written[-1], index=False)
    return written
