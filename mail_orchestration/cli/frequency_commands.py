"""How often anybody is written to: `frequency`, `frequency why|queue|rescan|empty|delete|recover|disable|preview`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mail_orchestration.cli.app import LARGEST_NUMBER, app, command, group
from mail_orchestration.cli.campaign_commands import CampaignArgument, campaign_folder
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face, escaped, shown
from mail_orchestration.cli.frequency_tables import (
    show_overview,
    show_queue,
    show_released,
    show_why,
    why_document,
)
from mail_orchestration.cli.launch_commands import kept_by_the_policy, show_choice
from mail_orchestration.cli.loose_mail_commands import LimitOption
from mail_orchestration.cli.release_commands import AsIfAgainOption, OccurrenceOption

if TYPE_CHECKING:
    from rich.console import Console

PANEL = "Frequency"

frequency = typer.Typer(help="How often anybody is written to, and what waits because of it.")
app.add_typer(frequency, name="frequency", rich_help_panel=PANEL)

CampaignOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="This campaign's only, by the name that its file says.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]


@group(frequency)
def overview_(face: Face) -> ExitCode | None:
    """How often anybody is written to, and what waits because of it.

    Without a command: the policy that holds, how many contacts are at its limits, and what waits.
    """
    from mail_orchestration.frequency.showing import overview

    with face.open() as inst:
        found = overview(inst)
    document = {
        "in_force": found.shown.in_force,
        "wished": found.shown.wished,
        "difference": found.shown.difference,
        "expires_first": found.shown.expires_first,
        "rules": [] if found.contacts is None else found.contacts.rules,
        "rules_counted_at": None if found.contacts is None else found.contacts.counted_at,
        "releases_since": 0 if found.contacts is None else found.contacts.releases_since,
        "waiting": found.shown.waiting,
        "held": found.held,
        "ended_in_a_week": found.ended,
        "days": found.days,
    }
    face.answer(document, lambda console: show_overview(console, found))
    return None


@command("why", PANEL, into=frequency)
def why_(
    face: Face, address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Of a contact.")]
) -> ExitCode | None:
    """Why mails for somebody are held, and until when: what counts for each rule, what waits, and what did."""
    from mail_orchestration.frequency.why import why

    with face.open() as inst:
        found = why(inst, address)
    face.answer(why_document(found), lambda console: show_why(console, found))
    return None


@command("queue", PANEL, into=frequency)
def queue_(
    face: Face,
    campaign: CampaignOption = None,
    address: Annotated[
        str | None, typer.Option("--address", "-a", help="For this contact's address only.")
    ] = None,
    limit: LimitOption = 50,
) -> ExitCode | None:
    """What waits in the frequency queue, the most important first, and when each may go."""
    from mail_orchestration.frequency.queue import counts
    from mail_orchestration.frequency.why import waiting_mails

    with face.open() as inst:
        counted = counts(inst)
        listed = waiting_mails(inst, campaign=campaign, address=address, limit=limit)
    is_all = campaign is None and address is None
    face.answer(
        {"counts": counted, "held_mails": listed},
        lambda console: show_queue(console, counted if is_all else [], listed, limit=limit),
    )
    return None


@command("rescan", PANEL, into=frequency)
def rescan_(
    face: Face,
    anew: Annotated[
        bool, typer.Option("--anew", help="Count everybody anew first, and correct what is wrong.")
    ] = False,
) -> ExitCode | None:
    """Bring the counters up to date, and send what they allow by now. The night and every release do it too."""
    from mail_orchestration.frequency.queue import rescan

    with face.open() as inst:
        done = rescan(inst, anew=anew)

    def show(console: Console) -> None:
        if (wrong := done.corrected) is not None:
            console.print(
                f"counted anew: the counters of {shown(wrong.counters)} contacts were wrong, "
                f"and the places of {shown(wrong.places)}"
            )
        for each in done.upkeep.closed:
            console.print(f"closed {each.day}: {shown(each.mails)} mails to {shown(each.contacts)} contacts")
        if done.upkeep.is_rules_changed:
            console.print("the policy of the settings holds from now on")
        if done.upkeep.given_back:
            console.print(f"{shown(done.upkeep.given_back)} mails that never arrived do not count any more")
        show_released(console, done.released)

    face.answer(done, show)
    return None


@command("empty", PANEL, into=frequency)
def empty_(face: Face, campaign: CampaignOption = None, yes: YesOption = False) -> ExitCode | None:
    """Delete all that waits, or a campaign's: it is not sent. Exit code 1 when you are asked and say no."""
    from mail_orchestration.frequency.queue import counts, empty
    from mail_orchestration.holding import operator

    with face.open() as inst:
        waiting = sum(each.mails for each in counts(inst) if campaign in (None, each.campaign))
        what = f"{shown(waiting)} held mails" + ("" if campaign is None else f" of campaign {campaign}")
        if waiting and not (yes or face.confirms(f"Delete {what}? They are not sent then.")):
            return ExitCode.NOT_WELL
        deleted = empty(inst, campaign=campaign, by=operator())

    def show(console: Console) -> None:
        if not deleted:
            console.print(f"Nothing waits{'' if campaign is None else f' of campaign {escaped(campaign)}'}.")
            return
        console.print(f"[green]deleted[/] {shown(deleted)} held mails")
        console.print("`mail-orchestration frequency recover --deleted` brings them back.")

    face.answer({"deleted": deleted}, show)
    return None


