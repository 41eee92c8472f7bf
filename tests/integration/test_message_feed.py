"""What a mailcaster reads ahead stays compressed until it is about to leave (spec 2.7)."""

from __future__ import annotations

import asyncio
import copy
import pickle
import sys

import pytest

from mail_orchestration.composition import dictionary
from mail_orchestration.composition.compression import Compressor
from mail_orchestration.composition.errors import BadStoredMessage
from mail_orchestration.dispatch.claim import Claim
from mail_orchestration.dispatch.unsent import UnsentMessage
from mail_orchestration.egress.gate import Gate
from mail_orchestration.egress.parking import Parking
from mail_orchestration.egress.ports import Scope
from mail_orchestration.kernel.attempts import OutgoingMessage
from mail_orchestration.kernel.message_lines import Lines
from mail_orchestration.mailcaster.message_feed import BATCH, MessageFeed
from mail_orchestration.sending.components import SendComponents
from mail_orchestration.sending.station import Pace
from tests.integration.dispatch_rows import NOW, World, world

__all__ = ["world"]


COMPRESSOR = Compressor(dictionary.build(text=b"Subject: hello\r\n\r\nworld\r\n", blobs=[]))


async def _unheard(_result: object) -> None:
    raise AssertionError("nothing ends here")


def _feed(world: World, claim: Claim) -> MessageFeed:
    return MessageFeed(
        world.database,
        claim,
        COMPRESSOR,
        reverse_path="us@example.org",
        clock=lambda: NOW,
        record=_unheard,
        components=SendComponents({}),
        pace=Pace(BATCH),
    )


@pytest.mark.rule("2.7")
def test_a_message_that_was_read_keeps_no_block_and_can_be_copied(world: World) -> None:
    """A thousand may wait for a domain's limit, each of another block of up to a megabyte."""
    claim = world.claim_of(world.begun(2, kind="small"))
    letters = [f"Subject: hello {n}\r\n\r\nworld\r\n".encode() for n in (1, 2)]
    block = COMPRESSOR.compress(letters)
    row = UnsentMessage(1, 1, 11, "r1@example.org", len(letters[0]), 0, block)
    held = sys.getrefcount(row)
    message = _feed(world, claim).composed(row)
    assert sys.getrefcount(row) == held
    for copied in (message, copy.copy(message), pickle.loads(pickle.dumps(message))):
        assert copied.data == letters[0]
        assert (copied.lines, copied.octets) == (Lines.PLAIN, len(letters[0]))
        assert (copied.message_no, copied.contact_id) == (1, 11)
        assert (copied.reverse_path, copied.address) == ("us@example.org", "r1@example.org")


@pytest.mark.rule("2.7")
def test_a_message_is_read_when_somebody_asks_what_it_says(world: World) -> None:
    claim = world.claim_of(world.begun(3, kind="small"))
    world.add_messages(claim.release_id, 3)  # what is stored of them is no message

    async def taken() -> list[OutgoingMessage]:
        feed = _feed(world, claim)
        found = []
        while (message := await feed.take()) is not None:
            found.append(message)
        return found

    messages = asyncio.run(taken())
    assert [(each.message_no, each.address, each.octets) for each in messages] == [
        (1, "r1@example.org", 5),
        (2, "r2@example.org", 5),
        (3, "r3@example.org", 5),
    ]
    gate, parking = Gate(Scope("domain", "example.org"), lambda _gate: None), Parking(lambda: None)
    for each in messages:
        with pytest.raises(BadStoredMessage, match=f"message {each.message_no} "):
            # Whoever waits for a domain's limit is read beside its neighbours.
            parking.park(gate, each)
        with pytest.raises(
            BadStoredMessage, match=f"message {each.message_no} cannot be read as it is stored"
        ):
            each.read()
