"""What is sent one by one: `loose-mails`, `dead-letters`, `delivery-log`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mail_orchestration.cli.app import LARGEST_NUMBER, command
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face, shown, table
from mail_orchestration.kernel.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from rich.console import Console, RenderableType

    from mail_orchestration.dispatch.loose_mail_lists import LoggedMail, LooseMailCount, LooseMailListed

PANEL = "Loose mails"

State = Literal["SCHEDULED", "QUEUED", "SENDING", "FAILED", "PAUSED", "STOPPED"]
Kind = Literal["single", "burst", "retry"]
EndedAs = Literal["accepted", "deferred", "rejected", "uncertain", "stopped", "expired"]

KindOption = Annotated[Kind | None, typer.Option(help="Those of this kind only.")]
CampaignOption = Annotated[str | None, typer.Option(metavar="NAME", help="Those of this campaign only.")]
LimitOption = Annotated[int, typer.Option(min=1, max=100_000, help="List at most so many.")]


@command("loose-mails", PANEL)
def loose_mails(
    face: Face,
    state: Annotated[State | None, typer.Option(help="Those in this state only.")] = None,
    kind: KindOption = None,
    campaign: CampaignOption = None,
    mail_job: Annotated[
        int | None,
        typer.Option(min=1, max=LARGEST_NUMBER, metavar="NUMBER", help="Retries of this mail job only."),
    ] = None,
    limit: LimitOption = 100,
) -> ExitCode | None:
    """List what waits to be sent one by one: retries, single mails and bursts, in the order in which they go."""
    from mail_orchestration.dispatch.loose_mail_lists import count_loose_mails, list_loose_mails
    from mail_orchestration.kernel.loose_mail_states import LooseMailKind, LooseMailState

    with face.open() as inst, inst.database.begin() as connection:
        counts = count_loose_mails(connection, inst.installation_id)
        listed = list_loose_mails(
            connection,
            inst.installation_id,
            states=None if state is None else [LooseMailState(state)],
            kind=None if kind is None else LooseMailKind(kind),
            campaign=campaign,
            mail_job_id=mail_job,
            most=limit,
        )

    def show(console: Console) -> None:
        if not counts:
            console.print("No loose mail waits.")
            return
        console.print(counts_table("kind", counts))
        _show(console, listed)

    face.answer({"counts": counts, "loose_mails": listed}, show)
    return None


@command("dead-letters", PANEL)
def dead_letters(
    face: Face,
    numbers: Annotated[
        list[int] | None,
        typer.Argument(metavar="[NUMBER]…", help="Numbers of loose mails, as they are listed."),
    ] = None,
    resubmit: Annotated[
        bool, typer.Option("--resubmit", help="Send them at once; their attempts begin anew.")
    ] = False,
    delete: Annotated[
        bool, typer.Option("--delete", help="Give them up; the delivery log keeps what became of them.")
    ] = False,
    campaign: CampaignOption = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    limit: LimitOption = 100,
) -> ExitCode | None:
    """List the loose mails that nobody will try again unasked, resubmit or delete them.

    Those are FAILED, after the most attempts or since they cannot be composed, or STOPPED with a deleted campaign.
    Exit code 1 when a number that was given is none of theirs, or repeats another mail or a later release.
    """
    from mail_orchestration.dispatch.dead_letters import Chosen, delete_loose_mails, resubmit_loose_mails
    from mail_orchestration.dispatch.loose_mail_lists import list_loose_mails
    from mail_orchestration.holding import operator
    from mail_orchestration.kernel.database_clock import database_now
    from mail_orchestration.kernel.loose_mail_states import AT_REST

    if resubmit and delete:
        raise BadInput("--resubmit and --delete exclude each other")
    is_chosen = [bool(numbers), campaign is not None, everything].count(True)
    if (resubmit or delete) and is_chosen != 1:
        raise BadInput("say which ones: their numbers, --campaign NAME, or --all, one of them")
    chosen = Chosen(loose_mail_ids=set(numbers) if numbers else None, campaign=campaign)
    done: list[int] = []
    repeats: dict[int, datetime] = {}
    with face.open() as inst, inst.database.begin() as connection:
        now = database_now(connection)
        if resubmit:
            resubmitted = resubmit_loose_mails(
                connection,
                inst.installation_id,
                chosen,
                history=inst.settings.retention.history,
                now=now,
            )
            done, repeats = resubmitted.numbers, resubmitted.repeats
        if delete:
            done = delete_loose_mails(connection, inst.installation_id, chosen, by=operator(), now=now)
        left = list_loose_mails(
            connection, inst.installation_id, states=AT_REST, campaign=campaign, most=limit
        )
    is_asked = resubmit or delete
    missed = sorted(set(numbers or ()) - set(done) - set(repeats)) if is_asked else []
    document = {
        "resubmitted": done if resubmit else [],
        "deleted": done if delete else [],
        "repeats": sorted(repeats),
        "not_found": missed,
        "dead_letters": left,
    }

    def show(console: Console) -> None:
        if is_asked:
            console.print(f"[green]{'resubmitted' if resubmit else 'deleted'}[/] {len(done):,}")
        if repeats:
            said_anew = ", ".join(map(str, repeats))
            console.print(
                f"[yellow]left, the same was queued by another mail or a later release[/] {said_anew}"
            )
        if missed:
            console.print(f"[yellow]no dead letter[/] {', '.join(map(str, missed))}")
        if left:
            _show(console, left)
        else:
            console.print("There is no dead letter.")

    face.answer(document, show)
    return ExitCode.NOT_WELL if missed or (numbers and repeats) else None


@command("delivery-log", PANEL)
def delivery_log(
    face: Face,
    outcome: Annotated[EndedAs | None, typer.Option(help="Those that ended so only.")] = None,
    kind: KindOption = None,
    campaign: CampaignOption = None,
    address: Annotated[str | None, typer.Option(help="Those to this address only.")] = None,
    limit: LimitOption = 100,
) -> ExitCode | None:
    """List what became of loose mails, newest first."""
    from mail_orchestration.dispatch.loose_mail_lists import delivery_log as read_log
    from mail_orchestration.kernel.attempts import Outcome
    from mail_orchestration.kernel.loose_mail_states import LooseMailKind

    with face.open() as inst, inst.database.begin() as connection:
        logged = read_log(
            connection,
            inst.installation_id,
            outcomes=None if outcome is None else [Outcome(outcome)],
            kind=None if kind is None else LooseMailKind(kind),
            campaign=campaign,
            address=address,
            most=limit,
        )

    def show(console: Console) -> None:
        if not logged:
            console.print("The delivery log has no such mail.")
            return
        heads = ("number", "kind", "campaign", "address", "ended", "tries", "outcome", "what was said")
        console.print(table(*heads, rows=[_logged_row(each) for each in logged]))

    face.answer({"delivery_log": logged}, show)
    return None


def counts_table(head: str, counts: Sequence[LooseMailCount]) -> RenderableType:
    """How many loose mails stand where; "first due" of those that wait for their turn."""
    rows = [
        (
            each.kind,
            each.state,
            f"more than {shown(each.mails)}" if each.has_more else each.mails,
            each.first_due_at,
        )
        for each in counts
    ]
    return table(head, "state", "mails", "first due", rows=rows)


def _show(console: Console, mails: Sequence[LooseMailListed]) -> None:
    heads = ("number", "kind", "state", "campaign", "address", "due", "tries", "what was said")
    rows = [
        (
            str(each.loose_mail_id),
            each.kind,
            each.state,
            each.campaign,
            each.address,
            each.goes_at,
            str(each.attempts),
            said(each.reply_code, each.enhanced_code, each.reply_text, each.description),
        )
        for each in mails
    ]
    console.print(table(*heads, rows=rows))


def _logged_row(each: LoggedMail) -> tuple[object, ...]:
    note = each.description if each.deleted_by is None else f"deleted by {each.deleted_by}"
    return (
        str(each.loose_mail_id),
        each.kind,
        each.campaign,
        each.address,
        each.ended_at,
        str(each.attempts),
        each.outcome,
        said(each.reply_code, each.enhanced_code, each.reply_text, note),
    )


def said(code: int | None, enhanced: str | None, text: str | None, note: str | None) -> str:
    """Why a mail is where it is, and what the relay said at its last attempt."""
    reply = " ".join(str(part) for part in (code, enhanced, text) if part)
    return "; ".join(part for part in (note, reply) if part)
