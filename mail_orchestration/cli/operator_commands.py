"""The operator's hand on the queue: `stop`, `restart`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mail_orchestration.cli.app import LARGEST_NUMBER, command
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face, table
from mail_orchestration.cli.mail_job_commands import PANEL, styled_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mail_orchestration.dispatch.operating import Operated

MailJobOption = Annotated[int | None, typer.Argument(metavar="MAIL_JOB", min=1, max=LARGEST_NUMBER)]
CampaignOption = Annotated[str | None, typer.Option(metavar="NAME", help="All mail jobs of this campaign.")]
AllOption = Annotated[bool, typer.Option("--all", help="All mail jobs of the installation.")]
WaitOption = Annotated[
    float, typer.Option(min=0, metavar="SECONDS", help="Wait so long for mailcasters to let go.")
]


@command("stop", PANEL)
def stop_(
    face: Face,
    mail_job: MailJobOption = None,
    campaign: CampaignOption = None,
    everything: AllOption = False,
    wait: WaitOption = 5,
) -> ExitCode | None:
    """Stop a mail job, a campaign's, or all of them. Nothing is lost: `restart` lets them go on.

    Exit code 1 when a mailcaster has not let go by the end of the wait.
    """
    from mail_orchestration.control import Scope, stop, wait_until_stopped
    from mail_orchestration.kernel.states import MailJobState

    scope = Scope(mail_job=mail_job, campaign=campaign, everything=everything)
    with face.open() as inst:
        done = stop(inst, scope)
        if wait:
            done = wait_until_stopped(inst, done, timeout_s=wait)
    _tell(face, done, "Nothing is there to be stopped.")
    is_late = wait > 0 and any(each.entered is MailJobState.STOPPING for each in done)
    return ExitCode.NOT_WELL if is_late else None


@command("restart", PANEL)
def restart_(
    face: Face,
    mail_job: MailJobOption = None,
    campaign: CampaignOption = None,
    everything: AllOption = False,
    wait: WaitOption = 5,
) -> ExitCode | None:
    """Let stopped mail jobs go on: one, a campaign's, or all. One that is named also where it has failed.

    Exit code 1 when one is too old and has failed for good, 4 when the one that is named cannot go on.
    """
    from mail_orchestration.control import Scope, restart, wait_until_stopped
    from mail_orchestration.kernel.states import MailJobState

    scope = Scope(mail_job=mail_job, campaign=campaign, everything=everything)
    with face.open() as inst:
        done = restart(inst, scope)
        if wait:
            done = wait_until_stopped(inst, done, timeout_s=wait)
    _tell(face, done, "Nothing is stopped.")
    if any(each.is_changed and each.entered is MailJobState.FAILED for each in done):
        return ExitCode.NOT_WELL
    stays = mail_job is not None and not any(each.is_changed for each in done)
    is_over = {MailJobState.STOPPED_R, *(state for state in MailJobState if state.is_ended)}
    return ExitCode.CONFLICT if stays and done[0].entered in is_over else None


def _tell(face: Face, done: Sequence[Operated], nothing: str) -> None:
    from rich.text import Text

    rows = [
        (
            str(each.mail_job_id),
            str(each.parent_id or ""),
            Text.from_markup(styled_state(each.left)),
            Text.from_markup(styled_state(each.entered)) if each.is_changed else "",
            each.note,
        )
        for each in done
    ]
    heads = ("mail job", "child of", "was", "is", "note")
    face.answer(
        {"mail_jobs": done}, lambda console: console.print(table(*heads, rows=rows) if rows else nothing)
    )
