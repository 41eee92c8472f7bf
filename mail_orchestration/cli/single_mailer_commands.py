"""Send loose mails without Dagster: `single-mailer run`."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING, Annotated

import typer

from mail_orchestration.cli.app import app, command
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face
from mail_orchestration.cli.mailcaster_commands import LOOK_AGAIN_SECONDS, stop_on_signals
from mail_orchestration.cli.single_mail_commands import PANEL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mail_orchestration.single_mailer.shift import EndedBecause

single_mailers = typer.Typer(help="Run a single mailer without Dagster.", no_args_is_help=True)
app.add_typer(single_mailers, name="single-mailer", rich_help_panel=PANEL)


@command("run", PANEL, into=single_mailers)
def run(
    face: Face,
    name: Annotated[
        str | None, typer.Argument(help="What it is called; without one, after the host.", show_default=False)
    ] = None,
    linger: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Wait so long for more after the last one.")
    ] = 0.0,
    forever: Annotated[
        bool, typer.Option("--forever", help="Look again instead of ending when nothing is left.")
    ] = False,
    time_budget: Annotated[
        float | None, typer.Option(min=1, metavar="SECONDS", help="Take no further mail after this time.")
    ] = None,
) -> ExitCode | None:
    """Send single mails, and retries, until none is due. SIGTERM and Ctrl-C finish what is in flight.

    Exit code 1 when one failed or no relay was there, 130 after Ctrl-C, 0 after SIGTERM.
    """
    from mail_orchestration.single_mailer import run_loose_shift

    worker = name or f"single mailer at {socket.gethostname()}"
    outcomes: dict[str, int] = {}
    failed, seconds = 0, 0.0
    with face.open() as inst, stop_on_signals() as stop:
        while True:
            shift = run_loose_shift(inst, worker, stop=stop.event, time_budget_s=time_budget, linger_s=linger)
            for outcome, number in shift.tally.outcomes.items():
                outcomes[outcome.value] = outcomes.get(outcome.value, 0) + number
            failed += shift.tally.failed
            seconds += shift.seconds
            if not forever or stop.event.wait(
                LOOK_AGAIN_SECONDS if shift.ended_because != "no mails" else 1.0
            ):
                break
        was_interrupted = stop.number == signal.SIGINT
    document = {
        "worker": worker,
        "outcomes": outcomes,
        "failed": failed,
        "seconds": round(seconds, 3),
        "ended_because": shift.ended_because,
        "unreachable": shift.tally.unreachable,
    }
    face.answer(document, lambda console: console.print(_told(outcomes, failed, shift.ended_because)))
    if was_interrupted:
        return ExitCode.INTERRUPTED
    return ExitCode.NOT_WELL if failed or shift.tally.unreachable is not None else None


def _told(outcomes: Mapping[str, int], failed: int, ended_because: EndedBecause) -> str:
    if outcomes or failed:
        counts = [f"{number:,} {name}" for name, number in outcomes.items()]
        return "; ".join([", ".join(counts) or "no attempt", f"{failed:,} failed", f"ended: {ended_because}"])
    match ended_because:
        case "no mails":
            return "No single mail or retry is due."
        case "held":
            return "Nothing was sent: all sending is held. `mail-orchestration status` tells why."
        case "relay unreachable":
            return "Nothing was sent: no relay can be reached."
        case "stopped" | "time budget":
            return f"Nothing was sent; ended: {ended_because}"
