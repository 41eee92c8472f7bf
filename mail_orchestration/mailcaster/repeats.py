"""Uncertain messages are sent once more, when the first pass over a claim's range is through (spec 5.7).

Byte for byte the same message, with the same Message-ID, in passes over the range: each pass makes one more attempt
of every message that is still uncertain, until the most attempts were made. Whatever a crash cuts off is in the
results: whoever recovers the mail job finds the same messages.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime

from mail_orchestration.dispatch.claim import Claim
from mail_orchestration.dispatch.repeating import Repeatable, count_repeatable, repeatable_messages
from mail_orchestration.dispatch.unsent import UnsentMessage
from mail_orchestration.kernel.attempts import DeliveryResult, Outcome, OutgoingMessage
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.database import Database
from mail_orchestration.mailcaster.message_feed import Record
from mail_orchestration.sending.components import Compose, SendComponents

BATCH = 100
"""Messages read at once. There are few: one for each connection that was lost in a bad moment."""


class Repeats:
    """The uncertain messages of one claim, and how often each was tried."""

    def __init__(self, database: Database, claim: Claim, most_attempts: int) -> None:
        self._database = database
        self._claim = claim
        self._most_attempts = most_attempts
        # What recovery took over may have been left uncertain by the last holder.
        self._may_be_any = claim.recovers_id is not None
        self._result_nos: dict[int, int] = {}
        self._uncertain: set[int] = set()

    @property
    def most_attempts(self) -> int:
        """How often a message is tried at most; 1: never again."""
        return self._most_attempts

    def note(self, result: DeliveryResult) -> DeliveryResult:
        """The result as it belongs into the log: numbered, and with what it supersedes, if it is not the first."""
        if result.outcome is Outcome.UNCERTAIN:
            self._may_be_any = True
            self._uncertain.add(result.message_no)
        last = self._result_nos.get(result.message_no)
        if last is None:
            return result
        return result.superseding(Outcome.UNCERTAIN, last + 1)

    def was_uncertain(self, message_no: int) -> bool:
        """Whether this holder has had an uncertain result of the message before."""
        return message_no in self._uncertain

    async def are_left(self) -> bool:
        """Whether a pass would find any."""
        if self._most_attempts <= 1 or not self._may_be_any:
            return False
        return await asyncio.to_thread(self._count) > 0

    async def read(self, after_message_no: int) -> Repeatable:
        """The next ones after a message. Their results, as they come, supersede the ones that are known now."""
        found = await asyncio.to_thread(self._read, after_message_no)
        self._result_nos.update(found.result_nos)
        return found

    def _count(self) -> int:
        with self._database.begin() as connection:
            return count_repeatable(connection, self._claim.messages, self._most_attempts)

    def _read(self, after_message_no: int) -> Repeatable:
        with self._database.begin() as connection:
            return repeatable_messages(connection, self._claim, after_message_no, BATCH, self._most_attempts)


class RepeatFeed:
    """Egress' `MessageSource` over one pass.

    What is not sent again, since its recipient was suppressed meanwhile or a component keeps it back, stays
    uncertain: it may have arrived. A result of our own says that and why, and it is not looked at again.
    """

    def __init__(
        self,
        repeats: Repeats,
        *,
        compose: Compose,
        clock: Callable[[], datetime],
        record: Record,
        components: SendComponents,
    ) -> None:
        self._repeats = repeats
        self._compose = compose
        self._clock = clock
        self._record = record
        self._components = components
        self._ready: deque[UnsentMessage] = deque()
        self._after = 0
        self._is_over = False

    async def take(self) -> OutgoingMessage | None:
        """The next message to send again; None when the pass is over."""
        while not self._ready and not self._is_over:
            await self._load()
        return self._compose(self._ready.popleft()) if self._ready else None

    async def give_up(self, why: str) -> None:
        """Send none of them again: all that are left stay uncertain."""
        self._ready.clear()
        self._after = 0
        while found := await self._repeats.read(self._after):
            self._after = found.up_to
            await self._leave(why, [*found.to_send, *found.suppressed])

    async def _load(self) -> None:
        found = await self._repeats.read(self._after)
        if not found:
            self._is_over = True
            return
        self._after = found.up_to
        crash_point("repeats_read")
        await self._leave("suppressed since the first attempt", found.suppressed)
        self._ready.extend(await self._components.let_through(found.to_send, self._compose, self._leave))

    async def _leave(self, why: str, rows: Sequence[UnsentMessage]) -> None:
        now, reason = self._clock(), f"not sent again: {why}"
        waiting = [
            self._record(
                self._repeats.note(
                    DeliveryResult(
                        row.message_no, row.contact_id, Outcome.UNCERTAIN, None, None, reason, "", now
                    )
                )
            )
            for row in rows
        ]
        if waiting:
            await asyncio.gather(*waiting)
