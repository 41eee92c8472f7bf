"""Holding all sending, and going on: `hold`, `resume`, `notifications`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mail_orchestration.cli.app import command
from mail_orchestration.cli.care_commands import PANEL
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face, escaped
from mail_orchestration.cli.status_commands import show_holds

if TYPE_CHECKING:
    from rich.console import Console

    from mail_orchestration.holding import Resumed


@command("hold", PANEL)
def hold_(
    face: Face,
    reason: Annotated[str, typer.Option(help="Why, for whoever looks at status.")] = "held by the operator",
    wait: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Wait until nothing is in hand, for so long.")
    ] = 0,
) -> ExitCode | None:
    """Hold all sending of the installation until `resume`. Nothing is lost, and no attempt is spent.

    Mailcasters finish the messages in flight and hand the rest back, within seconds. Exit code 1 when something is
    still in hand after `--wait`.
    """
    from mail_orchestration.holding import hold

    with face.open() as inst:
        held = hold(inst, reason, wait_s=wait)

    def show(console: Console) -> None:
        show_holds(console, held.holds)
        console.print(f"in hand: {held.in_hand} mail jobs")

    face.answer(held, show)
    return ExitCode.NOT_WELL if wait and held.in_hand else None


@command("resume", PANEL)
def resume_(
    face: Face,
    after_restore: Annotated[
        bool,
        typer.Option("--after-restore", help="Confirm that this restored or copied database is to go on."),
    ] = False,
) -> ExitCode | None:
    """Go on sending after `hold`; with --after-restore, after the database was restored or copied.

    Without it a restored database is refused with exit code 4, and with what would be sent again. Exit code 1 when
    sending is held all the same, for another cause.
    """
    from mail_orchestration.holding import resume

    with face.open() as inst:
        resumed = resume(inst, after_restore=after_restore)
    return _tell_resumed(face, resumed)


@command("notifications", PANEL)
def notifications(
    face: Face,
    to: Annotated[
        Literal["on", "off"],
        typer.Argument(metavar="on|off", help="Whether anything is sent.", show_default=False),
    ],
    reason: Annotated[
        str, typer.Option(help="Why they are off, for whoever looks at status.")
    ] = "notifications are off",
) -> ExitCode | None:
    """Switch all mail of the installation off or on: mail jobs, retries and single mails. No attempt is spent.

    As `hold` and `resume`, beside which it stands: what one holds the other does not lift. Exit code 1 when they are
    switched on, and sending is held for another cause.
    """
    from mail_orchestration.dispatch.holds import HoldCause
    from mail_orchestration.holding import hold, switch_notifications_on

    with face.open() as inst:
        if to == "on":
            return _tell_resumed(face, switch_notifications_on(inst))
        held = hold(inst, reason, cause=HoldCause.NOTIFICATIONS)
    face.answer(held, lambda console: show_holds(console, held.holds))
    return None


def _tell_resumed(face: Face, resumed: Resumed) -> ExitCode | None:
    def show(console: Console) -> None:
        for each in resumed.lifted:
            console.print(
                f"[green]lifted[/] {escaped(each.reason)} (held by {escaped(each.held_by)})", highlight=False
            )
        if found := resumed.confirmed:
            console.print(
                f"confirmed: this database goes on, with {found.mail_jobs} unfinished mail jobs; "
                f"its newest result is of {found.newest_result_at or 'never'}"
            )
        show_holds(console, resumed.still_held)
        if not resumed.still_held:
            console.print("Sending goes on." if resumed.lifted else "Sending was not held.")

    face.answer(resumed, show)
    return ExitCode.NOT_WELL if resumed.still_held else None
