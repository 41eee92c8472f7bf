"""From a campaign to a mail job in the queue: `release`, `release-again`, `assemble`, `queue`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mail_orchestration.cli.app import LARGEST_NUMBER, command
from mail_orchestration.cli.campaign_commands import PANEL, CampaignArgument, campaign_folder
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face, escaped, shown, table
from mail_orchestration.kernel.errors import BadInput

if TYPE_CHECKING:
    from rich.console import Console

    from mail_orchestration.broadcast import AssemblySummary
    from mail_orchestration.dispatch.releases import Release
    from mail_orchestration.installation import Installation

MailJobArgument = Annotated[
    int, typer.Argument(metavar="MAIL_JOB", min=1, max=LARGEST_NUMBER, help="The number that release gave.")
]

OccurrenceOption = Annotated[
    str, typer.Option(help="What it is for, such as a day: for each, the same content goes out once.")
]
AsIfAgainOption = Annotated[
    bool, typer.Option("--again", help="As if also to those who were queued the same content lately.")
]


@command("release", PANEL)
def release(
    face: Face,
    campaign: CampaignArgument,
    now: Annotated[
        bool, typer.Option("--now", help="Assemble and queue it here, without waiting for Dagster's sensors.")
    ] = False,
    key: Annotated[
        str | None, typer.Option(help="Whoever releases twice under one key gets the same mail job.")
    ] = None,
    priority: Annotated[
        int | None, typer.Option(min=-1000, max=1000, help="Instead of the campaign's own.")
    ] = None,
    occurrence: OccurrenceOption = "",
    again: Annotated[
        bool, typer.Option("--again", help="Send it also to those who were queued the same content lately.")
    ] = False,
) -> ExitCode | None:
    """Freeze a campaign as it is now and make a mail job of it."""
    from mail_orchestration.broadcast import release_campaign

    if key is not None and not key.strip():
        # Such as of an empty variable in a script: every later release would be the same mail job.
        raise BadInput("--key is empty")
    with face.open() as inst:
        made = release_campaign(
            inst,
            campaign_folder(inst.settings, campaign),
            now=inst.now(),
            request_key=key,
            priority=priority,
            occurrence=occurrence,
            again=again,
        )
        done = _assemble_and_queue(face, inst, made.release_id) if now else {}
        reached = _read(inst, made.release_id)
    document = {
        "mail_job_id": made.release_id,
        "campaign": made.campaign,
        "state": reached.state,
        "reason": reached.reason,
        "occurrence": made.occurrence,
        "again": made.again,
        **done,
    }

    def show(console: Console) -> None:
        console.print(f"[bold]mail job {made.release_id}[/] of campaign {made.campaign}: {reached.state}")
        _show_assembly(console, done, reached.reason)
        if not now:
            console.print(
                "Dagster's sensors carry it on; without them: mail-orchestration assemble, then queue"
            )

    face.answer(document, show)
    return None


@command("release-again", PANEL)
def release_again_(face: Face, mail_job: MailJobArgument) -> ExitCode | None:
    """Take an INTERRUPTED mail job up again."""
    from mail_orchestration.broadcast import release_again

    with face.open() as inst:
        made = release_again(inst, mail_job, now=inst.now())
    document = {"mail_job_id": mail_job, "campaign": made.campaign, "state": made.state}
    face.answer(document, lambda console: console.print(f"mail job {mail_job} is {made.state} again"))
    return None


@command("assemble", PANEL)
def assemble(face: Face, mail_job: MailJobArgument) -> ExitCode | None:
    """Dedup, verify and filter a release's recipients, and compose all their messages.

    Cut off, it goes on where it was.
    """
    with face.open() as inst:
        done = _assemble(face, inst, mail_job)
        reached = _read(inst, mail_job)
    document = {"mail_job_id": mail_job, "state": reached.state, "reason": reached.reason, **done}
    face.answer(document, lambda console: _show_assembly(console, done, reached.reason))
    return None


@command("queue", PANEL)
def queue(face: Face, mail_job: MailJobArgument) -> ExitCode | None:
    """Put an assembled mail job into the global queue, where mailcasters take it."""
    from mail_orchestration.broadcast import queue_release

    with face.open() as inst:
        state = queue_release(inst, mail_job)
    document = {"mail_job_id": mail_job, "state": state}
    face.answer(document, lambda console: console.print(f"mail job {mail_job} is {state}"))
    return None


def _assemble(face: Face, inst: Installation, mail_job: int) -> dict[str, Any]:
    from mail_orchestration.broadcast import assemble_release, resolve_release

    resolved = resolve_release(inst, mail_job, now=inst.now())
    if not resolved.to_assemble:
        return {"resolved": resolved, "assembled": None}
    with face.progress("assembling", total=resolved.recipients) as progress:
        assembled = assemble_release(inst, mail_job, now=inst.now(), progress=progress)
    return {"resolved": resolved, "assembled": assembled}


def _assemble_and_queue(face: Face, inst: Installation, mail_job: int) -> dict[str, Any]:
    from mail_orchestration.broadcast import queue_release

    done = _assemble(face, inst, mail_job)
    queue_release(inst, mail_job)
    return done


def _read(inst: Installation, mail_job: int) -> Release:
    from mail_orchestration.broadcast import release as read

    return read(inst, mail_job)


def _show_assembly(console: Console, done: dict[str, Any], reason: str) -> None:
    if not done:
        return
    resolved = done["resolved"]
    assembled: AssemblySummary | None = done["assembled"]
    rows = [
        ("audience rows", resolved.audience_rows),
        ("duplicates", resolved.duplicates),
        ("recipients", resolved.recipients),
    ]
    rows += [(_why_not(reason), count) for reason, count in sorted(resolved.bypassed.items())]
    if assembled is not None:
        rows += [(f"bypassed: {reason}", count) for reason, count in sorted(assembled.bypassed.items())]
        rows.append(("assembled messages", assembled.messages))
    console.print(table("", "", rows=rows))
    duplicates = resolved.bypassed.get("duplicate")
    if duplicates and duplicates == resolved.recipients:
        console.print(f"Nothing is sent: all {shown(duplicates)} were queued the same content lately.")
    if reason:
        console.print(escaped(reason))
    elif duplicates:
        console.print(
            f"{shown(duplicates)} were queued the same content lately and do not get it twice; "
            "`release --again` would send it to them too"
        )
    if assembled is not None and assembled.already_done:
        console.print("It had been assembled before; nothing was done twice.")
    elif assembled is not None and assembled.messages:
        per_message = assembled.stored_bytes / assembled.messages
        console.print(
            f"{assembled.messages / max(assembled.seconds, 1e-6):,.0f} messages/s; "
            f"{shown(assembled.composed_bytes)} octets composed, {shown(assembled.stored_bytes)} stored "
            f"({per_message:,.0f} a message)"
        )


def _why_not(reason: str) -> str:
    """Why somebody is not written to now: the frequency policy's reasons are no bypasses in the books."""
    kept = {"held", "discarded", "expired"}
    return f"{reason} by the frequency policy" if reason in kept else f"bypassed: {reason}"
