"""Being asked to stop: Dagster's UI, SIGTERM and SIGINT all end work that sends mail between two messages,
not within one."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

import dagster as dg


@contextlib.contextmanager
def interrupts() -> Iterator[threading.Event]:
    """An event that is set by SIGINT and SIGTERM while the block runs, so that messages in flight are
    finished first.

    Dagster's own handlers would raise in the middle of a mail transaction. Outside the main thread signals
    are not ours to take, and the event is never set.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def asked_to_stop(number: int, frame: FrameType | None) -> None:
        stop.set()

    previous = {number: signal.signal(number, asked_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def end_as_canceled(context: dg.OpExecutionContext | dg.AssetExecutionContext) -> NoReturn:
    """End the run as CANCELED, after work that was asked to stop has stopped in order.

    Dagster takes an interrupt that nobody asked for in its UI, as when a host shuts down, for a failure; it is none.
    """
    run = context.instance.get_run_by_id(context.run.run_id)
    if run is not None and run.status is dg.DagsterRunStatus.STARTED:
        context.instance.report_run_canceling(run, "Asked to stop by a signal.")
    raise dg.DagsterExecutionInterruptedError
