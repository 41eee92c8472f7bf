"""The messages of one claim on their way from the database to egress, somewhat ahead and in bounded memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

from mail_orchestration.composition.compression import Compressor
from mail_orchestration.dispatch.claim import Claim
from mail_orchestration.dispatch.claims import Unsent, UnsentMessage, unsent_messages
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.model import DeliveryResult, Outcome, OutgoingMessage
from mail_orchestration.mailcaster.components import MessageInHand, SendComponents

FIRST_BATCH, BATCH = 100, 500
"""Rows read at once. What waits between reading and sending is not checked again for an opt-out."""
BATCH_OCTETS = 16 * 1024 * 1024
"""Composed size of a batch that is not exceeded unless by one message."""

Record = Callable[[DeliveryResult], Awaitable[None]]


class MessageFeed:
    """Egress' `MessageSource` over the messages of a claim that have no result.

    A recipient who was suppressed after assembly is not sent to: the result `stopped` says why (spec 1.5). After the
    campaign's expiry all that is left gets the result `expired` (spec 3.6).
    """

    def __init__(
        self,
        database: Database,
        claim: Claim,
        compressor: Compressor,
        *,
        reverse_path: str,
        expires_at: datetime | None,
        clock: Callable[[], datetime],
        record: Record,
        components: SendComponents,
    ) -> None:
        self._database = database
        self._claim = claim
        self._decompress = compressor.decompress
        self._reverse_path = reverse_path
        self._expires_at = expires_at
        self._clock = clock
        self._record = record
        self._components = components
        self._ready: deque[OutgoingMessage] = deque()
        self._after = claim.first_message - 1
        self._batch = FIRST_BATCH
        self._next: asyncio.Task[Unsent] | None = None
        self._is_over = False

    async def take(self) -> OutgoingMessage | None:
        """The next message to send; None when there are no more."""
        while not self._ready and not self._is_over:
            await self._load()
        return self._ready.popleft() if self._ready else None

    async def close(self) -> None:
        """Wait for the read that is under way: its connection goes back to the pool."""
        if self._next is not None:
            await asyncio.gather(self._next, return_exceptions=True)

    async def _load(self) -> None:
        if self._next is None:
            self._next = self._read_ahead()
        unsent = await self._next
        self._next = None
        if not unsent:
            self._is_over = True
            return
        self._after = unsent.up_to
        rows = unsent.to_send
        if self._expires_at is not None and self._clock() >= self._expires_at:
            await self._set_aside(Outcome.EXPIRED, "the campaign has expired", [*rows, *unsent.suppressed])
            return
        await self._set_aside(Outcome.STOPPED, "suppressed since assembly", unsent.suppressed)
        if rows:
            octets = sum(row.size for row in rows) // len(rows)
            self._batch = max(1, min(BATCH, BATCH_OCTETS // max(1, octets)))
        self._ready.extend(await self._screened(rows))

    async def _screened(self, rows: Sequence[UnsentMessage]) -> list[OutgoingMessage]:
        """The messages of the rows, without those that the campaign's own components keep back."""
        in_hand = [
            MessageInHand(
                recipient_no=row.recipient_no,
                message=OutgoingMessage(
                    row.message_no,
                    row.contact_id,
                    self._reverse_path,
                    row.address,
                    self._decompress(row.message),
                ),
            )
            for row in rows
        ]
        if self._components.screens and in_hand:
            refused = await self._components.screen(in_hand)
            for reason in set(refused.values()):
                chosen = [row for row in rows if refused.get(row.message_no) == reason]
                await self._set_aside(Outcome.STOPPED, reason, chosen)
            in_hand = [each for each in in_hand if each.message.message_no not in refused]
        self._components.handed_over(in_hand)
        return [each.message for each in in_hand]

    def _read_ahead(self) -> asyncio.Task[Unsent]:
        return asyncio.create_task(asyncio.to_thread(self._read))

    def _read(self) -> Unsent:
        with self._database.begin() as connection:
            return unsent_messages(connection, self._claim, self._after, self._batch)

    async def _set_aside(self, outcome: Outcome, why: str, rows: Sequence[UnsentMessage]) -> None:
        """Record, durably, that these messages are not sent, before more is read."""
        now = self._clock()
        waiting = [
            self._record(DeliveryResult(row.message_no, row.contact_id, outcome, None, None, why, "", now))
            for row in rows
        ]
        if waiting:
            await asyncio.gather(*waiting)
