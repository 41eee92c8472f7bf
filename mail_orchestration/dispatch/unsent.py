"""What of a claim's range is still to be sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import Any, NamedTuple

from sqlalchemy import Connection

from mail_orchestration.dispatch.claim import Claim
from mail_orchestration.dispatch.message_store import read_blocks
from mail_orchestration.kernel.bulk import read_binary
from mail_orchestration.kernel.model import MessageRange
from mail_orchestration.kernel.statements import STATEMENTS

_WIDEST_WINDOW = 65_536


class UnsentMessage(NamedTuple):
    """One message without a result, as it is stored."""

    message_no: int
    recipient_no: int
    contact_id: int
    address: str
    size: int
    """Octets of the message itself."""
    place: int
    """In its block, from 0 on."""
    block: bytes = b""
    """The message and its neighbours, compressed. Empty where it was not asked for, or is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsent:
    """The next messages without a result, in order of their numbers. Both lists empty: nothing is left."""

    to_send: list[UnsentMessage]
    suppressed: list[UnsentMessage]
    """Their recipients were suppressed since assembly (spec 1.5): they get the outcome `stopped` and are not
    sent.
    """
    up_to: int
    """The last message looked at: go on after it."""

    def __bool__(self) -> bool:
        return bool(self.to_send or self.suppressed)


def unsent_messages(
    connection: Connection, claim: Claim, after_message_no: int, batch: int, *, with_texts: bool = True
) -> Unsent:
    """At most `batch` messages of the claim's range after `after_message_no` (0 at first) that have no
    result. Those to send have their blocks where `with_texts` asks for them.

    Each query looks at a window of message numbers, wider each time that it finds nothing: its cost does not
    depend on the planner's idea of how many messages were sent already. Needs a transaction of the caller.
    """
    after = max(after_message_no, claim.first_message - 1)
    window = batch
    while after < claim.last_message:
        up_to = min(after + window, claim.last_message)
        rows = read_binary(
            connection,
            STATEMENTS["find_unsent"],
            {
                "release_id": claim.release_id,
                "released_on": claim.released_on,
                "after": after,
                "up_to": up_to,
                "most": batch,
            },
        )
        if rows:
            to_send = [row[:-1] for row in rows if not row[-1]]
            return Unsent(
                to_send=with_blocks(connection, claim, to_send)
                if with_texts
                else list(starmap(UnsentMessage, to_send)),
                suppressed=[UnsentMessage(*row[:-1]) for row in rows if row[-1]],
                up_to=rows[-1][0] if len(rows) == batch else up_to,
            )
        after = up_to
        window = min(window * 2, max(_WIDEST_WINDOW, batch))
    return Unsent(to_send=[], suppressed=[], up_to=claim.last_message)


def with_blocks(connection: Connection, claim: Claim, rows: Sequence[Sequence[Any]]) -> list[UnsentMessage]:
    """Messages of a claim, of each of which a row has all but the block. Each block is read once."""
    firsts = [row[0] - row[5] for row in rows]
    blocks = read_blocks(connection, claim.released_on, claim.release_id, set(firsts))
    return [
        UnsentMessage._make((*row, blocks.get(first, b""))) for row, first in zip(rows, firsts, strict=True)
    ]


def count_unsent(connection: Connection, messages: MessageRange) -> int:
    """How many messages of a range have no result."""
    return int(connection.execute(STATEMENTS["count_unsent"], messages.binds()).scalar_one())


def unsent_by_domain(connection: Connection, release_id: int) -> dict[str, int]:
    """How many messages of a release have no result, by recipient domain, most first."""
    rows = connection.execute(STATEMENTS["count_unsent_by_domain"], {"release_id": release_id})
    return {row.domain: row.messages for row in rows}
