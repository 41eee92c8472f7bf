"""A campaign's own components around a send: stages throttle and send before it, postprocess after it (spec 1.6).

They run in a thread, in batches, so that one that waits or asks a database does not hold up the connections' replies
more than it must.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

from mail_orchestration.dispatch.claims import UnsentMessage
from mail_orchestration.kernel.attempts import DeliveryResult, OutgoingMessage
from mail_orchestration.kernel.components import Component, load_components, run_components
from mail_orchestration.kernel.errors import ComponentFailed
from mail_orchestration.sending.components_see import MessageInHand, MessageWithResult

SCREENED_OCTETS = 16 * 1024 * 1024
"""Of messages that components look at together, composed; exceeded by a single larger message only."""
POSTPROCESS_BATCH = 500
"""Results that go to postprocess at once."""

Compose = Callable[[UnsentMessage], OutgoingMessage]
"""A stored message as it goes onto the wire."""
KeepBack = Callable[[str, Sequence[UnsentMessage]], Awaitable[None]]
"""Records why these messages are not sent."""


class SendComponents:
    """The components of one mail job's delivery."""

    def __init__(self, named: Mapping[Any, Sequence[str]]) -> None:
        self._before = [each for stage in ("throttle", "send") for each in load_components(named, stage)]
        self._after = load_components(named, "postprocess")
        self._recipients: dict[int, int] = {}
        self._results: list[MessageWithResult] = []
        self._post: asyncio.Task[None] | None = None
        self.failure: ComponentFailed | None = None
        """Why postprocess failed, once it has."""

    async def let_through(
        self, rows: Sequence[UnsentMessage], compose: Compose, keep_back: KeepBack
    ) -> list[UnsentMessage]:
        """The rows that go to egress: all but those that a component bypasses, of which `keep_back` is told with the
        reason.

        Whose they are is remembered until their results come. Raises ComponentFailed.
        """
        passed = list(rows)
        if self._before:
            passed = []
            for some in _slices(rows):
                passed += await self._screened(some, compose, keep_back)
        if self._after:
            self._recipients.update((row.message_no, row.recipient_no) for row in passed)
        return passed

    def watch(self, result: DeliveryResult, durable: asyncio.Future[None]) -> None:
        """Show `result` to postprocess once it is durable.

        A crash between the two leaves postprocess without it: it is told of a result at most once.
        """
        if self._after:
            durable.add_done_callback(lambda done: self._note(result, done))

    async def finish(self) -> None:
        """Show postprocess what is left. Raises ComponentFailed."""
        while self._post is not None or (self._results and self.failure is None):
            if self._post is None:
                self._begin()
            if self._post is not None:
                await self._post
        if self.failure is not None:
            raise self.failure

    async def _screened(
        self, rows: Sequence[UnsentMessage], compose: Compose, keep_back: KeepBack
    ) -> list[UnsentMessage]:
        messages = [MessageInHand(recipient_no=row.recipient_no, message=compose(row)) for row in rows]
        found = await asyncio.to_thread(run_components, self._before, messages)
        refused = {bypass.recipient_no: bypass.reason for _, bypass in found}
        for reason in set(refused.values()):
            await keep_back(reason, [row for row in rows if refused.get(row.recipient_no) == reason])
        return [row for row in rows if row.recipient_no not in refused]

    def _note(self, result: DeliveryResult, done: asyncio.Future[None]) -> None:
        recipient_no = self._recipients.pop(result.message_no, None)
        if done.cancelled() or done.exception() is not None or recipient_no is None:
            return
        self._results.append(MessageWithResult(recipient_no=recipient_no, result=result))
        if len(self._results) >= POSTPROCESS_BATCH and self._post is None and self.failure is None:
            self._begin()

    def _begin(self) -> None:
        batch, self._results = self._results[:POSTPROCESS_BATCH], self._results[POSTPROCESS_BATCH:]
        self._post = asyncio.create_task(self._postprocess(self._after, batch))

    async def _postprocess(self, components: Sequence[Component], batch: list[MessageWithResult]) -> None:
        try:
            # A bypass after the send is too late to mean anything.
            await asyncio.to_thread(run_components, components, batch)
        except ComponentFailed as failure:
            self.failure = failure
        finally:
            self._post = None


def _slices(rows: Sequence[UnsentMessage]) -> Iterator[list[UnsentMessage]]:
    """The rows in order, SCREENED_OCTETS of messages at a time."""
    held: list[UnsentMessage] = []
    octets = 0
    for row in rows:
        if held and octets + row.size > SCREENED_OCTETS:
            yield held
            held, octets = [], 0
        held.append(row)
        octets += row.size
    if held:
        yield held
