"""Global delivery queue: one shift of one mailcaster is one run (spec 4.3).

Not one run for each mail job: starting a run takes seconds and 100 MB, telling Dagster of a finished mail
job takes 12 ms. The shift works in a thread of its own, so that the main thread can take signals and write
events meanwhile.
"""

import queue
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import dagster as dg
from pydantic import Field

from assets import shown
from assets.delivery_results import told
from assets.failures import told_to_operators
from assets.interrupts import end_as_canceled, interrupts
from assets.mail_system import MailSystem
from assets.partitions import CHILD_JOBS, add_keys
from jobs.tags import MAIL_JOBS_DONE, MAILCASTER, PROCESS
from mail_orchestration.kernel.errors import BadInput
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.mailcaster import MailJobDone, ShiftSummary, run_shift

LOOK_EVERY_S = 0.25
"""How soon a signal is answered and a finished mail job is shown: neither needs more, and waiting costs
nothing."""


class Shift(dg.Config):
    """Whose shift it is, and how long it may last."""

    mailcaster: str = Field(description="The mailcaster's name, as in the settings file.")
    time_budget_minutes: float = Field(
        default=60,
        description=(
            "After this time the shift ends with the mail job in hand finished, and the next one begins in "
            "a run of its own: no run lasts for days and gathers events without end."
        ),
    )


@dg.op(tags={"stage": "egress"}, out=dg.Out(dg.Nothing))
def work_a_shift(context: dg.OpExecutionContext, config: Shift, mail: dg.ResourceParam[MailSystem]) -> None:
    """Take mail jobs from the global queue and deliver them until there is no more work for this
    mailcaster.

    Stopped from the UI it finishes the messages in flight, tells what is done, and ends as CANCELED; what
    it did not send is taken up by the next shift.
    """
    context.instance.add_run_tags(context.run_id, {MAILCASTER: config.mailcaster})
    with told_to_operators():
        if config.time_budget_minutes <= 0:
            raise BadInput("time_budget_minutes must be more than 0")
        with interrupts() as stop:
            summary, interrupted = _work(context, config, mail, stop)
    context.instance.add_run_tags(context.run_id, {MAIL_JOBS_DONE: str(summary.mail_jobs)})
    context.add_output_metadata(
        {
            "mail_jobs": summary.mail_jobs,
            "messages": summary.messages,
            "seconds": round(summary.seconds, 2),
            "messages_per_second": shown.rate(summary.messages, summary.seconds),
            "ended_because": summary.ended_because,
        }
    )
    context.log.info(
        "shift of %s: %d mail jobs, %d messages in %.1f s; ended because: %s",
        config.mailcaster,
        summary.mail_jobs,
        summary.messages,
        summary.seconds,
        summary.ended_because,
    )
    if interrupted:
        end_as_canceled(context)


def _work(
    context: dg.OpExecutionContext, config: Shift, mail: MailSystem, stop: threading.Event
) -> tuple[ShiftSummary, bool]:
    """Run the shift in a thread, and write what it finishes from this one. Tells whether a signal ended
    it."""
    finished: queue.SimpleQueue[MailJobDone] = queue.SimpleQueue()
    is_said = False
    with (
        mail.opened(f"mailcaster {config.mailcaster}") as installation,
        ThreadPoolExecutor(1, thread_name_prefix="shift") as executor,
    ):
        shift: Future[ShiftSummary] = executor.submit(
            run_shift,
            installation,
            config.mailcaster,
            stop=stop,
            time_budget_s=60 * config.time_budget_minutes,
            on_mail_job_done=finished.put,
        )
        try:
            while not shift.done():
                _tell_next(context, config.mailcaster, finished)
                if stop.is_set() and not is_said:
                    is_said = True
                    context.log.info("asked to stop: finishing the messages in flight")
            while not finished.empty():
                _tell_next(context, config.mailcaster, finished)
            interrupted = stop.is_set()
        finally:
            # When Dagster's storage is what failed, the shift must still end in order.
            stop.set()
        return shift.result(), interrupted


def _tell_next(
    context: dg.OpExecutionContext, mailcaster: str, finished: queue.SimpleQueue[MailJobDone]
) -> None:
    """Write the materialization of one finished mail job, if one comes soon."""
    try:
        done = finished.get(timeout=LOOK_EVERY_S)
    except queue.Empty:
        return
    add_keys(context.instance, CHILD_JOBS, [done.mail_job_id])
    if done.state.is_ended:
        context.log_event(told(done, mailcaster=mailcaster))
        return
    this_run = "handed back: what it has not sent is for whoever takes it up"
    if done.state is MailJobState.STOPPED_R:
        this_run = "stopped by the operator: what it has not sent waits for a restart"
    context.log_event(told(done, mailcaster=mailcaster, this_run=this_run))


@dg.job(
    name="mailcaster",
    description=(
        "Global delivery queue: one shift of one mailcaster. The sensor of the fleet starts it when there "
        "is work for it; each finished child is told as a partition of delivery_results."
    ),
    executor_def=dg.in_process_executor,
    tags={PROCESS: "global_delivery_queue"},
    owners=shown.OWNERS,
)
def mailcaster() -> None:
    """One op: the shift."""
    work_a_shift()
