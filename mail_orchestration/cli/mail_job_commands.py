"""The mail jobs and where they stand: `mail-jobs`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mail_orchestration.cli.app import LARGEST_NUMBER, command
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face, escaped, table
from mail_orchestration.kernel.errors import BadInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.tree import Tree

    from mail_orchestration.dispatch.mail_jobs import MailJob
    from mail_orchestration.installation import Installation

PANEL = "Mail jobs and mailcasters"

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
