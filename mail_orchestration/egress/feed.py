"""The messages at hand: taken somewhat ahead from the source, given back by connections that failed."""

from __future__ import annotations

import asyncio
from collections import deque

from mail_orchestration.egress.ports import MessageSource
from mail_orchestration.kernel.model import OutgoingMessage

MOST_OCTETS_AHEAD = 8 * 1024 * 1024
"""Messages at hand but not on a connection never take more memory than this and one message."""


class Feed:
    """One for all connections of a delivery."""

    def __init__(self, source: MessageSource, messages_ahead: int) -> None:
        self._source = source
        self._most = messages_ahead
        self._ready: deque[OutgoingMessage] = deque()
        self._octets = 0
        self._hungry: deque[asyncio.Future[None]] = deque()
        self._room: asyncio.Future[None] | None = None
        self._over = False
        self._breaks: dict[int, int] = {}
        self.taken = 0
        """How many messages the source has given."""

    async def fill(self) -> None:
        """Take from the source until it has no more. What the source raises comes through."""
        loop = asyncio.get_running_loop()
        while (message := await self._source.take()) is not None:
            self.taken += 1
            self._ready.append(message)
            self._octets += len(message.data)
            self._wake(1)
            while len(self._ready) >= self._most or self._octets > MOST_OCTETS_AHEAD:
                self._room = loop.create_future()
                await self._room
        self.end()

    def end(self) -> None:
        """No more comes: whoever waits gets None."""
        self._over = True
        self._wake(len(self._hungry))

    def take_now(self) -> OutgoingMessage | None:
        """The next message if one is at hand."""
        if not self._ready:
            return None
        message = self._ready.popleft()
        self._octets -= len(message.data)
        room = self._room
        if (
            room is not None
            and len(self._ready) <= self._most // 2
            and self._octets <= MOST_OCTETS_AHEAD // 2
        ):
            self._room = None
            if not room.done():
                room.set_result(None)
        return message

    async def take(self) -> OutgoingMessage | None:
        """The next message, waiting for it; None when no more comes."""
        loop = asyncio.get_running_loop()
        while (message := self.take_now()) is None and not self._over:
            turn: asyncio.Future[None] = loop.create_future()
            self._hungry.append(turn)
            await turn
        return message

    def give_back(self, message: OutgoingMessage) -> None:
        """`message` is unsent and comes next."""
        self._ready.appendleft(message)
        self._octets += len(message.data)
        self._wake(1)

    def count_break(self, message: OutgoingMessage) -> int:
        """How many connections in a row `message` has now broken before its final dot."""
        broken = self._breaks[message.message_no] = self._breaks.get(message.message_no, 0) + 1
        return broken

    def _wake(self, how_many: int) -> None:
        while how_many > 0 and self._hungry:
            turn = self._hungry.popleft()
            if not turn.done():
                turn.set_result(None)
                how_many -= 1
