"""What a mailcaster keeps from one mail job to the next: made anew for each child it took a quarter of the time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

import uvloop

from mail_orchestration.egress.idle_sessions import IdleSessions
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.database_clock import DatabaseClock
from mail_orchestration.mailcaster.message_feed import Pace

_T = TypeVar("_T")


class Station:
    """A mailcaster's event loop, idle sessions with relays, clock and pace. A context manager, for one thread."""

    def __init__(self, inst: Installation) -> None:
        with inst.database.begin() as connection:
            self.clock = DatabaseClock(connection)
        self.idle = IdleSessions()
        self.pace = Pace()
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run `work` on the station's loop to its end."""
        return self._runner.run(work)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._runner:
            self._runner.run(self.idle.close())
