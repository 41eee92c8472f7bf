"""Work off the global queue without Dagster: `mailcaster run`."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from mail_orchestration.cli.app import app, command
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face

if TYPE_CHECKING:
    from mail_orchestration.mailcaster import MailJobDone

PANEL = "Mail jobs and mailcasters"
LOOK_AGAIN_SECONDS = 5.0
"""How soon a mailcaster that found nothing looks again (spec 4.3: within a minute)."""

mailcasters = typer.Typer(help="Run a mailcaster without Dagster.", no_args_is_help=True)
app.add_typer(mailcasters, name="mailcaster", rich_help_panel=PANEL)


class StopSignal:
    """SIGTERM or SIGINT asked for an orderly end: messages in flight are finished, their results stored."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.number: int | None = None

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The handler; a second signal interrupts at once."""
        if self.event.is_set():
            raise KeyboardInterrupt
        self.number = number
        self.event.set()


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopSignal]:
    """Within the block, SIGTERM and SIGINT set the event instead of ending the process."""
    stop = StopSignal()
    before = {number: signal.signal(number, stop.receive) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def interrupt_on_sigterm() -> Iterator[None]:
    """Within the block SIGTERM does what Ctrl-C does, so that whatever was started is ended."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@command("run", PANEL, into=mailcasters)
def run(
    face: Face,
    name: Annotated[str, typer.Argument(help="The mailcaster's name in the settings.")],
    forever: Annotated[
        bool,
        typer.Option(
            "--forever", help="Look again every few seconds instead of ending when nothing is left."
        ),
    ] = False,
    time_budget: Annotated[
        float | None, typer.Option(min=1, metavar="SECONDS", help="Take no further mail job after this time.")
    ] = None,
) -> ExitCode | None:
    """Deliver mail jobs until none is left for this mailcaster. SIGTERM and Ctrl-C finish what is in flight.

    Exit code 1 when a mail job failed, 130 after Ctrl-C, 0 after SIGTERM.
    """
    from mail_orchestration.holding import why_closed, why_held
    from mail_orchestration.kernel.states import MailJobState
    from mail_orchestration.mailcaster import run_shift

    finished: list[MailJobDone] = []

    def tell(done: MailJobDone) -> None:
        finished.append(done)
        if not face.as_json:
            rate = (done.accepted + done.rejected + done.deferred) / max(done.seconds, 1e-6)
            face.console.print(
                f"mail job {done.mail_job_id}{f' of {done.parent_id}' if done.parent_id else ''}: {done.state}, "
                f"messages {done.first_message:,}–{done.last_message:,}: {done.accepted:,} accepted, "
                f"{done.deferred:,} deferred, {done.rejected:,} rejected, {done.uncertain:,} uncertain, "
                f"{done.stopped:,} stopped; {rate:,.0f}/s"
            )

    shifts, messages, seconds, ended_because = 0, 0, 0.0, ""
    with face.open() as inst, stop_on_signals() as stop:
        inst.settings.mailcaster(name)
        while True:
            shift = run_shift(inst, name, stop=stop.event, time_budget_s=time_budget, on_mail_job_done=tell)
            shifts += 1
            messages += shift.messages
            seconds += shift.seconds
            ended_because = shift.ended_because
            is_over = ended_because in ("stopped", "time budget")
            if not forever or is_over or stop.event.wait(LOOK_AGAIN_SECONDS):
                break
        why_not = [each.reason for each in why_held(inst)] if ended_because == "held" else []
        if ended_because == "send window":
            why_not.append(why_closed(inst))
        was_interrupted = stop.number == signal.SIGINT
    document = {
        "mailcaster": name,
        "shifts": shifts,
        "mail_jobs": [dataclasses.asdict(each) for each in finished],
        "messages": messages,
        "seconds": round(seconds, 3),
        "ended_because": ended_because,
    }
    for each in why_not:
        face.warn(f"nothing is sent: {each}")
    face.answer(
        document,
        lambda console: console.print(
            f"{len(finished)} mail jobs, {messages:,} messages; ended: {ended_because}"
        ),
    )
    if was_interrupted:
        return ExitCode.INTERRUPTED
    return ExitCode.NOT_WELL if any(each.state is MailJobState.FAILED for each in finished) else None