@command("delete", PANEL, into=frequency)
def delete_(
    face: Face,
    numbers: Annotated[
        list[int],
        typer.Argument(
            metavar="NUMBER...", min=1, max=LARGEST_NUMBER, help="Of held mails, as queue lists them."
        ),
    ],
) -> ExitCode | None:
    """Delete held mails: they are not sent. Nothing is deleted when one of the numbers is of no mail that waits."""
    from mail_orchestration.frequency.queue import delete
    from mail_orchestration.holding import operator

    with face.open() as inst:
        deleted = delete(inst, set(numbers), by=operator())
    face.answer(
        {"deleted": deleted},
        lambda console: console.print(f"[green]deleted[/] {shown(deleted)} held mails"),
    )
    return None


@command("recover", PANEL, into=frequency)
def recover_(
    face: Face,
    expired: Annotated[bool, typer.Option("--expired", help="Also what has expired.")] = False,
    deleted: Annotated[bool, typer.Option("--deleted", help="Also what was deleted.")] = False,
) -> ExitCode | None:
    """Bring held mails back into the queue whose mail job failed or was stopped before it was queued.

    Each waits with a new shelf life. What its contact got from another release since does not come back, nor what a
    later occurrence of its campaign has overtaken.
    """
    from mail_orchestration.frequency.queue import recover
    from mail_orchestration.holding import operator

    with face.open() as inst:
        done = recover(inst, expired=expired, deleted=deleted, by=operator())
    found = done.recovered

    def show(console: Console) -> None:
        if not (found.mails or found.sent_since or found.overtaken or found.too_late):
            console.print("There is nothing to recover.")
            return
        console.print(f"[green]recovered[/] {shown(found.mails)} held mails")
        if found.sent_since:
            console.print(
                f"{shown(found.sent_since)} do not come back: their contacts got the same since, or wait for it"
            )
        if found.overtaken:
            console.print(
                f"{shown(found.overtaken)} do not come back: another occurrence of their campaign waits, "
                "or was sent since"
            )
        if found.too_late:
            console.print(f"{shown(found.too_late)} do not come back: their campaign has expired")
        show_released(console, done.released)

    face.answer(done, show)
    return None


@command("disable", PANEL, into=frequency)
def disable_(face: Face, yes: YesOption = False) -> ExitCode | None:
    """Disable the policy, once the settings say so: all that waits is sent at once, and the history is dropped.

    Exit code 1 when you are asked and say no, 4 when no policy holds, or the settings enable it.
    """
    from mail_orchestration.frequency.disabling import disable_policy, what_disabling_does
    from mail_orchestration.holding import operator

    with face.open() as inst:
        found = what_disabling_does(inst)
        history = found.history
        known = (
            f" and how often anybody was written to since {history.first_day} is forgotten"
            f" ({shown(history.mails)} mails on {shown(history.days)} days)"
            if history.days
            else ""
        )
        question = (
            f"Disable the frequency policy? {shown(found.mails)} held mails are sent at once{known}. "
            "To keep them from being sent, empty the queue first: mail-orchestration frequency empty."
        )
        if not (yes or face.confirms(question)):
            return ExitCode.NOT_WELL
        done = disable_policy(inst, by=operator())

    def show(console: Console) -> None:
        console.print("[green]disabled[/] no frequency policy holds any more")
        show_released(console, done.released)

    face.answer(done, show)
    return None


@command("preview", PANEL, into=frequency)
def preview_(
    face: Face,
    campaign: CampaignArgument,
    occurrence: OccurrenceOption = "",
    again: AsIfAgainOption = False,
) -> ExitCode | None:
    """How many of a campaign's recipients would be held now, by rule. Nothing is composed, held or sent.

    Exit code 1 when nobody would get it at once.
    """
    from mail_orchestration.broadcast import dry_run
    from mail_orchestration.frequency.showing import policy_shown

    with face.open() as inst:
        folder = campaign_folder(inst.settings, campaign)
        found = dry_run(inst, folder, now=inst.now(), occurrence=occurrence, again=again, assemble=False)
        with inst.database.begin() as connection:
            policy = policy_shown(connection, inst)
    document = {
        "mail_job_id": found.mail_job_id,
        "campaign": found.campaign,
        "recipients": found.books.recipients,
        "bypassed": found.books.bypassed,
        **kept_by_the_policy(found.books),
        "would_be_sent": found.messages,
        "policy_holds": policy.in_force is not None,
    }

    def show(console: Console) -> None:
        console.print(f"[bold]{escaped(found.campaign)}[/], released now: nothing was held or sent")
        show_choice(console, found)
        if policy.difference:
            console.print(policy.difference)
        elif policy.in_force is None:
            console.print("No frequency policy holds: nobody is held.")

    face.answer(document, show)
    return None if found.messages else ExitCode.NOT_WELL
