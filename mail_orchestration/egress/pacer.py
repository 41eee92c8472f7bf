"""Pacing within one process: never more than the relay's messages per second in any one second (spec 6.7)."""

from __future__ import annotations

import asyncio
from collections import deque

GUARD = 1.02
"""The window is kept 2 % longer: a packet's lateness must not break the limit as the relay measures it."""

CATCH_UP_S = 0.02
"""How far a late timer may be made up for; without it the rate falls by each timer's lateness."""


class Pacer:
    """When the next message may start. Pure: moments, in seconds of some clock, go in and come out."""

    def __init__(self, messages_per_second: float) -> None:
        allowed = max(1, int(messages_per_second))
        self.window_s = GUARD * max(1.0, 1.0 / messages_per_second)
        self._spacing_s = self.window_s / allowed
        self._granted: deque[float] = deque(maxlen=allowed)
        self._due = float("-inf")

    def earliest(self) -> float:
        """The moment from which the next message may start."""
        window_opens = float("-inf")
        if len(self._granted) == self._granted.maxlen:
            window_opens = self._granted[0] + self.window_s
        return max(self._due, window_opens)

    def grant(self, now: float) -> None:
        """A message starts `now`, which is not before `earliest()`."""
        self._granted.append(now)
        self._due = max(self._due, now - CATCH_UP_S) + self._spacing_s


class Gate:
    """Where a relay's connections wait in line for their pacer."""

    def __init__(self, pacer: Pacer) -> None:
        self._pacer = pacer
        self._line: deque[asyncio.Future[bool]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def enter(self) -> bool:
        """Wait for the next slot; True with the slot, False when the gate was closed meanwhile."""
        if self._closed:
            return False
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        self._let_in()
        return await turn

    def close(self) -> None:
        """Send everybody away: the delivery ends."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(False)

    def _let_in(self) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._line:
            if self._line[0].done():  # cancelled while waiting
                self._line.popleft()
                continue
            now, earliest = loop.time(), self._pacer.earliest()
            if now < earliest:
                self._timer = loop.call_at(earliest, self._let_in)
                return
            self._pacer.grant(now)
            self._line.popleft().set_result(True)
