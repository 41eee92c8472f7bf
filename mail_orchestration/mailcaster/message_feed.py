"""The messages of one claim on their way from the database to egress, somewhat ahead and in bounded memory."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial

from mail_orchestration.composition.compression import Compressor
from mail_orchestration.composition.errors import BadStoredMessage
from mail_orchestration.dispatch.claim import Claim
from mail_orchestration.dispatch.claims import Unsent, UnsentMessage, unsent_messages
from mail_orchestration.kernel.attempts import DeliveryResult, Outcome, OutgoingMessage
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.message_lines import Lines
from mail_orchestration.sending.components import SendComponents
from mail_orchestration.sending.station import FIRST_BATCH, Pace

BATCH = 500
"""Rows read at once, at most."""
BATCH_LASTS_S = 10.0
"""A batch is to be sent in about this time, however slow the relay: what waits between reading and sending is
not checked again for an opt-out."""

Record = Callable[[DeliveryResult], Awaitable[None]]


class MessageFeed:
    """Egress' `MessageSource` over the messages of a claim that have no result.

    A recipient who was suppressed after assembly is not sent to: the result `stopped` says why (spec 1.5). Messages
    wait compressed: a block is read when the turn of its first message comes, so that a batch of large ones fits in
    memory.
    """

    def __init__(
        self,
        database: Database,
        claim: Claim,
        compressor: Compressor,
        *,
        reverse_path: str,
        clock: Callable[[], datetime],
        record: Record,
        components: SendComponents,
        pace: Pace,
    ) -> None:
        self._database = database
        self._claim = claim
        self._compressor = compressor
        self.reverse_path = reverse_path
        self._clock = clock
        self._record = record
        self._components = components
        self._ready: deque[UnsentMessage] = deque()
        self._after = claim.first_message - 1
        self._pace = pace
        self._loaded, self._loaded_at = 0, time.monotonic()
        self._next: asyncio.Task[Unsent] | None = None
        self._is_first = True
        self._is_over = False

    async def take(self) -> OutgoingMessage | None:
        """The next message to send; None when there are no more."""
        while not self._ready and not self._is_over:
            await self._load()
        if not self._ready:
            return None
        row = self._ready.popleft()
        is_low = self._next is None and not self._is_over and 2 * len(self._ready) <= self._loaded
        if is_low and self._pace.batch == BATCH:
            # Read while the other half is sent: waiting for the database cost a third of the time. A relay too slow
            # for whole batches waits instead, since what is read ahead is not checked again for an opt-out.
            self._begin_reading()
        return _StoredMessage(self, row)

    def left(self) -> int:
        """At most so many messages are to come."""
        unread = 0 if self._is_over else self._claim.last_message - self._after
        return len(self._ready) + unread

    async def still_wanted(self, message: OutgoingMessage) -> bool:
        """Egress' question about a message that waited for long: false, and recorded, when it is suppressed by now."""
        unsent = await asyncio.to_thread(self._read_one, message.message_no)
        await self._set_aside(Outcome.STOPPED, "suppressed since assembly", unsent.suppressed)
        return not unsent.suppressed

    async def expire(self) -> None:
        """Give all that has no result the result `expired` (spec 3.6). When nothing is being sent any more."""
        await self.close()
        self._ready.clear()
        self._next = None
        self._after, self._pace = self._claim.first_message - 1, Pace(BATCH)
        while unsent := await self._read_next():
            await self._set_aside(
                Outcome.EXPIRED, "the campaign has expired", [*unsent.to_send, *unsent.suppressed]
            )

    async def close(self) -> None:
        """Wait for the read that is under way: its connection goes back to the pool."""
        if self._next is not None:
            await asyncio.gather(self._next, return_exceptions=True)

    async def _load(self) -> None:
        unsent = await self._read_next()
        self._is_over = unsent.up_to >= self._claim.last_message
        crash_point("messages_read")
        await self._set_aside(Outcome.STOPPED, "suppressed since assembly", unsent.suppressed)
        crash_point("suppressed_recorded")
        keep_back = partial(self._set_aside, Outcome.STOPPED)
        self._ready.extend(await self._components.let_through(unsent.to_send, self.composed, keep_back))
        self._loaded, self._loaded_at = len(self._ready), time.monotonic()

    def composed(self, row: UnsentMessage) -> OutgoingMessage:
        """The message as it goes onto the wire, the same whenever it is asked for. Raises BadStoredMessage."""
        message = _StoredMessage(self, row)
        message.read()
        return message

    def read(self, row: UnsentMessage) -> tuple[bytes, Lines]:
        """The message's octets, and what is known of its lines. Raises BadStoredMessage."""
        try:
            return self._compressor.read(row.block, row.place)
        except BadStoredMessage:
            raise BadStoredMessage(f"message {row.message_no} cannot be read as it is stored") from None

    def _begin_reading(self) -> asyncio.Task[Unsent]:
        sent = self._loaded - len(self._ready)
        if sent > 0:
            lasted_s = max(0.001, time.monotonic() - self._loaded_at)
            # Doubled at most: egress takes the first ones at once, however slow the relay is.
            most = min(BATCH, 2 * self._pace.batch)
            self._pace.batch = min(most, max(1, int(sent * BATCH_LASTS_S / lasted_s)))
        self._next = asyncio.create_task(asyncio.to_thread(self._read))
        return self._next

    async def _read_next(self) -> Unsent:
        unsent = await (self._next or self._begin_reading())
        self._next = None
        self._after = unsent.up_to
        return unsent

    def _read(self) -> Unsent:
        with self._database.begin() as connection:
            # Fewer at first, so that fifty connections need not wait for five hundred messages.
            batch = min(FIRST_BATCH, self._pace.batch) if self._is_first else self._pace.batch
            self._is_first = False
            return unsent_messages(connection, self._claim, self._after, batch)

    def _read_one(self, message_no: int) -> Unsent:
        with self._database.begin() as connection:
            return unsent_messages(connection, self._claim, message_no - 1, 1, with_texts=False)

    async def _set_aside(self, outcome: Outcome, why: str, rows: Sequence[UnsentMessage]) -> None:
        """Record, durably, that these messages are not sent, before more is read."""
        now = self._clock()
        waiting = [
            self._record(DeliveryResult(row.message_no, row.contact_id, outcome, None, None, why, "", now))
            for row in rows
        ]
        if waiting:
            await asyncio.gather(*waiting)


class _StoredMessage(OutgoingMessage):
    """Decompressed when its envelope is made, and not before: what lies about meanwhile drives the rest out of the
    processor's cache.
    """

    __slots__ = ("_feed", "_unread")

    def __init__(self, feed: MessageFeed, row: UnsentMessage) -> None:
        super().__init__(
            row.message_no, row.contact_id, feed.reverse_path, row.address, b"", Lines.UNSEEN, row.size
        )
        self._feed = feed
        self._unread: UnsentMessage | None = row

    def read(self) -> tuple[bytes, Lines]:
        """Raises BadStoredMessage."""
        if self._unread is not None:
            self._data, self._lines = self._feed.read(self._unread)
            # One that waits for its domain would keep its whole block.
            self._unread = None
        return self._data, self._lines
