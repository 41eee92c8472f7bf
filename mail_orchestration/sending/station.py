"""What a worker keeps from one piece of work to the next: made anew for each child it took a quarter of the time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import uvloop

from mail_orchestration.egress.idle_sessions import IdleSessions
from mail_orchestration.egress.throttle import Throttle
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.database_clock import DatabaseClock
from mail_orchestration.kernel.errors import DatabaseUnavailable, Unavailable
from mail_orchestration.throttling import SharedThrottle

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

FIRST_BATCH = 100
"""Messages of a mail job that are read at once, at first."""


@dataclass(slots=True)
class Pace:
    """How many messages of a mail job are read at once: what the relays take in some seconds."""

    batch: int = FIRST_BATCH


class Station:
    """A worker's event loop, idle sessions, slots at hand, clock and pace. A context manager, for one thread."""

    def __init__(self, inst: Installation) -> None:
        """Raises Unavailable when this process may not open the files that an event loop needs."""
        with inst.database.begin() as connection:
            self.clock = DatabaseClock(connection)
        self.idle = IdleSessions()
        self.throttle = Throttle(SharedThrottle(inst.database, inst.settings))
        self.pace = Pace()
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        # Where it cannot run that is known now, before anything is claimed.
        self._try_out()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run `work` on the station's loop to its end."""
        return self._runner.run(work)

    def _try_out(self) -> None:
        nothing = asyncio.sleep(0)
        try:
            self._runner.run(nothing)
        except OSError as error:
            nothing.close()
            with contextlib.suppress(OSError, RuntimeError):
                self._runner.close()
            raise Unavailable(f"no mail can be sent from this process: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._runner:
                self.run(self.idle.close())
                with contextlib.suppress(DatabaseUnavailable):
                    self.run(self.throttle.close())
        except Exception as failure:
            if error is None:
                raise
            # A loop that never ran cannot be closed in order: why it did not is on its way to the caller.
            _log.warning("what a worker keeps could not be closed: %s", failure)
