"""What became of it: `mail-jobs`, `report`, `message`."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mail_orchestration.cli.app import LARGEST_NUMBER, command
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face, escaped, shown, table
from mail_orchestration.kernel.errors import BadInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.tree import Tree

    from mail_orchestration.dispatch.mail_jobs import MailJob
    from mail_orchestration.feedback.reports import MailJobReport
    from mail_orchestration.installation import Installation

PANEL = "Mail jobs and mailcasters"
LARGEST_MESSAGE_NUMBER = 2**31 - 1

MailJobArgument = Annotated[int, typer.Argument(metavar="MAIL_JOB", min=1, max=LARGEST_NUMBER)]

HANDED_BACK = "handed back: it waits to be taken up"
STATE_STYLES = {
    "FINISHED": "green",
    "FAILED": "red",
    "STOPPED": "yellow",
    "INTERRUPTED": "yellow",
    "RUNNING": "cyan",
}


@command("mail-jobs", PANEL)
def mail_jobs_(
    face: Face,
    mail_job: Annotated[
        int | None,
        typer.Argument(metavar="MAIL_JOB", min=1, max=LARGEST_NUMBER, help="This one, as a tree."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many of the newest.")] = 20,
    state: Annotated[
        list[str] | None, typer.Option(help="Only those in this state; may be repeated.")
    ] = None,
) -> ExitCode | None:
    """List mail jobs, newest first, or show one with its children. Exit code 1 when that one has failed."""
    from mail_orchestration.dispatch.mail_jobs import mail_jobs
    from mail_orchestration.kernel.states import MailJobState

    if mail_job is not None:
        return _tree(face, mail_job)
    wanted = None
    if state:
        known = {each.value for each in MailJobState}
        if unknown := [each for each in state if each.upper() not in known]:
            raise BadInput(f"there is no state {unknown[0]} (there are: {', '.join(sorted(known))})")
        wanted = [MailJobState(each.upper()) for each in state]
    with face.open() as inst, inst.database.begin() as connection:
        found = mail_jobs(connection, inst.installation_id, limit=limit, states=wanted)
    face.answer({"mail_jobs": found}, lambda console: show_mail_jobs(console, found))
    return None


def _tree(face: Face, number: int) -> ExitCode | None:
    from mail_orchestration.kernel.states import MailJobState

    with face.open() as inst:
        found, offspring = read_tree(inst, number)

    def show(console: Console) -> None:
        from rich.tree import Tree

        tree: Tree = Tree(_line(found))
        for child in offspring:
            tree.add(_line(child))
        console.print(tree)

    face.answer({"mail_job": found, "children": offspring}, show)
    failed = found.state in (MailJobState.FAILED, MailJobState.P_FAILED, MailJobState.P_PARTIAL_FINISHED)
    return ExitCode.NOT_WELL if failed else None


def read_tree(inst: Installation, number: int) -> tuple[MailJob, list[MailJob]]:
    """A mail job of this installation and its children. Raises NotFound."""
    from mail_orchestration.dispatch.mail_jobs import children, mail_job

    with inst.database.begin() as connection:
        found = mail_job(connection, number)
        if found.installation_id != inst.installation_id:
            raise NotFound(f"there is no mail job {number}")
        return found, children(connection, number)


def _line(job: MailJob) -> str:
    parts = [f"[bold]{job.mail_job_id}[/]"]
    if job.campaign and job.parent_id is None:
        parts.append(job.campaign)
    parts.append(styled_state(job.state))
    if job.asked_state:
        parts.append(f"(to be {job.asked_state})")
    if job.first_message and job.last_message:
        parts.append(f"messages {job.first_message:,}–{job.last_message:,}")
    if job.is_handed_back:
        parts.append(f"({HANDED_BACK})")
    elif job.mailcaster:
        parts.append(f"by {job.mailcaster}")
    if job.recovers_id:
        parts.append(f"(recovers {job.recovers_id})")
    figures = ("accepted", "deferred", "rejected", "uncertain", "stopped")
    parts.append("– " + ", ".join(f"{getattr(job, name):,} {name}" for name in figures if getattr(job, name)))
    return " ".join(parts).removesuffix("– ") + (f" [yellow]{escaped(job.reason)}[/]" if job.reason else "")


def _why(job: MailJob) -> str:
    if job.asked_state:
        return f"to be {job.asked_state}"
    return HANDED_BACK if job.is_handed_back else job.reason


def styled_state(state: str) -> str:
    """A state's name with its colour, as rich markup."""
    style = next((style for word, style in STATE_STYLES.items() if word in state), "none")
    return f"[{style}]{state}[/]"


