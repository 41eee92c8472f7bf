"""Global delivery queue: one shift of the single mailer is one run (spec 7.2).

As a mailcaster's: the shift works in a thread of its own, so that the main thread can take signals and write events.
It lingers after the last mail: a run takes seconds to begin, and whoever waits for one mail should not wait for that.
"""

import contextlib
import queue
import socket
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor

import dagster as dg
from pydantic import Field

from assets import shown
from assets.failures import told_to_operators
from assets.interrupts import end_as_canceled, interrupts
from assets.mail_system import MailSystem
from jobs.tags import PROCESS
from mail_orchestration.kernel.errors import BadInput, RelayUnreachable
from mail_orchestration.sending.loose_tally import LooseTally
from mail_orchestration.single_mailer import LooseShiftSummary, run_loose_shift

LOOK_EVERY_S = 0.25
"""How soon a signal is answered."""
TELL_EVERY_S = 30.0
"""How often a busy shift says how far it is: each time is an event that Dagster keeps."""


class SingleShift(dg.Config):
    """How long the shift may last."""

    linger_seconds: float = Field(
        default=120,
        description="How long it stays after the last mail: what is submitted meanwhile leaves at once.",
    )
    time_budget_minutes: float = Field(
        default=60, description="After this time it ends, and the next mails begin a run of their own."
    )


@dg.op(tags={"stage": "egress"}, out=dg.Out(dg.Nothing))
def work_a_single_shift(
    context: dg.OpExecutionContext, config: SingleShift, mail: dg.ResourceParam[MailSystem]
) -> None:
    """Send single mails and retries as they come due, single mails first.

    Stopped from the UI it finishes the mails in flight and ends as CANCELED; the others are taken by the next shift.
    When no relay could be reached it fails: the sensor tries again after a pause.
    """
    with told_to_operators():
        if config.linger_seconds < 0:
            raise BadInput("linger_seconds must be 0 or more")
        if config.time_budget_minutes <= 0:
            raise BadInput("time_budget_minutes must be more than 0")
        with interrupts() as stop:
            summary, interrupted = _work(context, config, mail, stop)
    context.add_output_metadata(
        {
            "mails": summary.tally.mails,
            **{outcome.value: number for outcome, number in sorted(summary.tally.outcomes.items())},
            "failed": summary.tally.failed,
            "seconds": round(summary.seconds, 2),
            "ended_because": summary.ended_because,
        }
    )
    context.log.info(
        "%d loose mails, %d of them failed, in %.1f s; ended because: %s",
        summary.tally.mails,
        summary.tally.failed,
        summary.seconds,
        summary.ended_because,
    )
    if interrupted:
        end_as_canceled(context)
    if summary.tally.unreachable is not None:
        with told_to_operators():
            raise RelayUnreachable(summary.tally.unreachable)


def _work(
    context: dg.OpExecutionContext, config: SingleShift, mail: MailSystem, stop: threading.Event
) -> tuple[LooseShiftSummary, bool]:
    """Run the shift in a thread, and tell of it from this one. Says whether a signal ended it."""
    turns: queue.SimpleQueue[LooseTally] = queue.SimpleQueue()
    with (
        mail.opened("single mailer", context.run_id) as installation,
        ThreadPoolExecutor(1, thread_name_prefix="shift") as executor,
    ):
        shift: Future[LooseShiftSummary] = executor.submit(
            run_loose_shift,
            installation,
            f"single mailer at {socket.gethostname()}",
            stop=stop,
            time_budget_s=60 * config.time_budget_minutes,
            linger_s=config.linger_seconds,
            on_turn=turns.put,
        )
        try:
            _tell_until_done(context, shift, turns, stop)
            interrupted = stop.is_set()
        finally:
            # When Dagster's storage is what failed, the shift must still end in order.
            stop.set()
        return shift.result(), interrupted


def _tell_until_done(
    context: dg.OpExecutionContext,
    shift: Future[LooseShiftSummary],
    turns: queue.SimpleQueue[LooseTally],
    stop: threading.Event,
) -> None:
    is_said, told_at = False, time.monotonic()
    outcomes: Counter[str] = Counter()
    while not shift.done():
        with contextlib.suppress(queue.Empty):
            outcomes.update(turns.get(timeout=LOOK_EVERY_S).outcomes)
        if stop.is_set() and not is_said:
            is_said = True
            context.log.info("asked to stop: finishing the mails in flight")
        if outcomes and time.monotonic() - told_at >= TELL_EVERY_S:
            told_at = time.monotonic()
            context.log.info(", ".join(f"{number} {outcome}" for outcome, number in outcomes.items()))
            outcomes.clear()


@dg.job(
    name="single_mailer",
    description=(
        "Global delivery queue: one shift of the single mailer. The sensor starts it when a single mail or a retry "
        "is due; it stays a while for what follows."
    ),
    executor_def=dg.in_process_executor,
    # Before others in the run queue: somebody waits for this mail.
    tags={PROCESS: "global_delivery_queue", "dagster/priority": "10"},
    owners=shown.OWNERS,
)
def single_mailer() -> None:
    """One op: the shift."""
    work_a_single_shift()
