"""From a relay's word to a durable result, and the count of both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime

from mail_orchestration.egress.ports import ResultSink
from mail_orchestration.egress.reply import Reply
from mail_orchestration.egress.verdict import speaks_of_the_address
from mail_orchestration.kernel.attempts import DeliveryResult, Outcome, OutgoingMessage, Phase
from mail_orchestration.kernel.crash_points import crash_point

MAX_TEXT = 500
"""Characters of a reply's text that a result keeps."""


class Results:
    """The results of one delivery."""

    def __init__(self, sink: ResultSink, clock: Callable[[], datetime]) -> None:
        self.sink = sink
        self._clock = clock
        self._turn = asyncio.get_running_loop().time
        self._moment, self._told_at = clock(), self._turn()
        self.durable: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        """Results that are durable, per outcome."""

    def moment(self) -> datetime:
        """The present moment, by the clock: read once in a turn of the event loop."""
        turn = self._turn()
        if turn != self._told_at:
            self._moment, self._told_at = self._clock(), turn
        return self._moment


class Recorder:
    """One connection's results: at most one of them is on its way to the sink."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._pending: asyncio.Future[None] | None = None
        self._outcome = Outcome.ACCEPTED

    def accepted(self, message: OutgoingMessage, reply: Reply, relay: str) -> None:
        """The relay took the message. Its text is not kept, to keep the row narrow."""
        self._begin(message, Outcome.ACCEPTED, reply.code, reply.enhanced, None, relay)

    def refused(
        self, message: OutgoingMessage, outcome: Outcome, reply: Reply, phase: Phase, relay: str
    ) -> None:
        """The relay deferred or rejected the message, in answer to the command of `phase`."""
        is_hard_bounce = outcome is Outcome.REJECTED and speaks_of_the_address(reply, phase)
        self._begin(message, outcome, reply.code, reply.enhanced, reply.text, relay, phase, is_hard_bounce)

    def decided(
        self, message: OutgoingMessage, outcome: Outcome, enhanced: str | None, reason: str, relay: str
    ) -> None:
        """We ended the attempt ourselves, without a reply."""
        self._begin(message, outcome, None, enhanced, reason, relay)

    async def settle(self) -> None:
        """Wait until the last result is durable. What the sink raises comes through."""
        pending = self._pending
        if pending is not None:
            self._pending = None
            await pending
            crash_point("result_settled")
            self._results.durable[self._outcome] += 1

    def _begin(
        self,
        message: OutgoingMessage,
        outcome: Outcome,
        code: int | None,
        enhanced: str | None,
        text: str | None,
        relay: str,
        refused_at: Phase | None = None,
        is_hard_bounce: bool = False,
    ) -> None:
        assert self._pending is None, "the last result is settled before the next message ends"
        results = self._results
        self._outcome = outcome
        recorded = results.sink.record(
            DeliveryResult(
                message.message_no,
                message.contact_id,
                outcome,
                code,
                enhanced,
                None if text is None else text[:MAX_TEXT],
                relay,
                results.moment(),
                refused_at=refused_at,
                is_hard_bounce=is_hard_bounce,
            )
        )
        # A coroutine would not begin before somebody awaits it.
        self._pending = (
            recorded if isinstance(recorded, asyncio.Future) else asyncio.ensure_future(_awaited(recorded))
        )


async def _awaited(recorded: Awaitable[None]) -> None:
    await recorded
