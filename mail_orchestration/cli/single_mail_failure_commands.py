"""Single mails that failed or were stopped: `single-mail failures|resubmit|delete`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mail_orchestration.cli.app import LARGEST_NUMBER, command
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face, table
from mail_orchestration.cli.loose_mail_commands import said
from mail_orchestration.cli.single_mail_commands import PANEL, CampaignOption, single_mails
from mail_orchestration.kernel.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from mail_orchestration.dispatch.dead_letters import Chosen

NumbersArgument = Annotated[
    list[int] | None, typer.Argument(metavar="[NUMBER...]", min=1, max=LARGEST_NUMBER, help="These.")
]
CodeOption = Annotated[str | None, typer.Option(help="Those that failed for this, as failures shows it.")]
AllOption = Annotated[bool, typer.Option("--all", help="All that failed or were stopped.")]


@command("failures", PANEL, into=single_mails)
def failures_(face: Face, campaign: CampaignOption = None) -> ExitCode | None:
    """Single mails that failed, by campaign and code. Exit code 1 when there are any."""
    from mail_orchestration.single_mailer import failures

    with face.open() as inst:
        groups = failures(inst, campaign=campaign)
    rows = [
        (
            each.campaign,
            each.code or "",
            each.code.label if each.code else "",
            each.mails,
            each.last_submitted_at,
            said(each.reply_code, each.enhanced_code, each.reply_text, each.description),
        )
        for each in groups
    ]
    heads = ("campaign", "code", "", "mails", "last submitted", "for example")
    face.answer(
        {"failures": groups},
        lambda console: console.print(table(*heads, rows=rows) if rows else "No single mail has failed."),
    )
    return ExitCode.NOT_WELL if groups else None


@command("resubmit", PANEL, into=single_mails)
def resubmit_(
    face: Face,
    numbers: NumbersArgument = None,
    campaign: CampaignOption = None,
    code: CodeOption = None,
    everything: AllOption = False,
    as_frozen: Annotated[
        bool,
        typer.Option("--as-frozen", help="What was never composed says what it said when it was submitted."),
    ] = False,
) -> ExitCode | None:
    """Send single mails that failed or were stopped after all. Exit code 1 when one that was named is not there.

    What was composed goes as it is; what never was says what its campaign says now.
    """
    from mail_orchestration.kernel.loose_mail_states import LooseMailState
    from mail_orchestration.single_mailer import resubmit
    from mail_orchestration.single_mailer.failures import why_left
    from mail_orchestration.single_mailer.showing import single_mails as single_mails_of

    chosen = _chosen(numbers, campaign, code, everything)
    with face.open() as inst:
        done = resubmit(inst, chosen, as_frozen=as_frozen)
        left = why_left(inst, chosen, done.numbers, done.repeats)
        is_unsaid = not (done.numbers or numbers) and code is None
        stopped = is_unsaid and single_mails_of(
            inst, states=[LooseMailState.STOPPED], campaign=campaign, most=1
        )

    def tell(console: Console) -> None:
        console.print(_so_many(done.numbers, "resubmitted"))
        if stopped:
            console.print("Those of a deleted campaign stay STOPPED until it is back.")
        _tell_of_those_left(console, left)

    face.answer({"resubmitted": done.numbers}, tell)
    return ExitCode.NOT_WELL if left else None


@command("delete", PANEL, into=single_mails)
def delete_(
    face: Face,
    numbers: NumbersArgument = None,
    campaign: CampaignOption = None,
    code: CodeOption = None,
    everything: AllOption = False,
) -> ExitCode | None:
    """Give single mails up that failed or were stopped. The delivery log keeps them, and who deleted them.

    Exit code 1 when one that was named is not there.
    """
    from mail_orchestration.holding import operator
    from mail_orchestration.single_mailer import delete
    from mail_orchestration.single_mailer.failures import why_left

    chosen = _chosen(numbers, campaign, code, everything)
    with face.open() as inst:
        done = delete(inst, chosen, by=operator())
        left = why_left(inst, chosen, done)

    def tell(console: Console) -> None:
        console.print(_so_many(done, "deleted"))
        _tell_of_those_left(console, left)

    face.answer({"deleted": done}, tell)
    return ExitCode.NOT_WELL if left else None


def _chosen(numbers: list[int] | None, campaign: str | None, code: str | None, everything: bool) -> Chosen:
    from mail_orchestration.dispatch.dead_letters import Chosen
    from mail_orchestration.kernel.failure_codes import FailureCode

    known = {each.value for each in FailureCode}
    if code is not None and code not in known:
        raise BadInput(f"there is no code {code} (there are: {', '.join(sorted(known))})")
    if not (numbers or campaign or code or everything):
        raise BadInput("say which: numbers, --campaign, --code, or --all")
    return Chosen(
        loose_mail_ids=numbers or None, campaign=campaign, code=None if code is None else FailureCode(code)
    )


def _so_many(done: list[int], what: str) -> str:
    return f"1 single mail is {what}" if len(done) == 1 else f"{len(done):,} single mails are {what}"


def _tell_of_those_left(console: Console, left: Mapping[int, str]) -> None:
    for number, why in left.items():
        console.print(f"{number} is left as it is: {why}")