def show_mail_jobs(console: Console, found: Sequence[MailJob]) -> None:
    """A table of mail jobs."""
    from rich.text import Text

    rows = [
        (
            str(job.mail_job_id),
            job.campaign or "",
            Text.from_markup(styled_state(job.state)),
            job.priority,
            job.created_at,
            job.message_count,
            job.accepted,
            job.deferred,
            job.rejected,
            job.uncertain,
            _why(job),
        )
        for job in found
    ]
    heads = (
        "mail job",
        "campaign",
        "state",
        "priority",
        "released",
        "messages",
        "accepted",
        "deferred",
        "rejected",
        "uncertain",
        "reason",
    )
    console.print(table(*heads, rows=rows))


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
) -> ExitCode | None:
    """What became of a mail job: books, children, domains, replies, rates.

    Exit code 1 when the books do not balance.
    """
    from mail_orchestration.feedback.reports import mail_job_report

    with face.open() as inst:
        found, _ = read_tree(inst, mail_job)
        with inst.database.begin() as connection:
            made = mail_job_report(connection, found.release_id)
    written = [*_write_csv(made, csv), *_write_parquet(made, parquet)]
    document = {"report": made, "balances": made.books.balances, "written": written}

    def show(console: Console) -> None:
        show_report(console, made)
        for file in written:
            console.print(f"[green]written[/] {escaped(file)}")

    face.answer(document, show)
    return None if made.books.balances else ExitCode.NOT_WELL


def show_report(console: Console, made: MailJobReport) -> None:
    """Headline, books and every table that has rows; columns without any value are left out."""
    from dataclasses import fields

    from rich.text import Text

    rate = "" if made.messages_per_second is None else f", {made.messages_per_second:,.1f} results/s"
    console.print(f"[bold]{made.campaign}[/], mail job {made.release_id}: {styled_state(made.state)}{rate}")
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


@command("message", PANEL)
def message(
    face: Face,
    mail_job: MailJobArgument,
    who: Annotated[
        str,
        typer.Argument(metavar="ADDRESS|NUMBER", help="The recipient's address, or the message's number."),
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it to this file.")] = None,
) -> ExitCode | None:
    """The exact octets of the message that one recipient of a mail job gets, or got."""
    from mail_orchestration.kernel.clock import utc_now

    with face.open() as inst:
        stored, data = read_exact_message(inst, mail_job, who)
    if output is not None:
        output.write_bytes(data)
    if not face.as_json:
        if output is None:
            sys.stdout.buffer.write(data)
            sys.stdout.flush()
        else:
            face.console.print(f"[green]written[/] {escaped(output)}: {shown(len(data))} octets")
        return None
    document = {
        "mail_job_id": mail_job,
        "message_no": stored.message_no,
        "recipient_no": stored.recipient_no,
        "address": stored.address,
        "size": len(data),
        "read_at": utc_now(),
        "output": output,
        "data_base64": base64.b64encode(data).decode() if output is None else None,
    }
    face.answer(document, lambda console: None)
    return None


def read_exact_message(inst: Installation, mail_job: int, who: str) -> tuple[Any, bytes]:
    """A stored message by its number or its recipient's address, and its octets. Raises NotFound.

    `mail_job` may be a child: its messages are those of its release.
    """
    from mail_orchestration.composition.compression import Compressor
    from mail_orchestration.dispatch.message_store import read_message
    from mail_orchestration.kernel.addresses import normalise_address

    found, _ = read_tree(inst, mail_job)
    by: dict[str, Any]
    if who.isdecimal():
        if int(who) > LARGEST_MESSAGE_NUMBER:
            raise NotFound(f"mail job {mail_job} has no message of that number")
        by = {"message_no": int(who)}
    else:
        by = {"address": normalise_address(who)}
    with inst.database.begin() as connection:
        stored = read_message(connection, found.release_id, **by)
    return stored, Compressor(stored.dictionary or b"").decompress(stored.message)
