"""A campaign's own components see messages before they are sent, a bounded number of octets at once (spec 1.6)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from mail_orchestration.dispatch.repeating import Repeatable
from mail_orchestration.dispatch.unsent import UnsentMessage
from mail_orchestration.kernel.attempts import DeliveryResult, OutgoingMessage
from mail_orchestration.mailcaster.repeats import RepeatFeed, Repeats
from mail_orchestration.sending.components import SCREENED_OCTETS, SendComponents
from mail_orchestration.sending.components_see import MessageInHand

MB = 1024 * 1024
SEEN: list[list[tuple[int, int]]] = []
"""What the component was shown at once: recipient numbers, and octets."""


def note(messages: Sequence[MessageInHand]) -> None:
    """A component of the stage send."""
    SEEN.append([(each.recipient_no, len(each.message.data)) for each in messages])


class Uncertain(Repeats):
    """Uncertain messages of these sizes, without a database."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._rows = [
            UnsentMessage(no, no, no, f"r{no}@example.net", size, 0) for no, size in enumerate(sizes, 1)
        ]

    async def read(self, after_message_no: int) -> Repeatable:
        left = [row for row in self._rows if row.message_no > after_message_no]
        return Repeatable(to_send=left, suppressed=[], result_nos={row.message_no: 1 for row in left})


@pytest.mark.rule("1.6")
def test_of_large_messages_that_are_sent_again_components_see_few_at_once() -> None:
    SEEN.clear()
    sizes = [6 * MB] * 5 + [20 * MB, 1 * MB]

    def composed(row: UnsentMessage) -> OutgoingMessage:
        return OutgoingMessage(row.message_no, row.contact_id, "", row.address, bytes(row.size))

    async def none_is_kept_back(result: DeliveryResult) -> None:
        raise AssertionError(result)

    async def taken() -> list[int]:
        feed = RepeatFeed(
            Uncertain(sizes),
            compose=composed,
            clock=lambda: datetime(2026, 5, 4, tzinfo=UTC),
            record=none_is_kept_back,
            components=SendComponents({"send": [f"{__name__}:note"]}),
        )
        found = []
        while (message := await feed.take()) is not None:
            found.append(message.message_no)
        return found

    assert asyncio.run(taken()) == [1, 2, 3, 4, 5, 6, 7]
    assert [number for shown in SEEN for number, _ in shown] == [1, 2, 3, 4, 5, 6, 7]
    assert max(sum(octets for _, octets in shown) for shown in SEEN if len(shown) > 1) <= SCREENED_OCTETS
