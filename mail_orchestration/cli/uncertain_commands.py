"""Mail of which nobody knows whether it arrived: `uncertain`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mail_orchestration.cli.app import command
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face, table
from mail_orchestration.cli.mail_job_commands import PANEL, MailJobArgument, read_tree
from mail_orchestration.kernel.errors import BadInput

if TYPE_CHECKING:
    from rich.console import Console

    from mail_orchestration.feedback.uncertain import UncertainMessage
    from mail_orchestration.installation import Installation
    from mail_orchestration.kernel.model import MessageRange


@command("uncertain", PANEL)
def uncertain(
    face: Face,
    mail_job: MailJobArgument,
    settle: Annotated[
        Literal["accepted", "rejected"] | None,
        typer.Option(help="You found out: the relay has them (accepted), or it has not (rejected)."),
    ] = None,
    resend: Annotated[
        bool, typer.Option("--resend", help="Send the very same once more: it may arrive twice.")
    ] = False,
    recipient: Annotated[
        list[int] | None,
        typer.Option(metavar="NUMBER", min=1, help="This recipient's only; may be repeated."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="List at most so many.")] = 1000,
) -> ExitCode | None:
    """List the uncertain messages of a mail job, settle what became of them, or let them be sent once more.

    Exit code 1 when a recipient that was named has none that can be settled.
    """
    from mail_orchestration.feedback.uncertain import resend_uncertain, settle_uncertain, uncertain_messages
    from mail_orchestration.kernel.attempts import Outcome
    from mail_orchestration.kernel.database_clock import database_now

    if recipient and settle is None and not resend:
        raise BadInput("--recipient goes with --settle or --resend")
    if settle is not None and resend:
        raise BadInput("--settle and --resend exclude each other")
    settled = resent = 0
    with face.open() as inst:
        messages = _messages_of(inst, mail_job)
        if messages is None:
            raise BadInput(f"mail job {mail_job} has no messages yet")
        with inst.database.begin() as connection:
            if settle is not None:
                settled = settle_uncertain(
                    connection,
                    messages,
                    Outcome.ACCEPTED if settle == "accepted" else Outcome.REJECTED,
                    now=database_now(connection),
                    recipient_nos=set(recipient) if recipient else None,
                )
            if resend:
                resent = resend_uncertain(
                    connection,
                    messages,
                    now=database_now(connection),
                    recipient_nos=set(recipient) if recipient else None,
                )
            left = uncertain_messages(connection, messages, most=limit)
    document = {
        "mail_job_id": mail_job,
        "settled": settled,
        "resent": resent,
        "uncertain": [_as_document(each) for each in left],
    }

    def show(console: Console) -> None:
        if settle is not None:
            console.print(f"[green]settled[/] {settled:,} as {settle}")
        if resend:
            console.print(f"[green]to be sent once more[/] {resent:,}, as loose mails")
        _show(console, left)

    face.answer(document, show)
    return ExitCode.NOT_WELL if recipient and settled + resent < len(set(recipient)) else None


def _messages_of(inst: Installation, number: int) -> MessageRange | None:
    from mail_orchestration.dispatch.releases import read_release
    from mail_orchestration.kernel.model import MessageRange

    found, _ = read_tree(inst, number)
    if found.first_message is None or found.last_message is None:
        return None
    with inst.database.begin() as connection:
        release = read_release(connection, inst.installation_id, found.release_id)
    return MessageRange(
        release_id=found.release_id,
        released_on=release.released_on,
        first_message=found.first_message,
        last_message=found.last_message,
    )


def _as_document(each: UncertainMessage) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(each) | {"waits_for_the_operator": each.waits_for_the_operator}


def _now(each: UncertainMessage) -> str:
    if each.loose_mail_state is not None:
        return f"loose mail, {each.loose_mail_state}"
    return "waits for you" if each.waits_for_the_operator else f"in mail job {each.mail_job_id}"


def _show(console: Console, left: list[UncertainMessage]) -> None:
    if not left:
        console.print("No message is uncertain.")
        return
    rows = [
        (
            str(each.recipient_no),
            each.address,
            each.occurred_at,
            each.relay,
            each.reply_text or "",
            str(each.result_no),
            _now(each),
        )
        for each in left
    ]
    console.print(table("recipient", "address", "when", "relay", "what happened", "tried", "now", rows=rows))
