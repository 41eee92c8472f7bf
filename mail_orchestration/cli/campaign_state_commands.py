"""Campaigns as the operator holds them: `campaign list`, `campaign pause`, `campaign resume`, `campaign delete`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mail_orchestration.cli.app import app, command
from mail_orchestration.cli.campaign_commands import PANEL
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face, table

if TYPE_CHECKING:
    from mail_orchestration.dispatch.campaigns import CampaignChange

campaigns = typer.Typer(help="Pause, resume and delete campaigns that were released.", no_args_is_help=True)
app.add_typer(campaigns, name="campaign", rich_help_panel=PANEL)

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The campaign's name, as its campaign.yaml says.")
]


@command("list", PANEL, into=campaigns)
def list_(face: Face) -> ExitCode | None:
    """The campaigns that were ever released, with their mail jobs that wait and that have begun."""
    from mail_orchestration.campaigns import list_campaigns

    with face.open() as inst:
        found = list_campaigns(inst)
    heads = ("campaign", "state", "last release", "waiting", "begun", "folder")
    rows = [
        (each.name, each.state.value, each.released_at, each.waiting, each.begun, each.folder)
        for each in found
    ]
    face.answer(
        {"campaigns": found},
        lambda console: console.print(table(*heads, rows=rows) if rows else "No campaign was released yet."),
    )
    return None


@command("pause", PANEL, into=campaigns)
def pause_(face: Face, name: NameArgument) -> ExitCode | None:
    """Hold a campaign: nothing more of it is begun. What mailcasters have in hand they finish.

    To stop that as well: mail-orchestration stop --campaign NAME.
    """
    from mail_orchestration.campaigns import pause

    with face.open() as inst:
        change = pause(inst, name)
    _tell(face, change, "in hand or begun, held after what is in hand")
    return None


@command("resume", PANEL, into=campaigns)
def resume_(face: Face, name: NameArgument) -> ExitCode | None:
    """Let a paused campaign go on, or bring back a deleted one that never was released."""
    from mail_orchestration.campaigns import resume

    with face.open() as inst:
        change = resume(inst, name)
    _tell(face, change, "going on")
    return None


@command("delete", PANEL, into=campaigns)
def delete_(face: Face, name: NameArgument) -> ExitCode | None:
    """Stop a campaign's mail jobs that wait, for good. Those that have begun go on; the folder is not touched.

    Releasing it again makes it live again.
    """
    from mail_orchestration.campaigns import delete

    with face.open() as inst:
        change = delete(inst, name, now=inst.now())
    _tell(face, change, f"going on; to stop them: mail-orchestration stop --campaign {name}")
    return None


def _tell(face: Face, change: CampaignChange, what_begun_does: str) -> None:
    def numbers(mail_jobs: tuple[int, ...]) -> str:
        return ", ".join(map(str, mail_jobs))

    lines = [f"campaign {change.name} is {change.entered}"]
    if change.left is change.entered:
        lines[0] += " already"
    if change.stopped:
        lines.append(f"STOPPED, as they waited: mail jobs {numbers(change.stopped)}")
    if change.begun:
        lines.append(f"{what_begun_does}: mail jobs {numbers(change.begun)}")
    face.answer(change, lambda console: console.print("\n".join(lines)))
